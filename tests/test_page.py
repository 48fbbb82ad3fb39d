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
from test_docs import anchors

import ideas  # noqa: F401  more mechanisms
from configurable import UsageError
from conftest import ROOT, mistake
from lab.maps import activations, edited, edits_for, effective_tokens, negative_mass
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
    return {"data": data, "options": {"dataset": "data/here", "seed": 1}, "step": 10}


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


LOGITS = "[...forward(model, newMemory(model, edits), tokens).logits.slice(0, 256 * tokens.length)]"


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
def test_the_steps_of_a_head_are_torch_s():
    gpt, tokens = build("bounded-2-differential"), [7, 1, 7, 2, 2, 9]
    shown = exported("bounded-2-differential", gpt, checkpoint())
    script = f"""(text.tokens = {tokens}, text.layer = 1, text.group[0].head = 1, showText(), point(4),
        [stepsOf(models[0], models[0].changed, 1, 1, 4), effective(rowOf(models[0], "A")),
        negativeMass(rowOf(models[0], "A"))])"""
    (steps, spread, mass), _ = opened(html(content(shown)), script)
    attention, inputs = gpt.blocks[1].attention, []
    attention.register_forward_pre_hook(lambda module, given: inputs.append(given[0]))
    gpt(torch.tensor([tokens]))
    x = inputs[0]
    A, (q, k, v) = attention.attention_map(x), attention.project(x)
    S = (q @ k.mT / attention.D**0.5)[0, 2:, 4, :5]
    there = {"S": S, "A": S.softmax(-1), "a": A[0, 1, 4, :5]}
    there |= {"y": (A @ v)[0, 1, 4], "out": attention.norm(A @ v)[0, 1, 4]}
    for name, numbers in there.items():
        here = steps[name]
        here = [list(row.values()) for row in here] if name in "SA" else list(here.values())
        torch.testing.assert_close(torch.tensor(here), numbers, rtol=1e-3, atol=1e-4)
    row = A[:, 1:, 4:5, :5]  # what lab.maps says of this row alone
    assert spread == pytest.approx(effective_tokens(row).item(), rel=1e-3)
    assert mass == pytest.approx(negative_mass(row).item(), rel=1e-3)


@browser
def test_a_text_is_computed_from_where_it_differs():
    shown = exported("differential", build("differential"), checkpoint())
    texts = [[1, 2, 3], [1, 2, 3, 4, 5], [1, 2, 9], [1, 2, 9], [7]]
    logits = LOGITS.replace("model, newMemory(model, edits)", "models[0], MEMORY")
    all_logits = f"{json.dumps(texts)}.map(tokens => {logits})"
    again, fresh = (all_logits.replace("MEMORY", memory) for memory in ("memory", "newMemory(models[0])"))
    found, _ = opened(html(content(shown)), f"(memory => [{again}, {fresh}])(newMemory(models[0]))")
    assert found[0] == found[1] and len(found[0][1]) == 5 * 256


DIRTY = """(() => {
  const [model] = models, seen = [];
  let tokens = [1, 2, 3, 4, 5];
  const lam = (i, value) => () => model.edits.lam[i] = value;
  for (const change of [lam(1, 1.5), lam(0, -.5), lam(1, .25), () => model.edits.negative = false, lam(0, 0)]) {
    change();
    if (seen.length == 4) tokens = [1, 2, 9, 9, 9, 9];
    const fresh = forward(model, newMemory(model, model.edits), tokens);
    seen.push([think(model, tokens), fresh].map(memory => [...memory.logits].slice(0, 5 * 256)));
  }
  return seen;
})()"""


@browser
def test_edits_are_computed_from_the_first_layer_that_they_change():
    found, _ = opened(html(content(exported("differential", build("differential"), checkpoint()))), DIRTY)
    assert len({json.dumps(changed) for changed, _ in found}) == 5
    for changed, fresh in found:
        assert changed == fresh


def tasks(*names):
    return [exported(name, build(name), checkpoint(TASK)) for name in names]


TYPED = {  # what is typed: the letters that are read, and what the page says of it
    "ABC": ("ABC", ""),
    " h, A b ": ("HAB", "Read as capitals: H B."),
    "ABCA": ("ABC", "Each letter counts once: A."),
    "AzBéC": ("ABC", "The models know ABCDEFGH and not z é."),
    "ABCDEFGH": ("ABCDEFG", "Only the first 7 letters are read."),
    "AB": ("AB", "A list needs at least 3 different letters."),
    "": ("", "A list needs at least 3 different letters."),
}


