"""Every number on maps worked out by hand; interventions against what they should leave unchanged."""

import contextlib
import dataclasses
import functools
import json
import math
import re
import shutil
import statistics
from pathlib import Path

import numpy as np
import pytest
import torch

import analyze as analysis
from analyze import (
    DIFFERENTIAL_EDITS,
    EDITS,
    activations,
    analyze,
    completes,
    edited,
    exact,
    looked_at,
    losses,
    of_heads,
    outliers,
    quantised,
    replaced,
)
from bench import table
from configurable import UsageError, run
from model import ATTENTION, GPT, Differential, GPTConfig
from prepare import needles, prepare
from train import evaluate, load, load_model, save, train

SIGNED = torch.tensor([[[[0.5, 0.0, 0.0], [0.75, -0.25, 0.0], [-0.5, 0.0, 1.5]]]])  # BHTT, a map with negative weights


def build(attention, **shape):
    """A model whose weights are large enough for its maps to differ from even ones."""
    torch.manual_seed(0)
    gpt = GPT(GPTConfig(attention, n_layer=2, n_head=4, n_embd=32, block_size=12, **shape)).eval()
    with torch.no_grad():
        for block in gpt.blocks:
            block.attention.qkv.weight *= 30
    return gpt


def text(B=3, T=12):
    return torch.randint(256, (B, T), generator=torch.Generator().manual_seed(1))


@pytest.mark.parametrize(
    ("number", "expected"),
    [
        (analysis.row_sum, (0.5 + 0.5 + 1.0) / 3),
        (analysis.negative_share, (0 + 1 / 2 + 1 / 3) / 3),
        (analysis.negative_mass, (0 + 1 / 4 + 1 / 4) / 3),
        (analysis.on_first, (3 / 4 + 1 / 4) / 2),
        (analysis.on_itself, (1 + 1 / 4 + 3 / 4) / 3),
        (analysis.on_previous, (3 / 4 + 0) / 2),
        (analysis.entropy, 2 / 3 * (math.log(4) - 0.75 * math.log(3))),
        (analysis.effective_tokens, (1 + 2 * 4 / 3**0.75) / 3),
        (functools.partial(analysis.small_share, eps=0), (0 + 0 + 1 / 3) / 3),
        (functools.partial(analysis.small_share, eps=0.25), (0 + 1 / 2 + 1 / 3) / 3),
        (analysis.head_cosine, 1.0),
    ],
)
def test_a_number_of_a_signed_map(number, expected):
    assert number(SIGNED).shape == (1, 1)
    assert number(SIGNED).item() == pytest.approx(expected, abs=1e-6)


def test_shares_have_no_sign_and_sum_to_1():
    assert torch.equal(analysis.shares(SIGNED)[0, 0, 2], torch.tensor([0.25, 0.0, 0.75]))
    assert torch.equal(analysis.shares(torch.zeros(1, 1, 2, 2)), torch.zeros(1, 1, 2, 2))


def test_an_even_map_is_spread_over_all_that_is_visible():
    A = torch.ones(1, 1, 4, 4).tril() / torch.arange(1, 5)[:, None]
    assert analysis.effective_tokens(A).item() == pytest.approx((1 + 2 + 3 + 4) / 4)
    assert analysis.on_first(A).item() == pytest.approx((1 / 2 + 1 / 3 + 1 / 4) / 3)


def test_likeness_of_two_maps():
    A1 = torch.tensor([[[[1.0, 0.0], [1.0, 0.0]]]])
    A2 = torch.tensor([[[[1.0, 0.0], [0.0, 1.0]]]])
    assert analysis.cosine(A1, A2).item() == pytest.approx((1 + 0) / 2)
    assert analysis.correlation(A1, A2).item() == pytest.approx(-1)
    assert analysis.correlation(A1, A1).item() == pytest.approx(1)
    assert analysis.correlation(A1, torch.full((1, 1, 2, 2), 0.5)).item() == 0
    assert analysis.head_cosine(torch.cat((A1, A2, A2), 1))[0].tolist() == pytest.approx([0.5, 0.75, 0.75])


def test_context_is_as_long_as_its_values_or_shorter():
    v = torch.tensor([[[[3.0, 4.0], [-3.0, -4.0]]]])
    assert analysis.context_rms(torch.eye(2)[None, None], v).item() == pytest.approx(1)
    assert analysis.context_rms(torch.tensor([[[[1.0, 0.0], [0.5, 0.5]]]]), v).item() == pytest.approx(0.5**0.5)


