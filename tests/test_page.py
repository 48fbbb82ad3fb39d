"""lab.page: in a browser models give torch's numbers, also with edits; what one types is text; it asks no network."""

import html as markup
import json
import random
import re
import shutil
import subprocess
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from test_docs import anchors

import ideas  # noqa: F401  more mechanisms
from configurable import UsageError
from conftest import ROOT, mistake
from lab.maps import activations, cancelled, edited, edits_for, effective_tokens, negative_mass
from lab.page import ALPHABET, HALF, exported, html, packed, page, path_to, rounded
from lab.show import THE_FOUR
from lab.tasks import SYMBOLS
from model import GPT, GPTConfig
from prepare import prepare
from train import train

BROWSER = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
browser = pytest.mark.skipif(BROWSER is None, reason="no chromium, chromium-browser or google-chrome on the PATH")
SHAPE = {"block_size": 16, "n_layer": 2, "n_head": 4, "n_embd": 32}
SHOWN = (*THE_FOUR, "no-norm", "no-scale", "tied", "fixed-lambda", "head-lambda", "normed-vanilla", "cold-cosine")
SHOWN += ("init-0.8", "lambda-zero", "bounded-2", "bounded-8-differential", "bounded-2-softmax1", "bounded-2-no-norm")
EDITS = ["negative by 0", "λ by 0"]
TASK = {"min_items": 3, "max_items": 4, "n_symbols": 8}


def build(name, **options):
    """A GPT whose learned numbers are all away from where they start, and rounded as the page rounds them."""
    torch.manual_seed(0)
    gpt = GPT(GPTConfig(name, **SHAPE | options)).eval()
    with torch.no_grad():
        for p in gpt.parameters():
            p.add_(0.2 * torch.randn_like(p))
    rounded(gpt)
    return gpt


def checkpoint(task=None):
    data = {"tokenizer": "bytes"} | ({"missing": task} if task else {})
    return {"data": data, "options": {"dataset": "data/here", "seed": 1}, "step": 10, "best": {"val_loss": 5.4321}}


def content(*models, text="to be"):
    return {"models": models, "text": text, "alphabet": ALPHABET, "symbols": SYMBOLS}


def opened(page_html, script, size=(1000, 2000)):
    """What the expression `script` gives on the page, as JSON, and the page's text; the console must stay empty."""
    end = f"document.body.dataset.found = JSON.stringify({script});"
    Path("page.html").write_text(page_html.replace("</html>", f"<script>{end}</script></html>"), "utf-8")
    command = [BROWSER, "--headless", "--no-sandbox", "--disable-gpu", f"--window-size={size[0]},{size[1]}"]
    command += ["--enable-logging=stderr", "--virtual-time-budget=5000", "--dump-dom"]
    ran = subprocess.run([*command, Path("page.html").resolve().as_uri()], capture_output=True, timeout=120, check=True)
    said = [line for line in ran.stderr.decode(errors="replace").splitlines() if "CONSOLE" in line]
    assert not said, said
    dom = ran.stdout.decode()
    return json.loads(markup.unescape(re.search(r'data-found="([^"]*)"', dom)[1])), dom


def some_texts(n=20):
    draw = random.Random(1)
    return [[draw.randrange(256) for _ in range(draw.randint(1, 16))] for _ in range(n)]


def assert_equal(found, gpt, texts):
    for logits, tokens in zip(found, texts, strict=True):
        there = torch.tensor(logits).view(len(tokens), -1)
        torch.testing.assert_close(there, gpt(torch.tensor([tokens]))[0], rtol=1e-3, atol=1e-3)


LOGITS = "[...forward(model, tokens, edits).logits]"


@browser
@torch.no_grad()
def test_its_logits_are_torch_s():
    texts, gpts = some_texts(), [build(name) for name in SHOWN]
    shown = [exported(name, gpt, checkpoint()) for name, gpt in zip(SHOWN, gpts, strict=True)]
    script = f"models.map(model => {json.dumps(texts)}.map(tokens => {LOGITS.replace(', edits', '')}))"
    found, _ = opened(html(content(*shown)), script)
    for logits, gpt in zip(found, gpts, strict=True):
        assert_equal(logits, gpt, texts)
    with pytest.raises(AssertionError):
        assert_equal(found[0], gpts[1], texts)


