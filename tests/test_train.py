"""A run is a function of its options and its seed, and says honestly what went wrong."""

import dataclasses
import itertools
import math
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

import train as train_py
from conftest import ROOT, WORDS, every, metrics, mistake, options_of, same, small, weights
from model import GPT
from plumbing import machine
from plumbing.checkpoint import load
from prepare import Split
from train import batch, evaluate, forward_backward, make_optimizer, schedule, seed_dropout, train

PLAIN = torch.autocast("cpu", torch.bfloat16, enabled=False)


@every
def test_training_lowers_the_loss(go, name):
    rows = go(attention=name, max_iters=60, eval_interval=60, learning_rate=1e-2)
    first, last = rows[0]["val_loss"], rows[-1]["val_loss"]
    assert first == pytest.approx(math.log(256), abs=0.1)
    assert last < 2.9


@every
def test_stop_and_resume_is_never_stopped_bit_for_bit(go, name, signal_at):
    options = {"attention": name, "dropout": 0.2, "gradient_accumulation_steps": 2}
    whole = go("whole", **options)
    for stop in (0, 2, 5):
        signal_at(stop)
        with pytest.raises(SystemExit):
            go("parts", **options, overwrite=True)
        assert load("out/parts/ckpt.pt")["step"] == stop + 1
        assert go("parts", **options, init_from="resume") == whole, f"stopped in step {stop}"
        assert same(weights("parts"), weights("whole")) and same(
            weights("parts", "best.pt"), weights("whole", "best.pt")
        )
        states = [load(f"out/{out}/ckpt.pt")["optimizer"]["state"] for out in ("parts", "whole")]
        assert all(torch.equal(states[0][i][k], states[1][i][k]) for i in states[0] for k in states[0][i])


@pytest.mark.parametrize("name", WORDS)
def test_every_mechanism_resumes_exactly(go, name, signal_at):
    """Also where a parameter gets no gradient, as the norm's gain in `no-norm`."""
    options = {"attention": name, "max_iters": 3, "dropout": 0.1}
    whole = go("whole", **options)
    signal_at(1)
    with pytest.raises(SystemExit):
        go("parts", **options)
    assert go("parts", **options, init_from="resume") == whole
    assert same(weights("parts"), weights("whole"))


def test_the_same_command_twice_gives_the_same_run(go):
    assert go("a", dropout=0.1) == go("b", dropout=0.1) != go("c", dropout=0.1, seed=1)
    assert same(weights("a"), weights("b"))


def test_dropout_does_something(go):
    assert go("a", dropout=0.5)[1]["train_loss"] != go("b")[1]["train_loss"]


def test_evaluating_and_saving_more_often_changes_no_loss(go):
    def losses(rows):
        return [row.get("train_loss") for row in rows]

    few = go("a", dropout=0.1)
    many = go("b", dropout=0.1, eval_interval=1, checkpoint_interval=1, eval_tokens=40)
    assert losses(few) == losses(many)
    assert sum("val_loss" in row for row in many) == 7


def test_accumulation_changes_the_memory_and_not_the_step(go):
    whole = go("a", batch_size=8)
    parts = go("b", batch_size=2, gradient_accumulation_steps=4)
    for a, b in zip(whole, parts, strict=True):
        assert a.keys() == b.keys()
        assert all(b[k] == pytest.approx(a[k], rel=1e-5) for k in a)


def test_a_batch_depends_on_seed_and_step_alone():
    tokens = torch.arange(1000, dtype=torch.int32)
    split, on_disk = Split(tokens, 8), Split(tokens.numpy().astype(np.uint16), 8)
    x, y = batch(split, 5, seed=3, step=7)
    assert x.shape == y.shape == (5, 8) and x.dtype == torch.int64
    assert (y == x + 1).all() and (x[:, 1:] == x[:, :-1] + 1).all()
    assert torch.equal(batch(split, 5, 3, 7)[0], x) and torch.equal(batch(on_disk, 5, 3, 7)[0], x)
    for seed, step in ((3, 8), (4, 7), (7, 3)):
        assert not torch.equal(batch(split, 5, seed, step)[0], x)


