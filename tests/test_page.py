"""lab.page: in a browser models give torch's logits, also with edits; what one types stays text; it asks no network."""

import html as markup
import json
import random
import re
import shutil
import subprocess
from pathlib import Path

import pytest
import torch

import ideas  # noqa: F401  more mechanisms
from configurable import UsageError
from conftest import ROOT, mistake
from lab.maps import activations, edited, edits_for
from lab.page import ALPHABET, HALF, exported, html, packed, page, rounded
from lab.show import THE_FOUR
from lab.tasks import SYMBOLS
from model import GPT, GPTConfig
from prepare import prepare
from train import train

BROWSER = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
browser = pytest.mark.skipif(BROWSER is None, reason="no chromium, chromium-browser or google-chrome on the PATH")
SHAPE = {"block_size": 16, "n_layer": 2, "n_head": 4, "n_embd": 32}
SHOWN = (*THE_FOUR, "no-norm", "no-scale", "tied", "fixed-lambda", "head-lambda", "normed-vanilla", "cold-cosine")
SHOWN += ("init-0.8", "lambda-zero")
EDITS = ["negative by 0", "λ by 0", "A₂ by a uniform map"]


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
    """What the expression `script` gives on the page, as JSON, and the page's text afterwards."""
    end = "window.onerror = (...words) => document.body.dataset.error = words[0];"
    end += f"document.body.dataset.found = JSON.stringify({script});"
    Path("page.html").write_text(page_html.replace("</html>", f"<script>{end}</script></html>"), "utf-8")
    command = [BROWSER, "--headless", "--no-sandbox", "--disable-gpu", f"--window-size={size[0]},{size[1]}"]
    command += ["--virtual-time-budget=5000", "--dump-dom", Path("page.html").resolve().as_uri()]
    dom = subprocess.run(command, capture_output=True, timeout=120, check=True).stdout.decode()
    assert "data-error" not in dom, re.search(r'data-error="([^"]*)"', dom)[1]
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
    texts, names = some_texts(8), ("differential", "no-norm")
    gpts = [build(name) for name in names]
    edits = [{"negative": False}, {"second": "off"}, {"second": "flat"}, {"lam": [None, 1.5]}, {"sharp": 2}]
    edits = [{"lam": [], "second": "on", "negative": True, "sharp": 1, **edit} for edit in edits]
    shown = [exported(name, gpt, checkpoint()) for name, gpt in zip(names, gpts, strict=True)]
    each = f"{json.dumps(texts)}.map(tokens => {LOGITS})"
    found, _ = opened(html(content(*shown)), f"models.map(model => {json.dumps(edits)}.map(edits => {each}))")
    for by_edit, gpt in zip(found, gpts, strict=True):
        layers = [block.attention for block in gpt.blocks]
        known = edits_for(layers, activations(gpt, torch.zeros(1, 4, dtype=torch.long))[0])
        for logits, name in zip(by_edit, EDITS, strict=False):
            with edited(layers, known[name]):
                assert_equal(logits, gpt, texts)
        for p in (layers[1].lam_q1, layers[1].lam_q2):
            p.zero_()
        learned, layers[1].lam_init = layers[1].lam_init, 1.5
        norm = layers[1].norm
        layers[1].norm = lambda y, norm=norm, f=(1 - learned) / (1 - 1.5): norm(y) * (f if gpt is gpts[0] else 1)  # noqa: B023
        assert_equal(by_edit[3], gpt, texts)
    gpt = build("differential")
    for block in gpt.blocks:
        block.attention.qkv.weight[:32] *= 2  # queries twice as long: scores twice as large
    assert_equal(found[0][4], gpt, texts)


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
  const [model] = models, { edits } = model, seen = [];
  const fresh = () => [...forward(model, newMemory(model, edits), live.tokens).logits];
  live.tokens = [1, 2, 3, 4, 5];
  const lam = (i, value) => () => edits.lam[i] = value;
  for (const change of [lam(1, 1.5), lam(0, -.5), lam(1, .25), () => edits.sharp = 2, () => edits.second = "flat"]) {
    change();
    if (seen.length == 4) live.tokens = [1, 2, 9, 9, 9, 9];
    seen.push([[...think(model).logits], fresh()].map(logits => logits.slice(0, 5 * 256)));
  }
  return seen;
})()"""


@browser
def test_edits_are_computed_from_the_first_layer_that_they_change():
    found, _ = opened(html(content(exported("differential", build("differential"), checkpoint()))), DIRTY)
    assert len({json.dumps(changed) for changed, _ in found}) == 5
    for changed, fresh in found:
        assert changed == fresh


def test_a_model_of_the_earlier_task_is_shown_as_it_was():
    task = {"n_items": 12, "n_symbols": 32}
    assert exported("old", build("differential"), checkpoint(task))["missing"] == task
    task = {"min_items": 3, "max_items": 6, "n_symbols": 8}
    assert exported("new", build("differential"), checkpoint(task))["missing"] == {"n_items": 4, "n_symbols": 8}


@browser
def test_it_says_the_loss_and_the_answer():
    gpt, task = build("differential"), {"min_items": 3, "max_items": 4, "n_symbols": 8}
    shown = [exported(name, gpt, checkpoint(t)) for name, t in (("text", None), ("lists", task))]
    tokens = list(b"to be or not")
    script = """(setTask(1), at('text').value = 'to be or not', read(), refresh(), [
        lossOf(models[0], models[0].trained),
        setTask(0), live.tokens, live.answer, lossOf(models[1], models[1].trained),
        models[1].button.textContent])"""
    (loss, _, asked, answer, of_answer, says), _ = opened(html(content(*shown)), script)
    x = torch.tensor([tokens])
    assert loss == pytest.approx(gpt(x[:, :-1], x[:, 1:]).item(), abs=1e-3)
    text = bytes(asked).decode()
    first, second = text.rstrip("?").split("|")
    assert {*first} - {*second} == {chr(answer)} and len(first) == 3 and len(second) == 2 and {*first} <= {*SYMBOLS[:8]}
    p = gpt(torch.tensor([asked]))[0, -1].log_softmax(0)[answer]
    assert of_answer == pytest.approx(-p.item(), abs=1e-3)
    said = gpt(torch.tensor([asked]))[0, -1].argmax().item()
    said = {10: "⏎", 32: "·"}.get(said, chr(said) if 32 < said < 127 else f"{said:02x}")
    assert f"says {said}, not {chr(answer)}; loss {of_answer:.3f}" in says


CLICKS = """(() => {
  const all = selector => [...document.querySelectorAll(selector)], seen = [];
  for (const task of [0, 1]) {
    setTask(task);
    for (const slider of all("input[type=range]")) for (const value of [slider.min, slider.max]) {
      slider.value = value;
      slider.oninput();
    }
    for (let i = 0; i < 3; i++) { const box = all("#switches input")[i]; box.checked = true; box.onchange(); }
    seen.push(all("#models button")[0].textContent);
    for (let i = 0; i < all("#switches button").length; i++) all("#switches button")[i].click();
    for (const part of ["layer", "head", "models"].map(at))
      for (let i = 0; i < part.childElementCount; i++) part.children[i].click();
    at("tokens").firstChild.click();
    at("tokens").firstChild.onkeydown(new KeyboardEvent("keydown", { key: "ArrowRight" }));
    seen.push(live.row);
    at("maps").querySelector("canvas").onkeydown(new KeyboardEvent("keydown", { key: "ArrowDown" }));
    seen.push(live.row, at("maps").childElementCount);
  }
  setTask(1);
  at("text").value = "0123456789abcdefghijklmnop";
  at("text").oninput();
  seen.push(String.fromCharCode(...live.tokens));
  at("text").value = "";
  at("text").oninput();
  seen.push(live.tokens);
  three.scores = [[2, 0, -1], [0, 1, 0]];
  three.lam = Math.exp(2 - 2) * .114195 / .576117;
  showThree();
  seen.push(at("three-said").textContent);
  return seen;
})()"""


@browser
def test_everything_can_be_moved():
    task = {"min_items": 3, "max_items": 4, "n_symbols": 8}
    shown = [exported(n, build(n), checkpoint(t)) for t in (None, task) for n in ("differential", "vanilla")]
    found, _ = opened(html(content(*shown)), CLICKS)
    assert "→" in found[0] and "→" in found[4]
    assert found[1:4] == found[5:8] == [1, 2, 1]  # rows; and one map, as vanilla was chosen last
    assert found[8:10] == ["ghijklmnop", [10]]  # a text of 26 in windows of 16: from 16 on
    assert found[10].endswith("No softmax alone can do that.") and "tokens 2 and 3 vanish" in found[10]


EVIL = "</script><img src=x onerror=document.title=1><!--\u2028&amp;"


@browser
def test_markup_stays_text():
    shown = exported(EVIL, build("vanilla"), checkpoint() | {"options": {"dataset": f"data/{EVIL}", "seed": 1}})
    typed = json.dumps(EVIL).replace("<", "\\u003c")
    script = f"(at('text').value += {typed}, read(), refresh(), document.title)"
    title, dom = opened(html(content(shown, text=EVIL)), script)
    assert title == "Subtract two softmaxes, and look" and "<img" not in dom and "&lt;img" in dom


def test_it_asks_no_network_and_has_one_place_for_each_part():
    empty = html(content())
    assert not re.search(r"https?:(?!//www.w3.org/2000/svg)|src=|href=|@import|fetch\(|import\(|XMLHttp|url\(", empty)
    assert "/*" not in re.sub(r"/\*.*?\*/", "", empty) and not re.search("SCRIPTS|DATA", empty)


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
    for name in ("sum", "v2", "wide-values", "dex", "factored", "halved"):
        said = mistake(exported, name, build(name), checkpoint())
        assert said.startswith(f"{name}: the page shows ")
    said = mistake(exported, "x", build("vanilla"), checkpoint() | {"data": {"tokenizer": "gpt2"}})
    assert said == "x reads gpt2: a page shows models of bytes"
    for i in range(5):
        train(GPTConfig(**SHAPE), dataset=str(corpus), out_dir=f"out/{i}", seed=i, **SHORT)
    assert mistake(page, *(f"out/{i}" for i in range(5))) == "5 checkpoints: a page shows at most 4"
    with pytest.raises(UsageError, match="CHECKPOINTS"):
        page()
    assert not Path("out/page.html").exists()


def test_the_committed_example_is_made_of_today_s_scripts():
    """docs/page.html: whoever changes lab/web makes it again, with lab.page."""
    shown = (ROOT / "docs/page.html").read_text(encoding="utf-8")
    assert len(shown) < 2.5e6 and shown.count('"mechanism":') == 4
    assert re.sub(r'(?<=type="application/json">).*', "", shown) == re.sub(
        r'(?<=type="application/json">).*', "", html(content())
    )
