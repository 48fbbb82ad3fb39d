"""The folder of a run, out/<name>: what train.py leaves there, and how a run that was stopped is resumed.

ckpt.pt    the latest state, to resume from         metrics.jsonl   a line per step, in JSON
best.pt    that of the lowest validation loss       config.toml     all options
loss.png   the losses, drawn
"""

import contextlib
import dataclasses
import hashlib
import inspect
import json
import math
import os
import platform
import subprocess
import sys
import time
import tomllib
from pathlib import Path

import numpy as np
import torch
from tqdm import tqdm

from configurable import UsageError, nearest, to_toml
from model import ATTENTION
from plumbing import ranks
from plumbing.checkpoint import fill, is_finite, is_intact, load, save
from plumbing.dataset import mismatch
from plumbing.figure import new_figure, plain, write_figure
from plumbing.files import locked, real, sync, write_text
from plumbing.machine import print_if_possible

ROOT = Path(__file__).parent.parent
FILES = ("ckpt.pt", "best.pt", "metrics.jsonl", "loss.png", "config.toml")
WEIGHTS_DEPEND_ON = ("attention", "vocab_size", "n_layer", "n_head", "n_embd", "tokenizer")
RESUMABLE = {"seconds": 0.0, "optimizer": {}, "options": {"init_from": ""}}  # what is in ckpt.pt besides
BEST = {"step": 0, "val_loss": 0.0, "val_bits_per_byte": 0.0}


