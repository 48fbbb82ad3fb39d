"""Which one is missing? What is asked has an answer, accuracy is counted, and what is replaced is what is said."""

import hashlib
import json
import random
import shlex
from pathlib import Path

import numpy as np
import pytest
import torch

import lab.solved
from configurable import UsageError, bind, parse
from conftest import ROOT, metrics
from lab.interventions import replaced
from lab.missing import SYMBOLS, draw_context, missing
from lab.solved import accuracy, draw_contexts, in_other_orders, intervened, longer, shares, solved
from plumbing.checkpoint import load_model
from train import train

FEW = {"n_items": 3, "n_symbols": 5, "n_contexts": 300, "n_val_contexts": 40}


@pytest.fixture
def run(monkeypatch):
    """A short run of differential on three items, in out/run; returns its model."""
    missing(**FEW)
    (shape,), options = bind(train, [], {"block_size": 8, "n_layer": 2, "n_head": 4, "n_embd": 16, "init_std": 0.5})
    shape.attention = "differential"
    options |= {"dataset": "missing", "max_iters": 6, "eval_interval": 3, "batch_size": 16, "out_dir": "out/run"}
    train(shape, **options | {"warmup_iters": 2, "learning_rate": 1e-2})
    return load_model("out/run/ckpt.pt")[0]


@pytest.mark.parametrize(("n", "symbols"), [(2, 3), (12, 32), (87, 88)])
def test_a_context_asks_for_what_its_second_list_lacks(n, symbols):
    for seed in range(40):
        text = draw_context(random.Random(seed), n, symbols)
        first, rest = text.split("|")
        second, answer = rest.split("?")
        assert len(first) == len({*first}) == n and {*first} <= {*SYMBOLS[:symbols]}
        assert {*first} - {*second} == {answer} and len(second) == n - 1 and {*second} < {*first}


def test_neither_place_nor_order_gives_the_answer_away():
    texts = [draw_context(random.Random(seed), 4, 9) for seed in range(4000)]
    places = np.bincount([text.index(text[-1]) for text in texts]) / len(texts)
    assert places == pytest.approx([0.25] * 4, abs=0.03)
    kept = [[c for c in text[:4] if c != text[-1]] == [*text[5:8]] for text in texts]
    assert np.mean(kept) == pytest.approx(1 / 6, abs=0.03)  # as often as any other order of three


def test_symbols_are_single_bytes_and_no_separators():
    assert len({*SYMBOLS}) == len(SYMBOLS) == len(SYMBOLS.encode()) == 88 and not {*"|?"} & {*SYMBOLS}


def test_contexts_are_records_of_which_the_answer_counts():
    folder = missing(**FEW)
    meta = json.loads((folder / "meta.json").read_text())
    assert meta["record"] == {"length": 8, "scored": [7]} and meta["missing"] == {"n_items": 3, "n_symbols": 5}
    for part, n in (("train", 300), ("val", 40)):
        tokens = (folder / f"{part}.bin").read_bytes()
        assert len(tokens) == 8 * n and meta[part]["sha256"] == hashlib.sha256(tokens).hexdigest()
        assert all(tokens[i + 3 :: 8].startswith(b"|") for i in (0, 8)) and {*tokens[6::8]} == {ord("?")}
    _, options = parse(missing, shlex.split(meta["command"])[3:])
    again = missing(**options | {"name": "again"})
    assert (again / "train.bin").read_bytes() == (folder / "train.bin").read_bytes()
    other = missing(**FEW, seed=2, name="other")
    assert all((other / f).read_bytes() != (folder / f).read_bytes() for f in ("train.bin", "val.bin"))


def test_what_cannot_be_made_is_a_mistake():
    with pytest.raises(UsageError, match="n_symbols=32: must be more than n_items=32"):
        missing(n_items=32)


def test_a_run_on_it_logs_its_accuracy(run, capsys):
    rows = metrics("run")
    assert ["accuracy" in row for row in rows] == [True, False, False, True, False, False, True]
    tokens = torch.tensor([*Path("data/missing/val.bin").read_bytes()]).view(-1, 8)
    with torch.no_grad():
        right = (run(tokens[:, :-1])[:, -1].argmax(-1) == tokens[:, -1]).float().mean().item()
    assert rows[-1]["accuracy"] == pytest.approx(right)


def test_the_preset_is_for_the_task_as_it_is_made():
    (shape,), options = parse(train, [str(ROOT / "config/missing.toml")])
    defaults = missing.__kwdefaults__
    assert shape.block_size == 2 * defaults["n_items"] + 2 and options["dataset"] == defaults["name"]


# ---------------------------------------------------------------------------- how it is answered


def test_questions_are_fresh_and_end_before_their_answers():
    x, y = draw_contexts(12, 32, 50, 1)
    assert x.shape == (50, 25) and y.shape == (50,)
    for tokens, answer in zip(x.tolist(), y.tolist(), strict=True):
        assert {*tokens[:12]} - {*tokens[13:24]} == {answer}
    assert torch.equal(draw_contexts(12, 32, 50, 1)[0], x) and not torch.equal(draw_contexts(12, 32, 50, 2)[0], x)


def test_longer_windows_change_nothing_in_shorter_ones(run):
    x, _ = draw_contexts(3, 5, 9, 1)
    with torch.no_grad():
        torch.testing.assert_close(longer(run, 40)(x), run(x))
    assert longer(run, 40)(torch.zeros(1, 81, dtype=torch.long)).shape[:2] == (1, 81)


