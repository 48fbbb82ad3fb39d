"""lab/experiments and docs/figures.py: formulas against brute force, and every experiment from end to end, in small."""

import json
import math
import re
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from test_compare import InProcess

import lab.compare
from conftest import ROOT, metrics, mistake, same, small, weights
from lab import one_layer
from lab.experiments import (
    answer,
    bounded_scores,
    calibration,
    near_duplicates,
    regression,
    scaling,
    score_range,
    shared_noise,
    while_training,
)
from lab.tasks import missing
from model import GPT, GPTConfig
from train import train


def draw(seed=1):
    return torch.Generator().manual_seed(seed)


def lines(name):
    return [json.loads(line) for line in Path(f"out/{name}.jsonl").read_text().splitlines()]


# ---------------------------------------------------------------------------- one attention layer


@pytest.mark.parametrize(("sigma", "n"), [(0.25, 16), (1.0, 4), (3.0, 9)])
def test_the_closed_form_is_the_least_error_of_a_uniform_second_map(sigma, n):
    own, shared = torch.randn(40_000, n, generator=draw()), sigma * torch.randn(40_000, 1, generator=draw(2))
    values, best = own + shared, shared_noise.best_lam(sigma, n)
    error = {
        lam: (values[:, 0] - lam * values.mean(1) - own[:, 0]).pow(2).mean() for lam in (best - 0.05, best, best + 0.05)
    }
    assert error[best].item() == pytest.approx(shared_noise.least_error(sigma, n), rel=0.03)
    assert min(error, key=error.get) == best


def test_the_answer_is_the_value_of_the_key_asked_for_without_the_noise_that_all_values_share():
    x, y = shared_noise.contexts(500, 6, 5, 2.0, draw())
    keys, values, query = x[..., :8], x[..., 8:13], x[:, -1, -8:]
    asked = (keys @ query[:, :, None])[..., 0].argmax(1)
    torch.testing.assert_close(keys[range(500), asked], query)
    noise = values[range(500), asked] - y
    assert noise.var() == pytest.approx(4, rel=0.1) and y.var() == pytest.approx(1, rel=0.1)
    torch.testing.assert_close((values - noise[:, None]).mean((0, 1)), torch.zeros(5), atol=0.1, rtol=0)
    assert not x[:, :-1, 13:].any() and {*asked.tolist()} == {*range(6)}


def test_regression_can_be_solved_from_the_context_in_any_order(monkeypatch):
    monkeypatch.setattr(regression, "NOISE", 0.0)
    x, y = regression.contexts(50, 9, 7, draw())
    other = regression.reordered(x, draw(2))
    assert not torch.equal(other, x) and torch.equal(other[:, -1], x[:, -1])
    for z in (x, other):
        W = torch.linalg.lstsq(z[..., :5], z[..., 5:12]).solution
        torch.testing.assert_close((z[:, -1:, -5:] @ W)[:, 0], y, atol=1e-3, rtol=1e-3)


def test_the_asked_token_has_the_key_that_the_last_one_asks_for():
    x, y, asked = bounded_scores.contexts(300, 9, draw())
    keys, values = x[..., :16], x[..., 16:48]
    assert torch.equal(keys[range(300), asked], x[:, -1, 48:]) and torch.equal(values[range(300), asked], y)
    assert not x[:, :-1, 48:].any() and {*asked.tolist()} == {*range(9)}


def test_numbers_of_rows_by_hand():
    a = torch.tensor([[[0.5, -0.2, 0.3, 0.0], [1.0, 0.01, 0.0, 0.0]]])
    found = bounded_scores.of_rows(a, torch.tensor([0]))
    assert found["near_zero"] == pytest.approx(4 / 6)  # 0.01 of 1.01 is less than a tenth of a quarter
    assert found["negative_share"] == pytest.approx(1 / 6)
    assert found["contrast"] == pytest.approx((0.5 / (0.5 / 3) + 1 / (0.01 / 3)) / 2)


