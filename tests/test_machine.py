"""Signals, memory, compilers, several processes."""

import os
import re
import signal
import sys
import time
from pathlib import Path

import pytest
import torch
from torch import nn

import train as train_py
from conftest import metrics, mistake, options_of, same, small, weights
from lab.show import THE_FOUR
from plumbing import machine
from plumbing.checkpoint import load
from plumbing.machine import stop_signals
from plumbing.run import Run
from train import train


def test_out_of_memory_says_what_to_halve(go, monkeypatch):
    def full(*args):
        raise torch.OutOfMemoryError("CUDA out of memory")

    monkeypatch.setattr(train_py, "forward_backward", full)
    message = mistake(go)
    assert message.startswith("out of memory: halve batch_size=4 and double gradient_accumulation_steps=1, ")


def test_errors_of_a_reader_s_code_surface(go, monkeypatch):
    """Whatever their message says."""

    def overflow(*args):
        raise RuntimeError("value cannot be converted without overflow: too large")

    monkeypatch.setattr(train_py, "forward_backward", overflow)
    with pytest.raises(RuntimeError, match="overflow"):
        go()


@pytest.mark.parametrize(("signum", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_a_signal_finishes_the_step_saves_and_says_how_to_go_on(go, signal_at, capsys, signum, code):
    whole = go("whole")
    before = [signal.getsignal(s) for s in (signal.SIGINT, signal.SIGTERM)]
    signal_at(3, signum)
    with pytest.raises(SystemExit) as stopped:
        go()
    assert stopped.value.code == code
    assert [signal.getsignal(s) for s in (signal.SIGINT, signal.SIGTERM)] == before
    assert load("out/run/ckpt.pt")["step"] == 4
    last = capsys.readouterr().out.splitlines()[-1]
    assert last == "stopped at step 4, and saved. Go on: python train.py out/run/config.toml --init_from=resume"
    config, options = options_of("out/run/config.toml", init_from="resume")
    train(config, **options)
    assert metrics("run") == whole and same(weights("run"), weights("whole"))


def test_a_second_signal_does_what_it_always_does():
    with pytest.raises(KeyboardInterrupt), stop_signals() as seen:
        os.kill(os.getpid(), signal.SIGINT)
        assert seen == [signal.SIGINT]
        os.kill(os.getpid(), signal.SIGINT)
        raise AssertionError("the second signal was swallowed")


def test_a_failing_compiler_is_a_warning(go, monkeypatch, capsys):
    def fail(model):
        raise RuntimeError("no C++ compiler\nand a long story")

    monkeypatch.setattr(torch, "compile", fail)
    plain = go("a")
    assert go("b", compile=True) == plain
    out = capsys.readouterr().out
    assert out.count("torch.compile failed (RuntimeError: no C++ compiler); training without it") == 1


def test_a_compiled_twin_is_used_and_the_plain_model_saved(go, monkeypatch, capsys):
    calls = []

    class Twin(nn.Module):
        def __init__(self, gpt):
            super().__init__()
            self._orig_mod = gpt

        def forward(self, *args):
            calls.append(1)
            return self._orig_mod(*args)

    monkeypatch.setattr(torch, "compile", Twin)
    plain = go("a")
    assert not calls
    assert go("b", compile=True) == plain
    assert len(calls) > 1 + 6  # a try, six steps and the evaluations
    assert same(weights("a"), weights("b"))
    assert capsys.readouterr().out.count(", compiled\n") == 1


@pytest.mark.slow
def test_torch_compile_computes_the_same(go):
    for name in THE_FOUR:
        plain, fast = go(f"{name}a", attention=name), go(f"{name}b", attention=name, compile=True)
        for a, b in zip(plain, fast, strict=True):
            assert b.get("train_loss", 0) == pytest.approx(a.get("train_loss", 0), rel=1e-4)


# ---------------------------------------------------------------------------- several processes


def test_two_processes_train_as_one_and_one_goes_on_for_them(go, torchrun):
    options = {"batch_size": 2, "gradient_accumulation_steps": 4, "lr_decay_iters": 60, "learning_rate": 3e-3}
    options |= {"beta2": 0.99, "eval_interval": 20, "checkpoint_interval": 10, "eval_tokens": 131072}
    alone = go("alone", max_iters=60, **options)
    two = torchrun("--max_iters=50", "--lr_decay_iters=60", "--eval_interval=20", "--beta1=0.9", "--beta2=0.99",
                   "--learning_rate=3e-3")  # fmt: skip
    out, err = two.communicate(timeout=120)
    assert two.returncode == 0, err
    assert out.count("best val") == 1 and "2 x cpu, 1 thread" in out
    assert load("out/run/ckpt.pt")["step"] == 50
    go(max_iters=60, **options, init_from="resume")
    for mine, theirs in zip(metrics("run"), alone, strict=True):
        assert mine.keys() == theirs.keys()
        assert all(mine[k] == pytest.approx(theirs[k], abs=1e-5) for k in mine if k.endswith("loss"))
        assert mine["step"] == theirs["step"]


@pytest.mark.slow
def test_ctrl_c_stops_both_processes_and_saves(torchrun):
    two = torchrun("--max_iters=100000", "--eval_interval=100000")
    rows = Path("out/run/metrics.jsonl")
    deadline = time.monotonic() + 60
    while not (rows.exists() and rows.read_bytes().count(b"\n") > 20) and time.monotonic() < deadline:
        time.sleep(0.05)
    os.killpg(two.pid, signal.SIGINT)  # as a terminal does: to torchrun and to both of its processes
    out, err = two.communicate(timeout=60)
    step = load("out/run/ckpt.pt")["step"]
    assert f"stopped at step {step}, and saved" in out and step > 20
    assert err.count("stopping and saving") == 1
    assert [row["step"] for row in metrics("run")] == list(range(step))


@pytest.mark.slow
def test_both_processes_stop_where_a_number_is_none(torchrun):
    two = torchrun("--learning_rate=1e30", "--max_iters=50", "--grad_clip=none")
    err = two.communicate(timeout=120)[1]
    assert two.returncode == 1
    assert len(set(re.findall(r"train\.py: step (\d+): loss .* stopped\.", err))) == 1
    assert err.count(": stopped.") == 2  # both saw it in the same step, none waits for the other
    assert load("out/run/ckpt.pt")["step"] == 0


@pytest.mark.slow
def test_a_mistake_of_two_processes_is_explained_once(torchrun):
    two = torchrun("--dataset=nothing")
    err = two.communicate(timeout=120)[1]
    assert two.returncode == 1 and err.count("train.py: no dataset data/nothing") == 1
    assert "ProcessGroup" not in err and "Connection" not in err


def test_a_step_that_processes_cannot_share_is_refused(go, monkeypatch):
    monkeypatch.setenv("WORLD_SIZE", "2")
    message = "gradient_accumulation_steps=3: 2 processes share a step's forward passes, so it must be a multiple of 2"
    assert mistake(go, gradient_accumulation_steps=3) == message


def test_one_of_several_processes_lists_every_signal(monkeypatch, capfd):
    monkeypatch.setattr(machine, "count", lambda: 2)
    with stop_signals() as seen:
        for _ in range(2):  # the terminal's, and the same once more from torchrun
            os.kill(os.getpid(), signal.SIGINT)
    assert seen == [signal.SIGINT, signal.SIGINT]
    assert capfd.readouterr().err == "\nstopping and saving\n"


@pytest.mark.parametrize(("n", "ranks_of"), [(6, 3), (7, 3), (2, 2)])
def test_ranks_share_the_rows_of_a_batch(n, ranks_of, monkeypatch):
    monkeypatch.setattr(machine, "count", lambda: ranks_of)
    parts = []
    for i in range(ranks_of):
        monkeypatch.setattr(machine, "rank", lambda i=i: i)
        parts.append(machine.share(list(range(n))))
    assert [row for part in parts for row in part] == list(range(n))
    assert max(map(len, parts)) - min(map(len, parts)) <= 1


RESUMED = (*THE_FOUR, "no-norm")  # the last has a parameter that no gradient reaches


def process(rank, corpus):
    """Train for two steps, as one of two processes: without a stop, and stopped after the first."""
    torch.set_num_threads(1)
    torch.distributed.init_process_group("gloo", f"file://{os.getcwd()}/store", rank=rank, world_size=2)
    machine.connect, machine.disconnect = lambda *options: None, lambda: machine.largest(0)  # once for all runs
    Run.plot = lambda run, title: None
    for name in RESUMED:
        options = {"batch_size": 2, "gradient_accumulation_steps": 2, "eval_tokens": 20, "warmup_iters": 0}
        options |= {"dataset": corpus, "eval_interval": 2, "lr_decay_iters": 2, "device": "cpu"}
        for part, more in enumerate(({"max_iters": 2}, {"max_iters": 1}, {"max_iters": 2, "init_from": "resume"})):
            train(small(attention=name, n_layer=1), out_dir=f"out/{name}-{min(part, 1)}", **options, **more)


def process_that_compiles(rank, corpus):
    """Train for two steps as one of two processes, in the second of which the compiler fails."""

    def compile(gpt):
        if rank == 1:
            raise RuntimeError("no C++ compiler")
        return gpt

    torch.set_num_threads(1)
    torch.distributed.init_process_group("gloo", f"file://{os.getcwd()}/store", rank=rank, world_size=2)
    machine.connect, torch.compile, Run.plot = lambda *options: None, compile, lambda run, title: None
    options = {"batch_size": 2, "gradient_accumulation_steps": 2, "eval_tokens": 20, "max_iters": 2, "device": "cpu"}
    train(small(), dataset=corpus, out_dir="out/two", compile=True, **options)


@pytest.mark.slow
def test_a_compiler_that_fails_in_one_process_leaves_no_other_waiting(go, corpus, monkeypatch):
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join(sys.path))
    torch.multiprocessing.spawn(process_that_compiles, (str(corpus),), nprocs=2)
    options = {"batch_size": 2, "gradient_accumulation_steps": 2, "eval_tokens": 20, "max_iters": 2}
    alone = go("alone", **options, warmup_iters=100)
    assert [row.get("train_loss", 0) for row in metrics("two")] == pytest.approx(
        [row.get("train_loss", 0) for row in alone], rel=1e-5
    )


@pytest.mark.slow
def test_two_processes_resume_exactly(corpus, monkeypatch):
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join(sys.path))
    torch.multiprocessing.spawn(process, (str(corpus),), nprocs=2)
    for name in RESUMED:
        assert same(weights(f"{name}-0"), weights(f"{name}-1")), name
        losses = [[row.get("train_loss") for row in metrics(f"{name}-{part}")] for part in (0, 1)]
        assert losses[0] == losses[1], name