def test_distance_from_the_box_of_values():
    v = torch.tensor([[[[1.0, 1.0], [-1.0, 1.0]]]])  # rms 1; the box of row 1 is [-1, 1] by {1}
    inside, beyond = (torch.tensor([[[[1.0, 0.0], row]]]) for row in ([0.25, 0.75], [2.0, -1.0]))
    assert analysis.outside_box(inside, v).item() == 0
    assert analysis.outside_box(beyond, v).item() == pytest.approx(math.sqrt((3 - 1) ** 2 / 2) / 2)  # y = (3, 1)
    later = torch.tensor([[[[1.0, 1.0], [-5.0, 5.0]]]])  # rms √13; row 0 sees (1, 1) alone
    for weight, off in ((2.0, 1.0), (-1.0, 2.0)):  # y = (2, 2) is above it, y = (-1, -1) below
        A = torch.tensor([[[[weight, 0.0], [0.5, 0.5]]]])
        assert analysis.outside_box(A, later).item() == pytest.approx(off / 2 / math.sqrt(13))


def test_sink_rate_counts_heads_beyond_three_tenths():
    assert analysis.sink_rate([0.1, 0.3, 0.31, 0.9]) == 0.5


def test_outliers_of_what_is_known():
    x = torch.arange(-5.0, 106.0)  # |x|: 0, 1, 1, ... 5, 5, 6, ... 105
    assert outliers(x) == {"top_1": 105, "top_2": 104, "top_3": 103, "top_10": 96, "top_100": 6, "median": 50}
    assert outliers(torch.tensor([-2.0, 1.0])) == {"top_1": 2, "top_2": 1, "median": 1}
    assert analysis.kurtosis(torch.tensor([-1.0, 1.0])) == pytest.approx(1)
    assert analysis.kurtosis(torch.tensor([0.0, 0.0, 0.0, 4.0])) == pytest.approx(7 / 3)
    assert analysis.inf_norm(torch.tensor([1.0, -3.0, 5.0, 0.0]).view(2, 2, 1, 1)) == pytest.approx((5 + 3) / 2)


def test_a_token_completes_what_its_window_has_seen():
    x, y = torch.tensor([list(b"abcab"), list(b"aaaaa")]), torch.tensor([list(b"bcabc"), list(b"aaaab")])
    assert completes(x, y, 2).int().tolist() == [[0, 0, 0, 1, 1], [0, 1, 1, 1, 0]]
    assert completes(x, y, 3).int().tolist() == [[0, 0, 0, 0, 1], [0, 0, 1, 1, 0]]
    assert not completes(x, y, 6).any() and not completes(x, y, 9).any()


def test_losses_are_split_and_compared():
    nats = torch.tensor([[1.0, 2.0], [3.0, 6.0]])
    hit = torch.tensor([[False, True], [False, False]])
    found = analysis.split_losses(nats, hit)
    errors = {"hit_error": None, "rest_error": pytest.approx(statistics.stdev([1, 3, 6]) / 3**0.5)}
    assert (
        found == {"all": 3, "hit_share": 0.25, "hit": 2, "rest": pytest.approx(10 / 3), "by_position": [2, 4]} | errors
    )
    assert analysis.split_losses(nats, hit & False)["hit"] is None
    after = nats + torch.tensor([[1.0], [2.0]])
    assert analysis.change(nats, after) == {"loss_change": 1.5, "standard_error": pytest.approx(0.5)}
    assert analysis.change(nats[:1], nats[:1])["standard_error"] is None


def test_losses_are_those_of_training():
    gpt, tokens = build("vanilla"), text(1, 61)[0]
    x, y = analysis.cut(tokens, 10_000, gpt)
    assert x.shape == (5, 12) and torch.equal(x.flatten()[1:], y.flatten()[:-1])
    with torch.no_grad():
        assert losses(gpt, x, y).mean().item() == pytest.approx(evaluate(gpt, gpt, tokens, 2, 12), rel=1e-5)
    assert analysis.cut(tokens[:7], 10_000, gpt)[0].shape == (1, 6)
    assert analysis.cut(tokens, 5, gpt)[0].shape == (1, 12)


# ---------------------------------------------------------------------------- inside a model


