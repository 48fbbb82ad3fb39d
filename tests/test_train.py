"""The promises of a run: exact, repeatable, resumable, and honest about what went wrong."""

import hashlib
import itertools
import json
import math
import os
import re
import shutil
import signal
import struct
import subprocess
import sys
import time
import tomllib
import zipfile
from dataclasses import asdict
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

import train as train_py
from configurable import UsageError, parse
from model import ATTENTION, GPT, GPTConfig
from prepare import Tokenizer, needles, prepare
from train import (
    batch,
    evaluate,
    load,
    load_model,
    make_optimizer,
    read_metrics,
    save,
    schedule,
    stop_signals,
    train,
    write_whole,
)

every = pytest.mark.parametrize("name", ATTENTION)
ROOT = Path(train_py.__file__).parent


def small(**options):
    return GPTConfig(**{"n_layer": 2, "n_embd": 16, "n_head": 2, "block_size": 8} | options)


@pytest.fixture
def go(corpus):
    """train() of a small model for a few steps, in out/NAME; gives the rows of metrics.jsonl without their speed."""

    def go(out="run", attention="vanilla", dropout=0.0, **options):
        options = {
            "max_iters": 6,
            "warmup_iters": 2,
            "eval_interval": 3,
            "batch_size": 4,
            "checkpoint_interval": 2,
        } | options
        options = {"dataset": str(corpus), "out_dir": f"out/{out}"} | options
        train(small(attention=attention, dropout=dropout), **options)
        return metrics(out)

    return go


def metrics(out):
    rows = [json.loads(line) for line in Path(f"out/{out}/metrics.jsonl").read_text().splitlines()]
    return [{k: v for k, v in row.items() if k != "tokens_per_second"} for row in rows]


def weights(out, file="ckpt.pt"):
    return load(f"out/{out}/{file}")["model"]


def same(a, b):
    return a.keys() == b.keys() and all(torch.equal(a[k], b[k]) for k in a)


def mistake(function, *args, **options):
    with pytest.raises(UsageError) as error:
        function(*args, **options)
    return str(error.value)


# ---------------------------------------------------------------------------- a run is a function of options and seed


@every
def test_training_lowers_the_loss(go, name):
    rows = go(attention=name, max_iters=60, eval_interval=60, learning_rate=1e-2)
    first, last = rows[0]["val_loss"], rows[-1]["val_loss"]
    assert first == pytest.approx(math.log(256), abs=0.1)
    assert last < 2.9


@pytest.fixture
def signal_at(monkeypatch):
    """signal_at(step, signum): the process gets that signal while it computes that step's gradient, once."""
    original, plan = train_py.gradient, {}

    def gradient(*args):
        plan["step"] -= 1
        if plan["step"] == -1:
            os.kill(os.getpid(), plan["signum"])
        return original(*args)

    def at(step, signum=signal.SIGINT):
        plan.update(step=step, signum=signum)
        monkeypatch.setattr(train_py, "gradient", gradient)

    return at


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


def test_a_run_that_was_killed_repeats_what_it_had_not_saved(go, monkeypatch):
    whole, original = go("whole", dropout=0.2), train_py.batch

    def killed(tokens, n, block_size, seed, step, record):
        if step == 5:
            raise MemoryError("as good as a power cut: the checkpoint is of step 4, metrics.jsonl ends at 4")
        return original(tokens, n, block_size, seed, step, record)

    monkeypatch.setattr(train_py, "batch", killed)
    mistake(go, "parts", dropout=0.2)
    monkeypatch.setattr(train_py, "batch", original)
    assert load("out/parts/ckpt.pt")["step"] == 4 and len(metrics("parts")) == 5
    assert go("parts", dropout=0.2, init_from="resume") == whole
    assert same(weights("parts"), weights("whole"))


