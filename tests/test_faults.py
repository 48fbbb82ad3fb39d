"""What protects a run: kills, signals, full disks, closed terminals, flipped bits. Nothing is lost or wrong."""

import itertools
import multiprocessing
import os
import random
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch

import plumbing.run
import train as train_py
from configurable import run
from conftest import ROOT, metrics, mistake
from model import GPTConfig
from plumbing.checkpoint import load, load_model, save
from plumbing.machine import stop_signals
from plumbing.run import locked, read_metrics
from train import train

unix = pytest.mark.skipif(os.name == "nt", reason="signals and forks of Unix")
SHAPE = {"n_layer": 1, "n_head": 2, "n_embd": 16, "block_size": 8}
SHORT = {"batch_size": 2, "max_iters": 12, "warmup_iters": 2, "eval_interval": 3, "eval_tokens": 200}
SHORT |= {"checkpoint_interval": 2, "seed": 7}
NAME = "differential"  # what is killed: saving knows no mechanism, and each goes on exactly in test_train.py

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


SAVING = {"begin", "load_start", "prepare_folder", "resume", "locked", "lock"}
SAVING |= {"save", "write_atomic", "write_text", "sync", "drawing"}


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
    """{mechanism: the state of a run that nothing happened to}, of vanilla and of NAME."""
    folder, found = tmp_path_factory.mktemp("whole"), {}
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        for name in ("vanilla", NAME):
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
def test_a_run_killed_at_random_moments_is_the_run_never_killed(corpus, whole_runs):
    options, out, draw, kills = SHAPE | SHORT | {"dataset": corpus, "attention": NAME}, Path("run"), random.Random(1), 0
    next_options = options | {"out_dir": out}
    while kills < 30 or not (out / "loss.png").exists():
        process = begin(next_options)
        if kills < 30:
            time.sleep(draw.uniform(0, 0.25))
            process.kill()
        code, said = finish(process)
        if code == 137:
            kills += 1
        else:
            assert code == 0, said
            assert same(state(out), whole_runs[NAME])
            if kills < 30:
                shutil.rmtree(out)  # done too soon: again
                next_options = options | {"out_dir": out}
                continue
        next_options = go_on(out, options)
    assert same(state(out), whole_runs[NAME])


@unix
@pytest.mark.slow
@pytest.mark.parametrize("first", (0, 20))  # two tests, which share the work
def test_a_run_killed_at_any_line_that_saves_is_the_run_never_killed(first, corpus, whole_runs):
    """At every twentieth of them, that is."""
    options, lines = SHAPE | SHORT | {"dataset": corpus, "attention": NAME}, 0
    for line in itertools.count(first, 40):
        out = Path(f"run-{line}")
        if finish(begin(options | {"out_dir": out}, die_at_line=line))[0] == 0:
            break  # it has no more lines
        lines += 1
        code, said = finish(begin(go_on(out, options)))
        assert code == 0, said
        assert same(state(out), whole_runs[NAME]), line
        assert not [*out.glob("*.part")]
    assert lines > 5


# ---------------------------------------------------------------------------- signals


@unix
@pytest.mark.parametrize(("signum", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143), (signal.SIGHUP, 129)])
@pytest.mark.parametrize("where", ["forward_backward", "evaluate", "save", "compiled"])
def test_a_signal_anywhere_saves_and_says_how_to_go_on(where, signum, code, corpus, whole_runs, monkeypatch, capsys):
    place = {"save": plumbing.run, "compiled": train_py.machine}.get(where, train_py)
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
        assert code == 2 and "File too large; what was saved there is intact" in said.splitlines()[-1], said
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
    assert "train.py: cannot write to small/run: No space left on device" in found.stderr


# ---------------------------------------------------------------------------- terminals