@pytest.mark.parametrize("attention", ATTENTION)
@torch.no_grad()
def test_laws_of_the_mechanisms(attention):
    gpt = build(attention)
    inputs, outputs = activations(gpt, text())
    assert [x.shape for x in inputs + outputs] == [(3, 12, 32)] * 4
    for block, x in zip(gpt.blocks, inputs, strict=True):
        rows = of_heads(block.attention, x)
        assert len(rows) == block.attention.n_heads[2]
        for row in rows:
            if attention == "differential":
                assert row["row_sum"] == pytest.approx(1 - block.attention.lam.item(), abs=1e-5)
                assert row["negative_mass"] > 0 and row["outside_box"] > 0
            elif attention == "softmax1":
                assert 0 < row["row_sum"] < 1
            else:
                assert row["row_sum"] == pytest.approx(1, abs=1e-5)
                assert row["outside_box"] < 1e-6
            if attention != "differential":
                assert row["negative_share"] == row["negative_mass"] == 0
        counts = analysis.histogram(block.attention, x)
        assert counts.sum() == 3 * len(rows) * 12 * 13 / 2
        assert (counts[: len(counts) // 2].sum() > 0) == (attention == "differential")


@torch.no_grad()
def test_maps_are_looked_at_in_parts(monkeypatch):
    gpt = build("differential")
    inputs, _ = activations(gpt, text())
    attention, x = gpt.blocks[1].attention, inputs[1]
    whole, means = of_heads(attention, x), analysis.mean_maps(attention, x)
    monkeypatch.setattr(analysis, "BIG", 1)
    assert len(analysis.parts(attention, x)) == 3
    for row, other in zip(whole, of_heads(attention, x), strict=True):
        assert other == pytest.approx(row, rel=1e-5, abs=1e-7)
    for mean, other in zip(means, analysis.mean_maps(attention, x), strict=True):
        torch.testing.assert_close(mean, other)


@pytest.mark.parametrize("fused", [True, False])
@pytest.mark.parametrize("attention", ATTENTION)
@torch.no_grad()
def test_what_changes_no_map_changes_no_output(attention, fused):
    gpt = build(attention, fused=fused)
    attentions, before = [block.attention for block in gpt.blocks], gpt(text())

    def changed(mix):
        with replaced(attentions, mix=mix):
            return gpt(text())

    def same(attention, A, A2):
        return A

    torch.testing.assert_close(changed(edited(same)), before, atol=1e-5, rtol=1e-4)
    torch.testing.assert_close(changed(quantised(23)), before, atol=1e-3, rtol=1e-3)
    assert not torch.allclose(changed(quantised(2)), before, atol=1e-3)
    negative = functools.partial(DIFFERENTIAL_EDITS["negative by 0"], None)
    assert torch.allclose(changed(edited(negative)), before, atol=1e-5) == (attention != "differential")
    assert not torch.allclose(changed(edited(functools.partial(EDITS["first token by 0"], None))), before, atol=1e-3)
    assert torch.equal(gpt(text()), before)  # all is as it was
    assert not any({"mix", "attend"} & {*vars(attention)} for attention in attentions)


def test_a_replacement_ends_with_an_error():
    attention = build("vanilla").blocks[0].attention
    with contextlib.suppress(ZeroDivisionError), replaced([attention], mix=print):
        raise ZeroDivisionError
    assert "mix" not in vars(attention)


@torch.no_grad()
def test_maps_of_edits():
    """On one layer, whose input an edit cannot have changed."""
    attention = build("differential").blocks[0].attention
    x = torch.randn(3, 12, 32, generator=torch.Generator().manual_seed(2))
    (A1, A2), A, lam = attention.maps(x), attention.map(x), attention.lam

    even = torch.ones(12, 12).tril() / torch.arange(1, 13)[:, None]
    means = {attention: analysis.mean_maps(attention, x)}

    def edit(name):
        with replaced([attention], mix=edited(functools.partial((EDITS | DIFFERENTIAL_EDITS)[name], means))):
            return attention.map(x)

    for name, expected in (
        ("weights within ±0.001 by 0", A * (A.abs() >= 1e-3)),
        ("A by its mean", A.mean(0).expand_as(A)),
        ("negative by 0", A.relu()),
        ("λ by 0", A1),
        ("A₂ by its row's mean", A1 - lam * even),
        ("A₂ by its mean", A1 - lam * A2.mean(0)),
    ):
        torch.testing.assert_close(edit(name), expected, atol=1e-6, rtol=1e-5)
    first = edit("first token by 0")
    assert not first[:, :, 1:, 0].any() and torch.equal(first[..., 1:], A[..., 1:])
    torch.testing.assert_close(first[:, :, 0], A[:, :, 0])


@pytest.mark.parametrize("attention", ATTENTION)
@torch.no_grad()
def test_scores_are_what_softmax_is_given(attention):
    gpt = build(attention)
    attention, x = gpt.blocks[0].attention, torch.randn(2, 12, 32)
    S = analysis.scores(attention, attention.mix, x, *attention.project(x))
    S = S.masked_fill(~analysis.visible(12), -math.inf)
    weights = analysis.softmax1(S) if gpt.config.attention == "softmax1" else S.softmax(-1)
    maps = torch.cat(attention.maps(x), 1) if isinstance(attention, Differential) else attention.map(x)
    torch.testing.assert_close(weights, maps, atol=1e-5, rtol=1e-4)


def test_quantised_logits_take_few_values():
    attention, seen = build("vanilla").blocks[0].attention, []
    x = torch.randn(1, 12, 32, generator=torch.Generator().manual_seed(2))
    with torch.no_grad(), replaced([attention], mix=quantised(3)):
        A = attention.map(x)
    with torch.no_grad():
        S = analysis.scores(attention, attention.mix, x, *attention.project(x))
    rows = A[:, :, -1].log()
    seen = (rows - rows.max(-1, keepdim=True).values).flatten().unique()
    steps = (seen[:, None] - seen).abs()
    step = S[..., torch.ones(12, 12).tril().bool()].abs().max() / 3  # three steps up to the largest, three down
    assert steps[steps > 1e-3].min() == pytest.approx(step.item(), rel=1e-3)
    assert torch.allclose(seen / step, (seen / step).round(), atol=1e-2) and len((seen / step).round().unique()) <= 7


@torch.no_grad()
def test_an_intervention_does_not_depend_on_the_batch(monkeypatch):
    gpt, x = build("differential"), text(5)
    attentions, found = [block.attention for block in gpt.blocks], []
    for n in (1, 3, 5):
        monkeypatch.setattr(analysis, "batch_size", lambda tokens, n=n: n)
        with replaced(attentions, mix=quantised(4)):
            found.append(losses(gpt, x, x))
    torch.testing.assert_close(found[0], found[1])
    torch.testing.assert_close(found[0], found[2])


# ---------------------------------------------------------------------------- the command


@pytest.fixture(scope="module")
def runs(corpus, tmp_path_factory):
    """The folder of a run of each mechanism, two steps long."""
    out = tmp_path_factory.mktemp("analyze")
    for name in ATTENTION:
        shape = GPTConfig(name, n_layer=2, n_embd=16, n_head=2, block_size=16)
        train(shape, dataset=str(corpus), max_iters=2, batch_size=2, eval_tokens=100, out_dir=str(out / name))
    return out


@pytest.fixture
def checkpoints(runs):
    return [str(runs / name) for name in ATTENTION]


def test_four_mechanisms_side_by_side(checkpoints, capsys):
    report = analyze(*checkpoints, tokens=320, windows=4)
    out, said = Path("out/analysis"), capsys.readouterr().out
    assert json.loads((out / "analysis.json").read_text()) == json.loads(json.dumps(report))
    assert {path.name for path in out.glob("*.png")} == {
        *(f"{kind}-{name}.png" for kind in ("map", "maps") for name in ATTENTION),
        *("weights.png", "losses.png", "lam-differential.png", "g-temperature.png"),
    }
    assert [entry["name"] for entry in report["checkpoints"]] == list(ATTENTION)
    for entry in report["checkpoints"]:
        double = entry["name"] == "differential"
        assert len(entry["heads"]) == (2 if double else 4)
        assert entry["tokens"] == 320 and entry["windows"] == 4 and len(entry["loss"]["by_position"]) == 16
        assert sum(entry["weights"]) == pytest.approx(1)
        assert len(entry["interventions"]) == (10 if double else 6)
        assert f"{entry['name']}, {entry['parameters']:,} parameters, step 2, seed 1337" in said
    lam = report["checkpoints"][3]["learned"]["lam"]
    assert len(lam["start"]) == len(lam["now"]) == 2 and [row[0] for row in lam["over_training"]] == [0, 2]
    assert table(analysis.compared({entry["name"]: [entry] for entry in report["checkpoints"]})) in said
    assert "mean ± sd" not in said


def test_checkpoints_of_one_mechanism_are_averaged(runs, capsys):
    for seed in (1, 2):
        shutil.copytree(runs / "vanilla", f"vanilla-{seed}")
    entries = analyze("vanilla-1", "vanilla-2", str(runs / "softmax1"), tokens=320, windows=4)["checkpoints"]
    said = capsys.readouterr().out.partition("mean ± sd over the checkpoints of each mechanism")[2]
    for i, wanted in enumerate(({"loss": 1.0}, {"loss": 2.0})):
        entries[i]["loss"]["all"] = wanted["loss"]
        entries[i]["interventions"][0]["loss_change"] = -0.5 * i
    rows = {row[""]: row for row in analysis.compared({"vanilla": entries[:2], "softmax1": entries[2:]})}
    assert rows["loss"]["vanilla"] == "1.5000 ± 0.7071" and "±" not in rows["loss"]["softmax1"]
    change = f"Δ loss, {entries[0]['interventions'][0]['what']}"
    assert rows[change]["vanilla"] == "-0.2500 ± 0.3536"
    assert rows["parameters"]["vanilla"] == f"{entries[0]['parameters']:,}"
    assert "| vanilla" in said and "softmax1" in said


def test_the_validation_loss_is_the_one_of_training(runs):
    (entry,) = analyze(str(runs / "vanilla"), tokens=10**9)["checkpoints"]
    gpt, _ = load_model(runs / "vanilla")
    _, _, tokens = analysis.load_dataset(entry["dataset"], gpt.device, 16)
    whole = len(tokens["val"]) // 16 * 16
    assert entry["loss"]["all"] == pytest.approx(evaluate(gpt, gpt, tokens["val"], 4, 16, whole), rel=1e-5)


def test_two_of_a_kind_are_told_apart_by_their_paths(runs, checkpoints):
    shutil.copy(runs / "vanilla" / "best.pt", "alone.pt")
    report = analyze(checkpoints[0], "alone.pt", tokens=64, windows=2, layer=0, head=1)
    assert [entry["name"] for entry in report["checkpoints"]] == [checkpoints[0], "alone.pt"]
    assert Path("out/analysis/map-alone.pt.png").exists()


def test_a_text_is_enough(runs, capsys):
    old = load(runs / "differential" / "best.pt")
    old["options"]["dataset"] = "gone"
    save(Path("moved.pt"), old)
    with pytest.raises(UsageError, match="no dataset"):
        analyze("moved.pt")
    Path("t.txt").write_text("to $be$ λ\n", encoding="utf-8")
    report = analyze("moved.pt", text_file="t.txt")
    (entry,) = report["checkpoints"]
    assert "the text is all that is read" in capsys.readouterr().out
    assert report["source"] == "the text" and entry["tokens"] == 10 and entry["learned"]["lam"]["start"] == []


def test_tokens_are_spelled_in_signs_that_the_font_has(tiny):
    coder = analysis.Tokenizer()
    assert analysis.spelled(b"a \n$\xce\x07", coder) == ["a", "␣", "⏎", "$", "·", "·"]
    wide = analysis.Tokenizer(tiny)
    assert "".join(analysis.spelled(wide.encode("to\nλ 字").tolist(), wide)).startswith("to⏎")


def test_tokens_of_tiktoken(tiny, runs):
    Path("a.txt").write_text("to be or not to be\n" * 100)
    prepare("a.txt", tokenizer="gpt2")
    train(GPTConfig(n_layer=1, n_embd=16, n_head=2, block_size=8), dataset="a-gpt2", max_iters=1)
    report = analyze("out/a-gpt2-vanilla", tokens=64)
    assert report["ngram"] == 2 and report["source"] == "a-gpt2"
    with pytest.raises(UsageError, match="the losses of different tokenizers cannot be compared: softmax1 has bytes"):
        analyze("out/a-gpt2-vanilla", str(runs / "softmax1"))
    with pytest.raises(UsageError, match=r"data.a-gpt2 is in gpt2, softmax1 reads bytes"):
        analyze(str(runs / "softmax1"), dataset="a-gpt2")


def test_a_token_beyond_the_vocabulary_is_refused(runs):
    old = load(runs / "vanilla" / "best.pt")
    old["config"]["vocab_size"] = 100
    old["model"]["embedding.weight"] = old["model"]["embedding.weight"][:100]
    save(Path("small.pt"), old)
    with pytest.raises(UsageError, match="the text has token 122, and the vocabulary of vanilla is 0 to 99"):
        analyze("small.pt", text="zz")
    with pytest.raises(UsageError, match="has token 255, and the vocabulary of vanilla is 0 to 99"):
        analyze("small.pt")


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"layer": 2}, "layer=2: differential has layers 0 to 1"),
        ({"layer": -1}, "layer=-1: differential has layers 0 to 1"),
        ({"head": 1}, "head=1: differential has heads 0 to 0"),
        ({"text": ""}, "the text has 0 tokens: 2 is the least"),
        ({"text": "a"}, "the text has 1 token: 2 is the least"),
        ({"text": "a" * 17}, "the text has 17 tokens, and differential sees 16 at once: give at most 16"),
        ({"text": "ab", "text_file": "a"}, "give a text or a text_file, not both"),
        ({"text_file": "gone.txt"}, "cannot read text_file=gone.txt: No such file"),
        ({"text": "ab", "dataset": "gone"}, "no dataset data/gone"),
        ({"tokens": 0}, "tokens=0: must be at least 1"),
        ({"windows": 0}, "windows=0: must be at least 1"),
        ({"ngram": 1}, "ngram=1: must be at least 2"),
        ({"device": "gpu"}, "device=gpu: "),
    ],
)
def test_mistakes(runs, options, message):
    with pytest.raises(UsageError) as error:
        analyze(str(runs / "differential"), **options)
    assert str(error.value).startswith(message)
    assert not Path("out").exists()