@browser
@torch.no_grad()
def test_its_edits_are_those_of_lab_maps():
    texts, names = some_texts(8), ("differential", "no-norm", "bounded-2-differential")
    gpts = [build(name) for name in names]
    edits = [{"lam": [], "negative": False}, {"lam": [0, 0], "negative": True}, {"lam": [None, 1.5], "negative": True}]
    shown = [exported(name, gpt, checkpoint()) for name, gpt in zip(names, gpts, strict=True)]
    each = f"{json.dumps(texts)}.map(tokens => {LOGITS})"
    found, _ = opened(html(content(*shown)), f"models.map(model => {json.dumps(edits)}.map(edits => {each}))")
    for by_edit, gpt, name in zip(found, gpts, names, strict=True):
        layers = [block.attention for block in gpt.blocks]
        known = edits_for(layers, activations(gpt, torch.zeros(1, 4, dtype=torch.long))[0])
        for logits, edit in zip(by_edit, EDITS, strict=False):
            with edited(layers, known[edit]):
                assert_equal(logits, gpt, texts)
        for p in (layers[1].lam_q1, layers[1].lam_q2):
            p.zero_()
        learned, layers[1].lam_init = layers[1].lam_init, 1.5
        norm, factor = layers[1].norm, 1 if name == "no-norm" else (1 - learned) / (1 - 1.5)
        layers[1].norm = lambda y, norm=norm, factor=factor: norm(y) * factor
        assert_equal(by_edit[2], gpt, texts)


@browser
@torch.no_grad()
def test_what_it_shows_of_a_row_is_what_lab_maps_says():
    gpt, tokens = build("bounded-2-differential"), [7, 1, 7, 2, 2, 9]
    shown = exported("bounded-2-differential", gpt, checkpoint())
    script = f"""(() => {{
        const [model] = models, of = name => [...mapOf(model, 1, name)[4]];
        Object.assign(text, {{ tokens: {tokens}, layer: 1 }});
        model.head = 1;
        showText();
        return [["A₁", "λA₂", "A"].map(of), effective(of("A")), negativeMass(of("A")), cancelled(of("A₁"), of("λA₂")),
            partsOf(model, 1, 4)];
    }})()"""
    (rows, spread, mass, share, diagram), _ = opened(html(content(shown)), script)
    attention, inputs = gpt.blocks[1].attention, []
    attention.register_forward_pre_hook(lambda module, given: inputs.append(given[0]))
    gpt(torch.tensor([tokens]))
    first, second = (A[0, 1, 4, :5] for A in attention.both_maps(inputs[0]))
    lam = attention.lam.flatten()[0]
    there = torch.stack([first, lam * second, first - lam * second])
    torch.testing.assert_close(torch.tensor(rows), there, rtol=1e-3, atol=1e-4)
    A, (q, k, v) = attention.attention_map(inputs[0]), attention.project(inputs[0])
    S, y = (q @ k.mT / attention.D**0.5)[0, 2:, 4, :5], A @ v
    parts = [*S, first, second, lam * second, first - lam * second, y[0, 1, 4], attention.norm(y)[0, 1, 4]]
    for here, there in zip(diagram[:2] + diagram[3:], parts, strict=True):  # the diagram's, but for V
        torch.testing.assert_close(torch.tensor(here), there, rtol=1e-3, atol=1e-4)
    assert diagram[2] == pytest.approx(v[0, 1, :5].norm(dim=-1).tolist(), rel=1e-3)
    row = A[:, 1:, 4:5, :5]  # this row alone
    assert spread == pytest.approx(effective_tokens(row).item(), rel=1e-3)
    assert mass == pytest.approx(negative_mass(row).item(), rel=1e-3)
    assert share == pytest.approx(torch.minimum(first, lam * second).sum().item() / lam.item(), rel=1e-3)
    assert share * lam.item() == pytest.approx(cancelled(row, lam).item(), rel=1e-3)


def tasks(*names):
    return [exported(name, build(name), checkpoint(TASK)) for name in names]


DIMMED = " Below you still see the last valid input."
SHORT_LIST = f"A list needs at least 3 different letters.{DIMMED}"
OTHER_LENGTH = "The models were trained on lists of 3 to 4 letters only."
TYPED = {  # what is typed: the letters that are read, and what the page says of it
    "ABC": ("ABC", ""),
    " h, a b ": ("HAB", ""),
    "abcaA": ("ABC", "Repeated letters are read once."),
    "AzBéC": ("ABC", "Only the letters A to H are read."),
    "ABCDE": ("ABCDE", OTHER_LENGTH),
    "ABCDEFGH": ("ABCDEFG", f"Only the first 7 letters are read. {OTHER_LENGTH}"),
    "AB": ("AB", SHORT_LIST),
    "": ("", SHORT_LIST),
}


