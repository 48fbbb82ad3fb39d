"""Needles: what is hidden can be found, val has cities of its own, and what a model finds is counted."""

import hashlib
import json
import random
import re
import shlex
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

from configurable import UsageError, parse, signature
from conftest import ROOT
from lab.needles import CITIES, NUMBERS, exact, find_needles, hide, looked_at, needles, task_of
from model import GPT, GPTConfig
from plumbing.checkpoint import load, load_model
from train import train


def read(folder):
    meta = json.loads((folder / "meta.json").read_text())
    return meta, {p: np.fromfile(folder / f"{p}.bin", meta["dtype"]) for p in ("train", "val")}


# ---------------------------------------------------------------------------- the task


def hidden_in(text, n_queries):
    """({city: number} of the needles, [(city, number)] of the queries) of a context, read by a pattern."""
    queries = text[-6 * n_queries :]
    asked = re.findall(r"\?([A-Z]{2})(\d{3})", queries)
    assert "".join(f"?{city}{number}" for city, number in asked) == queries
    return dict(re.findall(r"([A-Z]{2})(\d{3}) ", text[: -6 * n_queries])), asked


@pytest.mark.parametrize(("n", "r", "length"), [(1, 1, 40), (1, 3, 60), (6, 2, 128), (6, 2, 58), (50, 9, 500)])
def test_a_context_hides_what_its_queries_ask(n, r, length):
    for seed in range(30):
        context = hide(random.Random(seed), n, r, length, held_out=seed % 2 == 0)
        assert len(context.text) == length
        hidden, asked = hidden_in(context.text, r)
        assert len(hidden) == len({*hidden.values()}) == n and len(asked) == r
        for city, number in asked:
            assert hidden[city] == number
        for query, i in zip(asked, context.asked, strict=True):
            assert context.text[context.starts[i] :].startswith("".join(query) + " ")
        held_out = seed % 2 == 0
        assert {*hidden} <= {*CITIES[held_out]} and {*hidden.values()} <= {*NUMBERS[held_out]}


def test_val_has_cities_and_numbers_of_its_own():
    assert not {*CITIES[True]} & {*CITIES[False]} and len(CITIES[True]) + len(CITIES[False]) == 26**2
    assert not {*NUMBERS[True]} & {*NUMBERS[False]} and len(NUMBERS[True]) == 50 and len(NUMBERS[False]) == 950
    for place in range(3):  # but no digit and hardly a letter that training has not seen there
        assert {number[place] for number in NUMBERS[False]} == {*"0123456789"}
    for place in range(2):
        assert {city[place] for city in CITIES[True]} <= {city[place] for city in CITIES[False]}


@pytest.mark.parametrize("depth", [0.0, 0.25, 0.5, 0.75, 1.0])
def test_the_needle_asked_first_lies_at_its_depth(depth):
    for seed in range(20):
        context = hide(random.Random(seed), 4, 2, 300, depth=depth)
        start = context.starts[context.asked[0]]
        before = sum(6 for s in context.starts if s < start)  # other needles are no filler
        assert (start - before) / (300 - 12 - 24) == pytest.approx(depth, abs=0.03)


def test_every_query_may_ask_for_any_needle():
    asked = np.array([hide(random.Random(seed), 2, 2, 60).asked for seed in range(400)])
    assert (asked[:, 0] == asked[:, 1]).mean() == pytest.approx(0.5, abs=0.1) and asked.mean() == pytest.approx(
        0.5, abs=0.1
    )


def test_needles_lie_anywhere():
    starts = [s for seed in range(300) for s in hide(random.Random(seed), 2, 1, 200).starts]
    shares = np.histogram(starts, bins=4, range=(0, 200 - 6))[0] / len(starts)
    assert (shares > 0.15).all()


def test_needles_are_a_dataset_of_records():
    folder = needles(n_needles=3, n_queries=2, length=64, n_contexts=30, n_val_contexts=9)
    meta, tokens = read(folder)
    assert folder == Path("data/needles") and meta["vocab_size"] == 256 and meta["tokenizer"] == "bytes"
    assert meta["needles"] == {"n_needles": 3, "n_queries": 2, "length": 64} and meta["record"]["length"] == 64
    counts = []
    for part, n in (("train", 30), ("val", 9)):
        assert meta[part]["tokens"] == len(tokens[part]) == 64 * n
        assert meta[part]["sha256"] == hashlib.sha256(tokens[part].tobytes()).hexdigest()
        for record in tokens[part].reshape(n, 64):
            text = bytes(record).decode()
            hidden, asked = hidden_in(text, 2)
            counts.append(len(hidden))
            assert {*hidden} <= {*CITIES[part == "val"]}
            answers = "".join(text[i] for i in meta["record"]["scored"])
            assert answers == "".join(number for _, number in asked)
    assert {*counts} == {1, 2, 3}


