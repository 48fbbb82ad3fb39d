"""Nothing is lost, nothing is executed, every mistake is one line: the README's table of faults, each one injected."""

import ast
import contextlib
import hashlib
import io
import itertools
import json
import multiprocessing
import os
import pickle
import random
import re
import shutil
import signal
import string
import struct
import subprocess
import sys
import time
import zipfile
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

import lab.compare
import plumbing.run
import train as train_py
from configurable import UsageError, run
from conftest import ROOT
from lab.analyze import analyze
from lab.bench import bench
from lab.compare import compare
from lab.needles import needles
from lab.page import html, page
from lab.show import THE_FOUR
from model import GPT, GPTConfig
from plumbing.checkpoint import CHECKSUM, load, load_model, save
from plumbing.dataset import load_dataset
from plumbing.machine import stop_signals
from plumbing.run import locked, read_metrics
from prepare import Tokenizer, prepare
from sample import sample
from train import train

unix = pytest.mark.skipif(os.name == "nt", reason="signals and forks of Unix")
SHAPE = {"n_layer": 1, "n_head": 2, "n_embd": 16, "block_size": 8}
SHORT = {"batch_size": 2, "max_iters": 12, "warmup_iters": 2, "eval_interval": 3, "eval_tokens": 200}
SHORT |= {"checkpoint_interval": 2, "seed": 7}


def mistake(function, *args, **options):
    with pytest.raises(UsageError) as error:
        function(*args, **options)
    assert "\n" not in str(error.value)
    return str(error.value)


# ---------------------------------------------------------------------------- runs in processes of their own

# A child is forked from a server that has torch and the project loaded, so that a hundred of them take seconds.
if os.name != "nt":
    CHILDREN = multiprocessing.get_context("forkserver")
    CHILDREN.set_forkserver_preload(["warm"])


def child(folder, options, die_at_line, writer, room):
    """`python train.py` with `options` in `folder`; SIGKILL at a line of what saves; no file longer than `room`."""
    torch.set_num_threads(1)
    signal.signal(signal.SIGINT, signal.default_int_handler)
    os.chdir(folder)
    os.dup2(writer.fileno(), 2)  # for what C says
    sys.stdout = sys.stderr = open(writer.fileno(), "w", buffering=1, encoding="utf-8")  # noqa: SIM115
    if room is not None:
        import resource

        resource.setrlimit(resource.RLIMIT_FSIZE, (room, room))
    if die_at_line is not None:
        sys.settrace(killer(die_at_line))
    run(train, [f"--{name}={value}" for name, value in options.items()])


SAVING = {"begin", "start", "resume", "locked", "lock", "save", "write_atomic", "write_text", "<lambda>", "draw"}


def killer(left):
    """A trace function that kills the process at the `left`th line that it executes in the functions of SAVING."""

    def at_line(frame, event, arg):
        nonlocal left
        left -= event == "line"
        if left < 0:
            os.kill(os.getpid(), signal.SIGKILL)
        return at_line

    def at_call(frame, event, arg):
        code = frame.f_code
        return at_line if Path(code.co_filename).parent == ROOT / "plumbing" and code.co_name in SAVING else None

    return at_call


def begin(options, die_at_line=None, room=None):
    reader, writer = CHILDREN.Pipe(duplex=False)
    process = CHILDREN.Process(target=child, args=(os.getcwd(), options, die_at_line, writer, room))
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PYTHONPATH", os.pathsep.join(sys.path))  # for the server, which is started by the first of them
        process.start()
    writer.close()
    process.reader = reader
    return process


def finish(process):
    """(exit code as a shell gives it, what the process said)"""
    process.join(120)
    with open(process.reader.fileno(), encoding="utf-8", closefd=False) as said:
        return 128 - process.exitcode if process.exitcode < 0 else process.exitcode, said.read()


def state(out):
    """All that a finished run has computed: (rows without their speed, tensors)."""
    rows = [{k: v for k, v in row.items() if k != "tokens_per_second"} for row in read_metrics(out / "metrics.jsonl")]
    saved = load(out / "ckpt.pt")
    moments = saved["optimizer"]["state"]
    tensors = [*saved["model"].values(), *load(out / "best.pt")["model"].values()]
    return rows, [*tensors, *(t for i in sorted(moments) for t in moments[i].values())]


def same(a, b):
    return a[0] == b[0] and len(a[1]) == len(b[1]) and all(map(torch.equal, a[1], b[1]))


@pytest.fixture(scope="module")
def whole_runs(corpus, tmp_path_factory):
    """{mechanism: the state of a run that nothing happened to}."""
    folder, found = tmp_path_factory.mktemp("whole"), {}
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        for name in THE_FOUR:
            train(GPTConfig(name, **SHAPE), dataset=str(corpus), out_dir=name, **SHORT)
            found[name] = state(Path(name))
    return found


def go_on(out, options):
    """Check what a kill left in `out`, and give the options that go on with it."""
    interval, good = options["checkpoint_interval"], [p for p in (out / "ckpt.pt", out / "best.pt") if p.exists()]
    for path in good:
        load_model(path)
    if out / "ckpt.pt" not in good:
        return options | {"out_dir": out, "overwrite": "true"}
    done = [row["step"] for row in read_metrics(out / "metrics.jsonl")]
    assert done == list(range(len(done)))
    assert len(done) - load(out / "ckpt.pt")["step"] <= interval  # steps that are repeated
    return options | {"out_dir": out, "init_from": "resume"}


@unix
@pytest.mark.slow
@pytest.mark.parametrize("name", THE_FOUR)
def test_a_run_killed_at_random_moments_is_the_run_never_killed(name, corpus, whole_runs):
    options, out, draw, kills = SHAPE | SHORT | {"dataset": corpus, "attention": name}, Path("run"), random.Random(1), 0
    next_options = options | {"out_dir": out}
    while kills < 26 or not (out / "loss.png").exists():
        process = begin(next_options)
        if kills < 26:
            time.sleep(draw.uniform(0, 0.25))
            process.kill()
        code, said = finish(process)
        if code == 137:
            kills += 1
        else:
            assert code == 0, said
            assert same(state(out), whole_runs[name])
            if kills < 26:
                shutil.rmtree(out)  # done too soon: again
                next_options = options | {"out_dir": out}
                continue
        next_options = go_on(out, options)
    assert same(state(out), whole_runs[name])