@browser
def test_a_typed_list_is_read_and_asked():
    script = f"""{json.dumps(list(TYPED))}.map(typed => {{
        at("list").value = typed;
        at("list").oninput();
        const says = at("list-said").textContent;
        const dimmed = at("list-shown").classList.contains("stale");
        return [readList(typed).list.join(""), says, dimmed, String.fromCharCode(...task.tokens), task.answer];
    }})"""
    found, _ = opened(html(content(*tasks("vanilla", "differential"))), script)
    asked = ""
    for (read, says, dimmed, question, answer), expected in zip(found, TYPED.values(), strict=True):
        assert (read, says) == expected and dimmed == (len(read) < 3)
        asked = read if len(read) > 2 else asked  # a list that is too short is not asked
        first, second = question.rstrip("?").split("|")
        assert first == asked and {*first} - {*second} == {answer} and len(second) == len(first) - 1
        assert len(question) <= SHAPE["block_size"]


@browser
@torch.no_grad()
def test_it_says_the_answer_of_both_models_and_what_the_steps_make_of_it():
    script = """(() => {
      window.setTimeout = f => f();  // what waits until the page has been painted is done at once
      ask([..."ABCD"], "C", [..."DBA"]);
      const said = () => task.models.map(model => model.said.textContent);
      const outputs = () => [1, 2, 3].map(i => document.querySelector(`#step-${i} output`).textContent);
      const row = () => [...mapOf(task.models[1], 1, "A")[8]];
      const all = [said(), row(), outputs()];
      document.querySelector("[data-do=many]").click();
      document.querySelector("[data-do=negative]").click();
      all.push(said(), row(), document.querySelector("input[type=checkbox]").checked);
      Object.assign(task, { layer: 1 - task.answering, row: 2 });
      document.querySelector("[data-do=lambda]").click();
      all.push([task.layer, task.row], task.answering, task.models[1].edits.lam[task.answering], outputs());
      [...document.querySelectorAll("article button")].at(-1).click();
      all.push(task.models[1].more.textContent);
      at("shuffle").click();
      all.push(task.answer, outputs());
      document.querySelector("#task-models .row button").click();
      ask([..."ABCD"], "C", [..."DBA"]);
      return [...all, said(), isEdited(models[1])];
    })()"""
    found, _ = opened(html(content(*tasks("vanilla", "differential"))), script)
    trained, row, before, switched, clamped, checked, *rest = found
    looks, layer, lam, outputs, counted, answer, cleared, again, is_edited = rest
    asked = torch.tensor([list(b"ABCD|DBA?")])
    gpts = [build(name) for name in ("vanilla", "differential")]

    def says(gpt):
        said = gpt(asked)[0, -1].argmax().item()
        shown = {10: "⏎", 32: "·"}.get(said, chr(said) if 32 < said < 127 else f"{said:02x}")
        return f"✓ {shown}, which is right" if shown == "C" else f"✗ {shown}, but C is missing"

    assert trained == again == [says(gpt) for gpt in gpts] and not is_edited and answer == "C"
    layers = [block.attention for block in gpts[1].blocks]
    with edited(layers, edits_for(layers, activations(gpts[1], asked)[0])["negative by 0"]):
        assert switched == [says(gpts[0]), says(gpts[1]) + " (negative weights at 0)"]
    assert min(row) < 0 == min(clamped) and checked and lam == 0 and looks == [layer, 8]  # at “?”
    without, clipped = (rf"differential \({words}\) \d+" for words in (rf"λ of layer {layer} = 0", "negative .*"))
    ends = [
        rf"Right in 50 new lists of 4 letters: {names}\. A guess would get about 13\."
        for names in (r"vanilla \d+, differential \d+", without, clipped)
    ]
    assert before == cleared == ["", "", ""]
    for i, (output, end) in enumerate(zip(outputs, ends, strict=True)):  # each in the box of its step
        assert re.fullmatch(("Your list: .*, but C is missing.*\\. " if i else "") + end, output)
    assert re.fullmatch(ends[1], counted)  # by the button of the card