def test_resuming_takes_this_command_s_options(go):
    go(max_iters=3)
    go(init_from="resume", weight_decay=0.0, beta2=0.5)
    groups = load("out/run/ckpt.pt")["optimizer"]["param_groups"]
    assert [g["weight_decay"] for g in groups] == [0.0, 0.0] and groups[0]["betas"] == (0.9, 0.5)


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
    x, y = batch(tokens, 5, 8, seed=3, step=7)
    assert x.shape == y.shape == (5, 8) and x.dtype == torch.int64
    assert (y == x + 1).all() and (x[:, 1:] == x[:, :-1] + 1).all()
    assert torch.equal(batch(tokens, 5, 8, 3, 7)[0], x)
    assert torch.equal(batch(tokens.numpy().astype(np.uint16), 5, 8, 3, 7)[0], x)  # as where it is memory-mapped
    for seed, step in ((3, 8), (4, 7), (7, 3)):
        assert not torch.equal(batch(tokens, 5, 8, seed, step)[0], x)


def test_batches_reach_the_first_and_the_last_token():
    tokens = torch.arange(10)
    x, y = batch(tokens, 500, 8, 0, 0)
    assert x.min() == 0 and y.max() == 9
    assert set(x[:, 0].tolist()) == {0, 1}


def test_a_large_split_stays_on_disk_and_trains_the_same(go, monkeypatch):
    memory = go("a")
    monkeypatch.setattr(train_py, "IN_MEMORY", 10)
    assert go("b") == memory


# ---------------------------------------------------------------------------- evaluation


@pytest.mark.parametrize("n", [2, 8, 9, 10, 32, 33, 34, 300])
def test_evaluation_predicts_every_token_once_in_order(n):
    torch.manual_seed(0)
    gpt, tokens = GPT(small(dropout=0.5)), torch.randint(256, (n,), dtype=torch.int32)
    found = evaluate(gpt, gpt, tokens, 4, 8)
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
    part, whole = evaluate(gpt, gpt, tokens, 4, 8, 50), evaluate(gpt, gpt, tokens, 4, 8)
    assert part == evaluate(gpt, gpt, tokens[:51], 4, 8) != whole
    assert torch.equal(torch.get_rng_state(), before)


@pytest.fixture
def records():
    """(the folder of a dataset of records, what its meta.json says of them)."""
    folder = needles(n_needles=2, n_queries=2, length=48, n_contexts=40, n_val_contexts=11)
    return folder, json.loads((folder / "meta.json").read_text())["record"]


def test_of_a_record_only_its_answers_count(records):
    folder, record = records
    tokens = torch.from_numpy(np.fromfile(folder / "train.bin", np.uint8).astype(np.int32))
    whole = {bytes(r.to(torch.uint8).tolist()) for r in tokens.view(-1, 48)}
    for step in range(20):
        x, y = batch(tokens, 3, 48, 1, step, record)
        for a, b in zip(x, y, strict=True):
            text = bytes(a.tolist())
            assert text in whole  # a window is a record
            counted = [i for i, target in enumerate(b.tolist()) if target >= 0]
            assert bytes(b[counted].tolist()) == text[-9:-6] + text[-3:]  # of ...?AB123?CD456
            assert counted == [i - 1 for i in record["scored"]]


def test_the_loss_of_records_is_the_mean_over_all_answers(records):
    folder, record = records
    tokens = torch.from_numpy(np.fromfile(folder / "val.bin", np.uint8).astype(np.int32))
    torch.manual_seed(0)
    gpt = GPT(GPTConfig(block_size=48, n_layer=1, n_head=2, n_embd=8)).eval()
    with torch.no_grad():
        p = gpt(tokens.view(-1, 48).long()).log_softmax(-1)
    answers = [-p[r, i - 1, tokens[48 * r + i]].item() for r in range(11) for i in record["scored"]]
    for batch_size in (1, 4, 11, 16):
        assert evaluate(gpt, gpt, tokens, batch_size, 48, record=record) == pytest.approx(np.mean(answers), rel=1e-5)