@torch.no_grad()
def test_one_layer_keeps_the_bound_and_has_no_positions():
    layer, x = one_layer.one_layer("bounded-1", 1, 16, 1), torch.randn(1, 16, 64, generator=draw())
    layer.qkv.weight *= 100
    row = layer.attention_map(x)[0, 0, -1]
    assert 1.2 < row.max() / row.min() <= math.exp(2)  # free scores of such weights would leave a single token
    turned = torch.cat((x[:, :-1].flip(1), x[:, -1:]), 1)
    torch.testing.assert_close(layer.attention_map(turned)[0, 0, -1, :-1], row[:-1].flip(0))


def test_a_bounded_row_is_bounded_and_a_difference_is_not():
    how = {"g": 1.0, "n_items": 16, "seed": 1, "learning_rate": 5e-3, "steps": 60}
    found = {kind: bounded_scores.trained(kind, **how) for kind in bounded_scores.KINDS}
    assert 1 < found["vanilla"]["contrast"] <= math.exp(2)
    row = found["two maps that add"]["row"]
    assert min(row) >= 0 and sum(row) == pytest.approx(1 - found["two maps that add"]["lam"], abs=1e-3)
    assert sum(found["difference"]["row"]) == pytest.approx(1 - found["difference"]["lam"], abs=1e-3)
    assert found["vanilla"] == bounded_scores.trained("vanilla", **how)


@pytest.mark.parametrize(("attention", "n_head"), [("softmax1", 1), ("differential", 4), ("no-norm", 2)])
def test_its_answer_is_the_last_row_of_the_layer(attention, n_head):
    shape = {"n_layer": 1, "n_head": n_head, "n_embd": 64, "block_size": 9, "vocab_size": 1}
    layer, x = GPT(GPTConfig(attention, **shape)).blocks[0].attention, torch.randn(3, 9, 64)
    torch.testing.assert_close(one_layer.answer(layer, x), layer(x)[:, -1])


def test_a_difference_learns_the_lambda_that_was_derived():
    one = {"attention": "no-norm", "n_head": 2, "n_items": 4, "width": 4, "sigma": 1.0, "learning_rate": 5e-3}
    found = shared_noise.trained(**one, seed=3, steps=300)
    assert found["error"] < 0.5 and found["lam"] == pytest.approx(shared_noise.best_lam(1.0, 4), abs=0.1)  # from 0.2
    assert found == shared_noise.trained(**one, seed=3, steps=300)


def test_order_matters_only_with_positions():
    one = {"attention": "vanilla", "n_head": 2, "n_items": 9, "width": 4, "seed": 3, "learning_rate": 5e-3, "steps": 30}
    without, rotated = (regression.trained(**one, positions=on)["order"] for on in (False, True))
    assert without < 1e-10 < 1e-6 < rotated


@pytest.mark.parametrize(
    ("run", "more", "columns"),
    [
        (shared_noise.shared_noise, {"sigmas": (0.5,), "n_items": (4,), "n_heads": (2,)}, {"sigma", "error"}),
        (regression.regression, {"n_items": 4, "n_heads": (2,)}, {"order", "error"}),
    ],
)
def test_a_line_is_added_per_run_and_a_figure_drawn(run, more, columns, capsys):
    runs = run(widths=(3,), seeds=(1, 2), steps=2, out="out/one.jsonl", **more)
    assert {key: lines("one")[0][key] for key in runs[0]} == runs[0] and columns < runs[0].keys()
    assert [one["seed"] for one in runs] == 3 * [1, 2] and "no-norm" in capsys.readouterr().out
    run(
        widths=(3,),
        seeds=(3,),
        steps=2,
        out="out/one.jsonl",
        attentions=("vanilla", "differential"),
        **more | {"n_heads": (1,)},
    )
    assert len(lines("one")) == 7  # a mechanism that cannot have so many maps is left out
    assert Path("out/one.png").stat().st_size > 10_000
    assert mistake(run, attentions=("vanila",)).startswith("attentions=vanila: must be one of")