@browser
def test_a_step_says_that_it_asks_before_it_does():
    script = """(() => {
        const later = [];
        window.setTimeout = f => later.push(f);
        document.querySelector("[data-do=many]").click();
        const said = () => document.querySelector("#step-1 output").textContent, first = said();
        later.forEach(f => f());
        return [first, said()];
    })()"""
    (first, then), _ = opened(html(content(*tasks("vanilla"))), script)
    assert first == "asking 50 lists …" and then.startswith("Right in 50 new lists of 7 letters: vanilla ")


@browser
@torch.no_grad()
def test_of_50_lists_it_counts_those_that_a_model_answers_right():
    script = """(() => {
        ask([..."ABCD"]);
        const dealt = [], draw = deal;
        deal = (...given) => {
            const made = draw(...given);
            if (dealt.length % 2) made.answer = String.fromCharCode(answerOf(forward(models[0], made.tokens)));
            dealt.push(made);
            return made;
        };
        const says = [askMany(models), askMany(models)];
        return [dealt.map(({ tokens, answer }) => [tokens, answer]), says];
    })()"""
    (lists, says), _ = opened(html(content(*tasks("vanilla"))), script)
    gpt = build("vanilla")
    right = [chr(gpt(torch.tensor([tokens]))[0, -1].argmax().item()) == answer for tokens, answer in lists]
    assert len(lists) == 100 and lists[:50] != lists[50:]  # new lists each time
    counts = [int(re.search(r"vanilla (\d+)\.", said)[1]) for said in says]
    assert counts == [sum(right[:50]), sum(right[50:])] and min(counts) >= 25
    for tokens, answer in lists[::2]:
        first, second = bytes(tokens).decode().rstrip("?").split("|")
        assert {*first} - {*second} == {answer} and len(first) == len(second) + 1 == 4


@browser
@torch.no_grad()
def test_its_table_of_effective_tokens_has_torch_s_numbers():
    gpts = [build(name) for name in ("vanilla", "differential")]
    shown = [exported(name, gpt, checkpoint()) for name, gpt in zip(("vanilla", "differential"), gpts, strict=True)]
    script = "(showSpread(), [...at('spread').rows].map(row => [...row.cells].map(cell => cell.textContent)))"
    (*rows, uniform), _ = opened(html(content(*shown)), script)
    assert [row[0] for row in rows] == ["free, vanilla", "free, differential"]
    assert uniform == ["a uniform causal map of 5 letters", "3.00", "", ""]
    tokens = torch.tensor([list(b"to be")])
    for (_, *cells, validation), gpt in zip(rows, gpts, strict=True):
        assert validation == "5.432"
        layers, inputs = [block.attention for block in gpt.blocks], activations(gpt, tokens)[0]
        maps = [[layer.attention_map(x) for layer, x in zip(layers, inputs, strict=True)]]
        if layers[0].maps_per_head == 2:
            maps.insert(0, [layer.both_maps(x)[0] for layer, x in zip(layers, inputs, strict=True)])
        there = [torch.stack([effective_tokens(A) for A in of]).mean().item() for of in maps]
        there.append(F.cross_entropy(gpt(tokens)[0, :-1], tokens[0, 1:]).item())
        numbers = re.findall(r"\d+\.\d+", " ".join(cells))
        assert [float(number) for number in numbers] == pytest.approx(there, abs=0.006)


@browser
def test_each_part_of_the_diagram_shows_numbers_of_its_own():
    script = """(text.row = 3, showText(), [partsOf(models[0], text.layer, 3), diagram.buttons.map(button => {
        button.onpointerenter();
        const bars = [...document.querySelectorAll("#numbers i")].map(bar => getComputedStyle(bar.parentNode));
        return [at("numbers").textContent, at("part-says").textContent,
            Math.max(...bars.map(style => +style.getPropertyValue("--size")))];
    })])"""
    script = f"""[...{script}, (models[0].edit({{ lam: [], negative: false }}), diagram.part = 6, showHead(),
        [diagram.buttons[6].textContent, at("part-says").textContent])]"""
    (rows, parts, clipped), _ = opened(
        html(content(exported("differential", build("differential"), checkpoint()))), script
    )
    assert clipped == ["max(0, A₁ − λA₂)", parts[6][1][:-1] + ", and set to 0."]
    assert len({words for words, *_ in parts}) == len({says for _, says, _ in parts}) == 9
    largest = [max(map(abs, row)) for row in rows]
    assert parts[5][2] / parts[4][2] == pytest.approx(largest[5] / largest[4], rel=0.01)  # λA₂ and A₂ are of one scale
    said = re.search(r"Δ = ([\d.]+).*square ([\d.]+); ([\d.]+) after division, ([\d.]+) ", parts[0][0] + parts[8][0])
    before, after = ((sum(a * a for a in row) / len(row)) ** 0.5 for row in rows[7:])
    there = [max(rows[0]) - min(rows[0]), before, before / (before**2 + 1e-5) ** 0.5, after]
    assert [float(number) for number in said.groups()] == pytest.approx(there, rel=0.01)