def test_no_checkpoint_is_explained(runs, capsys):
    with pytest.raises(UsageError, match=r"no checkpoint out.gone"):
        analyze("out/gone")
    with pytest.raises(SystemExit) as end:
        run(analyze, [])
    assert end.value.code == 2
    assert capsys.readouterr().err == "analyze.py: CHECKPOINTS is missing: train.py makes one\n"
    shutil.copytree(runs / "vanilla", "out/here")
    with pytest.raises(UsageError, match=r"CHECKPOINTS is missing: there is out/here"):
        analyze()


def test_models_of_several_sizes(runs, corpus):
    shape = dataclasses.replace(GPTConfig(), n_layer=1, n_embd=16, n_head=2, block_size=8)
    train(shape, dataset=str(corpus), max_iters=1, batch_size=2, eval_tokens=50, out_dir="out/short")
    short, long = analyze("out/short", str(runs / "softmax1"), tokens=64)["checkpoints"]
    assert (short["T"], long["T"]) == (8, 16)


# ---------------------------------------------------------------------------- needles


class Reader:
    """A model that gives, for contexts of needles, what `answer(text, query)` says comes after the query `?AB`."""

    device, config = torch.device("cpu"), GPTConfig(block_size=128)

    def __init__(self, answer):
        self.answer = answer

    def __call__(self, tokens):
        logits = torch.zeros(*tokens.shape, 256)
        for b, row in enumerate(tokens.tolist()):
            text = bytes(row).decode()
            for query in re.finditer(r"\?(..)", text):
                for i, digit in enumerate(self.answer(text, query[1])):
                    logits[b, query.end() - 1 + i, ord(digit)] = 1
        return logits