def test_accuracy_is_the_share_of_likeliest_answers(run):
    x, y = draw_contexts(3, 5, 200, 1)
    with torch.no_grad():
        likeliest = run(x)[:, -1].argmax(-1)
    assert accuracy(run, x, likeliest) == 1 and accuracy(run, x, likeliest + 1) == 0
    assert accuracy(run, x, y) == pytest.approx((likeliest == y).float().mean().item())


def test_other_orders_have_the_same_items_and_the_same_answer(run, monkeypatch):
    x, y = draw_contexts(3, 5, 50, 1)
    seen = []

    def noted(gpt, x, answers):
        assert torch.equal(answers, y)
        seen.append(x)
        return torch.arange(50) < 10 * len(seen) + 20  # 30 contexts, then 40

    monkeypatch.setattr("lab.solved.is_right", noted)
    found = in_other_orders(run, x, 3, orders=2, seed=1)
    assert found == pytest.approx({"best": 0.8, "worst": 0.6, "always": 0.6})
    assert not torch.equal(*seen) and not torch.equal(seen[0], x)
    for other in seen:
        assert torch.equal(other[:, [3, 6]], x[:, [3, 6]])  # | and ?
        for some in (slice(0, 3), slice(4, 6)):
            assert torch.equal(other[:, some].sort(1).values, x[:, some].sort(1).values)


def test_what_is_replaced_is_replaced(run, monkeypatch):
    x, _ = draw_contexts(3, 5, 400, 1)
    with torch.no_grad():
        y = run(x)[:, -1].argmax(-1)  # its own answers: whatever is replaced shows
    found = intervened(run, x, y)
    assert found["nothing replaced"] == 1 and len({*found.values()}) > 4
    attentions = [block.attention for block in run.blocks]
    with replaced(attentions, mix=lambda a, mix, x, q, k, v: a.attend(q[:, 0::2], k[:, 0::2], v)):
        assert found["λ by 0"] == accuracy(run, x, y)
    with replaced(attentions[-1:], mix=lambda a, mix, x, q, k, v: a.attend(q[:, 0::2], k[:, 0::2], v)):
        assert found["λ by 0, layer 1 alone"] == accuracy(run, x, y)


def test_shares_are_of_the_lists_in_the_answering_row(run):
    x, _ = draw_contexts(3, 5, 20, 1)
    found = shares(run, x, 3)
    assert [(row["layer"], row["head"], row["map"]) for row in found][:6] == [
        (0, h, name) for name in ("A", "A₁", "A₂") for h in (0, 1)
    ]
    with torch.no_grad():
        hidden, last = run.embedding(x), run.blocks[0].attention
        A1, _ = last.maps(torch.nn.functional.rms_norm(hidden, (16,), eps=1e-5))
    assert found[3]["second"] == pytest.approx(A1[:, 1, -1, 4:6].sum(-1).mean().item(), abs=1e-5)
    assert found[3]["bar"] == pytest.approx(A1[:, 1, -1, 3].mean().item(), abs=1e-5)
    assert found[3]["first"] == pytest.approx(A1[:, 1, -1, :3].sum(-1).mean().item(), abs=1e-5)
    for row in found:
        total = 1 - row["lam"] if row["map"] == "A" else 1
        assert row["first"] + row["second"] + row["separators"] == pytest.approx(total, abs=1e-5)


def test_its_report_and_pictures(run, capsys):
    entries = solved("out/run", n_items=(2, 3, 4), contexts=50)
    report = json.loads(Path("out/solved/solved.json").read_text())
    assert [*report["checkpoints"][0]["by_n_items"]] == ["2", "3", "4"] and len(entries) == 1
    assert entries[0]["by_n_items"][3] == entries[0]["interventions"]["nothing replaced"]
    assert Path("out/solved/answer-out-run.png").stat().st_size > 10_000
    assert "A₂ by its mean" in capsys.readouterr().out


def test_the_picture_has_a_column_per_layer_with_both_maps_above_their_difference(run, monkeypatch):
    drawn = []
    monkeypatch.setattr(lab.solved, "write_figure", lambda path, figure: drawn.extend(figure.axes))
    solved("out/run", n_items=(3,), contexts=10)
    titles = [axes.get_title().partition(", λ")[0] for axes in drawn]
    names = ("A₁", "λA₂", "A₁ − λA₂")
    assert titles == [f"layer {i}, head {h}: {name}" for h in (0, 1) for name in names for i in (0, 1)]
    heights = [np.array([bar.get_height() for bar in axes.patches if bar.get_width() < 1]) for axes in drawn]
    np.testing.assert_allclose(heights[4], heights[0] - heights[2], atol=1e-6)


def test_other_checkpoints_are_refused(go):
    go()
    with pytest.raises(
        UsageError, match=r"out/run was not trained on the task of lab\.missing: missing is of type NoneType"
    ):
        solved("out/run")
    with pytest.raises(UsageError, match="CHECKPOINTS"):
        solved()


def test_more_items_than_symbols_are_refused(run):
    with pytest.raises(UsageError, match="n_items=6: out/run knows 5 different items"):
        solved("out/run", n_items=(3, 6))


@pytest.mark.slow
def test_subtraction_finds_the_missing_one_where_vanilla_does_not_yet():
    """What README and results say, in half of the steps."""
    missing(n_contexts=20000)
    found = {}
    for attention in ("vanilla", "differential"):
        (shape,), options = parse(train, [str(ROOT / "config/missing.toml"), f"--attention={attention}"])
        train(shape, **options | {"max_iters": 200, "out_dir": f"out/{attention}"})
        found[attention] = metrics(attention)[-1]["accuracy"]
    assert found["differential"] > 0.98 and found["vanilla"] < 0.3