def test_records_are_trained_on(records):
    options = {"dataset": "needles", "max_iters": 4, "eval_interval": 2, "out_dir": "out/run"}
    train(small(block_size=48), **options)
    assert [row["step"] for row in read_metrics("out/run/metrics.jsonl")] == [0, 1, 2, 3, 4]
    with pytest.raises(UsageError) as error:
        train(small(block_size=32), **options)
    assert str(error.value) == "data/needles is made of records of 48 tokens: block_size=32 must be 48"
    with pytest.raises(UsageError) as error:
        train(small(block_size=48), **options, eval_tokens=47)
    assert str(error.value) == "eval_tokens=47: data/needles is made of records of 48 tokens, give as many"


def test_bits_a_byte_compare_across_tokenizers(go, corpus):
    row = go()[-1]
    assert row["val_bits_per_byte"] == pytest.approx(row["val_loss"] / math.log(2))  # a byte a token
    other = Path(shutil.copytree(corpus, "data/two"))
    meta = json.loads((other / "meta.json").read_text())
    meta["val"]["bytes"] *= 4
    (other / "meta.json").write_text(json.dumps(meta))
    row = go("b", dataset="two")[-1]
    assert row["val_bits_per_byte"] == pytest.approx(row["val_loss"] / math.log(2) / 4)


# ---------------------------------------------------------------------------- optimisation


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


# ---------------------------------------------------------------------------- what a run leaves


def test_a_run_leaves_these_files(go):
    rows = go(attention="differential")
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
    args, options = parse(train, ["out/run/config.toml", "--out_dir=out/again"])
    train(*args, **options)
    assert metrics("again") == first
    there, here = (tomllib.loads(Path(f"out/{out}/config.toml").read_text()) for out in ("run", "again"))
    assert there | {"out_dir": ""} == here | {"out_dir": ""} and len(there) == len(parse_options())


def parse_options():
    return [*asdict(GPTConfig()), *train.__kwdefaults__]


def test_a_run_is_not_overwritten_unless_told_to(go):
    first = go()
    message = mistake(go)
    assert message == "out/run holds a run: --init_from=resume goes on with it, --overwrite=true replaces it"
    assert metrics("run") == first
    assert go(overwrite=True, seed=5) != first
    Path("out/notes").mkdir()
    Path("out/notes/mine.txt").write_text("keep")
    go("notes")
    go("notes", overwrite=True)
    assert Path("out/notes/mine.txt").read_text() == "keep"


def test_resuming_another_run_is_refused_with_the_differences(go, corpus, tiny):
    go()
    message = mistake(go, attention="softmax1", init_from="resume")
    assert message == "cannot resume out/run: attention was vanilla, is softmax1"
    Path("other.txt").write_text("other words " * 300)
    prepare("other.txt", tokenizer="gpt2", name="other")
    message = mistake(go, dataset="other", init_from="resume")
    assert message.startswith("cannot resume out/run: vocab_size was 256, is ")
    assert "; tokenizer was bytes, is gpt2; train.bin was " in message
    with pytest.raises(UsageError, match="n_layer was 2, is 3"):
        train(small(n_layer=3), dataset=str(corpus), out_dir="out/run", init_from="resume")


def test_resuming_says_which_options_changed(go, capsys):
    go()
    go(init_from="resume", max_iters=7)
    assert "out/run goes on with other options: max_iters 6 -> 7\n" in capsys.readouterr().out


def test_resuming_nothing_is_explained(go):
    assert mistake(go, "gone", init_from="resume").startswith("no checkpoint out/gone/ckpt.pt")
    assert not Path("out/gone").exists()