def test_needles_are_a_function_of_options_and_seed():
    first = read(needles(n_contexts=9, n_val_contexts=9, name="a"))[0]
    assert read(needles(n_contexts=9, n_val_contexts=9, name="b"))[0]["train"] == first["train"]
    other = read(needles(n_contexts=9, n_val_contexts=9, seed=2, name="c"))[0]
    assert other["train"] != first["train"] and other["val"] != first["val"]
    args, options = parse(needles, shlex.split(first["command"])[3:])
    assert args == [] and options["n_contexts"] == 9 and options["name"] == "a" and len(options) == 7
    assert first["command"].startswith("python -m lab.needles --n_needles=4 ")


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"n_needles": 0}, "n_needles=0: must be at least 1 and at most 50"),
        ({"n_needles": 51, "length": 1000}, "n_needles=51: must be at least 1 and at most 50"),
        ({"n_queries": 0}, "n_queries=0: must be at least 1"),
        ({"length": 57}, "length=57: must be at least 58 for 4 needles and 4 queries"),
        ({"n_contexts": 1}, "n_contexts=1: must be at least 2"),
        ({"n_val_contexts": 0}, "n_val_contexts=0: must be at least 2"),
        ({"seed": -1}, "seed=-1: must be at least 0 and less than 2^63"),
        ({"name": "a/b"}, "name=a/b: must be the name of a folder, which goes under data/"),
    ],
)
def test_needles_that_cannot_be_are_refused(options, message):
    with pytest.raises(UsageError) as error:
        needles(**options)
    assert str(error.value) == message and not Path("data").exists()


def test_needles_is_a_program(monkeypatch):
    monkeypatch.setenv("PYTHONPATH", str(ROOT))
    program = [sys.executable, "-m", "lab.needles"]
    made = subprocess.run(
        [*program, "--n_contexts=9", "--n_val_contexts=9"], check=True, capture_output=True, text=True
    )
    assert Path("data/needles/meta.json").exists()
    assert made.stdout.endswith("next: python train.py config/needles.toml --dataset=needles --block_size=64\n")
    help = subprocess.run([*program, "--help"], check=True, capture_output=True, text=True).stdout
    assert "--n_needles=4" in help and help.startswith("python -m lab.needles [FILE")
    wrong = subprocess.run([*program, "--seed=-1"], check=False, capture_output=True, text=True)
    assert wrong.returncode == 2 and wrong.stderr == "lab.needles: seed=-1: must be at least 0 and less than 2^63\n"


def test_every_option_has_a_line_of_help():
    assert all(option.comment for option in signature(needles)[0].values())


def test_the_range_of_n_needles_is_that_of_held_out_numbers():
    assert signature(needles)[0]["n_needles"].range == f"at least 1 and at most {len(NUMBERS[True])}"
    folder = needles(n_needles=50, n_queries=1, length=400, n_contexts=2, n_val_contexts=2)
    assert read(folder)[0]["needles"]["n_needles"] == 50


# ---------------------------------------------------------------------------- what a model finds


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


TASK = {"n_needles": 3, "n_queries": 2, "length": 48}


@pytest.fixture
def trained():
    """The folder of a run of one step on needles."""
    needles(**TASK, n_contexts=30, n_val_contexts=12)
    shape = GPTConfig(n_layer=1, n_embd=16, n_head=2, block_size=48)
    train(shape, dataset="needles", max_iters=1, batch_size=4, out_dir="out/run")
    return Path("out/run")


def test_a_trained_model_s_needles_are_counted_by_number_depth_and_length(trained):
    gpt, checkpoint = load_model(trained)
    numbers = find_needles(gpt, **task_of(checkpoint), n=20)
    assert [(row["needles"], row["length"]) for row in numbers["by_n"]] == [(1, 48), (2, 48), (3, 48)]
    assert [row["depth"] for row in numbers["by_depth"]] == [0, 0.25, 0.5, 0.75, 1]
    assert [row["length"] for row in numbers["by_length"]] == [40, 44, 48]
    assert all(row["of"] == 20 and 0 <= row["exact"] <= 1 for name in ("by_n", "by_depth") for row in numbers[name])
    assert [(row["layer"], row["head"]) for row in numbers["attention"]] == [(0, 0), (0, 1)]


def test_the_task_of_a_checkpoint_is_in_its_data(trained):
    checkpoint = load(trained)
    assert task_of(checkpoint) == TASK
    del checkpoint["data"]["needles"]
    assert task_of(checkpoint) is None


@pytest.mark.parametrize(
    "task",
    [
        "x",
        {},
        {"n_needles": 1},
        TASK | {"n_queries": 0},
        TASK | {"length": 2**16 + 1},
        TASK | {"n_needles": "1"},
        TASK | {"more": 1},
        TASK | {"n_needles": 51, "length": 1000},
        TASK | {"length": 39},
    ],
)
def test_a_task_of_which_no_context_can_be_made_is_refused(task):
    checkpoint = {"options": {"dataset": "needles"}, "data": {"needles": task}}
    with pytest.raises(UsageError) as error:
        task_of(checkpoint)
    assert str(error.value) == "needles: needles of which no context can be made"


def test_contexts_longer_than_the_window_are_refused():
    gpt = GPT(GPTConfig(block_size=32, n_layer=1, n_head=2, n_embd=8))
    with pytest.raises(UsageError, match="contexts of 40 tokens do not fit into block_size=32"):
        find_needles(gpt, 2, 2, 40)
