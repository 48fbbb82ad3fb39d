"""Numbers of maps by hand, interventions as laws, and lab.analyze from checkpoints to files."""

import json
import math
from pathlib import Path
from types import SimpleNamespace
from unittest.mock import Mock

import numpy as np
import pytest
import torch

from conftest import WORDS, build, mistake, small, text
from lab import maps
from lab.analyze import analyze, numbers
from lab.show import draw_parts
from model import ATTENTION, scores
from plumbing.checkpoint import load_model
from prepare import Split, load_dataset, prepare
from train import train

HAND = torch.tensor([[1.0, 0, 0, 0], [0.5, -0.5, 0, 0], [0.5, 0.25, 0.25, 0], [0.6, -0.2, 0.19, 0.01]])[None, None]
MAPPED = [name for name in WORDS if ATTENTION[name].attention_map is not None]


@pytest.fixture
def run(corpus):
    """run(name, attention): the folder of a trained run of two layers."""

    def run(name, attention="vanilla", **options):
        shape = small(attention=attention, block_size=16)
        train(shape, dataset=str(corpus), out_dir=f"out/{name}", max_iters=4, eval_interval=2, **options)
        return f"out/{name}"

    return run


# ---------------------------------------------------------------------------- numbers by hand


@pytest.mark.parametrize(
    ("function", "expected"),
    [
        (maps.row_sum, (1 + 0 + 1 + 0.6) / 4),
        (maps.negative_share, (0 + 1 / 2 + 0 + 1 / 4) / 4),
        (maps.negative_mass, (0 + 1 / 2 + 0 + 0.2) / 4),
        (maps.near_zero, (0 + 0 + 0 + 1 / 4) / 4),  # only 0.01 is below 0.1/4
        (maps.on_first, (1 / 2 + 1 / 2 + 0.6) / 3),
        (maps.on_itself, (1 + 1 / 2 + 1 / 4 + 0.01) / 4),
        (maps.on_previous, (1 / 2 + 1 / 4 + 0.19) / 3),
    ],
)
def test_numbers_of_a_map(function, expected):
    assert function(HAND).item() == pytest.approx(expected)


def test_effective_tokens_is_1_on_one_token_and_n_where_uniform():
    even = torch.ones(1, 1, 5, 5).tril()
    assert maps.effective_tokens(even).item() == pytest.approx((1 + 2 + 3 + 4 + 5) / 5)
    assert maps.effective_tokens(torch.eye(5)[None, None]).item() == pytest.approx(1)
    p = (0.6, 0.2, 0.19, 0.01)
    row = math.exp(-sum(x * math.log(x) for x in p))
    halves = math.exp(-sum(x * math.log(x) for x in (0.5, 0.25, 0.25)))
    assert maps.effective_tokens(HAND).item() == pytest.approx((1 + 2 + halves + row) / 4)


def test_what_cancels_is_what_both_maps_share():
    A1, A2 = torch.tensor([[0.7, 0.3, 0.0]]), torch.tensor([[0.1, 0.4, 0.5]])
    lam = 0.5
    shared = torch.minimum(A1, lam * A2).sum().item()
    assert maps.cancelled((A1 - lam * A2)[None, None], torch.tensor([lam])).item() == pytest.approx(shared)
    both = torch.stack((A1 - lam * A2, A1))[None]  # a λ per head
    assert maps.cancelled(both, torch.tensor([lam, 0]).view(2, 1, 1))[0].tolist() == pytest.approx([shared, 0])


def test_every_visible_weight_is_counted_in_its_bin():
    layer = SimpleNamespace(H=1, attention_map=lambda x: HAND.expand(len(x), -1, -1, -1))
    counts = maps.histogram(layer, torch.zeros(2, 4, 1)).tolist()
    assert sum(counts) == 2 * 10  # two windows
    assert counts[-5:] == [2, 4, 0, 6, 2]  # from 0.147, 0.215, 0.316, 0.464 and 0.681 on
    assert counts[:5] == [0, 2, 0, 0, 2]  # of −0.5 and −0.2


def test_score_range_is_the_median_over_rows():
    S = torch.tensor([[0.0, 0, 0], [1, 4, 0], [2, 0, 9]]).masked_fill(torch.ones(3, 3).triu(1).bool(), -math.inf)
    assert maps.score_range(S[None, None]).item() == 3  # of 3 and 9 torch's median is the lower; the first row sees one