def test_dropout_depends_on_seed_and_step_alone():
    def dropped(seed, step):
        torch.rand(step)  # what was drawn before does not count
        seed_dropout(seed, step, torch.device("cpu"))
        return nn.functional.dropout(torch.ones(64)).tolist()

    assert dropped(1, 2) == dropped(1, 2)
    assert dropped(1, 2) != dropped(1, 3) and dropped(1, 2) != dropped(2, 2)


def test_batches_reach_the_first_and_the_last_token():
    x, y = batch(Split(torch.arange(10), 8), 500, 0, 0)
    assert x.min() == 0 and y.max() == 9
    assert set(x[:, 0].tolist()) == {0, 1}


@pytest.mark.parametrize("n", [2, 8, 9, 10, 32, 33, 34, 300])
def test_evaluation_predicts_every_token_once_in_order(n):
    torch.manual_seed(0)
    gpt, tokens = GPT(small(dropout=0.5)), torch.randint(256, (n,), dtype=torch.int32)
    found = evaluate(gpt, gpt, Split(tokens, 8), 4, None, PLAIN)["val_loss"]
    assert gpt.training
    gpt.eval()
    losses = []
    for start in range(0, n - 1, 8):
        window = tokens[start : start + 9].long()
        logits = gpt(window[None, :-1])[0]
        losses += nn.functional.cross_entropy(logits, window[1:], reduction="none").tolist()
    assert len(losses) == n - 1
    assert found == pytest.approx(sum(losses) / len(losses), rel=1e-5)


def test_evaluation_can_be_capped_and_draws_nothing():
    gpt, tokens = GPT(small(dropout=0.5)), torch.randint(256, (900,))
    before = torch.get_rng_state()
    part, whole = (evaluate(gpt, gpt, Split(tokens, 8), 4, n, PLAIN) for n in (50, None))
    assert part == evaluate(gpt, gpt, Split(tokens[:51], 8), 4, None, PLAIN) != whole
    assert torch.equal(torch.get_rng_state(), before)


@every
def test_only_weights_of_linear_and_embedding_decay(name):
    gpt = GPT(small(attention=name))
    decayed, rest = (set(g["params"]) for g in make_optimizer(gpt, 0.1, (0.9, 0.95)).param_groups)
    for path, p in gpt.named_parameters():
        owner = gpt.get_submodule(path.rpartition(".")[0])
        assert (p in decayed) == isinstance(owner, nn.Linear | nn.Embedding) != (p in rest), path
    groups = make_optimizer(gpt, 0.1, (0.9, 0.95)).param_groups
    assert [g["weight_decay"] for g in groups] == [0.1, 0.0] and all(g["fused"] for g in groups)


def test_schedule_rises_falls_and_stays():
    rates = [schedule(step, 1.0, 0.1, 10, 110) for step in range(200)]
    assert rates[0] == pytest.approx(0.1) and rates[9] == rates[10] == pytest.approx(1.0)
    assert rates[60] == pytest.approx(0.55) and rates[35] == pytest.approx(0.1 + 0.9 * (1 + math.sqrt(0.5)) / 2)
    assert rates[110:] == pytest.approx([0.1] * 90)
    assert all(a >= b for a, b in itertools.pairwise(rates[10:]))
    assert schedule(0, 1.0, 0.1, 0, 0) == pytest.approx(0.1)


def test_logged_rates_are_the_schedule_and_gradients_are_clipped(go):
    rows = go(learning_rate=1e-2, min_lr=1e-3, lr_decay_iters=5)[:-1]
    assert [row["learning_rate"] for row in rows] == [schedule(i, 1e-2, 1e-3, 2, 5) for i in range(6)]
    free, clipped = go("a", grad_clip=None), go("b", grad_clip=1e-3)
    assert free[0]["grad_norm"] == clipped[0]["grad_norm"] > 1e-3
    assert free[2]["train_loss"] != clipped[2]["train_loss"]


