"""lab/runs.py: runs as processes of their own; a run is complete or not, and never taken for another one."""

import dataclasses
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch

import lab.runs
from configurable import UsageError
from conftest import ROOT, mistake
from lab.runs import begin, is_done, last_words, run_all, steps_done
from model import GPTConfig
from plumbing.checkpoint import load, save
from plumbing.run import read_metrics
from train import train

SHAPE = {"n_layer": 1, "n_head": 2, "n_embd": 16, "block_size": 16}
SHORT = {"batch_size": 2, "max_iters": 20, "warmup_iters": 2, "eval_interval": 10, "eval_tokens": 500}


def options(corpus, attention="vanilla", **more):
    """All options of a short run."""
    model = dataclasses.asdict(GPTConfig(attention, **SHAPE))
    return model | train.__kwdefaults__ | SHORT | {"dataset": str(corpus), "seed": 2} | more


def two(corpus, **more):
    return {name: options(corpus, name, **more) for name in ("vanilla", "differential")}


def meta(corpus):
    return json.loads((corpus / "meta.json").read_text())


def losses(folder):
    return [(row["step"], row.get("val_loss"), row.get("train_loss")) for row in read_metrics(folder / "metrics.jsonl")]


@pytest.fixture(scope="module")
def finished(corpus, tmp_path_factory):
    """The folder of two runs of 20 steps."""
    out = tmp_path_factory.mktemp("runs")
    assert run_all(out, two(corpus), meta(corpus), 2) == ({}, 0)
    return out


@pytest.fixture
def copy(finished):
    """A copy of one of them, to be damaged."""
    return Path(shutil.copytree(finished / "vanilla", "out/vanilla"))


# ---------------------------------------------------------------------------- starting them


def test_its_runs_are_those_of_train(finished, corpus):
    train(GPTConfig("differential", **SHAPE), dataset=str(corpus), seed=2, out_dir="out/other", **SHORT)
    assert (
        losses(finished / "differential") == losses(Path("out/other")) and steps_done(finished / "differential") == 20
    )


def test_complete_runs_are_not_run_again(finished, corpus, monkeypatch):
    monkeypatch.setattr(lab.runs, "begin", None)
    assert run_all(finished, two(corpus), meta(corpus), 2) == ({}, 0)


@pytest.mark.parametrize(("jobs", "threads"), [(1, None), (2, "4"), (3, "2"), (99, "1")])
def test_runs_at_the_same_time_share_the_cores(jobs, threads, corpus, monkeypatch):
    started = []
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    monkeypatch.setattr(torch, "get_num_threads", lambda: 8)
    monkeypatch.setattr(subprocess, "Popen", lambda command, **how: started.append((command, how)))
    begin(Path("a"), options(corpus), jobs)
    ((command, how),) = started
    assert command == [sys.executable, ROOT / "train.py", Path("a.toml"), "--overwrite=true"]
    assert how["env"].get("OMP_NUM_THREADS") == threads and how["start_new_session"]
    assert 'out_dir = "a"\n' in Path("a.toml").read_text() and Path("a.log").exists()


def test_runs_cut_off_continue_where_they_were(corpus, monkeypatch):
    runs, out = two(corpus, max_iters=1500, checkpoint_interval=1500), Path("out")
    out.mkdir()
    sent = []

    def terminate_us_midway(seconds):
        if min(steps_done(out / name) for name in runs) >= 5 and not sent:
            sent.append(os.kill(os.getpid(), signal.SIGTERM))

    with monkeypatch.context() as patch:
        patch.setattr(lab.runs.time, "sleep", terminate_us_midway)
        assert run_all(out, runs, meta(corpus), 2) == ({}, signal.SIGTERM)
    assert all(5 <= load(out / name / "ckpt.pt")["step"] < 1500 for name in runs)
    assert not any(is_done(out / name, runs[name], meta(corpus)) for name in runs)
    assert run_all(out, runs, meta(corpus), 2) == ({}, 0)
    assert all(is_done(out / name, runs[name], meta(corpus)) for name in runs)
    assert "step 0: val" not in Path("out/vanilla.log").read_text()  # it did not begin again
    train(GPTConfig(**SHAPE), **SHORT | {"max_iters": 1500}, dataset=str(corpus), seed=2, out_dir="out/other")
    assert losses(out / "vanilla") == losses(out / "other")


def test_a_second_ctrl_c_leaves_no_run_behind(corpus, monkeypatch):
    children, out = [], Path("out")
    out.mkdir()

    def interrupt(seconds):
        raise KeyboardInterrupt

    monkeypatch.setattr(lab.runs, "begin", lambda *args: children.append(begin(*args)) or children[-1])
    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(lab.runs.time, "sleep", interrupt)
        run_all(out, two(corpus), meta(corpus), 2)
    assert [child.wait(5) for child in children] == [-signal.SIGKILL] * 2


def test_a_run_that_fails_does_not_take_the_others_down(corpus):
    out = Path("out")
    out.mkdir()
    runs = {"diverges": options(corpus, learning_rate=1e30), "vanilla": options(corpus)}
    failed, stopped = run_all(out, runs, meta(corpus), 1)
    assert failed.keys() == {"diverges"} and not stopped and is_done(out / "vanilla", runs["vanilla"], meta(corpus))
    assert failed["diverges"].startswith("train.py: step ") and "stopped before the update" in failed["diverges"]