def test_rows_of_bounded_scores_are_written_and_drawn(capsys):
    runs = bounded_scores.bounded_scores(ranges=(1.0, 2.0), seeds=(1, 2), steps=1, n_items=4)
    assert [{k: v for k, v in line.items() if k != "commit"} for line in lines("bounded-scores")] == runs
    assert len(runs) == 2 * len(bounded_scores.KINDS) * 2 and "two maps that add" in capsys.readouterr().out
    assert Path("out/bounded-scores.png").stat().st_size > 10_000


def test_keys_of_a_pair_have_the_similarity_and_one_of_them_is_asked_for():
    x, y = near_duplicates.contexts(200, 6, 0.9, draw())
    keys, values = x[..., :16] / 4, x[..., 16:48]
    cosines = keys @ keys.mT
    torch.testing.assert_close(cosines.diagonal(dim1=1, dim2=2), torch.ones(200, 6))
    torch.testing.assert_close(cosines[:, [0, 2, 4], [1, 3, 5]], torch.full((200, 3), 0.9))
    assert cosines[:, 0, 2:].abs().mean() < 0.5
    asked = (keys @ x[:, -1, 48:, None])[..., 0].argmax(1)
    assert torch.equal(values[range(200), asked], y) and {*asked.tolist()} == {*range(6)}


def test_a_layer_is_looked_at_after_each_step():
    layer, weights, steps = one_layer.one_layer("vanilla", 1, 2, 1), [], []

    def after(step):
        steps.append(step)
        weights.append(layer.out.weight.detach().clone())

    one_layer.train(layer, lambda n: near_duplicates.contexts(n, 2, 0.5, draw()), 0.01, 3, after=after)
    assert steps == [1, 2, 3] and torch.equal(weights[-1], layer.out.weight) and not torch.equal(*weights[:2])


def test_when_a_layer_has_recalled_is_noted_and_drawn(monkeypatch, capsys):
    how = {"n": 2, "similarity": 0.0, "learning_rate": 0.02, "steps": 90, "every": 30, "seed": 1}
    found = near_duplicates.trained("vanilla", **how)
    assert len(found["errors"]) == 3 and found["errors"][-1] == found["error"] < 0.5 and found["recalled_at"] is None
    monkeypatch.setattr(near_duplicates, "RECALLED", found["errors"][1] + 1e-9)
    assert near_duplicates.trained("vanilla", **how) == found | {"recalled_at": 60}
    runs = near_duplicates.near_duplicates(lengths=(2, 4), similarity=0.0, seeds=(1,), steps=4, every=2)
    assert len(runs) == 2 * len(near_duplicates.KINDS) == len(lines("near-duplicates"))
    assert "0 of 1" in capsys.readouterr().out and Path("out/near-duplicates.png").stat().st_size > 10_000
    assert "is none of vanilla" in mistake(near_duplicates.near_duplicates, kinds=("vanila",))


# ---------------------------------------------------------------------------- on text


def test_score_ranges_are_compared_in_pairs_in_every_window(corpus, monkeypatch, capsys):
    monkeypatch.setattr(lab.compare, "begin", InProcess)
    monkeypatch.setattr(lab.compare.time, "sleep", lambda seconds: None)
    shape = {"n_layer": 1, "n_head": 2, "n_embd": 16, "max_iters": 4, "eval_tokens": 100, "warmup_iters": 1}
    options = {**shape, "dataset": str(corpus), "eval_interval": 2, "learning_rate": 0.01}
    found = score_range.score_range(ranges=("2", "free"), windows=(8, 16), tokens=16, seeds=(1, 2), jobs=1, **options)
    words = ("bounded-2", "bounded-2-differential", "vanilla", "differential")
    assert [(one["window"], one["attention"], one["seed"]) for one in found] == [
        (window, word, seed)
        for window in (8, 16)
        for pair in (words[:2], words[2:])
        for seed in (1, 2)
        for word in pair
    ]
    assert found == lines("score-range") and all(one["options"]["block_size"] == one["window"] for one in found)
    bounded, free = found[0], found[4]
    assert bounded["score_range"] <= 4 and "cancelled" in found[1] and free["negative_share"] == 0
    row = score_range.row_of(8, "2", found)
    losses = {(one["attention"], one["seed"]): one["best"] for one in found[:4]}
    mean = sum(losses[words[1], seed] - losses[words[0], seed] for seed in (1, 2)) / 2
    assert row["difference"].startswith(f"{mean:+.3f} ±") and row["difference"] in capsys.readouterr().out
    assert Path("out/score-range.png").stat().st_size > 10_000
    assert "is chosen for every run" in mistake(score_range.score_range, attention="vanilla")


