"""What a run leaves in its folder, and how it is resumed."""

import math
import os
import sys
import tomllib
from dataclasses import asdict
from pathlib import Path

import matplotlib.figure
import numpy as np
import pytest

import plumbing.run
import train as train_py
from configurable import UsageError
from conftest import ROOT, metrics, mistake, options_of, same, small, weights
from ideas.retrofit import RETROFITS
from model import GPTConfig
from plumbing.checkpoint import load, save
from plumbing.run import command, read_metrics
from prepare import prepare
from train import train


def test_resuming_takes_this_command_s_options(go):
    go(max_iters=3)
    go(init_from="resume", weight_decay=0.0, beta2=0.5)
    groups = load("out/run/ckpt.pt")["optimizer"]["param_groups"]
    assert [g["weight_decay"] for g in groups] == [0.0, 0.0] and groups[0]["betas"] == (0.9, 0.5)


def test_a_run_leaves_these_files(go):
    rows = go(attention="differential", figure=True)
    out = Path("out/run")
    assert sorted(p.name for p in out.glob("[!.]*")) == [
        "best.pt",
        "ckpt.pt",
        "config.toml",
        "loss.png",
        "metrics.jsonl",
    ]
    assert [row["step"] for row in rows] == list(range(7))
    step = {"step", "train_loss", "learning_rate", "grad_norm"}
    scored = {"val_loss", "val_bits_per_byte", "lam"}
    assert [set(row) for row in rows] == [step | (scored if i % 3 == 0 else set()) for i in range(6)] + [
        {"step"} | scored
    ]
    assert np.shape(rows[0]["lam"]) == (2, 1)
    assert (out / "loss.png").read_bytes().startswith(b"\x89PNG")


def test_temperature_logs_g_of_each_layer_and_head(go):
    assert np.allclose(go(attention="temperature")[0]["g"], [[math.log2(56)] * 2] * 2)


def test_best_is_the_lowest_and_last_is_saved(go):
    rows = go(max_iters=9, eval_interval=1, learning_rate=1.0, min_lr=1.0, warmup_iters=0)
    best, last = load("out/run/best.pt"), load("out/run/ckpt.pt")
    scores = [row["val_loss"] for row in rows]
    assert best["best"]["val_loss"] == min(scores) and best["step"] == scores.index(min(scores)) < 9
    assert last["step"] == 9 and last["best"] == best["best"]
    assert load("out/run")["step"] == best["step"]


def test_config_toml_repeats_the_run(go):
    first = go(attention="softmax1", dropout=0.1)
    config, options = options_of("out/run/config.toml", out_dir="out/again")
    train(config, **options)
    assert metrics("again") == first
    there, here = (tomllib.loads(Path(f"out/{out}/config.toml").read_text()) for out in ("run", "again"))
    assert there | {"out_dir": ""} == here | {"out_dir": ""}
    assert there.keys() == asdict(GPTConfig()).keys() | train.__kwdefaults__.keys()


def test_a_run_is_not_overwritten_unless_told_to(go):
    first = go()
    message = mistake(go)
    assert message.startswith("out/run holds a run: --init_from=resume continues it, --overwrite=true replaces it")
    assert metrics("run") == first
    assert go(overwrite=True, seed=5) != first
    Path("out/notes").mkdir()
    Path("out/notes/mine.txt").write_text("keep")
    go("notes")
    go("notes", overwrite=True)
    assert Path("out/notes/mine.txt").read_text() == "keep"


@pytest.mark.skipif(os.name == "nt", reason="links of Unix")
def test_a_record_s_command_says_nothing_of_the_place_of_the_clone(monkeypatch):
    for program, shown in ((ROOT / "lab/compare.py", "lab/compare.py"), ("/usr/bin/pytest", "pytest")):
        monkeypatch.setattr(sys, "argv", [str(program), "config/cpu.toml", "--jobs=2"])
        assert command() == [shown, "config/cpu.toml", "--jobs=2"]