class Run:
    """One run. `begin` locks its folder, opens metrics.jsonl and shows a progress bar; leaving `with` closes all three.

    Of several processes rank 0 writes and prints; in the others the same calls do nothing.
    """

    def __init__(self, folder, options, config, data):
        self.folder, self.options = folder, options
        self.metadata = {"config": dataclasses.asdict(config), "options": options, "data": data.meta}
        self.metadata |= {"tokenizer": data.tokenizer, **provenance(config.attention)}
        self.title = f"{data.name} ({data.meta['tokenizer']}), seed {options['seed']}"
        self.writes = ranks.rank() == 0
        self.open = contextlib.ExitStack()

    def __enter__(self):
        return self

    def __exit__(self, *error):
        return self.open.__exit__(*error)

    def begin(self, gpt, optimizer):
        """Fill gpt and optimizer and make the folder ready; returns the step to begin with and the best row so far."""
        step, seconds, best, rows = 0, 0.0, None, []
        with ranks.rank_0_first():
            if self.writes:
                self.open.enter_context(locked(self.folder / ".lock", f"training in {self.folder}"))
            if resumes := self.options["init_from"] == "resume":
                old = self.resume(gpt, optimizer)
                step, seconds, best = old["step"], old["seconds"], old["best"]
                rows = self.rows_before(step)
            else:
                self.start(gpt)
            self.options["overwrite"] = False
            if self.writes:
                for name in () if resumes else FILES:
                    (self.folder / name).unlink(missing_ok=True)
                write_text(self.folder / "config.toml", to_toml(self.options))
                write_text(self.folder / "metrics.jsonl", "".join(map(to_line, rows)))
        path = self.folder / "metrics.jsonl" if self.writes else os.devnull
        self.metrics = open(path, "a", encoding="utf-8")  # noqa: SIM115  closed with the run
        self.open.enter_context(self.metrics)
        total, hidden = self.options["max_iters"], None if self.writes else True  # none: where nobody looks
        self.bar = tqdm(total=total, initial=step, desc=self.folder.name, unit="step", disable=hidden)
        self.open.enter_context(self.bar)
        self.saved = step if resumes else None  # the step of the last checkpoint
        self.first, self.began, self.seconds_before = step, time.perf_counter(), seconds
        return step, best

    @property
    def seconds(self):
        """How long the run has trained, also before it was resumed."""
        return self.seconds_before + time.perf_counter() - self.began

    # ------------------------------------------------------------------------ where it begins

    def start(self, gpt):
        """Give gpt the weights that init_from names. Raises UsageError where a new run cannot begin in the folder."""
        out, source = self.folder, self.options["init_from"]
        if not self.writes:
            return  # rank 0 was here before, and DistributedDataParallel sends everyone its weights
        if not self.options["overwrite"]:
            if any((out / name).exists() for name in ("ckpt.pt", "best.pt")):
                raise UsageError(f"{out} holds a run: --init_from=resume continues it, --overwrite=true replaces it")
            if not holds_nothing_to_keep(out, self.options):
                names = ", ".join(name for name in FILES if os.path.lexists(out / name))
                raise UsageError(f"{out} holds {names}: choose another --out_dir; --overwrite=true replaces them")
        if source == "scratch":
            return
        if not os.path.exists(source):
            hint = nearest(source, ("scratch", "resume"))
            raise UsageError(f"init_from={source}: must be scratch, resume or a checkpoint{hint}")
        if real(out) in (real(source), *real(source).parents):
            raise UsageError(
                f"init_from={source} lies in out_dir={out}, which would be emptied: choose another --out_dir"
            )
        old = load(source, gpt.device)
        names, begins_as = WEIGHTS_DEPEND_ON, getattr(gpt.blocks[0].attention, "begins_as", None)
        if old["config"]["attention"] == begins_as:  # what the checkpoint lacks keeps its first value
            names = [name for name in names if name != "attention"]
            old["model"] = gpt.state_dict() | old["model"]
        self.refuse_other(f"cannot start from {source}", old, names)
        fill(gpt, old, source)

    def resume(self, gpt, optimizer):
        """Fill gpt and optimizer from ckpt.pt, and return it. Raises UsageError if it is of another run."""
        path = self.folder / "ckpt.pt"
        old = load(path, gpt.device)
        best = old.get("best", "")  # None before the first evaluation; "" is refused
        if wrong := mismatch(old, RESUMABLE, "it") or (best is not None and mismatch(best, BEST, "best")):
            raise UsageError(f"cannot resume {self.folder}: {wrong}")
        names = ("block_size", *WEIGHTS_DEPEND_ON, "train.bin", "val.bin")
        self.refuse_other(f"cannot resume {self.folder}", old, names)
        fill(gpt, old, path)
        fill_optimizer(optimizer, gpt, old, path)
        if best and self.writes and not is_intact(self.folder / "best.pt"):
            print(f"{self.folder}/best.pt is damaged or gone: the best of the evaluations from now on is kept")
            old["best"] = None
        self.options["init_from"] = old["options"]["init_from"]
        before = old["options"] | {name: self.options[name] for name in ("out_dir", "overwrite", "device")}
        changed = [f"{k} {before.get(k)} -> {v}" for k, v in self.options.items() if before.get(k) != v]
        if changed and self.writes:
            print(f"{self.folder} is resumed with other options: {', '.join(changed)}")
        return old

    def refuse_other(self, what, old, names):
        """Raises UsageError that lists which of `names` differ between the checkpoint `old` and this run."""

        def of(metadata, name):
            if name.endswith(".bin"):
                return metadata["data"][name[:-4]]["sha256"][:12]
            return {**metadata["config"], "tokenizer": metadata["data"]["tokenizer"]}[name]

        pairs = {name: (of(old, name), of(self.metadata, name)) for name in names}
        if changed := [f"{name} was {was}, is {now}" for name, (was, now) in pairs.items() if was != now]:
            raise UsageError(f"{what}: {'; '.join(changed)}")

    def rows_before(self, step):
        """The rows of metrics.jsonl before a step; says how many are missing."""
        rows = [row for row in read_metrics(self.folder / "metrics.jsonl") if row["step"] < step]
        if self.writes and (missing := step - len({row["step"] for row in rows})):
            print(f"{self.folder}/metrics.jsonl lacks {missing} of the {step} steps so far, or cannot be read there")
        return rows

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
        if self.bar.disable and step and step % 50 == 0:
            pace = (time.perf_counter() - self.began) / (step + 1 - self.first)  # seconds/step, evaluations included
            left = tqdm.format_interval(pace * (self.options["max_iters"] - step - 1))
            tokens = math.prod(self.options[k] for k in ("batch_size", "gradient_accumulation_steps", "block_size"))
            self.say(f"step {step}: loss {loss:.3f}, {tokens / pace:,.0f} tokens/s on average, {left} left")

    def save(self, name, step, gpt, **state):
        """Write a checkpoint into the folder. Raises UsageError for weights that are nan or inf: none is ever saved."""
        if not is_finite(gpt):
            raise self.diverged(step, "the update before it left weights that are nan or inf")
        if self.writes:
            state |= {"step": step, "seconds": self.seconds, "model": gpt.state_dict()}
            sync(self.metrics)  # no checkpoint is ahead of its rows
            save(self.folder / name, {**self.metadata, **state})
        self.saved = step if name == "ckpt.pt" else self.saved

    def check_finite(self, step, what, *numbers):
        """Raises UsageError, which says `what` there is, where one of `numbers` is nan or inf."""
        if not all(map(math.isfinite, numbers)):
            raise self.diverged(step, what)

    def diverged(self, step, what):
        """The UsageError of a run whose numbers are nan or inf."""
        last = f"{self.folder}/ckpt.pt is the last good save, of step {self.saved}"
        kept = "nothing was saved" if self.saved is None else last
        return UsageError(f"step {step}: {what}. Lower learning_rate or raise warmup_iters; {kept}")

    def say(self, text):
        """Print a line, above the progress bar where there is one."""
        if self.writes:
            print_if_possible(text, print if self.bar.disable else self.bar.write)

    def plot(self, gpt):
        """Plot loss.png: the losses of metrics.jsonl against steps."""
        if not self.writes:
            return
        rows, (figure, (axes,)) = read_metrics(self.folder / "metrics.jsonl"), new_figure(7, 4.5)
        for name, style in (
            ("train_loss", {"lw": 0.6, "color": "0.6"}),
            ("val_loss", {"marker": "o", "ms": 4, "color": "k", "ls": ""}),
        ):
            points = [(row["step"], row[name]) for row in rows if name in row]
            axes.plot([x for x, _ in points], [y for _, y in points], label=name.partition("_")[0], **style)
        size = f"{gpt.config.n_layer} layers of {gpt.config.n_embd}, {gpt.n_params() / 1e6:.2f}M parameters"
        axes.set(xlabel="step", ylabel="loss (nats per token)")
        axes.set_title(plain(f"{self.title}\n{gpt.config.attention}, {size}"))
        axes.legend()
        write_figure(self.folder / "loss.png", figure)