def right(text, city):
    return re.search(rf"{city}(\d+) ", text)[1]


def first(text, city):
    return re.search(r"[A-Z]{2}(\d+) ", text)[1]


def left_over(text, city):
    """A number that no query before this one had, whoever's it is."""
    asked = re.findall(r"\?..(\d+)", text[: text.index(f"?{city}")])
    return next(number for number in re.findall(r"[A-Z]{2}(\d+) ", text) if number not in asked)


def test_needles_found_are_counted():
    assert exact(Reader(right), 20, 2, 3, 128) == {"needles": 3, "length": 128, "exact": 1.0, "of": 20}
    assert exact(Reader(lambda *known: right(*known)[:2] + "x"), 20, 2, 3, 128)["exact"] == 0  # all digits, or none
    for n in (2, 4):  # a number in the context, whoever's: right once in n, also for who remembers what was asked
        for guess in (first, left_over):
            assert exact(Reader(guess), 400, 3, n, 128)["exact"] == pytest.approx(1 / n, abs=0.08)


def test_a_depth_is_that_of_the_needle_asked_first():
    at_front, at_end = (exact(Reader(first), 60, 2, 4, 128, depth) for depth in (0.0, 1.0))
    assert at_front["depth"] == 0 and at_front["exact"] > 0.6  # others may lie as far in front
    assert at_end["depth"] == 1 and at_end["exact"] < 0.1