@pytest.mark.parametrize("name", [name for name in MAPPED if name != "zero-token"])  # which calls the kernel itself
def test_scores_are_those_that_make_the_map(name):
    """For every mechanism whose map is a softmax of them; for each there are scores, and numbers for every head."""
    gpt = build(name)
    attention, x = gpt.blocks[1].attention, maps.activations(gpt, text())[0][1]
    S = maps.all_scores(attention, x)
    assert S.shape[0] == 3 and S.shape[2:] == (12, 12)
    if name in ("vanilla", "temperature", "normed-vanilla"):
        torch.testing.assert_close(S.softmax(-1), attention.attention_map(x))
    if name in ("differential", "no-norm"):
        torch.testing.assert_close(S.softmax(-1)[:, 0::2], attention.both_maps(x)[0])
    rows = maps.of_heads(attention, x)
    assert len(rows) == attention.G and all(math.isfinite(value) for row in rows for value in row.values())
    assert ("cancelled" in rows[0]) == maps.is_difference(attention, x)


def test_maps_in_parts_give_the_numbers_of_all(monkeypatch):
    gpt = build("differential")
    attention, x = gpt.blocks[0].attention, maps.activations(gpt, text(5))[0][0]
    whole, means = maps.of_heads(attention, x), maps.mean_maps(attention, x)
    monkeypatch.setattr(maps, "BIG", 1)
    for a, b in zip(maps.of_heads(attention, x), whole, strict=True):
        assert a == pytest.approx(b, rel=1e-4)
    torch.testing.assert_close(maps.mean_maps(attention, x), means)


def test_outliers_of_a_known_sample():
    torch.manual_seed(0)
    x = torch.randn(200_000)
    found = maps.outliers(x)
    assert found["top_1"] == x.abs().max() and found["median"] == pytest.approx(0.6745, abs=0.01)
    assert found["kurtosis"] == pytest.approx(3, abs=0.1)


def test_losses_are_those_of_the_model_and_hits_are_repeated_ngrams():
    gpt = build("vanilla")
    split = Split(torch.tensor([1, 2, 3, 4, 1, 2, 3, 9, 2, 3, 4, 4, 7]), None)
    x, y = maps.cut(split, 100, gpt)
    assert x.shape == y.shape == (1, 12) and torch.equal(y[0, :-1], x[0, 1:])
    nats = maps.losses(gpt, x, y)
    assert nats.mean().item() == pytest.approx(gpt(x, y).item(), rel=1e-5)
    assert [y[0, i].item() for i in maps.completes(x, y, 3)[0].nonzero().flatten()] == [3, 4]  # 1 2 3 and 2 3 4 again
    assert maps.losses(gpt, x, torch.full_like(y, -1)).isnan().all()


# ---------------------------------------------------------------------------- interventions


def edits_for(gpt, x):
    return maps.edits_for([block.attention for block in gpt.blocks], maps.activations(gpt, x)[0])


@torch.no_grad()
def logits_inside(change, gpt, x, how):
    """Logits inside of maps.edited, how: an edit, or maps.rounded, how: bits."""
    layers = [block.attention for block in gpt.blocks]
    with change(layers, how):
        y = gpt(x)
    assert not any({"mix", "attend"} & vars(layer).keys() for layer in layers)
    return y


@pytest.mark.parametrize("name", MAPPED)
def test_replacing_a_map_by_itself_changes_nothing(name):
    gpt, x = build(name), text()
    found = logits_inside(maps.edited, gpt, x, lambda attention, A, A2: A)
    torch.testing.assert_close(found, gpt(x), rtol=1e-4, atol=1e-4)


def test_lambda_by_0_leaves_the_first_map():
    gpt, x = build("differential"), text()
    found = logits_inside(maps.edited, gpt, x, edits_for(gpt, x)["λ by 0"])
    type_ = type(gpt.blocks[0].attention)
    first = type("First", (type_,), {"lam": property(lambda self: torch.zeros(1))})
    for block in gpt.blocks:
        block.attention.__class__ = first
    torch.testing.assert_close(found, gpt(x), rtol=1e-4, atol=1e-4)


