"""The folder of a run, out/<name>: what train.py leaves there, and how a run that was stopped is resumed.

ckpt.pt    the latest state, to resume from         metrics.jsonl   a line per step, in JSON
best.pt    that of the lowest validation loss       config.toml     all options
loss.png   the losses, drawn
"""

import contextlib
import hashlib
import inspect
import io
import json
import math
import os
import platform
import subprocess
import sys
import time
import warnings
from pathlib import Path

import numpy as np
import torch
from tqdm import tqdm

from configurable import UsageError, nearest, to_toml
from model import ATTENTION
from plumbing import machine
from plumbing.checkpoint import is_intact, load, save, sync, write_atomic, write_text
from prepare import same_data

ROOT = Path(__file__).parent.parent
SHAPE = ("attention", "vocab_size", "n_layer", "n_head", "n_embd")  # of a config: weights of another do not fit


class Run:
    """One run. `begin` locks its folder, opens metrics.jsonl and shows a progress bar; leaving `with` closes all three.

    Of several processes rank 0 writes and prints; in the others the same calls do nothing.
    """

    def __init__(self, folder, options):
        self.folder, self.options = folder, options
        self.writes = machine.rank() == 0
        self.open = contextlib.ExitStack()

    def __enter__(self):
        return self

    def __exit__(self, *error):
        return self.open.__exit__(*error)

    def begin(self, about):
        """Make the folder ready. Returns the checkpoint to begin with, None from scratch. Raises UsageError.

        about: what every checkpoint of this run says of it. Its options are this run's, and record the source that the
        run began with, also where it is resumed.
        """
        resumes = self.options["init_from"] == "resume"
        with machine.rank_0_first():
            if self.writes:
                self.open.enter_context(locked(self.folder / ".lock", f"training in {self.folder}"))
            old = self.load_start(about, resumes)
            self.options["overwrite"] = False
            if self.writes:
                self.prepare_folder(old if resumes else None)
        self.open_log(old if resumes else {"step": 0, "seconds": 0})
        self.saved = old["step"] if resumes else None  # the step of the last checkpoint
        return old

    def load_start(self, about, resumes):
        """The checkpoint that --init_from names, None for scratch. Raises UsageError where it does not fit."""
        source = self.options["init_from"]
        if self.writes and not resumes and not self.options["overwrite"] and any(self.folder.glob("*.pt")):
            ways = "--init_from=resume continues it, --overwrite=true replaces it"
            raise UsageError(f"{self.folder} holds a run: {ways}, --out_dir=NAME keeps it")
        if source == "scratch":
            return None
        old = load(self.folder / "ckpt.pt" if resumes else existing(source))
        self.check_fits(old, about, resumes)
        if resumes:
            self.resume(old)
        return old

    def prepare_folder(self, old):
        """Leave in the folder what belongs to a new run or, to resume, to the checkpoint `old`."""
        rows = []
        if old:
            rows = [row for row in read_metrics(self.folder / "metrics.jsonl") if row["step"] < old["step"]]
        else:
            for name in ("ckpt.pt", "best.pt", "loss.png"):
                (self.folder / name).unlink(missing_ok=True)
        write_text(self.folder / "config.toml", to_toml(self.options))
        write_text(self.folder / "metrics.jsonl", "".join(map(to_line, rows)))

    def open_log(self, old):
        """Open metrics.jsonl and a progress bar, and start the clock, where `old` stopped."""
        path = self.folder / "metrics.jsonl" if self.writes else os.devnull
        self.metrics = self.open.enter_context(open(path, "a", encoding="utf-8"))  # noqa: SIM115  closed with the run
        hidden = None if self.writes else True  # none: tqdm hides it where there is no terminal
        total, name = self.options["max_iters"], self.folder.name
        self.bar = self.open.enter_context(
            tqdm(total=total, initial=old["step"], desc=name, unit="step", disable=hidden)
        )
        self.began = time.perf_counter() - old["seconds"]
        self.pace_from = None  # (steps done, time) from which the pace is measured: after the first step, then 50 later

    def check_fits(self, old, about, resumes):
        """Raises UsageError where the checkpoint `old` has another shape or tokenizer or, to resume, other data."""
        mine, theirs, names = about["config"], old["config"], [*SHAPE] + ["block_size"] * resumes
        if theirs["attention"] == getattr(ATTENTION[mine["attention"]], "begins_as", None):
            names.remove("attention")
        changed = [f"{name} was {theirs[name]}, is {mine[name]}" for name in names if theirs[name] != mine[name]]
        if resumes:
            changed += [same_data(old["data"], about["data"])]
        elif old["tokenizer"] != about["tokenizer"]:
            changed += [f"the tokenizer was {old['data']['tokenizer']}, is {about['data']['tokenizer']}"]
        if changed := "; ".join(filter(None, changed)):
            what = f"resume {self.folder}" if resumes else f"start from {self.options['init_from']}"
            raise UsageError(f"cannot {what}: {changed}")

    def resume(self, old):
        """Say what is different now; forget a best that is of another measure, or whose best.pt is damaged or gone."""
        self.options["init_from"] = old["options"]["init_from"]
        before = old["options"] | {name: self.options[name] for name in ("out_dir", "overwrite", "device")}
        changed = {k: f"{k} {before.get(k)} -> {v}" for k, v in self.options.items() if before.get(k) != v}
        if changed:
            self.say(f"{self.folder} is resumed with other options: {', '.join(changed.values())}")
        if old["best"] and ("eval_tokens" in changed or not is_intact(self.folder / "best.pt")):
            old["best"] = None
            self.say("the best evaluation so far does not count: it read other tokens, or best.pt is damaged or gone")

    @property
    def seconds(self):
        """How long the run has trained, also before it was resumed."""
        return time.perf_counter() - self.began

    # ------------------------------------------------------------------------ what it leaves

    def log(self, row):
        """Add a row of numbers to metrics.jsonl; of a step also to the progress bar or, every 50 steps, the output."""
        self.metrics.write(to_line(row))
        self.metrics.flush()
        if "train_loss" not in row:
            return
        step, loss, speed = row["step"], row["train_loss"], row["tokens_per_second"]
        self.bar.set_postfix_str(f"loss {loss:.3f}, {speed:,} tokens/s", refresh=False)
        self.bar.update()
        now = step + 1, time.perf_counter()
        if self.pace_from is None:
            self.pace_from = now
        elif self.bar.disable and step % 50 == 0:
            pace = (now[1] - self.pace_from[1]) / (now[0] - self.pace_from[0])  # seconds per step, with evaluations
            self.pace_from = now
            left = tqdm.format_interval(pace * (self.options["max_iters"] - step - 1))
            tokens = math.prod(self.options[k] for k in ("batch_size", "gradient_accumulation_steps", "block_size"))
            self.say(f"step {step}: loss {loss:.3f}, {tokens / pace:,.0f} tokens/s, {left} left")

    def save(self, name, checkpoint):
        """Write a checkpoint into the folder, once all its rows are on the disk."""
        if self.writes:
            sync(self.metrics)
            save(self.folder / name, checkpoint)
        self.saved = checkpoint["step"] if name == "ckpt.pt" else self.saved

    def check_finite(self, step, what, *numbers):
        """Raises UsageError, which says `what` there is, where one of `numbers` is nan or inf: the run has diverged."""
        if not all(map(math.isfinite, numbers)):
            last = f"{self.folder}/ckpt.pt is the last good save, of step {self.saved}"
            kept = "nothing was saved" if self.saved is None else last
            raise UsageError(f"step {step}: {what}. Lower learning_rate or raise warmup_iters; {kept}")

    def say(self, text):
        """Print a line, above the progress bar where there is one."""
        if self.writes:
            bar = getattr(self, "bar", None)
            machine.print_if_possible(text, print if bar is None or bar.disable else bar.write)

    def plot(self, title):
        """Draw loss.png: the losses of metrics.jsonl against steps."""
        if not self.writes:
            return
        rows = read_metrics(self.folder / "metrics.jsonl")
        with drawing(self.folder / "loss.png", 7, 4.5) as (_, (axes,)):
            for name, style in (
                ("train_loss", {"lw": 0.6, "color": "0.6"}),
                ("val_loss", {"marker": "o", "ms": 4, "color": "k", "ls": ""}),
            ):
                points = [(row["step"], row[name]) for row in rows if name in row]
                axes.plot([x for x, _ in points], [y for _, y in points], label=name.partition("_")[0], **style)
            axes.set(xlabel="step", ylabel="loss (nats per token)")
            axes.set_title(title, parse_math=False)
            axes.legend()