def test_where_a_head_looks_for_an_answer(monkeypatch):
    gpt = GPT(GPTConfig(n_layer=1, n_embd=16, n_head=2, block_size=64)).eval()
    even = torch.ones(64, 64).tril() / torch.arange(1, 65)[:, None]
    previous = torch.diag(torch.ones(63), -1)
    monkeypatch.setattr(
        gpt.blocks[0].attention, "map", lambda x: torch.stack((-even, previous)).expand(len(x), -1, -1, -1)
    )
    spread, back = looked_at(gpt, 10, 2, 3, 64)
    rows = torch.tensor([55.0, 56, 57])  # so many tokens do the rows see that predict the first answer's three digits
    assert spread["answer"] == pytest.approx((6 / rows).mean().item())
    assert spread["other needles"] == pytest.approx((12 / rows).mean().item())
    assert spread["filler"] == pytest.approx(((64 - 6 * 5) / rows).mean().item())
    assert spread["row_sum"] == pytest.approx(-1)
    assert back == {
        "layer": 0,
        "head": 1,
        "answer": 0,
        "other needles": 0,
        "filler": 0,
        "query": pytest.approx(1),
        "row_sum": 1,
    }
    assert sum(spread[name] for name in ("answer", "other needles", "filler", "query")) == pytest.approx(1)