def test_calibration_and_repetition_by_hand():
    sure = torch.linspace(0.1, 0.9, 150)
    assert calibration.calibration_error(sure, sure) == pytest.approx(0, abs=1e-6)
    order, least = torch.randperm(150), torch.minimum(sure, 1 - sure).mean().item()  # sure of the other half is wrong
    found = calibration.calibration_error(sure[order], (sure > 0.5).float()[order])
    assert found == pytest.approx(least, abs=0.05)  # the group around one half is right by half
    assert calibration.distinct(torch.tensor([[1, 2, 3, 4, 5], [1, 2, 3, 4, 4]])) == 3 / 4


def test_calibration_of_checkpoints_is_compared(corpus, capsys):
    for seed in (1, 2):
        train(small(attention="bounded-2"), dataset=str(corpus), max_iters=2, seed=seed, out_dir=f"out/run-{seed}")
    found = calibration.calibration("out/run-1", "out/run-2", tokens=100, samples=4)
    assert found == lines("calibration") and [line["seed"] for line in found] == [1, 2]
    for line in found:
        assert 0 <= line["calibration_error"] < 1 and 0 < line["entropy"] <= math.log(256) and 0 < line["distinct"] <= 1
    assert "| bounded-2 |" in capsys.readouterr().out
    assert "CHECKPOINTS" in mistake(calibration.calibration)


# ---------------------------------------------------------------------------- inside of trained models


@pytest.fixture
def run():
    """A model that was trained for some steps to say which of three items is missing."""
    missing(min_items=3, max_items=3, n_symbols=5, length=8, n_contexts=400, n_val_contexts=20)
    options = {"dataset": "missing", "batch_size": 8, "max_iters": 20, "warmup_iters": 2, "learning_rate": 0.01}
    train(small(attention="differential", n_head=4, init_std=0.5), **options, out_dir="out/run")
    return "out/run"


def test_how_a_model_answers_is_measured_and_drawn(run, capsys):
    (line,) = answer.answer(run, n_items=(2, 3, 4), contexts=50)
    assert lines("answer") == [line] and [*line["items"]] == ["2", "3", "4"]
    assert line["items"]["3"] == line["interventions"]["nothing replaced"] >= line["always right"]
    of = line["answering"]
    for h in (0, 1):  # what is subtracted is what is between A₁ and A, and the question mark has the rest
        first, second, both = (of[f"layer 0, head {h}: {name}"] for name in ("A₁", "λA₂", "A"))
        assert [a - b for a, b in zip(first, second, strict=True)] == pytest.approx(both, abs=1e-5)
        assert 0 < sum(first) < 1
    assert Path("out/answer-1.png").stat().st_size > 10_000
    train(small(attention="vanilla", init_std=0.5), dataset="missing", max_iters=1, batch_size=8, out_dir="out/plain")
    answer.answer("out/plain", run, n_items=(2,), contexts=5)
    assert re.search(r"\| λ by 0 +\|  +\| \d", capsys.readouterr().out)
    assert "knows 5 different items" in mistake(answer.answer, run, n_items=(6,))