@browser
def test_the_diagram_says_how_its_model_makes_scores():
    script = """[0, 1].map(i => (setGroup(i), [0, 1].map(part => {
        diagram.buttons[part].click();
        return [diagram.buttons[part].textContent, document.querySelector("#numbers figcaption").textContent];
    })))"""
    names = ("bounded-8-differential", "differential")
    shown = [exported(name, build(name), checkpoint()) for name in names]
    formulas = [["8 cos(q₁, k₁)", "8 cos(q₂, k₂)"], ["Q₁K₁ᵀ/√D", "Q₂K₂ᵀ/√D"]]
    there = [[[formula, f"S{i} = {formula}"] for i, formula in zip("₁₂", of, strict=True)] for of in formulas]
    assert opened(html(content(*shown)), script)[0] == there


@browser
def test_no_number_but_zero_is_shown_as_zero():
    numbers = [0, 1e-9, -4e-5, -0.00013, 0.0043, 0.05, 0.4249, 0.99999, -7.389, 41.5, 25013, 3e8]
    (found, others), _ = opened(html(content()), f"[{numbers}.map(num), [chance(.99999), chance(1), percent(1e-5)]]")
    expected = "0, 1.0·10⁻⁹, −4.0·10⁻⁵, −0.00013, 0.0043, 0.050, 0.425, 1.00, −7.39, 41.5, 25013, 3.0·10⁸"
    assert found == expected.split(", ") and others == ["> 0.999", "1.00", "0.0010\u00a0%"]


@browser
def test_the_sketch_has_the_numbers_of_chapters_1_and_3():
    """0.665, 0.245, 0.090 and λ 0.425; n = 64 with Δ = 2: 0.09077 and 0 at λ 0.909; 52 and 34 effective tokens."""
    script = """Object.values(EXAMPLES).map((example, i) => [0, [.425, .909, .8][i]].map(lam => {
        setSketch({ ...example, lam });
        const n = Math.max(...sketch.typed.map(row => row.length));
        const [A1, A2] = sketch.typed.map(row => weigh(Array.from({ length: n }, (_, i) => row[i] ?? 0)));
        const A = minus(A1, A2, lam), says = ["sketch-says", "bound"].map(id => at(id).textContent);
        const below = A.filter(a => a < 0).length / n, [, second, third] = at("sketch-rows").querySelectorAll("small");
        return [A.slice(0, 3), effective(A), contrast(A, 0), below, ...says, second.textContent, third.textContent];
    }))"""
    (hand, needle, keys), _ = opened(html(content()), script)
    near = pytest.approx
    assert hand[0][0] == near([0.6652, 0.2447, 0.0900], abs=1e-4) and hand[0][5] == "7.39"
    assert hand[1][0] == near([0.575, 0, 0], abs=5e-4) and hand[1][2] > 1000 and "nearly vanish" in hand[1][4]
    assert hand[1][7] == "sum 0.575, 1.00 of 3 effective tokens, negative weights: 2"
    assert [row[6].endswith(", uniform") for _, row in (hand, needle, keys)] == [False, True, True]
    assert needle[1][0] == near([0.09077, 0, 0], abs=1e-4) and ["vanish" in row[4] for row in needle] == [False, True]
    assert [round(row[1]) for row in keys] == [52, 34] and [round(row[2]) for row in keys] == [7, 14]
    assert [round(row[3], 2) for row in keys] == [0, 0.53]