def test_edits_of_one_map_by_hand():
    A, edits = HAND, edits_for(build("differential"), text())
    assert (edits["negative by 0"](None, A, None) >= 0).all() and (A < 0).any()
    zeroed = edits["near zero by 0"](None, A, None)
    assert zeroed[0, 0, 3].tolist() == pytest.approx([0.6, -0.2, 0.19, 0]) and torch.equal(
        zeroed[..., :3, :], A[..., :3, :]
    )
    assert maps.as_much_positive(A, A)[0, 0, 3].tolist() == pytest.approx([0.6, -0.2, 0, 0])  # 0.01 and 0.19, not 0.6
    assert maps.as_much_positive(A, -A)[0, 0, 3].tolist() == pytest.approx([0.4, -0.2, 0.19, 0.01])  # a part of 0.6
    at_random = edits["as much positive by 0, at random"](None, A, None)
    torch.testing.assert_close(at_random.sum(-1), (A + A.clamp(max=0)).sum(-1).maximum(A.clamp(max=0).sum(-1)))
    assert maps.uniform(HAND)[2].tolist() == pytest.approx([1 / 3, 1 / 3, 1 / 3, 0])


@pytest.mark.parametrize("name", ["vanilla", "softmax1", "temperature", "differential", "selective"])
def test_many_bits_change_nothing_and_few_do(name):
    gpt, x = build(name), text()
    torch.testing.assert_close(logits_inside(maps.rounded, gpt, x, 22), gpt(x), rtol=1e-3, atol=1e-3)
    assert (logits_inside(maps.rounded, gpt, x, 3) - gpt(x)).abs().max() > 1e-3


@pytest.mark.parametrize("name", ["vanilla", "differential", "no-norm"])
@torch.no_grad()
def test_a_mean_of_equal_windows_and_a_uniform_map_for_a_uniform_one_change_nothing(name):
    gpt, x = build(name), text(1).expand(3, -1)
    for uniform in (False, True):
        for what, edit in edits_for(gpt, x).items():
            if "mean" in what or (uniform and "uniform" in what):
                torch.testing.assert_close(logits_inside(maps.edited, gpt, x, edit), gpt(x), rtol=1e-4, atol=1e-4)
        for layer in (block.attention for block in gpt.blocks):
            layer.qkv.weight[: 2 * layer.H * layer.D] = 0  # queries and keys


def test_scores_in_3_bits_have_7_levels_to_the_largest_size():
    q, k, v = (torch.randn(1, 1, 30, 8, generator=torch.Generator().manual_seed(i)) for i in range(3))

    class SeenScores:
        def attend(self, q, k, v, weights, scale=None):
            return weights(scores(q, k, scale))[..., maps.visible(30)]

    layer = SeenScores()
    S = layer.attend(q, k, v, lambda S: S)
    with maps.rounded([layer], 3):
        found = layer.attend(q, k, v, lambda S: S)
    assert len(found.unique()) == 7 and found.abs().max() == pytest.approx(S.abs().max().item())
    assert (found - S).abs().max() <= S.abs().max() / 3 / 2 * 1.001


@torch.no_grad()
def test_a_change_of_loss_and_its_error_are_over_windows():
    gpt, x = build("vanilla"), text(5)
    y, (inputs, _) = x.roll(-1, 1), maps.activations(gpt, x)
    before = maps.losses(gpt, x, y)
    row = maps.interventions(gpt, inputs, x, y, before)[-1]
    with maps.rounded([block.attention for block in gpt.blocks], 4):
        change = (maps.losses(gpt, x, y) - before).mean(1)
    assert row["what"] == "scores in 4 bits" and row["loss_change"] == pytest.approx(change.mean().item(), rel=1e-3)
    assert row["standard_error"] == pytest.approx(change.std().item() / 5**0.5, rel=1e-3)


def test_edits_fit_the_mechanism():
    for name, n in (("vanilla", 2), ("mixed", 2), ("v2", 5), ("differential", 8), ("no-norm", 8), ("rectified", 2)):
        gpt = build(name)
        assert len(edits_for(gpt, text())) == n, name


# ---------------------------------------------------------------------------- the command