def existing(source):
    """The path that --init_from names. Raises UsageError where there is nothing."""
    if not os.path.exists(source):
        hint = nearest(source, ("scratch", "resume"))
        raise UsageError(f"init_from={source}: must be scratch, resume, or a run or checkpoint of train.py{hint}")
    return source


@contextlib.contextmanager
def locked(path, doing):
    """Locks the file `path` until `with` or the process ends, however that comes; makes its folder where it is missing.

    Raises UsageError where another process has it; `doing` says what that one does.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    with open(path, "ab") as file:
        try:
            lock(file)
        except (BlockingIOError, PermissionError):
            raise UsageError(f"another process is {doing}: wait, or choose another --out_dir") from None
        yield


def lock(file):
    try:
        import fcntl
    except ImportError:  # Windows
        import msvcrt

        msvcrt.locking(file.fileno(), msvcrt.LK_NBLCK, 1)
    else:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)


def command():
    """The command line of this process as a list, with the program's path in the project: ["lab/compare.py", ...]."""
    program = Path(sys.argv[0]).resolve()
    program = program.relative_to(ROOT).as_posix() if program.is_relative_to(ROOT) else program.name
    return [program, *sys.argv[1:]]


def provenance(attention="vanilla"):
    """Versions, commit, and a sha256 of the code that computes a run with that mechanism, for a record to carry."""
    git = ["git", "-C", str(ROOT), "describe", "--always", "--dirty", "--abbrev=40"]
    try:
        commit = subprocess.run(git, capture_output=True, text=True, timeout=10).stdout.strip() or None
    except (OSError, subprocess.TimeoutExpired):
        commit = None
    code = {ROOT / "model.py", ROOT / "train.py", ROOT / "prepare.py"}
    code |= {Path(inspect.getsourcefile(c)) for c in ATTENTION[attention].__mro__ if c.__module__.startswith("ideas.")}
    return {
        "versions": {"python": platform.python_version(), "torch": str(torch.__version__), "numpy": np.__version__},
        "commit": commit,
        "code": hashlib.sha256(b"".join(path.read_bytes() for path in sorted(code))).hexdigest(),
    }