@browser
def test_an_example_of_the_sketch_says_in_the_box_what_it_shows():
    script = """[...document.querySelectorAll("#examples button")].map(button => {
        button.click();
        return [button.textContent, at("example-says").textContent];
    })"""
    three, needle, keys = opened(html(content()), script)[0]
    for name, says in (three, needle):
        assert says.startswith(f"{name}, λ = ") and "negative weights: 0" in says and "the others vanish" in says
    assert keys[1].startswith(f"{keys[0]}, λ = 0.800: sum 0.200, 34.5 of 64 effective tokens")
    assert keys[1].endswith("14.2 in A.")


@browser
def test_a_contrast_below_zero_is_said_and_not_drawn_and_a_peak_is_drawn_to_the_top():
    script = """[[[5, 0], [1, 0], 1.2], [[2, 1, 0], [2, 0, 0], 1.2]].map(([...typed]) => {
        setSketch({ typed, lam: typed.pop() });
        const points = document.querySelector("#contrast .difference").getAttribute("points").split(" ");
        const [x, y] = [0, 1].map(i => points.map(point => +point.split(",")[i]));
        const bars = document.querySelectorAll("#sketch-rows i").length;
        return [at("sketch-says").textContent, Math.min(...y), Math.max(...x) < 385, bars];
    })"""
    ((low, top, _, _), (below, _, ends, bars)), _ = opened(html(content()), script)
    assert low.endswith("and 0.367 in A.") and top == 20  # the other weight is zero at one λ: the top of the plot
    assert below.endswith("−3.61 in A: it is itself below zero.") and ends and bars == 9


@browser
def test_a_weight_that_is_zero_has_no_bar():
    script = """(setSketch({ ...Object.values(EXAMPLES)[0] }),
        [...document.querySelectorAll("#sketch-rows .weights")].map(box => box.querySelectorAll("i").length))"""
    assert opened(html(content()), script)[0] == [3, 3, 1]


@browser
def test_where_everything_cancels_the_sketch_has_no_contrast():
    script = """(() => {
        setSketch({ typed: [[5, 0, 0, 1], [5.1, .1, .1, 1.1]], lam: 1 });  // equal but for rounding
        const line = document.querySelector("#contrast .difference").getAttribute("points").split(" ");
        const heights = new Set(line.map(point => (+point.split(",")[1]).toFixed(3)));
        return [at("sketch-says").textContent, heights.size, sketch.words];
    })()"""
    says = ["Everything cancels: A₁ is λA₂.", 1, "sum 0, all zero, negative weights: 0"]
    assert opened(html(content()), script)[0] == says


CLICKS = """(() => {
  window.setTimeout = f => f();  // what waits until the page has been painted is done at once
  const all = selector => [...document.querySelectorAll(selector)], seen = [];
  for (const slider of all("input[type=range]")) for (const end of ["min", "max"]) {
    slider.value = slider[end];
    slider.oninput();
  }
  for (const box of all("input[type=checkbox]")) { box.checked = true; box.onchange(); }
  seen.push(models.map(isEdited), text.group[1].said.textContent.includes("→"), titleOf(text.group[1], "A"));
  showSpread();
  seen.push(all("#spread tr").map(row => [...row.children].map(cell => cell.textContent.replace(/[\\d.]+/g, "0"))));
  for (const button of all("button")) button.click();
  for (let i = 0; i < all("[type=radio]").length; i++) all("[type=radio]")[i].click();
  seen.push(text.row, text.layer, text.group[1].head, task.row, task.layer, nameOf(text.group[1]));
  all("#text-models canvas")[0].onclick({ offsetY: 1 });
  seen.push(text.row, all("#text-models canvas").length);
  for (const typed of ["0123456789abcdefghijklmnop", "", "caf\\u00e9"]) {
    at("text").value = typed;
    at("text").oninput();
    const says = at("text-said").textContent.slice(0, 32);
    seen.push([String.fromCharCode(...text.tokens), at("text-shown").className, says]);
  }
  const [typed] = sketch.typed;
  at("scores-0").value = "1, two";
  at("scores-0").oninput();
  seen.push(sketch.typed[0] === typed, at("scores-shown").className);
  at("scores-0").value = "1, \\u22122";
  at("scores-0").oninput();
  seen.push(sketch.typed[0], at("scores-shown").className);
  return seen;
})()"""