def test_fine_tuning_starts_from_the_other_run_s_weights(go, corpus):
    go("first")
    go("second", init_from="out/first/best.pt", max_iters=0)
    assert same(weights("second"), weights("first", "best.pt"))
    assert load("out/second/ckpt.pt")["step"] == 0
    train(small(block_size=16), dataset=str(corpus), init_from="out/first", max_iters=0, out_dir="out/longer")
    for source in ("out/first", "out/first/best.pt"):
        message = mistake(go, "first", init_from=source, overwrite=True)
        assert (
            message == f"init_from={source} lies in out_dir=out/first, which would be emptied: choose another --out_dir"
        )
    message = mistake(train, small(n_embd=32), dataset=str(corpus), init_from="out/first", out_dir="out/x")
    assert message == "cannot start from out/first: n_embd was 16, is 32"


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


# ---------------------------------------------------------------------------- checkpoints


def test_a_checkpoint_is_read_without_executing_and_carries_what_it_needs(go, corpus):
    go()
    plain = torch.load("out/run/ckpt.pt", weights_only=True)
    assert plain["config"] == asdict(small()) and plain["options"]["batch_size"] == 4
    assert plain["data"] == json.loads((corpus / "meta.json").read_text())
    assert set(plain["versions"]) == {"python", "torch", "numpy"} and "commit" in plain
    assert Tokenizer.thaw(plain["tokenizer"]).decode([72, 105]) == "Hi"
    gpt, _ = load_model("out/run/ckpt.pt")
    assert not gpt.training and same(gpt.state_dict(), plain["model"])


def test_its_checksum_can_be_checked_by_hand(go):
    go()
    content = Path("out/run/ckpt.pt").read_bytes()
    comment = zipfile.ZipFile("out/run/ckpt.pt").comment
    assert comment.split()[-1].decode() == hashlib.sha256(content[: -len(comment)]).hexdigest()
    assert struct.unpack("<H", content[-len(comment) - 2 : -len(comment)]) == (len(comment),)


def test_damaged_and_foreign_files_are_one_line_that_names_them(go):
    go()
    content = Path("out/run/best.pt").read_bytes()
    bad = Path("bad.pt")
    for cut in (0, 1, 79, 80, 81, 1000, len(content) // 2, len(content) - 1):
        bad.write_bytes(content[:cut])
        assert mistake(load, bad) == "bad.pt is no checkpoint of train.py, or its end is missing"
    draw = np.random.default_rng(0)
    for position in draw.integers(len(content) - 80, size=50):
        flipped = bytearray(content)
        flipped[position] ^= 1 << draw.integers(8)
        bad.write_bytes(flipped)
        assert mistake(load, bad) == "bad.pt is damaged: its checksum is not the one it was saved with"
    torch.save({"model": {}}, bad)
    assert mistake(load, bad) == "bad.pt is no checkpoint of train.py, or its end is missing"
    assert mistake(load, "out") == "no checkpoint out/best.pt: No such file or directory"


class Bomb:
    def __reduce__(self):
        return open, ("exploded", "w")


def test_a_checkpoint_that_would_execute_code_does_not(go):
    save(Path("bomb.pt"), {"model": Bomb()})
    assert mistake(load, "bomb.pt").startswith("bomb.pt is no checkpoint of train.py")
    assert not Path("exploded").exists()
    torch.load("bomb.pt", weights_only=False)["model"].close()
    assert Path("exploded").exists()  # it was a bomb


def test_a_file_appears_whole_or_not_at_all():
    path = Path("x")
    write_whole(path, lambda file: file.write(b"old"))

    def fail(file):
        file.write(b"ne")
        raise OSError("disk full")

    with pytest.raises(OSError, match="disk full"):
        write_whole(path, fail)
    assert path.read_bytes() == b"old" and list(Path().iterdir()) == [path]


# ---------------------------------------------------------------------------- what goes wrong


@pytest.mark.parametrize("where", ["loss", "gradient"])
def test_nan_stops_before_the_update(go, monkeypatch, where):
    original = train_py.gradient

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
    monkeypatch.setattr(train_py, "gradient", poisoned)
    message = mistake(go)
    assert message.endswith("out/run/ckpt.pt is the last good save, of step 4")
    assert message.startswith("step 4: loss ") and "at learning rate 0.0005: stopped before the update" in message
    assert ("loss nan" if where == "loss" else "gradient norm inf") in message
    assert load("out/run/ckpt.pt")["step"] == 4 and all(p.isfinite().all() for p in weights("run").values())
    assert [row["step"] for row in metrics("run")] == [0, 1, 2, 3]


def test_out_of_memory_says_what_to_halve(go, monkeypatch):
    def full(*args):
        raise torch.OutOfMemoryError("CUDA out of memory")

    monkeypatch.setattr(train_py, "gradient", full)
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
    assert out.count("torch.compile failed (RuntimeError: no C++ compiler); going on without it") == 1


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
    for name in ATTENTION:
        plain, fast = go(f"{name}a", attention=name), go(f"{name}b", attention=name, compile=True)
        for a, b in zip(plain, fast, strict=True):
            assert b.get("train_loss", 0) == pytest.approx(a.get("train_loss", 0), rel=1e-4)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"batch_size": 0}, "batch_size=0: must be at least 1"),
        ({"max_iters": -1}, "max_iters=-1: must be at least 0"),
        ({"learning_rate": math.inf}, "learning_rate=inf: must be at least 0 and finite"),
        ({"beta2": 1.0}, "beta2=1.0: must be at least 0 and less than 1"),
        ({"grad_clip": 0.0}, "grad_clip=0.0: must be more than 0; none leaves gradients as they are"),
        ({"eval_tokens": 0}, "eval_tokens=0: must be at least 1"),
        ({"seed": -1}, "seed=-1: must be at least 0"),
        ({"device": "gpu"}, "device=gpu: "),
        ({"dataset": "stdlb"}, "no dataset data/stdlb: there is none yet; python prepare.py makes one"),
        ({"init_from": "resum"}, "init_from=resum: must be scratch, resume or a checkpoint (did you mean resume?)"),
        ({"device": "meta"}, "device=meta: "),
    ],
)
def test_options_out_of_range_are_explained(go, options, message):
    assert mistake(go, **options).startswith(message)
    assert not Path("out").exists()