def test_checkpoints_of_needles(capsys):
    needles(n_needles=3, n_queries=2, length=48, n_contexts=30, n_val_contexts=12)
    shape = {"n_layer": 1, "n_embd": 16, "n_head": 2, "block_size": 48}
    for name in ("vanilla", "differential"):
        train(GPTConfig(name, **shape), dataset="needles", max_iters=1, batch_size=4, out_dir=f"out/{name}")
    report = analyze("out/vanilla", "out/differential", tokens=10**6, windows=4)
    for entry in report["checkpoints"]:
        found, loss = entry["needles"], entry["loss"]
        assert [row["needles"] for row in found["by_n"]] == [1, 2, 3] and found["by_n"][2]["of"] == 400
        assert [row["depth"] for row in found["by_depth"]] == [0, 0.25, 0.5, 0.75, 1]
        assert [row["length"] for row in found["by_length"]] == [40, 44, 48]
        assert [z is None for z in loss["by_position"]] == [i not in (38, 39, 40, 44, 45, 46) for i in range(48)]
        trained = load(f"out/{entry['name']}/ckpt.pt")["best"]["val_loss"]
        assert loss["all"] == pytest.approx(trained, rel=0.02)  # but the last record, whose end nothing follows
    assert Path("out/analysis/needles.png").stat().st_size > 10_000
    assert "NaN" not in Path("out/analysis/analysis.json").read_text()
    assert "exact, 3 needles" in capsys.readouterr().out


def test_a_page_is_written_when_asked_for(checkpoints):
    analyze(*checkpoints, text="to be or <not>", tokens=64, windows=2, html=True)
    html = Path("out/analysis/page.html").read_text(encoding="utf-8")
    found = json.loads(re.search(r'<script id="data" type="application/json">(.*)</script>', html)[1])
    assert "".join(found["tokens"]) == "to be or <not>" and [m["name"] for m in found["models"]] == list(ATTENTION)
    vanilla, *_, differential = found["models"]
    assert np.shape(vanilla["maps"]) == (2, 2, 14 * 15 / 2) and np.shape(differential["maps"]) == (2, 1, 14 * 15 / 2)
    for i in range(14):
        row = slice(i * (i + 1) // 2, (i + 1) * (i + 2) // 2)
        assert sum(vanilla["maps"][1][0][row]) == pytest.approx(10_000, abs=14)
        assert sum(differential["maps"][1][0][row]) == pytest.approx(10_000 * (1 - differential["lam"][1]), abs=14)
    assert vanilla["lam"] == [] and "seed 1337, step 2" in vanilla["about"]