# ---------------------------------------------------------------------------- metrics.jsonl


def to_line(row):
    return json.dumps(row) + "\n"


def read_metrics(path):
    """The rows of a metrics.jsonl; a line that a crash cut off is left out."""
    rows = []
    if path.exists():
        for line in path.read_text(encoding="utf-8", errors="replace").splitlines():
            with contextlib.suppress(ValueError):
                rows.append(json.loads(line))
    return rows


# ---------------------------------------------------------------------------- figures


@contextlib.contextmanager
def drawing(path, width, height, rows=1, columns=1, **options):
    """(figure, its axes in a list) to draw into, `width` × `height` inches; written to the PNG `path` in the end.

    Settings are matplotlib's own, not those of the user's matplotlibrc. What goes wrong costs one printed line.
    """
    try:
        import matplotlib
        from matplotlib.figure import Figure

        with matplotlib.rc_context():
            matplotlib.rcdefaults()
            figure = Figure(figsize=(width, height), layout="constrained")
            yield figure, list(figure.subplots(rows, columns, squeeze=False, **options).flatten())
            content = io.BytesIO()
            with warnings.catch_warnings(action="ignore"):  # letters that the font lacks become boxes
                figure.savefig(content, format="png", dpi=110)
            write_atomic(path, content.getbuffer())
    except Exception as error:
        machine.print_if_possible(f"{path} could not be drawn ({type(error).__name__}: {error})")
