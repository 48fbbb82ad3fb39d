"""Signals, memory, compilers."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
from torch import nn

import train as train_py
from configurable import parse
from conftest import ROOT, metrics, mistake, same, weights
from lab.show import THE_FOUR
from plumbing.checkpoint import load
from plumbing.machine import AdamW, stop_signals
from train import train


def test_out_of_memory_says_what_to_halve(go, monkeypatch):
    def full(*args):
        raise torch.OutOfMemoryError("CUDA out of memory")

    monkeypatch.setattr(train_py, "forward_backward", full)
    message = mistake(go)
    assert (
        "halve batch_size=4 (and double gradient_accumulation_steps=1" in message
        and "block_size=8 or n_embd=16" in message
    )


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
    args, options = parse(train, last.split("train.py ")[1].split())
    train(*args, **options)
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


# ---------------------------------------------------------------------------- terminals that close

unix = pytest.mark.skipif(os.name == "nt", reason="signals and terminals of Unix")


@pytest.fixture
def long_run(corpus):
    """long_run(stdout, stderr, session): `python train.py` that has taken twenty steps of very many."""

    def long_run(**options):
        shape = ["--n_layer=1", "--n_embd=16", "--n_head=2", "--block_size=8", "--batch_size=2", "--max_iters=10000000"]
        rest = [
            f"--dataset={corpus}",
            "--out_dir=out/run",
            "--eval_interval=10000000",
            "--checkpoint_interval=10000000",
        ]
        command = [sys.executable, str(ROOT / "train.py"), str(ROOT / "config/smoke.toml"), *shape, *rest]
        process = subprocess.Popen(command, env=os.environ | {"OMP_NUM_THREADS": "1"}, **options)
        rows, deadline = Path("out/run/metrics.jsonl"), time.monotonic() + 60
        while not (rows.exists() and rows.read_bytes().count(b"\n") > 20) and time.monotonic() < deadline:
            time.sleep(0.05)
        return process

    return long_run


def assert_nothing_was_lost():
    step = load("out/run/ckpt.pt")["step"]
    assert step > 20 and [row["step"] for row in metrics("run")] == list(range(step))


@unix
@pytest.mark.parametrize("signum", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_a_signal_saves_where_nothing_can_be_printed(signum, long_run):
    if not Path("/dev/full").exists():
        pytest.skip("no /dev/full, the terminal that takes nothing")
    with open("/dev/full", "w", encoding="utf-8") as full:
        process = long_run(stdout=full, stderr=full)
    process.send_signal(signum)
    assert process.wait(60) == 128 + signum
    assert_nothing_was_lost()


@unix
def test_a_reader_that_goes_away_stops_no_run(long_run):
    """python train.py | head -1, and Ctrl-C later."""
    process = long_run(stdout=subprocess.PIPE, stderr=subprocess.STDOUT)
    process.stdout.close()
    rows = len(metrics("run"))
    while len(metrics("run")) < rows + 120 and process.poll() is None:  # it prints every 50 steps
        time.sleep(0.05)
    process.send_signal(signal.SIGINT)
    assert process.wait(60) == 130
    assert_nothing_was_lost()


@unix
def test_a_closed_terminal_stops_and_saves_however_often_it_hangs_up(long_run):
    ours, theirs = os.openpty()
    process = long_run(stdin=theirs, stdout=theirs, stderr=theirs, start_new_session=True)
    os.close(theirs)
    os.close(ours)
    for _ in range(3):  # as bash, and then the kernel, do
        process.send_signal(signal.SIGHUP)
        time.sleep(0.001)
    assert process.wait(60) == 128 + signal.SIGHUP
    assert_nothing_was_lost()


def test_our_adamw_takes_torch_s_steps_and_goes_on_from_its_state():
    ends = []
    for kind in (AdamW, torch.optim.AdamW):
        torch.manual_seed(0)
        net = nn.Linear(5, 3)
        optimizer = kind(net.parameters(), lr=0.1, weight_decay=0.1, betas=(0.8, 0.9), fused=True)
        for step in range(6):
            if step == 3:
                state, optimizer = optimizer.state_dict(), kind(net.parameters(), lr=7.0, fused=True)
                optimizer.load_state_dict(state)
            net(torch.randn(4, 5)).square().sum().backward()
            optimizer.step()
            optimizer.zero_grad()
        assert net.weight.grad is None
        ends.append(net.state_dict())
    assert same(*ends)


def test_a_run_that_is_not_compiled_does_not_import_the_compiler(corpus):
    """It would take two seconds of every start."""
    program = "import sys; from train import train; from model import GPTConfig as G; "
    program += f"train(G(n_layer=1, n_embd=16), dataset={str(corpus)!r}, max_iters=2, device='cpu', out_dir='out/run')"
    program += "; sys.exit('torch._dynamo' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", program], env=os.environ | {"PYTHONPATH": str(ROOT)}, timeout=120)
    assert done.returncode == 0 and load("out/run/ckpt.pt")["step"] == 2