@browser
def test_everything_can_be_moved():
    names = ("differential", "vanilla", "bounded-2", "bounded-2-differential")
    shown = [exported(name, build(name), checkpoint()) for name in names] + tasks("vanilla", "differential")
    found, _ = opened(html(content(*shown)), CLICKS)
    assert found[:3] == [[False, False, False, True, False, True], True, "A = max(0, A₁ − λA₂)"]
    there = [["±0, vanilla", "0", "0", "0"], ["±0, differential, changed", "A₁ 0 → A 0", "0", "0 as trained"]]
    there += [["free, vanilla", "0", "0", "0"], ["free, differential", "A₁ 0 → A 0", "0", "0"]]
    assert found[3] == [*there, ["a uniform causal map of 0 letters", "0", "", ""]]
    assert found[5:7] == [1, 1] and found[8:10] == [1, "free"] and found[10:12] == [0, 4]
    assert found[4] == 4 and found[7] > 0
    assert found[12] == ["abcdefghijklmnop", "", "The models read from “abcdefghij"]
    assert found[13] == ["abcdefghijklmnop", "stale", "Type two letters or more. Below "]
    assert found[14] == ["caf\u00c3\u00a9", "", "The models read bytes: a letter "]
    assert found[15:] == [True, "stale", [1, -2], ""]


@browser
def test_a_page_of_one_model_shows_what_it_can():
    ids = ["task", "step-1", "step-2", "step-3", "part-text", "step-4", "step-5", "head"]
    script = f"""[{ids}.map(id => Boolean(at(id).closest("[hidden]"))),
        [...document.querySelectorAll("nav li")].filter(line => !line.hidden).map(line => line.value)]"""
    for shown, hidden, path in (
        (
            exported("softmax1", build("softmax1"), checkpoint()),
            [True, True, True, True, False, True, False, True],
            [5],
        ),
        (exported("no-norm", build("no-norm"), checkpoint()), [True, True, True, True, False, True, False, False], [5]),
        (tasks("differential")[0], [False, False, False, False, True, True, False, True], [1, 2, 3, 5]),
        (tasks("temperature")[0], [False, False, True, True, True, True, False, True], [1, 5]),
    ):
        assert opened(html(content(shown)), script)[0] == [hidden, path]


EVIL = "</script><img src=x onerror=document.title=1><!--\u2028&amp;"


@browser
def test_markup_stays_text():
    shown = exported(EVIL, build("vanilla"), checkpoint() | {"options": {"dataset": f"data/{EVIL}", "seed": 1}})
    typed = json.dumps(EVIL).replace("<", "\\u003c")
    script = f"(at('text').value += {typed}, read(), document.title)"
    title, dom = opened(html(content(shown, text=EVIL)), script)
    assert title == "Subtract one softmax from another" and "<img src=x" not in dom and "&lt;img src=x" in dom


def test_it_asks_no_network_and_has_one_place_for_each_part():
    empty = html(content())
    paper = 'href="https://arxiv.org/abs/2410.05258"'
    assert empty.count(paper) == 1
    empty = empty.replace(paper, "")
    known = r"//www.w3.org/2000/svg|//github.com/\$|\\/\\/"
    assert not re.search(rf"https?:(?!{known})|@import|fetch\(|import\(|XMLHttp|url\((?!#)", empty)
    assert "/*" not in re.sub(r"/\*.*?\*/", "", empty) and not re.search("SCRIPTS|DATA|COURSE", empty)
    for link in re.findall(r'(?:src|href)="([^"]*)"', empty):
        path, _, anchor = link.partition("#")
        there = anchors(ROOT / "docs" / path) if path.endswith(".md") else re.findall(r'id="([^"]*)"', empty)
        assert not anchor or anchor in there, link
        assert link == "data:," or (ROOT / "docs" / path).exists(), link
    steps = [str(i) for i in range(1, 6)]
    assert re.findall(r"<b>Step (\d)", empty) == steps
    assert re.findall(r'<li value="(\d)"><a href="#step-\1">', empty) == steps


def test_its_links_lead_to_the_course_from_where_it_is():
    assert path_to(ROOT / "docs", ROOT / "docs") == "." and path_to(ROOT / "docs", ROOT / "out") == "../docs"
    assert 'href="../docs/00-a-task.md"' in html(content(), "../docs") and 'href="00-a-task.md"' in html(content())
    assert 'href="../My%20%3C/00-a-task.md"' in html(content(), "../My <")


