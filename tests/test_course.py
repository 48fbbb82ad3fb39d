"""lab/course.py: a run that is looked at on its way is the run that nobody looked at."""

import functools
import json
import statistics
from pathlib import Path

import numpy as np
import pytest
import torch

import lab.course
from conftest import metrics, mistake, same, small, weights
from lab.compare import with_defaults
from lab.course import course, follow, look_at
from lab.maps import activations, cut, of_heads
from plumbing.checkpoint import load_model
from plumbing.dataset import load_dataset
from train import train

SHORT = {"n_layer": 2, "n_embd": 16, "n_head": 2, "block_size": 8, "batch_size": 4, "dropout": 0.0}
SHORT |= {"warmup_iters": 2, "eval_interval": 3, "checkpoint_interval": 50, "lr_decay_iters": 6}


@pytest.fixture
def settings(corpus):
    return with_defaults({**SHORT, "dataset": str(corpus), "attention": "differential", "seed": 1})


def test_a_run_that_is_looked_at_is_the_run_that_never_stopped(settings, corpus):
    rows = follow(Path("out/course"), settings, (0, 4, 6), 4)
    options = {
        name: value for name, value in SHORT.items() if name not in ("n_layer", "n_embd", "n_head", "block_size")
    }
    del options["dropout"]
    train(
        small(attention="differential", dropout=0.0),
        **options,
        dataset=str(corpus),
        seed=1,
        max_iters=6,
        out_dir="out/never",
    )
    assert same(weights("course/differential-1"), weights("never"))
    assert [row["step"] for row in rows] == [0, 4, 6]
    assert rows[-1]["val_loss"] == metrics("never")[-1]["val_loss"] and rows[-1]["lam"] == metrics("never")[-1]["lam"]


def test_what_was_looked_at_is_not_trained_again(settings, monkeypatch):
    first = follow(Path("out/course"), settings, (0, 2), 4)
    trained = []

    @functools.wraps(train)
    def noted(shape, **options):
        trained.append(options["max_iters"])
        return train(shape, **options)

    monkeypatch.setattr(lab.course, "train", noted)
    rows = follow(Path("out/course"), settings, (0, 2, 6), 4)
    assert trained == [6] and rows[:2] == first and len(rows) == 3


def test_numbers_are_means_over_heads_and_layers(settings, corpus):
    follow(Path("out/course"), settings, (4,), 3)
    row, small = look_at(Path("out/course/differential-1"), 3)
    gpt, _ = load_model(Path("out/course/differential-1/ckpt.pt"))
    x, _ = cut(load_dataset(str(corpus), "cpu", 8).val, 24, gpt)
    assert x.shape == (3, 8)
    with torch.no_grad():
        inputs, _ = activations(gpt, x)
        layers = [of_heads(block.attention, z) for block, z in zip(gpt.blocks, inputs, strict=True)]
        first = [block.attention.maps(z)[0] for block, z in zip(gpt.blocks, inputs, strict=True)]
    seen = np.tril(np.ones((8, 8), bool))
    assert (small == (torch.stack(first).numpy() < lab.course.SMALL) & seen).all()
    assert row["small_share"] == pytest.approx(small[..., seen].mean())
    heads = [head for layer in layers for head in layer]
    for name in ("effective_tokens", "A1_A2_cosine", "negative_share"):
        assert row[name] == pytest.approx(statistics.fmean(head[name] for head in heads))


def test_it_counts_which_small_weights_stay_small(settings, monkeypatch):
    monkeypatch.setattr(lab.course, "SMALL", 0.2)  # so that these short windows have some
    rows = follow(Path("out/course"), settings | {"learning_rate": 0.03}, (0, 3, 6), 4)
    before, after = (np.load(f"out/course/differential-1/small-{step}.npy") for step in (3, 6))
    assert (before & after).any() and (before & ~after).any() and (after & ~before).any()
    assert rows[2]["small_stays"] == pytest.approx(after[before].mean()) and "small_stays" not in rows[0]


def test_looks_of_another_kind_are_not_continued(settings):
    first = follow(Path("out/course"), settings, (0, 2), 4)
    assert "was made with other windows" in mistake(follow, Path("out/course"), settings, (0, 2, 4), 3)
    Path("out/course/differential-1/small-2.npy").unlink()
    assert "or by an older version" in mistake(follow, Path("out/course"), settings, (0, 2, 4), 4)
    assert json.loads(Path("out/course/differential-1.json").read_text()) == first


def test_its_report_has_a_row_for_each_look(corpus, capsys):
    options = {name: value for name, value in SHORT.items() if name != "lr_decay_iters"}
    rows = course(attentions=("vanilla", "differential"), seeds=(1,), steps=(0, 3), dataset=str(corpus), **options)
    assert [(row["attention"], row["step"]) for row in rows] == [
        (name, step) for name in ("vanilla", "differential") for step in (0, 3)
    ]
    folder = Path(f"out/course-{corpus.name}")
    assert json.loads((folder / "results.json").read_text())["rows"] == rows
    assert (folder / "course.png").stat().st_size > 10_000
    assert "A1_A2_cosine" in rows[2] and "A1_A2_cosine" not in rows[0]


def test_accuracy_is_drawn_where_there_is_one(monkeypatch):
    drawn = []
    monkeypatch.setattr(lab.course, "write_figure", lambda path, figure: drawn.append(figure.axes[1]))
    row = dict.fromkeys(lab.course.NUMBERS, 0.5) | {"attention": "differential", "seed": 1, "lam": [0.2]}
    for more in ({}, {"accuracy": 0.25}):
        lab.course.draw("course.png", [row | more | {"step": step} for step in (0, 4)], "data")
    without, with_it = ([line.get_label() for line in axes.lines] for axes in drawn)
    assert without == ["cosine of A₁ and A₂"] and with_it == [*without, "accuracy"]
    assert [*drawn[1].lines[1].get_ydata()] == [0.25, 0.25]


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"steps": (3, 2)}, "steps=3,2: must rise"),
        ({"steps": (0,)}, "steps=0: must rise, to more than 0"),
        ({"seed": 1}, "seed: is chosen for every run; give seeds"),
        ({"lr_decay_iters": 9}, "lr_decay_iters: is chosen for every run"),
        ({"jobs": 0}, "jobs=0: must be at least 1"),
    ],
)
def test_what_cannot_be_followed_is_a_mistake(options, words, corpus):
    assert words in mistake(course, dataset=str(corpus), **options)
