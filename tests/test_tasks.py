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
from sample import sample
from train import train

FEW = {"min_items": 2, "max_items": 3, "n_symbols": 5, "length": 9, "n_contexts": 300, "n_val_contexts": 40}


@pytest.mark.parametrize(("low", "high", "symbols"), [(2, 2, 3), (8, 16, 32), (87, 87, 88)])
def test_the_answer_is_what_the_second_list_lacks(low, high, symbols):
    lengths = set()
    for seed in range(100):
        question, answer = draw_missing(random.Random(seed), low, high, symbols)
        first, second = question.removesuffix("?").split("|")
        lengths.add(len(first))
        assert len(first) == len({*first}) and {*first} <= {*SYMBOLS[:symbols]}
        assert {*first} - {*second} == {answer} and len(second) == len(first) - 1 and {*second} < {*first}
    assert lengths == {*range(low, high + 1)}


def test_neither_place_nor_order_gives_the_answer_away():
    drawn = [draw_missing(random.Random(seed), 4, 4, 9) for seed in range(4000)]
    places = np.bincount([question.index(answer) for question, answer in drawn]) / len(drawn)
    assert places == pytest.approx([0.25] * 4, abs=0.03)
    kept = [[c for c in question[:4] if c != answer] == [*question[5:8]] for question, answer in drawn]
    assert np.mean(kept) == pytest.approx(1 / 6, abs=0.03)  # as often as any other order of three


def test_it_is_a_dataset_of_records_whose_answers_are_scored():
    folder = missing(**FEW)
    data = load_dataset("missing", "cpu", 9)
    record = data.meta["record"]
    assert (record["length"], record["after"]) == (9, "?") and record["example"].endswith("?")
    assert data.meta["missing"] == {"min_items": 2, "max_items": 3, "n_symbols": 5}
    starts = set()
    for part, split, n in (("train", data.train, 300), ("val", data.val, 40)):
        text = (folder / f"{part}.bin").read_text()
        assert len(text) == 9 * n and data.meta[part]["sha256"] == hashlib.sha256(text.encode()).hexdigest()
        _, y = split.windows(np.arange(n - 1))
        for i, row in enumerate(y.tolist()):
            question = text[9 * i : 9 * i + 9]
            starts.add(len(question) - len(question.lstrip()))
            at = question.index("?")
            assert row[at] == ord(question[at + 1]) and [*row[:at], *row[at + 1 :]] == [-1] * 8
    assert starts == {0, 1, 2, 3}  # a list of two takes six characters


def test_it_is_a_function_of_its_options():
    """Whoever made the data before has the same data: results name their sha256."""
    first = json.loads((missing(**FEW) / "meta.json").read_text())
    assert first["train"]["sha256"].startswith("fa569a872d55440f") and first["val"]["sha256"].startswith(
        "857b421a62b80534"
    )
    _, again = parse(missing, shlex.split(first["command"])[4:])
    assert again == {**FEW, "seed": 1, "name": "missing"}
    other = json.loads((missing(**FEW, seed=2, name="other") / "meta.json").read_text())
    assert all(other[part]["sha256"] != first[part]["sha256"] for part in ("train", "val"))


def test_the_hint_runs_as_it_is_printed(capsys):
    Path("config").symlink_to(ROOT / "config")
    for options, more in (({}, ""), (FEW | {"name": "few"}, " --dataset=few --block_size=9")):
        missing(**{"n_contexts": 300, "n_val_contexts": 40} | options)
        hint = capsys.readouterr().out.splitlines()[-1].removeprefix("next: ")
        assert hint == f"python train.py config/missing.toml --attention=differential{more}"
        found = run(train, [*shlex.split(hint)[2:], "--max_iters=1"])
        assert found["best"]["step"] in (0, 1)
        hint = capsys.readouterr().out.splitlines()[-1].partition("Ask it: ")[2]
        (text,) = run(sample, shlex.split(hint)[2:])
        assert text[:-1] == found_example(options.get("name", "missing")) and len(text) == len(text[:-1]) + 1


def found_example(name):
    return json.loads(Path(f"data/{name}/meta.json").read_text())["record"]["example"]


def test_a_run_logs_its_accuracy():
    missing(**FEW)
    (shape,), options = parse(train, [str(ROOT / "config/missing.toml"), "--block_size=9", "--n_embd=16"])
    train(shape, **options | {"max_iters": 3, "eval_interval": 3, "out_dir": "out/run"})
    rows, gpt = metrics("run"), load_model("out/run/ckpt.pt")[0]
    tokens = torch.tensor([*Path("data/missing/val.bin").read_bytes()]).view(-1, 9)
    with torch.no_grad():
        x, y = tokens[:, :-1], tokens[:, 1:]
        right = (gpt(x).argmax(-1) == y)[x == ord("?")].float().mean().item()
    assert ["accuracy" in row for row in rows] == [True, False, False, True]
    assert rows[-1]["accuracy"] == pytest.approx(right)


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["mising"], "lab.tasks: task=mising: must be one of missing (did you mean missing?)"),
        ([], "lab.tasks: task=: must be one of missing"),
        (["missing", "--min_items=1"], "lab.tasks missing: min_items=1: must be"),
        (["missing", "--max_items=32"], "lab.tasks missing: min_items=8, max_items=32, n_symbols=32: must rise"),
        (["missing", "--length=33"], "lab.tasks missing: length=33: must be at least 2 max_items + 2 = 34"),
        (["missing", "--max_item=3"], "lab.tasks missing: --max_item=3: there is no option max_item (did you mean max"),
    ],
)
def test_a_mistake_on_the_command_line_is_one_line(words, message, monkeypatch, capsys):
    monkeypatch.setattr(sys, "argv", ["lab/tasks.py", *words])
    monkeypatch.delitem(sys.modules, "lab.tasks")
    with pytest.raises(SystemExit) as ended:
        runpy.run_module("lab.tasks", run_name="__main__")
    assert ended.value.code == 2 and capsys.readouterr().err.startswith(message) and not Path("data").exists()


@pytest.mark.slow
@pytest.mark.parametrize(("attention", "least", "most"), [("vanilla", 0, 0.4), ("differential", 0.9, 1)])
def test_subtraction_finds_the_missing_one_where_vanilla_does_not_yet(attention, least, most):
    missing(n_contexts=30000)
    (shape,), options = parse(train, [str(ROOT / "config/missing.toml"), f"--attention={attention}"])
    train(shape, **options | {"max_iters": 400, "lr_decay_iters": 600, "eval_interval": 400, "out_dir": "out/run"})
    assert least <= metrics("run")[-1]["accuracy"] <= most