@unix
@pytest.mark.slow
@pytest.mark.parametrize("part", range(4))
def test_a_run_killed_at_any_line_that_saves_is_the_run_never_killed(part, corpus, whole_runs):
    """At every third of them, that is, the mechanisms taking turns."""
    name, lines = THE_FOUR[part], 0
    options = SHAPE | SHORT | {"dataset": corpus, "attention": name}
    for line in itertools.count(3 * part, 12):
        out = Path(f"run-{line}")
        if finish(begin(options | {"out_dir": out}, die_at_line=line))[0] == 0:
            break  # it has no more lines
        lines += 1
        code, said = finish(begin(go_on(out, options)))
        assert code == 0, said
        assert same(state(out), whole_runs[name]), line
        assert not [*out.glob("*.part")]
    assert lines > 20


# ---------------------------------------------------------------------------- signals


@unix
@pytest.mark.parametrize(("signum", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143), (signal.SIGHUP, 129)])
@pytest.mark.parametrize("where", ["forward_backward", "evaluate", "save", "compiled"])
def test_a_signal_anywhere_saves_and_says_how_to_go_on(where, signum, code, corpus, whole_runs, monkeypatch, capsys):
    place = plumbing.run if where == "save" else train_py
    original, left = getattr(place, where), [2 if where != "compiled" else 1]

    def interrupted(*args, **options):
        left[0] -= 1
        if left[0] == 0:
            os.kill(os.getpid(), signum)
        return original(*args, **options)

    options = SHORT | {"dataset": str(corpus), "out_dir": "run"}
    with monkeypatch.context() as patch, pytest.raises(SystemExit) as stopped:
        patch.setattr(place, where, interrupted)
        train(GPTConfig(**SHAPE), **options)
    assert stopped.value.code == code
    assert "Go on: python train.py run/config.toml --init_from=resume" in capsys.readouterr().out
    train(GPTConfig(**SHAPE), **options, init_from="resume")
    assert same(state(Path("run")), whole_runs["vanilla"])


@unix
@pytest.mark.parametrize("where", ["forward_backward", "evaluate", "torch.save", "os.replace"])
def test_a_second_ctrl_c_stops_at_once_without_harm(where, corpus, whole_runs, monkeypatch):
    place, _, name = where.rpartition(".")
    place = {"": train_py, "torch": torch, "os": os}[place]
    original, left = getattr(place, name), [7 if name == "replace" else 4]

    def interrupted(*args, **options):
        left[0] -= 1
        if left[0] == 0:
            os.kill(os.getpid(), signal.SIGINT)
            os.kill(os.getpid(), signal.SIGINT)
        return original(*args, **options)

    options = SHORT | {"dataset": str(corpus), "out_dir": "run"}
    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(place, name, interrupted)
        train(GPTConfig(**SHAPE), **options)
    assert not [*Path("run").glob(".*.part")]
    train(GPTConfig(**SHAPE), **options, init_from="resume")
    assert same(state(Path("run")), whole_runs["vanilla"])


def test_what_nohup_ignores_stays_ignored(monkeypatch):
    if os.name == "nt":
        pytest.skip("no SIGHUP")
    before = signal.signal(signal.SIGHUP, signal.SIG_IGN)
    try:
        with stop_signals() as seen:
            os.kill(os.getpid(), signal.SIGHUP)
        assert seen == [] and signal.getsignal(signal.SIGHUP) == signal.SIG_IGN
    finally:
        signal.signal(signal.SIGHUP, before)


# ---------------------------------------------------------------------------- disks