@pytest.mark.parametrize("lag", [0, 1])
@pytest.mark.parametrize("where", ["loss", "gradient"])
def test_a_run_that_diverges_stops_and_is_not_saved(go, monkeypatch, where, lag):
    monkeypatch.setattr(machine, "lag", lambda device: lag)
    original = train_py.forward_backward

    def poisoned(loss_of, *args):
        loss = original(loss_of, *args)
        if len(calls) == 4:
            if where == "loss":
                loss = loss * math.nan
            else:
                loss_of.embedding.weight.grad[0, 0] = math.inf
        calls.append(1)
        return loss

    calls = []
    monkeypatch.setattr(train_py, "forward_backward", poisoned)
    message = mistake(go)
    assert message.endswith("out/run/ckpt.pt is the last good save, of step 4")
    assert message.startswith("step 4: loss ") and "at learning rate 0.0005: stopped." in message
    assert ("loss nan" if where == "loss" else "gradient norm inf") in message
    assert load("out/run/ckpt.pt")["step"] == 4 and all(p.isfinite().all() for p in weights("run").values())
    assert [row["step"] for row in metrics("run")] == [0, 1, 2, 3]


def test_a_run_that_never_was_finite_says_that_nothing_was_saved(go, monkeypatch):
    monkeypatch.setattr(train_py, "evaluate", lambda *args: {"val_loss": math.nan})
    message = mistake(go)
    assert message.startswith("step 0: validation loss nan. ") and message.endswith("nothing was saved")
    assert not [*Path("out/run").glob("*.pt")]


def test_weights_that_are_not_finite_are_not_saved(go):
    message = mistake(go, learning_rate=1e300, warmup_iters=0, checkpoint_interval=1)
    assert message.startswith("step 1: the update before it left weights that are nan or inf")
    assert load("out/run/ckpt.pt")["step"] == 0


@every
def test_reading_a_step_late_changes_no_number(go, monkeypatch, name):
    """On CUDA a step is logged while the next is computed; before evaluating and saving all are."""
    whole, order, original = go("a", attention=name, dropout=0.1), [], machine.reading

    def reading(*numbers):
        read, step = original(*numbers), len([word for word, _ in order if word == "begin"])
        order.append(("begin", step))
        return lambda: order.append(("read", step)) or read()

    monkeypatch.setattr(machine, "lag", lambda device: 1)
    monkeypatch.setattr(machine, "reading", reading)
    assert go("b", attention=name, dropout=0.1) == whole and same(weights("a"), weights("b"))
    assert order == [  # evaluated at 0, 3, 6, saved at 0, 2, 4, 6
        *(("begin", 0), ("begin", 1), ("read", 0), ("read", 1)),
        *(("begin", 2), ("read", 2), ("begin", 3), ("read", 3)),
        *(("begin", 4), ("begin", 5), ("read", 4), ("read", 5)),
    ]


@pytest.mark.gpu
@every
def test_a_step_on_a_gpu_waits_for_nothing(go, monkeypatch, name):
    def mode(name, value):
        original = getattr(train_py, name)

        def call(*args):
            torch.cuda.set_sync_debug_mode(value)
            return original(*args)

        monkeypatch.setattr(train_py, name, call)

    mode("schedule", "error")  # the first call of a step
    mode("evaluate", "default")
    go(attention=name, max_iters=20, eval_interval=100, checkpoint_interval=100, compile=False, device="cuda")
    assert len(metrics("run")) == 21


@pytest.mark.gpu
@every
def test_stop_and_resume_is_never_stopped_on_a_gpu(go, name):
    options = {"attention": name, "device": "cuda", "deterministic": True, "compile": False, "lr_decay_iters": 6}
    whole = go("a", **options)
    go("b", **options, max_iters=4)
    assert go("b", **options, init_from="resume") == whole and same(weights("a"), weights("b"))


# ---------------------------------------------------------------------------- float16