def test_resuming_another_run_is_refused_with_the_differences(go, corpus, tiny):
    go()
    message = mistake(go, attention="softmax1", init_from="resume")
    assert message == "cannot resume out/run: attention was vanilla, is softmax1"
    Path("other.txt").write_text("other words " * 300)
    prepare("other.txt", tokenizer="gpt2", name="other")
    message = mistake(go, dataset="other", init_from="resume")
    assert message.startswith("cannot resume out/run: vocab_size was 256, is ") and "tokenizer" in message
    for name, was, now in (("n_layer", 2, 3), ("block_size", 8, 4)):
        with pytest.raises(UsageError, match=f"{name} was {was}, is {now}"):
            train(small(**{name: now}), dataset=str(corpus), out_dir="out/run", init_from="resume")


def test_fine_tuning_needs_the_same_tokenizer(go):
    go()
    checkpoint = load("out/run/ckpt.pt")
    other = {"data": checkpoint["data"] | {"tokenizer": "gpt2"}, "tokenizer": {"name": "gpt2"}}
    save("other.pt", checkpoint | other)
    message = "cannot start from other.pt: the tokenizer was gpt2, is bytes"
    assert mistake(go, "new", init_from="other.pt") == message


def test_a_run_that_is_overwritten_is_gone_before_the_first_step(go, monkeypatch):
    def fail(*args):
        raise RuntimeError("before anything is saved")

    go(figure=True)
    monkeypatch.setattr(train_py, "evaluate", fail)
    with pytest.raises(RuntimeError):
        go(overwrite=True)
    assert {path.name for path in Path("out/run").iterdir()} == {".lock", "config.toml", "metrics.jsonl"}


def test_resuming_says_which_options_changed(go, capsys):
    go()
    go(init_from="resume", max_iters=7)
    assert "out/run is resumed with other options: max_iters 6 -> 7\n" in capsys.readouterr().out


def test_the_time_before_a_run_was_resumed_counts(go):
    go()
    save("out/run/ckpt.pt", load("out/run/ckpt.pt") | {"seconds": 1000.0})
    go(init_from="resume", max_iters=7)
    assert 1000 < load("out/run/ckpt.pt")["seconds"] < 1100


def test_resuming_nothing_is_explained(go):
    assert mistake(go, "gone", init_from="resume").startswith("no checkpoint out/gone/ckpt.pt")
    message = "init_from=resum: must be scratch, resume, or a run or checkpoint of train.py (did you mean resume?)"
    assert mistake(go, "new", init_from="resum") == message


def test_fine_tuning_starts_from_the_other_run_s_weights(go, corpus):
    go("first")
    go("second", init_from="out/first/best.pt", max_iters=0)
    assert same(weights("second"), weights("first", "best.pt"))
    assert load("out/second/ckpt.pt")["step"] == 0
    train(small(block_size=16), dataset=str(corpus), init_from="out/first", max_iters=0, out_dir="out/longer")
    message = mistake(train, small(n_embd=32), dataset=str(corpus), init_from="out/first", out_dir="out/x")
    assert message == "cannot start from out/first: n_embd was 16, is 32"


@pytest.mark.parametrize("name", RETROFITS)
def test_a_retrofit_starts_from_a_run_of_vanilla(go, corpus, name):
    """What vanilla has not keeps its first value, so that the loss is vanilla's."""
    go("first")
    options = {"dataset": str(corpus), "init_from": "out/first", "max_iters": 0, "out_dir": "out/second"}
    options |= {"eval_tokens": 200}
    train(small(attention=name), **options)
    old, new = weights("first"), weights("second")
    assert same({key: new[key] for key in old}, old) and new.keys() > old.keys()
    losses = [
        row["val_loss"] for run in ("first", "second") for row in read_metrics(Path(f"out/{run}/metrics.jsonl"))[-1:]
    ]
    assert losses[0] == pytest.approx(losses[1])
    message = mistake(train, small(attention="sink"), **options | {"out_dir": "out/third"})
    assert message == "cannot start from out/first: attention was vanilla, is sink"


def test_cut_off_metrics_are_mended_on_resume(go):
    whole = go()
    go("cut", max_iters=4, lr_decay_iters=6)
    with open("out/cut/metrics.jsonl", "a") as file:
        file.write('{"step": 5, "train_lo')
    assert go("cut", init_from="resume") == whole


