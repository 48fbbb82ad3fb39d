"""lab/tasks.py: what is asked has an answer, and only the answer is scored."""

import hashlib
import json
import random
import runpy
import shlex
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

from configurable import parse, run
from conftest import ROOT, metrics
from lab.tasks import SYMBOLS, draw_missing, missing
from plumbing.checkpoint import load_model
from prepare import load_dataset
from train import train

FEW = {"n_items": 3, "n_symbols": 5, "n_contexts": 300, "n_val_contexts": 40}


@pytest.mark.parametrize(("n", "symbols"), [(2, 3), (12, 32), (87, 88)])
def test_the_answer_is_what_the_second_list_lacks(n, symbols):
    for seed in range(40):
        text, scored = draw_missing(random.Random(seed), n, symbols)
        first, rest = text.split("|")
        second, answer = rest.split("?")
        assert len(first) == len({*first}) == n and {*first} <= {*SYMBOLS[:symbols]}
        assert {*first} - {*second} == {answer} and len(second) == n - 1 and {*second} < {*first}
        assert scored == [len(text) - 1] and len(text.encode()) == 2 * n + 2


def test_neither_place_nor_order_gives_the_answer_away():
    texts = [draw_missing(random.Random(seed), 4, 9)[0] for seed in range(4000)]
    places = np.bincount([text.index(text[-1]) for text in texts]) / len(texts)
    assert places == pytest.approx([0.25] * 4, abs=0.03)
    kept = [[c for c in text[:4] if c != text[-1]] == [*text[5:8]] for text in texts]
    assert np.mean(kept) == pytest.approx(1 / 6, abs=0.03)  # as often as any other order of three


def test_it_is_a_dataset_of_records_whose_answers_are_scored():
    folder = missing(**FEW)
    data = load_dataset("missing", "cpu", 8)
    assert data.meta["record"] == {"length": 8, "scored": [7]}
    assert data.meta["missing"] == {"n_items": 3, "n_symbols": 5}
    for part, split, n in (("train", data.train, 300), ("val", data.val, 40)):
        tokens = (folder / f"{part}.bin").read_bytes()
        assert len(tokens) == 8 * n and data.meta[part]["sha256"] == hashlib.sha256(tokens).hexdigest()
        _, y = split.windows(np.array([0, n - 2]))
        assert (y[:, :6] == -1).all() and y[:, 6].tolist() == [tokens[7], tokens[8 * (n - 2) + 7]]


def test_it_is_a_function_of_its_options():
    """Whoever made the data before has the same data: results name their sha256."""
    first = json.loads((missing(**FEW) / "meta.json").read_text())
    assert first["train"]["sha256"].startswith("08a3d7fb831a2511") and first["val"]["sha256"].startswith("652dfba36f22")
    _, again = parse(missing, shlex.split(first["command"])[4:])
    assert again == {**FEW, "seed": 1, "name": "missing"}
    other = json.loads((missing(**FEW, seed=2, name="other") / "meta.json").read_text())
    assert all(other[part]["sha256"] != first[part]["sha256"] for part in ("train", "val"))


def test_the_hint_runs_as_it_is_printed(capsys):
    Path("config").symlink_to(ROOT / "config")
    for options, more in (({}, ""), (FEW | {"name": "few"}, " --dataset=few --block_size=8")):
        missing(**{"n_contexts": 300, "n_val_contexts": 40} | options)
        hint = capsys.readouterr().out.splitlines()[-1].removeprefix("next: ")
        assert hint == f"python train.py config/missing.toml --attention=differential{more}"
        found = run(train, [*shlex.split(hint)[2:], "--max_iters=1"])
        assert found["best"]["step"] in (0, 1)


def test_a_run_logs_its_accuracy():
    missing(**FEW)
    (shape,), options = parse(train, [str(ROOT / "config/missing.toml"), "--block_size=8", "--n_embd=16"])
    train(shape, **options | {"max_iters": 3, "eval_interval": 3, "out_dir": "out/run"})
    rows, gpt = metrics("run"), load_model("out/run/ckpt.pt")[0]
    tokens = torch.tensor([*Path("data/missing/val.bin").read_bytes()]).view(-1, 8)
    with torch.no_grad():
        right = (gpt(tokens[:, :-1])[:, -1].argmax(-1) == tokens[:, -1]).float().mean().item()
    assert ["accuracy" in row for row in rows] == [True, False, False, True]
    assert rows[-1]["accuracy"] == pytest.approx(right)


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["mising"], "lab.tasks: task=mising: must be one of missing (did you mean missing?)"),
        ([], "lab.tasks: task=: must be one of missing"),
        (["missing", "--n_items=1"], "lab.tasks missing: n_items=1: must be"),
        (["missing", "--n_items=32"], "lab.tasks missing: n_symbols=32: must be more than n_items=32"),
        (["missing", "--n_item=3"], "lab.tasks missing: --n_item=3: there is no option n_item (did you mean n_items"),
    ],
)
def test_a_mistake_on_the_command_line_is_one_line(words, message, monkeypatch, capsys):
    monkeypatch.setattr(sys, "argv", ["lab/tasks.py", *words])
    monkeypatch.delitem(sys.modules, "lab.tasks")
    with pytest.raises(SystemExit) as ended:
        runpy.run_module("lab.tasks", run_name="__main__")
    assert ended.value.code == 2 and capsys.readouterr().err.startswith(message) and not Path("data").exists()


@pytest.mark.slow
def test_subtraction_finds_the_missing_one_where_vanilla_does_not_yet():
    missing(n_contexts=20000)
    found = {}
    for attention in ("vanilla", "differential"):
        (shape,), options = parse(train, [str(ROOT / "config/missing.toml"), f"--attention={attention}"])
        train(shape, **options | {"max_iters": 200, "out_dir": f"out/{attention}"})
        found[attention] = metrics(attention)[-1]["accuracy"]
    assert found["differential"] > 0.98 and found["vanilla"] < 0.3