@browser
def test_a_typed_list_is_read_and_asked():
    script = f"""{json.dumps(list(TYPED))}.map(typed => {{
        at("list").value = typed;
        at("list").oninput();
        const says = at("list-said").textContent;
        return [readList(typed).list.join(""), says, String.fromCharCode(...task.tokens), task.answer];
    }})"""
    found, _ = opened(html(content(*tasks("vanilla", "differential"))), script)
    asked = ""
    for (read, says, question, answer), expected in zip(found, TYPED.values(), strict=True):
        assert (read, says) == expected
        asked = read if len(read) > 2 else asked  # a list that is too short is not asked
        first, second = question.rstrip("?").split("|")
        assert first == asked and {*first} - {*second} == {answer} and len(second) == len(first) - 1
        assert len(question) <= SHAPE["block_size"]


@browser
@torch.no_grad()
def test_it_says_the_answer_of_both_models_and_what_the_switch_makes_of_it():
    script = """(() => {
      ask([..."ABCD"], "C", [..."DBA"]);
      const said = () => task.models.map(model => model.said.textContent);
      const outcomes = () => [...document.querySelectorAll(".outcome")].map(place => place.textContent);
      const row = () => [...task.models[1].changed.layers[1].A[0].slice(8 * 16, 8 * 16 + 9)];
      const all = [said(), row()];
      document.querySelector("[data-do=negative]").click();
      all.push(said(), row(), document.querySelector("input[type=checkbox]").checked, outcomes());
      task.layer = 1;
      document.querySelector("[data-do=lambda]").click();
      all.push(said(), models[1].edits);
      document.querySelector("#task-models .row button").click();
      all.push(said(), isEdited(models[1]));
      at("many").click();
      return [...all, task.models.map(model => model.score.textContent), at("take").children[2].ariaPressed];
    })()"""
    found, _ = opened(html(content(*tasks("vanilla", "differential"))), script)
    trained, row, switched, clamped, checked, outcomes, _, edits, again, is_edited, scores, pressed = found
    asked = torch.tensor([list(b"ABCD|DBA?")])
    gpts = [build(name) for name in ("vanilla", "differential")]

    def says(gpt):
        said = gpt(asked)[0, -1].argmax().item()
        shown = {10: "⏎", 32: "·"}.get(said, chr(said) if 32 < said < 127 else f"{said:02x}")
        return f"✓ answers {shown}, which is right" if shown == "C" else f"✗ answers {shown}, but C is missing"

    assert trained == again == [says(gpt) for gpt in gpts] and not is_edited
    layers = [block.attention for block in gpts[1].blocks]
    with edited(layers, edits_for(layers, activations(gpts[1], asked)[0])["negative by 0"]):
        assert switched == [says(gpt) for gpt in gpts]
    assert outcomes == ["", f"differential: {switched[1]}"]
    assert min(row) < 0 == min(clamped) and checked and edits == {"lam": [None, 0], "negative": True}
    assert all(re.fullmatch(r"right in \d+ of 50 other lists of 4 letters", score) for score in scores)
    assert pressed == "true"


@browser
def test_no_number_but_zero_is_shown_as_zero():
    numbers = [0, 1e-9, -4e-5, -0.00013, 0.0043, 0.05, 0.4249, -7.389, 41.5, 25013, 3e8]
    (found, others), _ = opened(html(content()), f"[{numbers}.map(num), [chance(.99999), chance(1), percent(1e-5)]]")
    expected = "0, 1.0·10⁻⁹, −4.0·10⁻⁵, −0.00013, 0.0043, 0.050, 0.425, −7.39, 41.5, 25013, 3.0·10⁸"
    assert found == expected.split(", ") and others == ["> 0.999", "1.00", "0.0010\u00a0%"]


@browser
def test_the_sketch_has_the_numbers_of_chapters_1_and_3():
    """0.665, 0.245, 0.090 and λ 0.425; n = 64 with g = 2: 0.09077 and 0 at λ 0.909; 52 and 34 effective tokens."""
    script = """Object.values(EXAMPLES).map((example, i) => [0, [.425, .909, .8][i]].map(lam => {
        setSketch({ ...example, lam });
        const [A1, A2] = sketch.typed.map(weightsOf), A = minus(A1, A2, lam), says = ["sketch-said", "bound"];
        const below = A.filter(a => a < 0).length / A.length;
        return [A.slice(0, 3), effective(A), contrast(A, 0), below, ...says.map(id => at(id).textContent)];
    }))"""
    (hand, needle, keys), _ = opened(html(content()), script)
    near = pytest.approx
    assert hand[0][0] == near([0.6652, 0.2447, 0.0900], abs=1e-4) and hand[0][5] == "7.39"
    assert hand[1][0] == near([0.575, 0, 0], abs=5e-4) and hand[1][2] > 1000 and "vanish together" in hand[1][4]
    assert needle[1][0] == near([0.09077, 0, 0], abs=1e-4) and ["vanish" in row[4] for row in needle] == [False, True]
    assert [round(row[1]) for row in keys] == [52, 34] and [round(row[2]) for row in keys] == [7, 14]
    assert [round(row[3], 2) for row in keys] == [0, 0.53] and "below the bound" in keys[1][4]