def test_an_edit_is_made_in_all_layers_or_in_one_and_undone(run):
    gpt, _ = answer.load_model(run)
    x, _ = answer.draw_contexts(3, 5, 200, 1)
    y = gpt(x)[:, -1].argmax(-1)  # its own answers: whatever is replaced shows
    found = answer.intervened(gpt, x, y)
    assert found["nothing replaced"] == 1 == answer.accuracy(gpt, x, y) and len({*found.values()}) > 4
    for block in gpt.blocks[1:]:
        block.attention.mix = lambda x, q, k, v, a=block.attention: a.attend(q[:, 0::2], k[:, 0::2], v)
    assert found["λ by 0, layer 1 alone"] == answer.accuracy(gpt, x, y)
    gpt.blocks[0].attention.mix = lambda x, q, k, v, a=gpt.blocks[0].attention: a.attend(q[:, 0::2], k[:, 0::2], v)
    assert found["λ by 0"] == answer.accuracy(gpt, x, y)


def test_a_run_that_is_looked_at_is_the_run_that_never_stopped(corpus):
    options = {"dataset": str(corpus), "batch_size": 4, "warmup_iters": 2, "eval_interval": 3}
    shape = {"n_layer": 2, "n_embd": 16, "n_head": 2, "block_size": 8}
    looked = {"attentions": ("vanilla", "differential"), "seeds": (1,), "steps": (0, 4, 6), "windows": 3}
    rows = while_training.while_training(**looked, **shape, **options)
    train(small(attention="differential"), **options, seed=1, max_iters=6, out_dir="out/never")
    assert same(weights("while-training/differential-1"), weights("never"))
    assert [(row["attention"], row["step"]) for row in rows] == [
        (a, s) for a in looked["attentions"] for s in (0, 4, 6)
    ]
    assert rows[-1]["val_loss"] == metrics("never")[-1]["val_loss"]
    assert [{k: v for k, v in one.items() if k != "commit"} for one in lines("while-training")] == rows
    assert Path("out/while-training.png").stat().st_size > 10_000
    assert "must rise" in mistake(while_training.while_training, steps=(3, 2), **options)


def test_it_counts_which_small_weights_stay_small(corpus, monkeypatch):
    monkeypatch.setattr(while_training, "SMALL", 0.2)  # so that these short windows have some
    train(small(), dataset=str(corpus), max_iters=2, out_dir="out/run")
    row, before = while_training.look_at(Path("out/run"), 3)
    assert before.shape == (2 * 3, 2, 8, 8) and not before.triu(1).any() and "small_stays" not in row
    assert row["small_share"] == pytest.approx(before.sum().item() / (2 * 3 * 2 * 36))
    wider, _ = while_training.look_at(Path("out/run"), 3, torch.ones_like(before))
    assert wider["small_stays"] == pytest.approx(before.float().mean().item())


# ---------------------------------------------------------------------------- scaling, and the figures of the course


def test_growth_is_compared_for_neighbours(monkeypatch):
    monkeypatch.setattr(scaling, "GROWS", {"n_embd": (16, 32), "n_layer": (1, 2)})
    monkeypatch.setattr(scaling, "in_turns", lambda steps, *_: {name: [2.0 * name[1]] for name in steps})
    wider, deeper = scaling.scaling(repetitions=1)
    assert (wider["from"], wider["to"], wider["time, measured"]) == (16, 32, [2, 2, 2])
    assert deeper["time, measured"] == [2, 2, 2] and 1 < deeper["FLOPs, predicted"] < 2
    assert 0.5 < wider["MB"] / wider["MB, predicted"] < 1.1
    assert len(lines("scaling")) == 2 and Path("out/scaling.png").stat().st_size > 10_000


def test_figures_are_drawn_by_a_script():
    command = [sys.executable, ROOT / "docs/figures.py", "--out_dir=drawn"]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    sizes = [Path(line).stat().st_size for line in done.stdout.splitlines()]
    assert len(sizes) == 10 and min(sizes) > 10_000