def test_the_summary_says_what_to_do_next(go, capsys):
    go()
    lines = capsys.readouterr().out.splitlines()
    assert lines[0].startswith("out/run: vanilla, ") and "cpu" in lines[0] and lines[0].endswith("eager")
    assert [line.split(":")[0] for line in lines[1:-1]] == ["step 0", "step 3", "step 6"]
    assert lines[-1].startswith("best val ") and lines[-1].endswith("Sample it: python sample.py out/run")


def test_progress_is_printed_where_there_is_no_terminal(go, capsys):
    go(max_iters=101, eval_interval=200)
    lines = [line for line in capsys.readouterr().out.splitlines() if "left" in line]
    assert [line.split(":")[0] for line in lines] == ["step 50", "step 100"]
    assert "tokens/s" in lines[0] and "loss " in lines[0]


def test_no_checkpoint_is_ahead_of_the_rows_that_a_power_cut_leaves(go, monkeypatch):
    """What a disk has after a power cut is what was synced before: here each file's length at its last fsync."""
    synced, checked = {}, []
    fsync, replace = os.fsync, os.replace

    def noting(number):
        fsync(number)
        synced[os.fstat(number).st_ino] = os.fstat(number).st_size

    def looking(part, path):
        replace(part, path)
        if Path(path).suffix == ".pt":
            rows = Path("out/run/metrics.jsonl")
            left = rows.read_bytes()[: synced.get(rows.stat().st_ino, 0)].count(b"\n")
            checked.append(left >= load(path)["step"])

    monkeypatch.setattr(os, "fsync", noting)
    monkeypatch.setattr(os, "replace", looking)
    go(max_iters=6)
    go(max_iters=12, init_from="resume")
    assert len(checked) >= 8 and all(checked)


@pytest.mark.parametrize("harm", ["damaged", "gone"])
def test_a_best_checkpoint_that_is_damaged_is_written_again(harm, go, capsys):
    go(max_iters=6, lr_decay_iters=12)
    best = Path("out/run/best.pt")
    best.write_bytes(b"damaged") if harm == "damaged" else best.unlink()
    capsys.readouterr()
    go(max_iters=7, init_from="resume", learning_rate=0.0)  # no later loss is lower than that of the lost one
    assert "best.pt is damaged or gone" in capsys.readouterr().out
    assert load("out/run")["step"] >= 6


def test_the_best_of_another_measure_is_forgotten(go, capsys):
    """A loss over the first tokens is not compared with one over all."""
    go(max_iters=6, lr_decay_iters=12, eval_tokens=20)
    few = load("out/run/best.pt")["best"]["val_loss"]
    go(max_iters=7, init_from="resume", eval_tokens=None, learning_rate=0.0)
    assert "the best evaluation so far does not count: it read other tokens" in capsys.readouterr().out
    assert load("out/run/best.pt")["best"]["val_loss"] != few and load("out/run/best.pt")["step"] >= 6


def test_the_pace_is_that_of_the_last_steps(go, capsys, monkeypatch):
    """A slow start, such as a compiler's, counts once."""
    clock = iter([0.0, *(1000.0 + 0.01 * i for i in range(10_000))])
    monkeypatch.setattr(plumbing.run.time, "perf_counter", lambda: next(clock))
    go(max_iters=151, eval_interval=200)
    paces = [
        float(line.split(", ")[1].split()[0].replace(",", ""))
        for line in capsys.readouterr().out.splitlines()
        if "left" in line
    ]
    assert paces[1] == pytest.approx(paces[2], rel=0.2) and paces[2] > 100


def test_a_figure_that_fails_costs_one_line_and_a_user_s_matplotlibrc_nothing(go, capsys, monkeypatch):
    with matplotlib.rc_context({"text.usetex": True, "figure.dpi": 1}):
        go(figure=True)
    assert Path("out/run/loss.png").read_bytes().startswith(b"\x89PNG")
    monkeypatch.setattr(matplotlib.figure.Figure, "savefig", None)
    go("other", figure=True)
    out = capsys.readouterr().out
    assert "out/other/loss.png could not be drawn (TypeError: " in out and "Sample it" in out.splitlines()[-1]