@unix
@pytest.mark.slow
def test_a_disk_that_is_full_leaves_the_last_good_checkpoint(corpus, whole_runs):
    options = SHAPE | SHORT | {"dataset": corpus, "out_dir": "run"}
    assert finish(begin(options | {"max_iters": 4, "lr_decay_iters": 12}))[0] == 0
    shutil.copytree("run", "good")
    size = Path("run/ckpt.pt").stat().st_size
    for room in [0, 1, 100, *range(1000, size, size // 12), size - 1]:
        shutil.rmtree("run")
        shutil.copytree("good", "run")
        code, said = finish(begin(options | {"init_from": "resume"}, room=room))
        assert code == 2 and "File too large; what was saved in run is intact" in said.splitlines()[-1], said
        assert "Traceback" not in said
        assert load("run/ckpt.pt")["step"] >= 4 and load_model("run/best.pt")
        assert not [*Path("run").glob(".*.part")]
        assert finish(begin(options | {"init_from": "resume"}))[0] == 0
        assert same(state(Path("run")), whole_runs["vanilla"]), room


@unix
@pytest.mark.slow
def test_a_file_system_without_room_is_one_line(corpus):
    program = f"{sys.executable} {ROOT / 'train.py'} --dataset={corpus} --out_dir=small/run --max_iters=4 --n_embd=64"
    mount = "mount -t tmpfs -o size=64k none small && "
    Path("small").mkdir()
    if subprocess.run(["unshare", "-rm", "sh", "-c", mount + "true"], capture_output=True).returncode:
        pytest.skip("no right to mount a small file system")
    found = subprocess.run(["unshare", "-rm", "sh", "-c", mount + program], capture_output=True, text=True)
    assert found.returncode == 2 and found.stderr.count("\n") == 1
    assert "train.py: cannot write small/run: No space left on device" in found.stderr


def test_a_folder_that_takes_nothing_is_one_line(corpus, tmp_path):
    Path("file").write_text("in the way")
    options = SHORT | {"dataset": str(corpus)}
    message = mistake(train, GPTConfig(**SHAPE), **options, out_dir="file/run")
    assert message.startswith("cannot write file/run: Not a directory")
    if os.name != "nt" and os.geteuid():
        Path("locked").mkdir(mode=0o500)
        message = mistake(train, GPTConfig(**SHAPE), **options, out_dir="locked/run")
        assert message.startswith("cannot write locked/run: Permission denied")


def test_a_folder_that_vanishes_is_one_line(corpus, monkeypatch):
    original = train_py.forward_backward

    def vanish(*args):
        shutil.rmtree("run", ignore_errors=True)
        return original(*args)

    monkeypatch.setattr(train_py, "forward_backward", vanish)
    message = mistake(train, GPTConfig(**SHAPE), **SHORT, dataset=str(corpus), out_dir="run")
    assert message.startswith("cannot write run/.ckpt.pt.part: No such file or directory")


# ---------------------------------------------------------------------------- bad checkpoints


@pytest.fixture(scope="module")
def run_of(corpus, tmp_path_factory):
    """The folder of a small finished run."""
    folder = tmp_path_factory.mktemp("run")
    train(GPTConfig("differential", **SHAPE), dataset=str(corpus), out_dir=str(folder / "run"), **SHORT)
    return folder / "run"


def readers(path):
    """What a user does with a checkpoint: each function gives what it is answered."""
    yield lambda: load_model(path)
    yield lambda: sample(str(path), max_new_tokens=1)
    yield lambda: analyze(str(path), text="hello")


def test_a_truncated_checkpoint_is_refused_at_every_length(run_of):
    content = (run_of / "ckpt.pt").read_bytes()
    lengths = [*range(0, len(content), 1024), *range(len(content) - 200, len(content))]
    for length in lengths:
        Path("cut.pt").write_bytes(content[:length])
        assert "its end is missing" in mistake(load, "cut.pt")
    assert len(lengths) > 250


def test_flipped_bits_are_found(run_of):
    content, draw = (run_of / "best.pt").read_bytes(), random.Random(0)
    for _ in range(500):
        bit = draw.randrange(8 * len(content))
        flipped = bytearray(content)
        flipped[bit // 8] ^= 1 << bit % 8
        Path("flipped.pt").write_bytes(flipped)
        assert re.match("flipped.pt is (damaged|no checkpoint)", mistake(load, "flipped.pt"))


def test_a_good_checkpoint_beside_a_bad_one_is_named(run_of):
    shutil.copytree(run_of, "run")
    Path("run/ckpt.pt").write_bytes(b"")
    Path("run/a-bad.pt").write_bytes(b"")
    assert mistake(load, "run/ckpt.pt").endswith("or its end is missing; run/best.pt is intact")
    Path("run/best.pt").write_bytes(b"")
    assert mistake(load, "run").endswith("its end is missing")
    options = {**SHORT, "dataset": "nowhere"}
    assert "intact" not in mistake(train, GPTConfig(**SHAPE), **options, out_dir="run", init_from="resume")


class Evil:
    def __reduce__(self):
        return os.mkdir, ("executed",)


def signed(path, write):
    """A file that `write(file)` fills, with the checksum that `save` gives its own."""
    content = io.BytesIO()
    write(content)
    with contextlib.suppress(OSError):
        content.seek(-2, os.SEEK_END)
        content.write(struct.pack("<H", len(CHECKSUM) + 64))
    digest = hashlib.sha256(content.getvalue()).hexdigest()
    Path(path).write_bytes(content.getvalue() + CHECKSUM + digest.encode())


def plain_pickle(file):
    pickle.dump({"model": Evil()}, file)


def torch_pickle(file):
    torch.save({"model": Evil(), "config": {}}, file)


def old_torch_pickle(file):
    torch.save({"model": Evil()}, file, _use_new_zipfile_serialization=False)


def zip_of_nothing(file):
    with zipfile.ZipFile(file, "w") as archive:
        archive.writestr("data.pkl", pickle.dumps(Evil()))


def nanogpts(file):
    args = {"n_layer": 1, "n_head": 2, "n_embd": 16, "block_size": 8, "bias": False, "vocab_size": 50304}
    torch.save(
        {"model": {}, "optimizer": {}, "model_args": args, "iter_num": 1, "best_val_loss": 9, "config": {}}, file
    )


@pytest.mark.parametrize("write", [plain_pickle, torch_pickle, old_torch_pickle, zip_of_nothing, nanogpts])
@pytest.mark.parametrize("with_checksum", [False, True])
def test_nothing_in_a_stranger_s_file_is_executed(write, with_checksum):
    if with_checksum:  # as a stranger would who has read train.py
        signed("evil.pt", write)
    else:
        with open("evil.pt", "wb") as file:
            write(file)
    for read in readers("evil.pt"):
        assert mistake(read).startswith("evil.pt is no checkpoint of train.py")
    assert not Path("executed").exists()
    pickle.loads(pickle.dumps(Evil()))
    assert Path("executed").exists()  # so would it have been


def test_neither_a_folder_nor_nothing_is_a_checkpoint():
    Path("empty").mkdir()
    for path in ("empty", "nothing.pt", "a\0b.pt", "x" * 300):
        for read in readers(path):
            assert mistake(read).startswith("no checkpoint ")


def edits(checkpoint):
    """(what was done, a checkpoint that no train.py wrote) again and again."""
    values = [None, "x", -1, 10**12, 0.5, [], {}, {"n_layer": "x"}, float("nan")]
    for name in ("config", "tokenizer", "model", "step", "best", "data", "options"):
        yield f"no {name}", {k: v for k, v in checkpoint.items() if k != name}
        for value in values:
            yield f"{name} = {value!r}", checkpoint | {name: value}
    for name in checkpoint["config"]:
        for value in values:
            yield f"config.{name} = {value!r}", checkpoint | {"config": checkpoint["config"] | {name: value}}
    for name, tensor in checkpoint["model"].items():
        weights = checkpoint["model"]
        for value in (None, 3, tensor[:1], tensor.bool(), tensor * float("nan")):
            yield f"{name} = {value}", checkpoint | {"model": weights | {name: value}}
        yield f"no {name}", checkpoint | {"model": {k: v for k, v in weights.items() if k != name}}
    for frozen in ({"name": "gpt2"}, {"name": "gpt2", "pat_str": "(", "mergeable_ranks": "", "special_tokens": {}}):
        yield f"tokenizer = {frozen}", checkpoint | {"tokenizer": frozen}
    for name in ("blocks.7.x", 7):
        yield f"also {name}", checkpoint | {"model": checkpoint["model"] | {name: torch.ones(1)}}


@pytest.mark.slow
def test_a_checkpoint_of_another_version_is_a_sample_or_one_line(run_of, capsys):
    """Everything in it may be otherwise: its checksum is right."""
    refused = 0
    for i, (what, checkpoint) in enumerate(edits(load(run_of / "best.pt"))):
        save(Path("edited.pt"), checkpoint)
        load_it, sample_it, analyze_it = readers("edited.pt")
        try:
            for read in (load_it, sample_it, *([analyze_it] if i % 5 == 0 else ())):  # which takes longest
                read()
        except UsageError as error:
            refused += 1
            assert "\n" not in str(error) and "edited.pt" in str(error), what
        except Exception as error:
            pytest.fail(f"{what}: {error!r}")
    assert refused > 100


def edits_to_resume(saved):
    """(what was done, a ckpt.pt that no train.py wrote) again and again; each of them must be refused."""
    values = [None, "x", -5, [], {}, float("nan")]
    moments = saved["optimizer"]["state"]
    for name in ("seconds", "best", "optimizer", "step", "options"):
        yield f"no {name}", {k: v for k, v in saved.items() if k != name}
        for value in values:
            if not (name == "best" and value is None) and not (name == "seconds" and isinstance(value, float)):
                yield f"{name} = {value!r}", saved | {name: value}
    for part in ("config", "options"):
        for name in ("vocab_size",) if part == "config" else ("init_from",):
            yield f"no {part}.{name}", saved | {part: {k: v for k, v in saved[part].items() if k != name}}
    yield "no moments", saved | {"optimizer": saved["optimizer"] | {"state": {}}}
    for name in ("step", "exp_avg", "exp_avg_sq"):
        for value in (None, "x", moments[0][name].new_ones(3), moments[0][name].new_ones(9999)):
            wrong = moments | {0: moments[0] | {name: value}}
            yield f"{name} = {value}", saved | {"optimizer": saved["optimizer"] | {"state": wrong}}
        yield f"no {name}", saved | {"optimizer": saved["optimizer"] | {"state": moments | {0: {}}}}


def test_a_run_is_not_resumed_from_what_no_train_py_wrote(run_of, corpus):
    """Moments of another shape a fused step would read beyond their end."""
    options = SHORT | {"dataset": str(corpus), "out_dir": "run", "init_from": "resume", "max_iters": 13}
    shutil.copytree(run_of, "run")
    for what, checkpoint in edits_to_resume(load("run/ckpt.pt")):
        save(Path("run/ckpt.pt"), checkpoint)
        assert re.match(
            "cannot resume run|run/ckpt.pt ", mistake(train, GPTConfig("differential", **SHAPE), **options)
        ), what


ODD_LINES = [
    "5",
    "{}",
    "[1]",
    '{"step": null}',
    '{"step": "x"}',
    "[" * 200_000,
    '{"step": 0, "val_loss": "x"}',
    "{",
    "",
]
ODD_LINES += ['{"step": 0, "train_loss": NaN}', '{"step": 0, "lam": null}', "\udcff"]


@pytest.mark.parametrize("place", [0, 1, 99])
def test_lines_that_are_no_metrics_cost_no_others(place, run_of, corpus, capsys):
    options = SHORT | {"dataset": str(corpus), "out_dir": "run", "init_from": "resume", "max_iters": 13}
    lines = (run_of / "metrics.jsonl").read_text().splitlines()
    for odd in ODD_LINES:
        shutil.copytree(run_of, "run", dirs_exist_ok=True)
        text = "\n".join([*lines[:place], odd, *lines[place:]])
        Path("run/metrics.jsonl").write_bytes(text.encode("utf-8", "surrogateescape"))
        train(GPTConfig("differential", **SHAPE), **options)
        assert [row["step"] for row in read_metrics("run/metrics.jsonl")] == list(range(14))
    assert "lacks" not in capsys.readouterr().out
    analyze("run", text="hello")
    shutil.copytree(run_of, "run", dirs_exist_ok=True)
    Path("run/metrics.jsonl").unlink()
    capsys.readouterr()
    train(GPTConfig("differential", **SHAPE), **options)
    assert "run/metrics.jsonl lacks 12 of the 12 steps so far" in capsys.readouterr().out


# ---------------------------------------------------------------------------- bad data


@pytest.fixture
def data(corpus):
    """A copy of the corpus to do harm to: its folder."""
    return Path(shutil.copytree(corpus, "data/copy"))


def train_on(folder, **options):
    return train(GPTConfig(**SHAPE), **SHORT | {"dataset": str(folder), "out_dir": "run", "max_iters": 2} | options)


@pytest.mark.parametrize("part", ["train", "val"])
def test_damaged_tokens_are_found(part, data):
    path = data / f"{part}.bin"
    good = path.read_bytes()
    flipped = bytes([good[0] ^ 1]) + good[1:]
    for bad in (b"", good[:1], good[:-1], good + b"x", flipped):
        path.write_bytes(bad)
        assert re.match(r"data/copy is damaged \(ValueError: .*\); prepare it again", mistake(train_on, data))
    path.unlink()
    assert mistake(train_on, data).startswith("data/copy is damaged (FileNotFoundError")
    path.mkdir()
    assert mistake(train_on, data).startswith("data/copy is damaged (")


def meta_edits(meta):
    values = [None, "x", "uint8", "float32", "object", "<u4", -1, 0, 0.5, 10**30, [], {}, True, float("nan")]
    yield from values
    for name in meta:
        yield {k: v for k, v in meta.items() if k != name}
        for value in values:
            yield meta | {name: value}
    for part in ("train", "val"):
        for name in meta[part]:
            yield meta | {part: {k: v for k, v in meta[part].items() if k != name}}
            for value in values:
                yield meta | {part: meta[part] | {name: value}}
    for record in values:
        yield meta | {"record": record}
        yield meta | {"record": {"length": record, "scored": [1]}}
        yield meta | {"record": {"length": 8, "scored": record}}
        yield meta | {"record": {"length": 8, "scored": [record]}}


def test_a_meta_json_by_another_hand_is_a_run_or_one_line(data):
    refused, meta = 0, json.loads((data / "meta.json").read_text())
    for edited in meta_edits(meta):
        (data / "meta.json").write_text(json.dumps(edited))
        try:
            train_on(data, overwrite=True, max_iters=0)
        except UsageError as error:
            refused += 1
            assert "data/copy" in str(error) or "block_size=8 must be" in str(error), edited
        except Exception as error:
            pytest.fail(f"{edited}: {error!r}")
    assert refused > 100
    for text in (b"", b"{", b"\xff\xfe", b"[" * 100_000):
        (data / "meta.json").write_bytes(text)
        assert mistake(train_on, data).startswith("data/copy is damaged (")


@pytest.mark.parametrize("frozen", ["", "{", "5", "[]", '{"name": "gpt2"}', '{"name": "bytes2"}', "[" * 100_000])
def test_a_tokenizer_json_by_another_hand_is_refused(frozen, data):
    (data / "tokenizer.json").write_text(frozen)
    assert re.match(r"data/copy(/tokenizer.json has a| is damaged)", mistake(train_on, data))


def test_a_tokenizer_that_is_not_the_one_the_data_were_made_with_is_refused(data, tiny):
    Path("words.txt").write_text("other words " * 300)
    folder = prepare("words.txt", tokenizer="gpt2")
    shutil.copy(folder / "tokenizer.json", data)
    assert "tokenizer.json is of gpt2, meta.json of bytes" in mistake(train_on, data)
    (folder / "tokenizer.json").unlink()
    assert "tokenizer.json is of bytes, meta.json of gpt2" in mistake(train_on, folder)


def test_needles_that_nobody_made_are_refused(run_of):
    saved = load(run_of / "best.pt")
    for task in ("x", {}, {"n_needles": 1}, {"n_needles": 1, "n_queries": 1, "length": 10**9}, {"n_needles": "1"}):
        save(Path("needles.pt"), saved | {"data": saved["data"] | {"needles": task}})
        assert "needles of which no context can be made" in mistake(analyze, "needles.pt", text="hello")


def test_a_text_given_twice_is_taken_once():
    Path("notes").mkdir()
    for name in "ab":
        Path("notes", name).write_text(f"the notes {name} " * 20)
    folder = prepare("notes", "notes/a", "notes/../notes/b", name="twice")
    text = b"".join((folder / f"{part}.bin").read_bytes() for part in ("train", "val"))
    assert len(text) <= sum(path.stat().st_size for path in Path("notes").iterdir()) + 2


def test_data_that_changed_since_the_run_began_are_refused(data):
    train_on(data)
    Path("words.txt").write_text("other words " * 300)
    shutil.rmtree(data)
    prepare("words.txt", name="copy")
    message = mistake(train_on, data, init_from="resume", max_iters=4)
    assert message.startswith("cannot resume run: train.bin was ")


def test_data_deleted_while_training_are_not_missed(data, monkeypatch):
    original = train_py.forward_backward

    def delete(*args):
        shutil.rmtree(data, ignore_errors=True)
        return original(*args)

    monkeypatch.setattr(train_py, "forward_backward", delete)
    assert train_on(data, max_iters=6)["val_loss"] > 0


def test_a_short_text_is_explained_or_trained_on(capsys):
    for size in (*range(1, 24, 2), 60):
        Path("short.txt").write_text("x" * size)
        try:
            prepare("short.txt")
            train_on("short", overwrite=True)
        except UsageError as error:
            assert re.search(r"too short|too few for block_size=8", str(error))
    assert Path("run/loss.png").exists()


TEXTS = {
    "bom": b"\xef\xbb\xbfa text with a mark before it " * 9,
    "crlf": b"lines of\r\nWindows\r\n" * 20,
    "lone surrogate": b"\xed\xa0\x80 half a character" * 20,
    "name with spaces and ünïcode \U0001f642": b"some words " * 30,
    "one long line": b"no end in sight " * 100_000,
}


@pytest.mark.parametrize("name", TEXTS)
def test_any_text_comes_back_as_it_was(name):
    Path(f"{name}.txt").write_bytes(TEXTS[name])
    folder = prepare(f"{name}.txt")
    parts = [np.fromfile(folder / f"{part}.bin", np.uint8).tobytes() for part in ("train", "val")]
    assert b"".join(parts) == TEXTS[name]
    assert train_on(folder, max_iters=1)["val_loss"] > 0


@pytest.mark.slow
def test_a_hundred_megabytes_on_one_line(tiny):
    Path("line.txt").write_bytes(random.Random(0).randbytes(1000).hex().encode() * 50_000)
    for tokenizer in ("bytes", "gpt2"):
        folder = prepare("line.txt", tokenizer=tokenizer, name=f"line-{tokenizer}")
        meta = json.loads((folder / "meta.json").read_text())
        assert meta["train"]["bytes"] + meta["val"]["bytes"] == 100_000_000
        tokens = load_dataset(str(folder), "cpu").val.tokens
        assert (
            Tokenizer.named(tokenizer).decode(tokens[-500:].tolist()).encode() in Path("line.txt").read_bytes()[-9999:]
        )


def test_what_is_no_text_is_one_line():
    Path("binary.txt").write_bytes(bytes(range(256)) * 9)
    assert mistake(prepare, "binary.txt") == "binary.txt is not text: it holds a NUL byte"
    assert re.match("no file or folder a\0b|cannot read", mistake(prepare, "a\0b"))
    if os.name != "nt":
        os.mkfifo("pipe")
        assert mistake(prepare, "pipe") == "pipe is neither a file nor a folder"
        Path("loop").mkdir()
        for name in ("self", "again"):
            Path("loop", name).symlink_to(Path("loop").resolve(), target_is_directory=True)
        Path("loop/end").symlink_to("end")
        assert mistake(prepare, "loop").startswith("no text in folder loop")
        Path("loop/a.txt").write_text("a text " * 20)
        assert prepare("loop").name == "loop"


@unix
def test_two_that_prepare_one_dataset_both_end_well():
    Path("a.txt").write_text("some words " * 2000)
    program = [sys.executable, ROOT / "prepare.py", "a.txt"]
    both = [subprocess.Popen(program, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE) for _ in range(3)]
    assert [(p.communicate()[1], p.returncode) for p in both] == [(b"", 0)] * 3
    assert train_on("a", max_iters=1)["val_loss"] > 0 and [p.name for p in Path("data").iterdir()] == ["a"]


# ---------------------------------------------------------------------------- bad options

WORDS = ["", " ", "0", "-0", "1", "-1", "2", "0.5", "1e-30", "1e30", "-1e30", "inf", "-inf", "nan", "none", "true", "x"]
WORDS += ["9" * 23, "1,2", ",", "a/b", "..", "/", "\0", "\ud800", "é\U0001f642", "$HOME", "%s", "{}", "'\"\n", "-"]
RISKY = {
    *["max_iters", "max_new_tokens", "num_samples", "n_contexts", "n_val_contexts", "windows", "jobs", "device", "peer"]
}
TINY = [f"--{name}={value}" for name, value in (SHAPE | {"batch_size": 2, "max_iters": 1, "eval_tokens": 50}).items()]


def programs(corpus, checkpoint):
    """{name: (function, words that make it short)}"""
    tiny_runs = [*TINY, f"--dataset={corpus}"]
    return {
        "train": (train, tiny_runs),
        "sample": (sample, [str(checkpoint), "--max_new_tokens=2"]),
        "prepare": (prepare, ["words.txt"]),
        "needles": (needles, ["--n_contexts=3", "--n_val_contexts=2"]),
        "analyze": (analyze, [str(checkpoint), "--tokens=64", "--windows=1", f"--dataset={corpus}"]),
    }


@settings(max_examples=60, deadline=None, suppress_health_check=list(HealthCheck), derandomize=True)
@given(st.data())
@pytest.mark.parametrize("name", ["train", "sample", "prepare", "needles", "analyze"])
def test_any_options_are_a_run_or_one_line(name, corpus, run_of, capsys, data):
    Path("words.txt").write_text("some words " * 20)
    function, argv = programs(corpus, run_of)[name]
    options = sorted({*function.__kwdefaults__, *(GPTConfig.__dataclass_fields__ if name == "train" else ())})
    argv = [*argv, *(["--overwrite=true"] if name == "train" else [])]
    for option in data.draw(st.lists(st.sampled_from(options), min_size=1, max_size=3, unique=True)):
        words = [w for w in WORDS if option not in RISKY or ("9" not in w and "e30" not in w)]
        argv.append(f"--{option}={data.draw(st.sampled_from(words) | st.text(string.printable, max_size=4))}")
    capsys.readouterr()
    try:
        run(function, argv)
    except SystemExit as ended:
        said = capsys.readouterr().err
        assert ended.code == 2 and said.count("\n") == 1 and said.startswith((f"{name}.py: ", f"lab.{name}: ")), argv


@pytest.mark.parametrize("function", [compare, bench])
@settings(max_examples=60, deadline=None, suppress_health_check=list(HealthCheck), derandomize=True)
@given(st.data())
def test_any_options_of_what_is_long_are_understood_or_one_line(function, capsys, data):
    """compare.py and bench.py: with a dataset that is not there, nothing is trained."""
    option = data.draw(st.sampled_from(sorted({*function.__kwdefaults__} - RISKY)))
    argv = ["--dataset=nowhere" if function is compare else "--parts=nothing"]
    argv.append(f"--{option}={data.draw(st.sampled_from(WORDS))}")
    capsys.readouterr()
    with pytest.raises(SystemExit) as ended:
        run(function, argv)
    said = capsys.readouterr().err
    assert ended.value.code == 2 and said.count("\n") == 1, argv


def said_by(function, argv, capsys):
    """The one line that `run` says, before it ends with 2."""
    capsys.readouterr()
    with pytest.raises(SystemExit) as ended:
        run(function, argv)
    said = capsys.readouterr().err
    assert ended.value.code == 2 and said.count("\n") == 1 and said[:-1].isprintable()
    return said


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("seed = " + "[" * 100_000, "not a TOML file"),
        ("seed = 0x" + "f" * 20_000, "more digits than Python writes"),
        ('out_dir = "a\\u0000b"', "without a NUL"),
        ('out_dir = "a\\u001bb"', "without control characters"),
        ('"\\u001b[2J" = 1', "there is no option"),
        ("max_iters = 9223372036854775808", "max_iters must be int"),
        ("eval_interval = 1" + "0" * 700, "eval_interval must be int"),
    ],
)
def test_a_preset_by_another_hand_is_one_line(text, message, corpus, capsys):
    Path("odd.toml").write_text(text)
    assert message in said_by(train, [f"--dataset={corpus}", "--out_dir=run", *TINY, "odd.toml"], capsys)
    assert not Path("run").exists()


def test_every_config_toml_can_be_read_again(corpus):
    for name in ("a\x7fb", "'\"\\", "#$%", "é\U0001f642"):
        if name.isprintable():
            run(train, [*TINY, f"--dataset={corpus}", f"--out_dir={name}"])
            run(train, [f"{name}/config.toml", "--overwrite=true"])
        else:
            with pytest.raises(SystemExit):
                run(train, [*TINY, f"--dataset={corpus}", f"--out_dir={name}"])


def test_more_than_there_is_memory_for_is_one_line(corpus, capsys):
    for option in ("batch_size", "gradient_accumulation_steps", "n_embd", "vocab_size"):
        argv = [*TINY, f"--dataset={corpus}", "--out_dir=run", "--overwrite=true", f"--{option}={10**18}"]
        assert "out of memory: halve batch_size=" in said_by(train, argv, capsys)


@pytest.mark.parametrize("ranks", ["x", "", "0", "-1", "2"])
def test_an_odd_number_of_processes_is_one_line(ranks, corpus, capsys, monkeypatch):
    monkeypatch.setenv("WORLD_SIZE", ranks)
    argv = [*TINY, f"--dataset={corpus}", "--gradient_accumulation_steps=2"]
    assert f"WORLD_SIZE={ranks}" in said_by(train, argv, capsys)


@pytest.mark.parametrize("device", ["hpu", "privateuseone", "mkldnn", "cuda:99", "x", ""])
def test_a_device_that_is_not_there_is_one_line(device, run_of, capsys):
    assert f"device={device}: " in said_by(sample, [str(run_of), f"--device={device}"], capsys)


def test_rates_that_are_nearly_equal_are_two_runs(corpus, monkeypatch):
    seen = []
    monkeypatch.setattr(lab.compare, "run_all", lambda out, runs, data, jobs: seen.extend(runs) or ({}, 2))
    with pytest.raises(SystemExit):
        compare(
            learning_rates=(1e-3, 1.0000000001e-3), seeds=(1,), attentions=("vanilla",), dataset=str(corpus), **SHAPE
        )
    assert len({*seen}) == 2


def test_measured_steps_by_another_hand_are_refused(corpus):
    Path("out").mkdir()
    for text in ("{", "{}", "5", '{"asked": 1}', "[" * 100_000):
        Path("out/steps.json").write_text(text)
        options = SHAPE | {"dataset": str(corpus), "equal": "time", "out_dir": "out"}
        assert mistake(compare, **options).startswith("out/steps.json is of other mechanisms, jobs or options")


def test_closed_streams_stop_nothing(run_of, monkeypatch):
    monkeypatch.setattr(sys, "stdout", None)
    monkeypatch.setattr(sys, "stderr", None)
    assert run(sample, [str(run_of), "--max_new_tokens=2"])
    with pytest.raises(SystemExit) as ended:
        run(sample, ["nowhere"])
    assert ended.value.code == 2
    sys.stdout.close(), sys.stderr.close()


# ---------------------------------------------------------------------------- numbers


@pytest.mark.parametrize("where", ["loss", "gradient", "weights"])
@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_a_number_that_is_none_stops_the_run_and_keeps_the_last_good_save(where, value, corpus, monkeypatch):
    original, left = train_py.forward_backward, [6]

    def poisoned(loss_of, *args):
        left[0] -= 1
        if left[0] == 0 and where == "weights":
            with torch.no_grad():
                next(loss_of.parameters())[0] = value
        loss = original(loss_of, *args)
        if left[0] == 0 and where == "gradient":
            next(p for p in loss_of.parameters()).grad[0] = value
        return loss * value if left[0] == 0 and where == "loss" else loss

    with monkeypatch.context() as patch:
        patch.setattr(train_py, "forward_backward", poisoned)
        message = mistake(train, GPTConfig(**SHAPE), **SHORT, dataset=str(corpus), out_dir="run")
    if where == "weights" and value == float("inf"):
        assert re.match(r"step \d+: loss", message)  # the loss may stay finite for a while: an unused token's row
    else:
        assert message.startswith("step 5: loss ") and message.endswith("is the last good save, of step 4")
    assert load("run/ckpt.pt")["step"] == 4 and load_model("run")


def test_a_validation_loss_that_is_none_stops_the_run(corpus, monkeypatch):
    monkeypatch.setattr(train_py, "evaluate", lambda *args: float("nan"))
    message = mistake(train, GPTConfig(**SHAPE), **SHORT, dataset=str(corpus), out_dir="run")
    assert message.startswith("step 0: validation loss nan. Lower learning_rate")
    assert message.endswith("nothing was saved") and not Path("run/ckpt.pt").exists()


@pytest.mark.parametrize("name", THE_FOUR)
@pytest.mark.parametrize("rate", [1e30, 1e39])
@pytest.mark.parametrize("rest", [{}, {"warmup_iters": 0, "eval_interval": 99}, {"warmup_iters": 0, "max_iters": 1}])
def test_a_learning_rate_that_explodes_is_one_line(name, rate, rest, corpus):
    if rate < 1e39 and "max_iters" in rest:
        pytest.skip("one such step ends at numbers, if at no good ones")
    options = SHORT | rest | {"learning_rate": rate, "checkpoint_interval": 1}
    message = mistake(train, GPTConfig(name, **SHAPE), **options, dataset=str(corpus), out_dir="run")
    assert re.match(r"step \d+: (loss|the update|validation) .* Lower learning_rate", message)
    assert load_model("run/ckpt.pt") and load_model("run")


@pytest.mark.parametrize("name", THE_FOUR)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
@pytest.mark.parametrize("fused", [True, False])
@pytest.mark.parametrize("size", [1e-30, 1e4])
def test_extreme_scores_give_numbers(name, dtype, fused, size):
    """Also in one-token contexts, where softmax1 may give nearly nothing and differential 1 − λ."""
    torch.manual_seed(0)
    attention = GPT(GPTConfig(name, **SHAPE, fused=fused)).blocks[0].attention.to(dtype)
    x = torch.randn(2, 8, 16, dtype=dtype)
    with torch.no_grad():
        attention.qkv.weight.mul_(min(size, 1e3 if dtype == torch.float16 else size))
        for part in (x, x[:, :1]):
            A, y = attention.map(part), attention(part)
            assert A.isfinite().all() and y.isfinite().all()
            assert (A.abs().sum(-1) <= (1 + attention.lam.abs().item() if name == "differential" else 1) + 0.02).all()


@pytest.mark.parametrize("lam", [0.0, 1.0, 1.7, -0.5])
def test_any_lambda_trains(lam, corpus):
    torch.manual_seed(0)
    gpt = GPT(GPTConfig("differential", **SHAPE))
    for block in gpt.blocks:
        block.attention.lam_init += lam - block.attention.lam.item()
        assert block.attention.lam.item() == pytest.approx(lam, abs=1e-5)
    x = torch.randint(256, (2, 8))
    sums = gpt.blocks[0].attention.map(torch.randn(2, 8, 16)).sum(-1)
    torch.testing.assert_close(sums, torch.full_like(sums, 1 - lam), atol=1e-5, rtol=0)
    gpt(x, x).backward()
    assert all(p.grad.isfinite().all() for p in gpt.parameters())


def test_a_window_of_one_token_trains(corpus):
    for name in THE_FOUR:
        found = train(GPTConfig(name, **SHAPE | {"block_size": 1}), **SHORT, dataset=str(corpus), out_dir=name)
        assert found["val_loss"] < 6


# ---------------------------------------------------------------------------- two at once


@unix
def test_a_second_run_in_one_folder_is_refused_and_a_crash_leaves_no_lock(corpus):
    options = SHAPE | SHORT | {"dataset": corpus, "out_dir": "run", "max_iters": 10**6}
    first = begin(options)
    while not Path("run/ckpt.pt").exists():
        time.sleep(0.02)
    code, said = finish(begin(options | {"overwrite": "true"}))
    assert code == 2 and said.endswith("another process is training in run: wait, or choose another --out_dir\n")
    assert first.is_alive() and len(read_metrics("run/metrics.jsonl")) > 0
    first.kill()
    assert finish(first)[0] == 137
    assert finish(begin(options | {"init_from": "resume", "max_iters": load("run/ckpt.pt")["step"] + 1}))[0] == 0


def test_a_run_gives_its_folder_back(corpus):
    for end in ("forward_backward", None):
        with pytest.MonkeyPatch.context() as patch, contextlib.suppress(ZeroDivisionError):
            if end:
                patch.setattr(train_py, end, lambda *args: 1 / 0)
            train_on(corpus, overwrite=True)
    with locked(Path("run/.lock"), "training in run"), pytest.raises(UsageError):
        train_on(corpus, overwrite=True)


def test_a_run_that_begins_slowly_replaces_no_other(corpus, run_of, monkeypatch):
    """It has the lock before it asks whether a run is there, and reads the weights that it starts from."""
    original, refused = plumbing.run.load, []

    def slowly(*args):
        refused.append(mistake(train_on, corpus))
        return original(*args)

    monkeypatch.setattr(plumbing.run, "load", slowly)
    train(GPTConfig("differential", **SHAPE), **SHORT, dataset=str(corpus), out_dir="run", init_from=str(run_of))
    assert refused == ["another process is training in run: wait, or choose another --out_dir"]


def test_a_run_that_is_refused_leaves_no_folder(corpus):
    assert "must be scratch, resume or a checkpoint" in mistake(train_on, corpus, init_from="nowhere")
    assert "no checkpoint" in mistake(train_on, corpus, init_from="resume")
    assert not Path("run").exists()


# ---------------------------------------------------------------------------- what a stranger writes

NASTY = [
    "",
    "\x1b[2J\x1b]0;title\x07",
    "\u202eright to left",
    "a\0b",
    "\ud800",
    "é\U0001f642" * 50,
    "x" * 5000,
    "\r\n\t\v",
    "<b>&",
]


@pytest.mark.parametrize("prompt", NASTY)
def test_any_prompt_is_continued_and_drives_no_terminal(prompt, run_of, monkeypatch):
    written = io.StringIO()
    written.isatty = lambda: True
    monkeypatch.setattr(sys, "stdout", written)
    monkeypatch.setattr("sample.read_prompt", lambda *given: prompt)  # which as a word may not have a NUL
    (text,) = run(sample, [str(run_of), "--max_new_tokens=30"])
    assert all(c.isprintable() or c in "\n\t" for c in written.getvalue())
    assert len(text.encode("utf-8", "replace")) >= 30


def test_a_prompt_file_is_taken_byte_by_byte(run_of):
    for content in (b"a\r\nb", b"\xff\xfe\0", b""):
        Path("prompt").write_bytes(content)
        (text,) = sample(str(run_of), prompt_file="prompt", max_new_tokens=1)
        assert text.encode("utf-8", "replace").startswith(content.decode(errors="replace").encode())


@pytest.mark.parametrize("temperature", [0.0, 5e-324, 1e-45, 1e-38, 1e-30, 1e300])
def test_any_temperature_draws(temperature, run_of):
    assert sample(str(run_of), temperature=temperature, max_new_tokens=3)


@pytest.mark.parametrize("text", [*NASTY[1:5], "<script>", "</script", "<b>&lt;", "'\"\\\u2028"])
def test_a_page_holds_any_text_as_text(text, run_of):
    page(str(run_of), text=text, out="page.html", tokens=20)
    written, template = Path("page.html").read_text(encoding="utf-8"), html({})
    for mark in ("<script", "</script", "<b>", "\u202e", "\u2028", "\x1b"):
        assert written.count(mark) == template.count(mark)


# ---------------------------------------------------------------------------- other platforms


def test_no_encoding_is_left_to_the_platform():
    for path in {*ROOT.glob("*.py"), *ROOT.glob("[a-z]*/*.py")} - {*ROOT.glob("tests/*")}:
        for call in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(call, ast.Call):
                name = getattr(call.func, "id", "") or f".{getattr(call.func, 'attr', '')}"
                words = [word.value for word in call.args if isinstance(word, ast.Constant)]
                binary = name == "open" and any("b" in word for word in words[-1:])
                if name in ("open", ".read_text", ".write_text") and not binary:
                    assert any(k.arg == "encoding" for k in call.keywords), f"{path.name}:{call.lineno}"


# ---------------------------------------------------------------------------- the long run, and twice the same


@unix
@pytest.mark.slow
def test_twenty_thousand_steps_take_no_more_memory_files_or_time_than_a_thousand(corpus, monkeypatch):
    import resource

    original, seen = train_py.forward_backward, []

    def watched(*args):
        if (step := watched.calls) % 1000 == 0:
            handles = len(os.listdir("/proc/self/fd")) if Path("/proc/self/fd").exists() else 0
            pages = int(Path("/proc/self/statm").read_text().split()[1]) if handles else 0
            seen.append((step, time.process_time(), handles, pages * resource.getpagesize() / 2**20))
        watched.calls += 1
        return original(*args)

    watched.calls = 0
    monkeypatch.setattr(train_py, "forward_backward", watched)
    options = SHORT | {"max_iters": 20_001, "eval_interval": 500, "checkpoint_interval": 500}
    train(GPTConfig(**SHAPE), **options, dataset=str(corpus), out_dir="run")
    steps, times, handles, megabytes = (np.array(column) for column in zip(*seen[1:], strict=True))
    slope = np.polyfit(steps / 1000, megabytes, 1)[0]
    pace = np.diff(times)
    slower = np.median(pace[-5:]) / np.median(pace[:5])
    print(f"RSS {slope:+.3f} MB a thousand steps; the last five thousand took {slower:.2f} of the first")
    assert len({*handles}) == 1 and slope < 0.2 and slower < 1.5


@pytest.mark.parametrize("name", THE_FOUR)
def test_the_same_command_twice_gives_the_same_run(name, corpus, whole_runs):
    train(GPTConfig(name, **SHAPE), **SHORT, dataset=str(corpus), out_dir="again")
    assert same(state(Path("again")), whole_runs[name])


def test_deterministic_kernels_are_asked_for_and_give_the_same_run(corpus, whole_runs):
    try:
        train(GPTConfig(**SHAPE), **SHORT, deterministic=True, dataset=str(corpus), out_dir="run")
        assert torch.are_deterministic_algorithms_enabled()
    finally:
        torch.use_deterministic_algorithms(False)
    assert same(state(Path("run")), whole_runs["vanilla"])