def test_a_report_has_every_number_with_its_key_and_is_written_before_figures(run, corpus, monkeypatch, capsys):
    names = ("vanilla", "softmax1", "temperature", "differential", "no-norm", "selective")
    folders = [run(name, name) for name in names]
    monkeypatch.setattr("matplotlib.figure.Figure.savefig", None)
    report = analyze(*folders, tokens=200, windows=3)
    assert json.loads(Path("out/analysis/analysis.json").read_text()) == json.loads(json.dumps(report))
    out = capsys.readouterr().out
    assert "could not be drawn" in out and "| loss, nats per token " in out
    for name, entry in zip(names, report["checkpoints"], strict=True):
        assert entry["attention"] == name and len(entry["heads"]) == (2 if name in ("differential", "no-norm") else 4)
        share = entry["hit_share"]
        assert entry["loss"] == pytest.approx(share * entry["loss_hit"] + (1 - share) * entry["loss_rest"], rel=1e-4)
        assert 0 < share < 1
        measured = entry["heads"][0].keys() - {"layer", "head"}
        assert measured <= report["key"].keys()
        assert {"scores in 4 bits", "near zero by 0"} <= {row["what"] for row in entry["interventions"]}
        assert all(math.isfinite(row["loss_change"]) for row in entry["interventions"])
    gpt, _ = load_model(folders[0])
    nats = maps.losses(gpt, *maps.cut(load_dataset(str(corpus)).val, 200, gpt)).mean(0)
    assert report["checkpoints"][0]["by_position"] == pytest.approx(nats.tolist(), rel=1e-4)
    lam = report["checkpoints"][3]["learned"]["lam"]
    assert [row[0] for row in lam] == [0, 2, 4, "now"] and lam[-1][1:] == pytest.approx(lam[2][1:])


def test_figures_are_drawn(run):
    names = ("differential", "temperature", "talking-heads")
    report = analyze(*(run(name, name) for name in names), text="to be or not", tokens=100, layer=0)
    assert all(sum(entry["weights"]) == pytest.approx(1) for entry in report["checkpoints"])
    files = {path.name for path in Path("out/analysis").iterdir()}
    assert files == {
        *(
            "analysis.json",
            "losses.png",
            "weights.png",
            "lam-differential.png",
            "row-differential.png",
            "g-temperature.png",
        ),
        *("M-talking-heads.png", "P-talking-heads.png"),
        *(f"{kind}-{name}.png" for kind in ("map", "maps") for name in names),
    }
    assert all((Path("out/analysis") / name).read_bytes()[:4] == b"\x89PNG" for name in files if name.endswith("png"))


def test_the_parts_of_a_row_are_what_cancels_and_the_difference():
    first, second = np.array([0.5, 0.3, 0.2]), np.array([0.2, 0.4, -0.1])
    heights = []
    draw_parts(Mock(bar=lambda x, height, **_: heights.append(height)), first, second)
    assert np.allclose(heights, [[0.2, 0.3, 0], [0.3, 0, 0.3], [0, -0.1, 0]])


def test_what_cannot_be_looked_at_is_one_line(run):
    one, factored = run("a"), run("b", "factored")
    for arguments, options, message in (
        ((), {}, "CHECKPOINTS is missing: there is out/a, out/b"),
        ((one, one), {}, "out/a is given twice"),
        ((factored,), {}, "factored has no maps to look at: its attention, factored, is not linear in V"),
        ((one,), {"layer": 2}, "layer=2: vanilla has layers 0 to 1"),
        ((one,), {"head": -1}, "head=-1: vanilla has heads 0 to 1"),
        ((one,), {"text": "x"}, "the text has 1 tokens: give 2 to 16, the models' block_size"),
        ((one,), {"text_file": "gone.txt"}, "cannot read gone.txt"),
        ((one,), {"tokens": 0}, "tokens=0: must be at least 1"),
    ):
        assert mistake(analyze, *arguments, **options).startswith(message)


def test_a_dataset_of_that_name_that_is_another_text_is_refused(corpus, tiny):
    """Found by name it is compared with what the checkpoint says; given by name it is taken."""
    Path("a.txt").write_text("to be or not to be\n" * 100)
    prepare("a.txt")
    train(small(), dataset="a", max_iters=1, out_dir="out/a")
    Path("a.txt").write_text("another text\n" * 200)
    prepare("a.txt", overwrite=True)
    message = mistake(analyze, "out/a")
    assert message.startswith("data/a is not what vanilla was trained on (train.bin was ")
    assert analyze("out/a", dataset="a", tokens=50)["source"] == "a"
    prepare("a.txt", tokenizer="gpt2", name="a", overwrite=True)
    assert mistake(analyze, "out/a", dataset="a") == "data/a is in gpt2, vanilla reads bytes"


def test_a_number_that_only_some_heads_have_is_left_out_of_the_means():
    """In `add-only` a layer whose λ is 0 is a difference, and the others are none."""
    heads = [{"layer": 0, "head": 0, "row_sum": 1.0, "cancelled": 0.1}, {"layer": 1, "head": 0, "row_sum": 2.0}]
    assert numbers({"heads": heads, "loss": 3.0, "interventions": []}) == {"row_sum": 1.5, "loss": 3.0}