@pytest.fixture
def long_run(corpus):
    """long_run(stdout, stderr, session): `python train.py` that has taken twenty steps of very many."""

    def long_run(**options):
        shape = [f"--{name}={value}" for name, value in (SHAPE | {"batch_size": 2, "max_iters": 10**7}).items()]
        rare = ["--eval_interval=10000000", "--checkpoint_interval=10000000", "--eval_tokens=100"]
        command = [sys.executable, str(ROOT / "train.py"), str(ROOT / "config/smoke.toml"), *shape, *rare]
        command += [f"--dataset={corpus}", "--out_dir=out/run"]
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
@pytest.mark.parametrize(
    "signum",
    [signal.SIGTERM, *(pytest.param(s, marks=pytest.mark.slow) for s in (signal.SIGINT, signal.SIGHUP))],
)
def test_a_signal_saves_where_nothing_can_be_printed(signum, long_run):
    if not Path("/dev/full").exists():
        pytest.skip("no /dev/full, the terminal that takes nothing")
    with open("/dev/full", "w", encoding="utf-8") as full:
        process = long_run(stdout=full, stderr=full)
    process.send_signal(signum)
    assert process.wait(60) == 128 + signum
    assert_nothing_was_lost()


@pytest.mark.slow
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


# ---------------------------------------------------------------------------- checkpoints


@pytest.fixture(scope="module")
def run_of(corpus, tmp_path_factory):
    """The folder of a finished run."""
    out = tmp_path_factory.mktemp("run") / "run"
    train(GPTConfig(**SHAPE), dataset=str(corpus), out_dir=str(out), **SHORT)
    return out


def test_flipped_bits_are_found(run_of):
    content, draw = (run_of / "best.pt").read_bytes(), random.Random(0)
    for _ in range(200):
        flipped = bytearray(content)
        flipped[draw.randrange(len(content))] ^= 1 << draw.randrange(8)
        Path("bad.pt").write_bytes(flipped)
        assert mistake(load, "bad.pt") == "bad.pt is damaged, or no checkpoint of train.py"


def test_a_truncated_checkpoint_is_refused_at_every_length(run_of):
    content = (run_of / "best.pt").read_bytes()
    for length in [*range(0, len(content), 997), len(content) - 1]:
        Path("cut.pt").write_bytes(content[:length])
        assert mistake(load, "cut.pt") == "cut.pt is damaged, or no checkpoint of train.py"


def test_a_good_checkpoint_beside_a_bad_one_is_named(run_of):
    shutil.copytree(run_of, "run")
    os.truncate("run/best.pt", 1000)
    assert mistake(load, "run").endswith("run/ckpt.pt is intact")
    os.truncate("run/ckpt.pt", 1000)
    assert mistake(load, "run") == "run/best.pt is damaged, or no checkpoint of train.py"


class Bomb:
    def __reduce__(self):
        return open, ("exploded", "w")


def test_nothing_in_a_stranger_s_file_is_executed(run_of):
    with pytest.raises(TypeError, match=r"checkpoint\['model'\] is a Bomb"):
        save(Path("bomb.pt"), {"model": Bomb()})
    torch.save({"model": Bomb()}, "bomb.pt")
    assert mistake(load, "bomb.pt") == "bomb.pt is damaged, or no checkpoint of train.py"
    assert not Path("exploded").exists()
    torch.load("bomb.pt", weights_only=False)["model"].close()
    assert Path("exploded").exists()  # it was a bomb


# ---------------------------------------------------------------------------- two at once


def test_a_second_run_in_one_folder_is_refused_and_a_crash_leaves_no_lock(corpus):
    options = SHORT | {"dataset": str(corpus), "out_dir": "run"}
    with locked(Path("run/.lock"), "training in run"):
        message = mistake(train, GPTConfig(**SHAPE), **options)
        assert message == "another process is training in run: wait, or choose another --out_dir"
    train(GPTConfig(**SHAPE), **options)
    for overwrite, init_from in ((False, "scratch"), (False, "resume")):
        with locked(Path("run/.lock"), "training in run"):
            mistake(train, GPTConfig(**SHAPE), **options, overwrite=overwrite, init_from=init_from)
    assert load("run/ckpt.pt")["step"] == 12