@every
def test_float16_trains_as_float32(go, name):
    half, single = (go(dtype, attention=name, dtype=dtype) for dtype in ("float16", "float32"))
    assert [row.get("train_loss") for row in half] != [row.get("train_loss") for row in single]
    for a, b in zip(half, single, strict=True):
        assert a.get("train_loss", 0) == pytest.approx(b.get("train_loss", 0), rel=2e-3)
    assert load("out/float16/ckpt.pt")["scaler"]["scale"] == 65536 and load("out/float32/ckpt.pt")["scaler"] == {}


def overflow_at(monkeypatch, steps):
    """From now on the gradients of these steps overflow, counted from here."""
    calls = itertools.count()

    def overflowing(loss_of, *args):
        loss = forward_backward(loss_of, *args)
        if next(calls) in steps:
            loss_of.embedding.weight.grad[0, 0] = math.inf
        return loss

    monkeypatch.setattr(train_py, "forward_backward", overflowing)


def test_a_step_of_float16_that_overflows_is_skipped_and_the_scale_halved(go, monkeypatch):
    options = {"dtype": "float16", "checkpoint_interval": 1, "weight_decay": 0.0}
    overflow_at(monkeypatch, {2})
    go("whole", **options)
    assert [row.get("grad_norm", 0) is None for row in metrics("whole")] == [False, False, True, *4 * [False]]
    assert load("out/whole/ckpt.pt")["scaler"]["scale"] == 32768
    overflow_at(monkeypatch, {2})
    go("part", **options, max_iters=2, lr_decay_iters=6)
    before = weights("part")
    overflow_at(monkeypatch, {0})
    go("part", **options, max_iters=3, lr_decay_iters=6, init_from="resume")
    assert same(before, weights("part"))  # step 2 changed nothing
    go("part", **options, init_from="resume")
    assert same(weights("part"), weights("whole"))
    scalers = [load(f"out/{name}/ckpt.pt")["scaler"] for name in ("part", "whole")]
    assert scalers[0] == scalers[1]


def test_float16_whose_steps_always_overflow_has_diverged(go, monkeypatch):
    overflow_at(monkeypatch, range(3, 100))
    message = mistake(go, dtype="float16", max_iters=50, eval_interval=100, checkpoint_interval=100)
    assert message.startswith("step 20: loss ") and "gradient norm inf" in message  # 65536 is halved 17 times


@pytest.mark.parametrize(("has_bfloat16", "chosen"), [(True, torch.bfloat16), (False, torch.float16)])
def test_auto_is_bfloat16_on_a_gpu_that_has_it_else_float16_with_a_scaler(monkeypatch, has_bfloat16, chosen):
    monkeypatch.setattr(torch.cuda, "is_bf16_supported", lambda including_emulation: has_bfloat16)
    monkeypatch.setattr(torch, "autocast", lambda device, dtype, enabled: (device, dtype, enabled))
    monkeypatch.setattr(torch.amp, "GradScaler", lambda device, enabled: enabled)
    before = torch.get_float32_matmul_precision()
    found = machine.find_autocast("auto", torch.device("cuda"))
    torch.set_float32_matmul_precision(before)
    assert found == (("cuda", chosen, True), not has_bfloat16)


# ---------------------------------------------------------------------------- mistakes


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"batch_size": 0}, "batch_size=0: must be at least 1"),
        ({"max_iters": -1}, "max_iters=-1: must be at least 0"),
        ({"learning_rate": math.inf}, "learning_rate=inf: must be at least 0 and finite"),
        ({"beta2": 1.0}, "beta2=1.0: must be at least 0 and less than 1"),
        ({"grad_clip": 0.0}, "grad_clip=0.0: must be more than 0, or none"),
        ({"eval_tokens": 0}, "eval_tokens=0: must be at least 1"),
        ({"seed": -1}, "seed=-1: must be at least 0"),
        ({"device": "gpu"}, "device=gpu (did you mean cuda?): "),
        ({"dataset": "stdlb"}, "no dataset data/stdlb: there is none yet; python prepare.py makes one"),
    ],
)
def test_options_out_of_range_are_explained(go, options, message):
    assert mistake(go, **options).startswith(message)
    assert not Path("out").exists()


