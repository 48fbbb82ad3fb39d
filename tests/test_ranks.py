"""Several processes train as one."""

import os
import re
import signal
import time
from pathlib import Path

import pytest

from conftest import metrics, mistake
from plumbing import ranks
from plumbing.checkpoint import load
from plumbing.machine import stop_signals


def test_two_processes_train_as_one_and_one_goes_on_for_them(go, torchrun):
    options = {"batch_size": 2, "gradient_accumulation_steps": 4, "lr_decay_iters": 60, "learning_rate": 3e-3}
    options |= {"beta2": 0.99, "eval_interval": 20, "checkpoint_interval": 10}
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
    assert err.count("stopping after this step") == 1
    assert [row["step"] for row in metrics("run")] == list(range(step))


def test_both_processes_stop_where_a_number_is_none(torchrun):
    two = torchrun("--learning_rate=1e30", "--max_iters=50", "--grad_clip=none")
    err = two.communicate(timeout=120)[1]
    assert two.returncode == 1
    assert len(set(re.findall(r"train\.py: step (\d+): loss .* stopped before the update", err))) == 1
    assert err.count("stopped before the update") == 2  # both saw it in the same step, none waits for the other
    assert load("out/run/ckpt.pt")["step"] == 0


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
    monkeypatch.setattr(ranks, "count", lambda: 2)
    with stop_signals() as seen:
        for _ in range(2):  # the terminal's, and the same once more from torchrun
            os.kill(os.getpid(), signal.SIGINT)
    assert seen == [signal.SIGINT, signal.SIGINT]
    assert capfd.readouterr().err == "\nstopping after this step\n"


@pytest.mark.parametrize(("n", "ranks_of"), [(6, 3), (7, 3), (2, 2)])
def test_ranks_share_the_rows_of_a_batch(n, ranks_of, monkeypatch):
    monkeypatch.setattr(ranks, "count", lambda: ranks_of)
    parts = []
    for i in range(ranks_of):
        monkeypatch.setattr(ranks, "rank", lambda i=i: i)
        parts.append(ranks.share(list(range(n))))
    assert [row for part in parts for row in part] == list(range(n))
    assert max(map(len, parts)) - min(map(len, parts)) <= 1


@pytest.mark.parametrize("name", ["RANK", "LOCAL_RANK"])
@pytest.mark.parametrize("value", ["x", "", "-1", "2"])
def test_an_odd_rank_is_one_line(name, value, go, monkeypatch):
    here = {"WORLD_SIZE": "2", "RANK": "0", "LOCAL_RANK": "0", "MASTER_ADDR": "localhost", "MASTER_PORT": "1"}
    for variable, number in (here | {name: value}).items():
        monkeypatch.setenv(variable, number)
    message = mistake(go, gradient_accumulation_steps=2)
    assert message == f"{name}={value}: must be a number below WORLD_SIZE=2"


def test_a_port_that_is_none_is_one_line(go, monkeypatch):
    here = {"WORLD_SIZE": "2", "RANK": "1", "LOCAL_RANK": "1", "MASTER_ADDR": "localhost", "MASTER_PORT": "x"}
    for variable, number in here.items():
        monkeypatch.setenv(variable, number)
    message = mistake(go, gradient_accumulation_steps=2, device="cpu")
    assert message.startswith("the processes cannot reach each other: ")