def test_a_run_that_was_killed_says_by_which_signal(corpus, monkeypatch):
    out = Path("out")
    out.mkdir()

    def begin(folder, options, jobs):
        Path(f"{folder}.log").write_text("starting\nstep 0\n")
        return subprocess.Popen([sys.executable, "-c", "import os; os.kill(os.getpid(), 9)"])

    monkeypatch.setattr(lab.runs, "begin", begin)
    assert run_all(out, {"a": options(corpus)}, meta(corpus), 1) == ({"a": "killed by signal 9, after: step 0"}, 0)


def test_the_last_line_of_a_log_is_its_last_words():
    Path("a.log").write_bytes(b"one\n\xff two\n\n")
    assert last_words(Path("a.log")) == "\ufffd two"
    Path("a.log").write_text("\n")
    assert last_words(Path("a.log")) == "no output" and steps_done(Path("nowhere")) == 0


# ---------------------------------------------------------------------------- whether a run is complete


def test_a_run_is_complete_when_its_last_line_is_there(copy, corpus):
    assert is_done(copy, options(corpus), meta(corpus))
    metrics = copy / "metrics.jsonl"
    metrics.write_text("".join(metrics.read_text().splitlines(keepends=True)[:-1]))
    assert not is_done(copy, options(corpus), meta(corpus))
    assert not is_done(Path("nowhere"), options(corpus), meta(corpus))


def test_a_run_with_other_options_is_not_taken_for_this_one(copy, corpus):
    message = mistake(is_done, copy, options(corpus, max_iters=30), meta(corpus))
    assert message == "out/vanilla has another run (max_iters 20 -> 30): choose another --out_dir"


def test_a_run_of_before_an_option_existed_is_not_taken_for_one_with_it(copy, corpus):
    saved = load(copy / "ckpt.pt")
    del saved["options"]["init_std"]
    save(copy / "ckpt.pt", saved)
    with pytest.raises(UsageError, match=r"out/vanilla has another run \(init_std none -> 0.02\)"):
        is_done(copy, options(corpus), meta(corpus))


def test_a_run_on_other_data_is_not_taken_for_this_one(copy, corpus):
    with pytest.raises(UsageError, match=r"out/vanilla has another run \(another dataset\)"):
        is_done(copy, options(corpus), meta(corpus) | {"source": "another"})


def test_a_run_of_other_code_is_not_taken_for_this_one(copy, corpus, monkeypatch):
    monkeypatch.setattr(lab.runs, "provenance", lambda attention: {"commit": None, "code": "of tomorrow"})
    with pytest.raises(UsageError, match=r"out/vanilla has another run \(other code\)"):
        is_done(copy, options(corpus), meta(corpus))


def test_the_code_of_a_run_is_that_of_its_own_mechanism(copy, corpus, monkeypatch):
    asked = []
    monkeypatch.setattr(lab.runs, "provenance", lambda attention: asked.append(attention) or {"code": "any"})
    mistake(is_done, copy, options(corpus, "no-norm"), meta(corpus))
    assert asked == ["no-norm"]


def test_a_run_whose_metrics_are_damaged_is_not_called_complete(copy, corpus):
    metrics = copy / "metrics.jsonl"
    lines = metrics.read_text().splitlines(keepends=True)
    metrics.write_text("".join(lines[:5] + lines[6:]))
    with pytest.raises(UsageError, match=r"out/vanilla/metrics.jsonl is damaged: remove out/vanilla, and it is"):
        is_done(copy, options(corpus), meta(corpus))
    metrics.write_text("".join(json.dumps({"step": i, "train_loss": 1.0}) + "\n" for i in range(21)))
    with pytest.raises(UsageError, match=r"out/vanilla/metrics.jsonl is damaged: remove out/vanilla, and it is"):
        is_done(copy, options(corpus), meta(corpus))


@pytest.mark.skipif(os.name == "nt", reason="kills of Unix")
def test_a_trainer_that_outlived_its_comparison_is_waited_for(corpus):
    """It was killed; its children, in sessions of their own, go on."""
    runs, out = {"vanilla": options(corpus, max_iters=1500)}, Path("out")
    out.mkdir()
    orphan = begin(out / "vanilla", runs["vanilla"], 1)
    while not (out / "vanilla/ckpt.pt").exists():
        time.sleep(0.02)
    log = (out / "vanilla.log").stat().st_ino
    assert run_all(out, runs, meta(corpus), 1) == ({}, 0)
    assert orphan.wait(5) == 0 and (out / "vanilla.log").stat().st_ino != log  # then it was resumed, and had ended
    assert is_done(out / "vanilla", runs["vanilla"], meta(corpus))


@pytest.mark.skipif(os.name == "nt", reason="links of Unix")
def test_a_log_that_is_a_link_is_replaced_and_not_followed(corpus):
    out = Path("out")
    out.mkdir()
    Path("mine").write_text("mine")
    Path("out/vanilla.log").symlink_to("../mine")
    run_all(out, {"vanilla": options(corpus, max_iters=1)}, meta(corpus), 1)
    assert Path("mine").read_text() == "mine" and "best val" in Path("out/vanilla.log").read_text()
