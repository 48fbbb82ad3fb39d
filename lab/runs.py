"""Starts runs of train.py, each a process of its own, and decides whether a run is complete."""

import itertools
import os
import subprocess
import sys
import time

import torch
from tqdm import tqdm

from configurable import UsageError, show, to_toml
from plumbing.checkpoint import load
from plumbing.files import is_locked, write_text
from plumbing.machine import stop_signals
from plumbing.run import ROOT, provenance, read_metrics


def run_all(out, runs, meta, jobs):
    """Train those of `runs`, {name: all options}, that are not complete, `jobs` at a time, each into out/<name>.

    meta: meta.json of their dataset. Returns {name: why} of the runs that failed, and the signal that stopped it all,
    or 0. Raises UsageError where a folder has another run.
    """
    waiting = [name for name in runs if not is_done(out / name, runs[name], meta)]
    running, failed, terminated = {}, {}, False
    steps = sum(options["max_iters"] for options in runs.values())
    with stop_signals() as signals, tqdm(total=steps, unit="step", disable=None) as bar:
        try:
            while running or (waiting and not signals):
                free = (name for name in waiting if not is_locked(out / name / ".lock"))
                for name in [*itertools.islice(free, jobs - len(running))] if not signals else ():
                    waiting.remove(name)
                    running[name] = begin(out / name, runs[name], jobs)
                if signals and not terminated:  # only once: a second signal would kill them
                    terminated = [child.terminate() for child in running.values()]
                for name in [name for name, child in running.items() if child.poll() is not None]:
                    code = running.pop(name).returncode
                    if code and not signals:
                        killed = f"killed by signal {-code}, after: " if code < 0 else ""
                        failed[name] = killed + last_words(out / f"{name}.log")
                bar.n = sum(steps_done(out / name) for name in runs)
                bar.set_description(" ".join(running) or "waiting for a process that trains there", refresh=True)
                time.sleep(0.2)
        finally:
            for child in running.values():
                child.kill()
    return failed, max(signals, default=0)


def begin(folder, options, jobs):
    """The process that trains into `folder`, or resumes the run there. Its output goes to <folder>.log."""
    settings, log = (folder.with_name(f"{folder.name}.{kind}") for kind in ("toml", "log"))
    write_text(settings, to_toml({**options, "out_dir": folder.as_posix()}))
    mode = "--init_from=resume" if (folder / "ckpt.pt").exists() else "--overwrite=true"
    command = [sys.executable, ROOT / "train.py", settings, mode]
    threads = {"OMP_NUM_THREADS": str(max(1, torch.get_num_threads() // jobs))} if jobs > 1 else {}
    environment = {**os.environ, **threads}
    log.unlink(missing_ok=True)  # also a link to somewhere else
    with open(log, "wb") as output:  # in a session of its own: Ctrl-C reaches only this process, which passes it on
        return subprocess.Popen(command, stdout=output, stderr=output, env=environment, start_new_session=True)


def is_done(folder, options, meta):
    """Whether the run in `folder` is complete. Raises UsageError where it is of other options, data or code."""
    if not (folder / "ckpt.pt").exists():
        return False
    saved = load(folder / "ckpt.pt")
    before, names = saved["options"], options.keys() - {"out_dir", "overwrite"}
    wanted = options | {"vocab_size": max(options["vocab_size"], meta["vocab_size"])}
    changed = [name for name in names if name not in before or before[name] != wanted[name]]
    other = [f"{name} {show(before.get(name))} -> {show(wanted[name])}" for name in changed]
    other += ["another dataset"] * (saved["data"] != meta)
    other += ["other code"] * (saved.get("code") != provenance(options["attention"])["code"])
    if other:
        raise UsageError(f"{folder} has another run ({', '.join(sorted(other))}): choose another --out_dir")
    rows = read_metrics(folder / "metrics.jsonl")
    steps, done = [row["step"] for row in rows], len(rows) == options["max_iters"] + 1
    if steps != list(range(len(steps))) or (done and "val_loss" not in rows[-1]):
        raise UsageError(f"{folder}/metrics.jsonl is damaged: remove {folder}, and it is trained again")
    return done


def outcome(folder):
    """{"val_loss": the lowest of the run in `folder`}, and of a task also {"accuracy": the one after its last step}."""
    rows = [row for row in read_metrics(folder / "metrics.jsonl") if "val_loss" in row]
    last = {name: rows[-1][name] for name in ("accuracy",) if name in rows[-1]}
    return {"val_loss": min(row["val_loss"] for row in rows)} | last


def steps_done(folder):
    """Steps in the run's metrics: its lines, less the one that says how the run ended."""
    try:
        with open(folder / "metrics.jsonl", "rb") as lines:
            return max(0, sum(1 for _ in lines) - 1)
    except OSError:
        return 0


def last_words(log):
    """The last line of the output of a run."""
    lines = log.read_text(encoding="utf-8", errors="replace").strip().splitlines()
    return lines[-1] if lines else "no output"