@browser
def test_on_github_s_own_site_they_lead_to_the_repository():
    links = [
        "https://ada.github.io/nanodiff/03-subtraction.md#by-hand",
        "https://ada.github.io/nanodiff/",
        "file:///a.md",
    ]
    found, _ = opened(html(content()), f"{json.dumps(links)}.map(published)")
    assert found == ["https://github.com/ada/nanodiff/blob/HEAD/docs/03-subtraction.md#by-hand", *links[1:]]


def test_weights_are_rounded_to_what_is_unpacked():
    weight = torch.randn(5, 7)
    weight[2] = 0
    there = packed(weight)
    levels = torch.tensor([ALPHABET.index(c) - HALF for c in there["codes"]]).view(5, 7)
    weight2 = levels * torch.tensor(there["scales"])[:, None]
    assert (weight2 - weight).abs().max() <= weight.abs().max() / HALF / 2 * 1.001
    linear = torch.nn.Linear(7, 5, bias=False)
    linear.weight.data = weight.clone()
    rounded(linear)
    torch.testing.assert_close(linear.weight.data, weight2, rtol=1e-5, atol=1e-7)
    assert len(ALPHABET) == len({*ALPHABET}) == 2 * HALF + 1 and not {*ALPHABET} & {*'"\\<>&'}


SHORT = {"max_iters": 1, "batch_size": 2, "eval_tokens": 100}


def test_the_command_and_what_rounding_costs(corpus, capsys):
    for i in range(2):
        train(GPTConfig("differential", **SHAPE), dataset=str(corpus), out_dir=f"out/{i}", seed=i, **SHORT)
    (row,) = page("out/0", out="new/page.html", tokens=500)
    assert 5 < float(row["loss"]) < 6 and abs(float(row["loss"]) - float(row["rounded"])) < 0.01
    written = Path("new/page.html").read_text("utf-8")
    assert '"name":"differential"' in written and "MB" in capsys.readouterr().out
    page("out/0", "out/1", tokens=100)
    assert '"name":"out/0"' in Path("out/page.html").read_text("utf-8")  # where the mechanism does not tell them apart


def test_a_dataset_that_is_another_text_costs_the_measurement_not_the_page(tiny):
    Path("a.txt").write_text("to be or not to be\n" * 100)
    prepare("a.txt")
    train(GPTConfig(**SHAPE), dataset="a", out_dir="out/a", **SHORT)
    Path("a.txt").write_text("another text\n" * 200)
    for tokenizer in ("bytes", "gpt2"):
        prepare("a.txt", tokenizer=tokenizer, name="a", overwrite=True)
        (row,) = page("out/a", tokens=100)
        assert row["loss"].startswith("not measured: data/a is ") and Path("out/page.html").exists()


def test_what_it_cannot_show_is_refused(corpus):
    for name in ("sum", "v2", "wide-values", "dex", "factored", "halved", "bounded-2-sum", "bounded-2-v2", "rms-qk"):
        said = mistake(exported, name, build(name), checkpoint())
        assert said.startswith(f"{name}: the page shows ")
    said = mistake(exported, "x", build("vanilla"), checkpoint() | {"data": {"tokenizer": "gpt2"}})
    assert said == "x reads gpt2: a page shows models of bytes"
    for i in range(7):
        train(GPTConfig(**SHAPE), dataset=str(corpus), out_dir=f"out/{i}", seed=i, **SHORT)
    assert mistake(page, *(f"out/{i}" for i in range(7))) == "7 checkpoints: a page shows at most 6"
    with pytest.raises(UsageError, match="CHECKPOINTS"):
        page()
    assert not Path("out/page.html").exists()


def test_the_committed_example_is_made_of_today_s_scripts():
    """docs/index.html: whoever changes lab/web makes it again, with lab.page."""
    shown = (ROOT / "docs/index.html").read_text(encoding="utf-8")
    assert len(shown) < 2.5e6 and shown.count('"about":') == 6
    assert re.sub(r'(?<=type="application/json">).*', "", shown) == re.sub(
        r'(?<=type="application/json">).*', "", html(content())
    )


def test_its_differences_are_those_of_the_records():
    numbers = re.findall(r"[−+]\d[\d.]* ± [\d.]+", html(content()))
    records = (ROOT / "lab/records/results.md").read_text(encoding="utf-8")
    assert len(numbers) > 3 and all(number in records for number in numbers)