CLICKS = """(() => {
  const all = selector => [...document.querySelectorAll(selector)], seen = [];
  for (let i = 0; i < all("input[type=range]").length; i++) for (const end of ["min", "max"]) {
    const slider = all("input[type=range]")[i];
    slider.value = slider[end];
    slider.oninput();
  }
  for (const box of all("input[type=checkbox]")) { box.checked = true; box.onchange(); }
  seen.push(models.map(isEdited), text.group[0].said.textContent.includes("→"));
  for (let i = 0; i < all("button").length; i++) all("button")[i].click();
  for (const part of Object.keys(PARTS)) {
    at(`part-${part}`).onfocus();
    seen.push(all("#numbers rect").length);
  }
  at("tokens").firstChild.click();
  at("tokens").firstChild.onkeydown(new KeyboardEvent("keydown", { key: "ArrowRight" }));
  seen.push(text.row);
  all("canvas")[0].onkeydown(new KeyboardEvent("keydown", { key: "ArrowDown" }));
  seen.push(text.row, all("canvas").length);
  at("text").value = "0123456789abcdefghijklmnop";
  at("text").oninput();
  seen.push(String.fromCharCode(...text.tokens));
  at("text").value = "";
  at("text").oninput();
  seen.push(text.tokens, text.groups.map(nameOf));
  at("scores-0").value = "1, two";
  at("scores-0").oninput({ target: at("scores-0") });
  seen.push(sketch.typed[0].length, at("scores-said").textContent !== "");
  window.onresize();
  return seen;
})()"""


@browser
def test_everything_can_be_moved():
    names = ("differential", "vanilla", "bounded-2", "bounded-2-differential")
    shown = [exported(name, build(name), checkpoint()) for name in names] + tasks("vanilla", "differential")
    found, _ = opened(html(content(*shown)), CLICKS)
    assert found[:2] == [[False, False, False, True, False, True], True]
    assert all(bars > 0 for bars in found[2:11])
    assert found[11:14] == [1, 2, 4]
    assert found[14:17] == ["ghijklmnop", [10], ["scores bounded to ±2", "free scores"]]
    assert found[17] > 0 and found[18]


@browser
def test_a_page_of_one_model_shows_what_it_can():
    shown = exported("softmax1", build("softmax1"), checkpoint())
    script = (
        "['#task', '#part-text', '#sketch', '#head', '#part-text .step'].map(id => document.querySelector(id).hidden)"
    )
    assert opened(html(content(shown)), script)[0] == [True, False, False, True, True]
    hidden, _ = opened(html(content(*tasks("differential"))), "['task', 'part-text', 'head'].map(id => at(id).hidden)")
    assert hidden == [False, True, True]


EVIL = "</script><img src=x onerror=document.title=1><!--\u2028&amp;"


@browser
def test_markup_stays_text():
    shown = exported(EVIL, build("vanilla"), checkpoint() | {"options": {"dataset": f"data/{EVIL}", "seed": 1}})
    typed = json.dumps(EVIL).replace("<", "\\u003c")
    script = f"(at('text').value += {typed}, read(), showText(), document.title)"
    title, dom = opened(html(content(shown, text=EVIL)), script)
    assert title == "Subtract one softmax from another" and "<img src=x" not in dom and "&lt;img src=x" in dom


def test_it_asks_no_network_and_has_one_place_for_each_part():
    empty = html(content())
    assert not re.search(r"https?:(?!//www.w3.org/2000/svg|//github.com/\$|\\/\\/)|@import|fetch\(|import\(|XMLHttp|url\((?!#)", empty)
    assert "/*" not in re.sub(r"/\*.*?\*/", "", empty) and not re.search("SCRIPTS|DATA|COURSE", empty)
    for link in re.findall(r'(?:src|href)="([^"]*)"', empty):
        path, _, anchor = link.partition("#")
        assert link == "data:," or not anchor or anchor in anchors(ROOT / "docs" / path), link
        assert link == "data:," or (ROOT / "docs" / path).exists(), link
    assert len(re.findall(r"Step \d", empty)) == 5


def test_its_links_lead_to_the_course_from_where_it_is():
    assert path_to(ROOT / "docs", ROOT / "docs") == "." and path_to(ROOT / "docs", ROOT / "out") == "../docs"
    assert 'href="../docs/00-a-task.md"' in html(content(), "../docs") and 'href="00-a-task.md"' in html(content())
    assert 'href="../My%20%3C/00-a-task.md"' in html(content(), "../My <")


@browser
def test_on_github_s_own_site_they_lead_to_the_repository():
    links = ["https://ada.github.io/nanodiff/03-subtraction.md#by-hand", "https://ada.github.io/nanodiff/", "file:///a.md"]
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
    assert len(shown) < 2.5e6 and shown.count('"mechanism":') == 6
    assert re.sub(r'(?<=type="application/json">).*', "", shown) == re.sub(
        r'(?<=type="application/json">).*', "", html(content())
    )