def test_a_dataset_may_be_named_by_its_folder(go, corpus):
    shutil.copytree(corpus, "data/hamlet")
    assert go("a", dataset="hamlet") == go("b", dataset="data/hamlet") == go("c", dataset="data/hamlet/")
    shutil.copytree(corpus, "hamlet2")
    assert mistake(go, "d", dataset="hamlet2").startswith("no dataset data/hamlet2")


def test_a_checkpoint_of_another_model_py_is_explained(go, monkeypatch):
    monkeypatch.setitem(ATTENTION, "mine", type("Mine", (ATTENTION["temperature"],), {}))
    go(attention="mine")
    monkeypatch.delitem(ATTENTION, "mine")
    assert "best.pt is of another model.py: attention='mine': must be one of" in mistake(
        load_model, Path("out/run/best.pt")
    )
    go("vanilla")
    monkeypatch.setitem(ATTENTION, "vanilla", ATTENTION["temperature"])
    with pytest.raises(UsageError, match=r"(?s)is of another model.py: .*Missing key"):
        load_model("out/vanilla/best.pt")


def test_progress_is_printed_where_there_is_no_terminal(go, capsys):
    go(max_iters=101, eval_interval=200)
    lines = [line for line in capsys.readouterr().out.splitlines() if "left" in line]
    assert [line.split(":")[0] for line in lines] == ["step 50", "step 100"]
    assert "tokens/s" in lines[0] and "loss " in lines[0]


def test_a_missing_dataset_offers_the_nearest(go, corpus):
    shutil.copytree(corpus, "data/hamlet")
    message = mistake(go, dataset="hamlt")
    assert message == "no dataset data/hamlt (did you mean hamlet?): there is hamlet; python prepare.py makes one"