def test_values_of_other_libraries_are_converted_or_refused_at_entry(go):
    """What saving accepts, loading accepts."""
    go(learning_rate=np.float64(1e-3), max_iters=np.int64(1), out_dir=Path("out/run"), device=torch.device("cpu"))
    options = load("out/run/ckpt.pt")["options"]
    assert (options["learning_rate"], options["max_iters"], options["device"]) == (1e-3, 1, "cpu")
    assert mistake(go, dtype="bf16").startswith("dtype=bf16: must be ")
    assert "bfloat16" in mistake(go, dtype=torch.bfloat16)


NUMPY = {"batch_size": np.int64(4), "eval_tokens": np.int64(50), "weight_decay": np.float64(0.1), "seed": np.int64(1)}
NUMPY |= {
    "beta1": np.float32(0.9),
    "learning_rate": np.float32(1e-3),
    "min_lr": np.float32(0),
    "max_iters": np.int32(2),
}


@pytest.mark.parametrize("name", NUMPY)
def test_a_number_of_numpy_is_trained_with_and_saved_as_python_s(go, name):
    go(figure=False, **{name: NUMPY[name]})
    value = load("out/run/ckpt.pt")["options"][name]
    assert value == NUMPY[name] and type(value) in (int, float)


def test_a_shape_in_numbers_of_numpy_is_a_shape(corpus):
    train(small(n_layer=np.int64(1)), dataset=str(corpus), max_iters=1, eval_tokens=50, out_dir="out/run")
    assert type(load("out/run/ckpt.pt")["config"]["n_layer"]) is int


def test_evaluation_stops_within_a_batch_of_a_signal():
    gpt, calls, signals = GPT(small()), [], []

    def loss_of(x, y):
        calls.append(signals.append(2) if len(calls) == 2 else None)
        return gpt(x, y)

    assert evaluate(loss_of, gpt, Split(torch.randint(256, (9000,)), 8), 4, None, PLAIN, signals) is None
    assert len(calls) == 3


def test_padding_the_vocabulary_is_allowed(corpus):
    train(small(vocab_size=320), dataset=str(corpus), max_iters=1, out_dir="out/padded")
    assert weights("padded")["embedding.weight"].shape == (320, 16)
    train(small(vocab_size=10), dataset=str(corpus), max_iters=1, out_dir="out/raised")
    assert weights("raised")["embedding.weight"].shape == (256, 16)


def test_presets_have_the_sizes_that_they_say():
    with torch.device("meta"):
        sizes = {path.stem: GPT(options_of(path)[0]).n_params() / 1e6 for path in (ROOT / "config").glob("*.toml")}
    known = {"cpu": 0.82, "gpt2": 124, "gpu": 10.7, "gpu-25m": 25.3, "race": 0.23, "missing": 0.11, "smoke": 0.03}
    assert sizes.keys() == known.keys()
    assert all(sizes[name] == pytest.approx(size, rel=0.1, abs=0.01) for name, size in known.items())


@pytest.mark.slow
def test_bare_train_prepares_the_standard_library_and_says_what_it_picks():
    done = subprocess.run(
        [sys.executable, ROOT / "train.py", "--max_iters=1", "--eval_tokens=1000"],
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert done.returncode == 0, done.stderr
    lines = done.stdout.splitlines()
    assert lines[0].startswith("no preset named: taking ") and lines[0].endswith(("cpu.toml", "gpu.toml"))
    assert lines[1].startswith("data/stdlib: ") and lines[-1].endswith("Sample it: python sample.py out/stdlib-vanilla")
    assert Path("out/stdlib-vanilla/best.pt").exists() and done.stderr == ""


def test_the_smoke_preset_trains_evaluates_and_saves(corpus):
    config, options = options_of(ROOT / "config/smoke.toml", dataset=str(corpus))
    assert train(dataclasses.replace(config, attention="differential"), **options)["val_loss"] < 5
    rows = metrics("smoke")
    assert [row["step"] for row in rows if "val_loss" in row] == [0, 25, 50] and len(rows) == 51
    assert load("out/smoke/ckpt.pt")["step"] == 50