def holds_nothing_to_keep(folder, options):
    """Whether a new run may replace what is in `folder`: nothing, or what a run left that was killed before its first
    checkpoint. options: those of the new run, by which its config.toml is known."""
    config, metrics = folder / "config.toml", folder / "metrics.jsonl"
    there = [folder / name for name in FILES if os.path.lexists(folder / name)]
    if any(path.is_symlink() or not path.is_file() or path not in (config, metrics) for path in there):
        return False
    try:
        old = tomllib.loads(config.read_text(encoding="utf-8")) if there else options
        n_lines = len(metrics.read_bytes().splitlines()) if metrics in there else 0
        n_rows = len(read_metrics(metrics))
        return {*old} == {*options} and n_lines - 1 <= n_rows <= old["checkpoint_interval"]
    except (OSError, ValueError, TypeError):
        return False


def fill_optimizer(optimizer, gpt, checkpoint, path):
    """Give the optimizer its state in the checkpoint; weight decay and betas stay this run's. Raises UsageError."""
    settings = [{k: v for k, v in group.items() if k != "params"} for group in optimizer.param_groups]
    try:
        optimizer.load_state_dict(checkpoint["optimizer"])
        for p in gpt.parameters() if checkpoint["step"] else ():
            moments = optimizer.state[p]
            if not p.shape == moments["exp_avg"].shape == moments["exp_avg_sq"].shape or moments["step"].shape:
                raise ValueError("moments of another shape")  # which a fused step would read beyond their end
    except (KeyError, TypeError, ValueError, AttributeError, IndexError) as error:
        raise UsageError(f"{path} has no state of this optimizer: {type(error).__name__}, {error}") from None
    for group, mine in zip(optimizer.param_groups, settings, strict=True):
        group.update(mine)


def command():
    """The command line of this process as a list, with the program's path in the project: ["lab/compare.py", ...]."""
    program, root = real(sys.argv[0]), real(ROOT)
    return [program.relative_to(root).as_posix() if root in program.parents else program.name, *sys.argv[1:]]


def provenance(attention="vanilla"):
    """Versions, commit, and a sha256 of the code that computes a run with that mechanism, for a record to carry."""
    git = ["git", "-C", str(ROOT), "describe", "--always", "--dirty", "--abbrev=40"]
    try:
        commit = subprocess.run(git, capture_output=True, text=True, timeout=10).stdout.strip() or None
    except (OSError, subprocess.TimeoutExpired):
        commit = None
    code = [ROOT / "model.py", ROOT / "train.py", ROOT / "plumbing/dataset.py"]
    code += {Path(inspect.getsourcefile(c)) for c in ATTENTION[attention].__mro__ if c.__module__.startswith("ideas.")}
    return {
        "versions": {"python": platform.python_version(), "torch": str(torch.__version__), "numpy": np.__version__},
        "commit": commit,
        "code": hashlib.sha256(b"".join(path.read_bytes() for path in sorted(code))).hexdigest(),
    }


# ---------------------------------------------------------------------------- metrics.jsonl


def to_line(row):
    return json.dumps(row) + "\n"


def read_metrics(path):
    """The rows of a metrics.jsonl, without lines that are cut off or are not rows of numbers."""
    rows = []
    with contextlib.suppress(OSError), open(path, encoding="utf-8", errors="replace") as lines:
        for line in lines:
            with contextlib.suppress(ValueError, RecursionError):
                if is_row(row := json.loads(line)):
                    rows.append(row)
    return rows


def is_row(row):
    """Whether `row` is {"step": 3, name: number ..., name of learned numbers: a list of them for each layer ...}."""
    try:
        lists = {name for kind in ATTENTION.values() for name in kind.watch} & row.keys()
        numbers = [row[name] for name in row.keys() - lists] + [x for name in lists for part in row[name] for x in part]
        return isinstance(row["step"], int) and all(map(math.isfinite, numbers))
    except (TypeError, KeyError, AttributeError, OverflowError):
        return False