def test_a_damaged_dataset_is_explained(go, corpus):
    folder = Path(shutil.copytree(corpus, "data/bad"))
    (folder / "val.bin").write_bytes((folder / "val.bin").read_bytes()[:-2])
    assert mistake(go, dataset="bad").startswith("data/bad is damaged (ValueError: val.bin has ")
    folder = Path(shutil.copytree(corpus, "data/wild"))
    meta = json.loads((folder / "meta.json").read_text())
    (folder / "meta.json").write_text(json.dumps(meta | {"vocab_size": ord("w")}))
    assert "train.bin has token 119, vocab_size is 119" in mistake(go, dataset="wild")
    (folder / "meta.json").write_text("{")
    assert mistake(go, dataset="wild").startswith("data/wild is damaged (JSONDecodeError")


def test_a_text_shorter_than_a_window_is_explained(corpus):
    message = mistake(train, small(block_size=100_000), dataset=str(corpus))
    assert "tokens to train on: too few for block_size=100000" in message


def test_padding_the_vocabulary_is_allowed(corpus):
    train(small(vocab_size=320), dataset=str(corpus), max_iters=1, out_dir="out/padded")
    assert weights("padded")["embedding.weight"].shape == (320, 16)
    train(small(vocab_size=10), dataset=str(corpus), max_iters=1, out_dir="out/raised")
    assert weights("raised")["embedding.weight"].shape == (256, 16)


# ---------------------------------------------------------------------------- the command


def test_presets_are_read_and_have_the_shape_that_they_say():
    counts = {}
    for path in sorted((ROOT / "config").glob("*.toml")):
        (config,), _ = parse(train, [str(path)])
        counts[path.stem] = GPT(config).n_params() / 1e6
    assert counts == {
        "cpu": pytest.approx(0.82, abs=0.02),
        "gpt2": pytest.approx(124, abs=1),
        "gpu": pytest.approx(10.7, abs=0.3),
        "needles": pytest.approx(0.11, abs=0.01),
        "needles-gpu": pytest.approx(25, abs=1),
        "race": pytest.approx(0.23, abs=0.01),
    }


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


@pytest.mark.slow
def test_the_cpu_preset_learns_tiny_shakespeare_s_kind_of_text_with_every_mechanism(corpus):
    (config,), options = parse(train, [str(ROOT / "config/cpu.toml"), f"--dataset={corpus}", "--max_iters=60"])
    for name in ATTENTION:
        summary = train(GPTConfig(**asdict(config) | {"attention": name}), **options)
        assert summary["val_loss"] < 1.5, name


# ---------------------------------------------------------------------------- several processes


@pytest.fixture
def torchrun(corpus):
    """torchrun(option, ...): two processes that train on the CPU, into out/run."""

    def torchrun(*options):
        command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node=2"]
        shape = ["--n_layer=2", "--n_embd=16", "--n_head=2", "--block_size=8"]
        steps = ["--gradient_accumulation_steps=4", "--batch_size=2", "--warmup_iters=2", "--checkpoint_interval=10"]
        where = [f"--dataset={corpus}", "--out_dir=out/run", "--device=cpu"]
        command += [str(ROOT / "train.py"), str(ROOT / "config/cpu.toml"), *shape, *steps, *where, *options]
        environment = os.environ | {"OMP_NUM_THREADS": "1"}
        return subprocess.Popen(
            command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, start_new_session=True
        )

    return torchrun


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
    message = "gradient_accumulation_steps=3: 2 processes share a step's micro-batches, so it must be a multiple of 2"
    assert mistake(go, gradient_accumulation_steps=3) == message


def test_one_of_several_processes_lists_every_signal(monkeypatch, capfd):
    monkeypatch.setattr(train_py.dist, "is_initialized", lambda: True)
    monkeypatch.setattr(train_py.dist, "get_rank", lambda: 0)
    with stop_signals() as seen:
        for _ in range(2):  # the terminal's, and the same once more from torchrun
            os.kill(os.getpid(), signal.SIGINT)
    assert seen == [signal.SIGINT, signal.SIGINT]
    assert capfd.readouterr().err == "\nstopping after this step\n"
