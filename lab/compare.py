"""Compare mechanisms fairly: one budget, several seeds, each run a `train.py` of its own.

python -m lab.compare config/cpu.toml --dataset=tinyshakespeare --seeds=1,2,3,4
python -m lab.compare config/cpu.toml --learning_rates=1e-3,2e-3,4e-3 --n_heads=4,8     tunes every mechanism first

Runs of the same seed see the same data in the same order, and begin with the same value of every weight that their
mechanisms share: so runs are compared in pairs. With several values of a setting, every mechanism is first trained in
every setting with the first tuning seed, and in its `n_best` settings with the others; the lowest mean loss decides.
Fresh seeds are then trained at each mechanism's best setting. After an interruption the same command continues.
"""

import contextlib
import dataclasses
import functools
import itertools
import json
import math
import os
import statistics
import subprocess
import sys
import textwrap
import time
from pathlib import Path
from typing import Annotated

import numpy as np
import torch
from tqdm import tqdm

from configurable import PositiveInt, Range, UsageError, bind, check, one_of, run, show, to_toml
from lab.show import THE_FOUR, look, mean_and_interval, mean_and_sd, spread, table
from model import ATTENTION, GPT, GPTConfig
from plumbing.checkpoint import load, write_text
from plumbing.machine import device_name, find_device, stop_signals
from plumbing.run import ROOT, drawing, locked, provenance, read_metrics
from prepare import load_dataset, same_data
from train import preset, train

Seeds = Annotated[tuple[int, ...], Range(ge=0, lt=2**63)]
CHOSEN_PER_RUN = {  # options of train.py, and what to give instead
    "attention": "give attentions",
    "seed": "give seeds",
}
DEFAULTS = {**dataclasses.asdict(GPTConfig()), **train.__kwdefaults__}
NO_SETTINGS = {"attention", "seed", "out_dir", "overwrite", "device"}  # options that a record's `options` leave out


def compare(
    *,
    attentions: tuple[str, ...] = THE_FOUR,  # mechanisms; each is compared with the first
    seeds: Seeds = (1, 2, 3, 4),  # every mechanism is trained once with each seed
    learning_rates: Annotated[tuple[float, ...], Range(ge=0)] | None = None,  # tune among these values
    init_stds: Annotated[tuple[float, ...], Range(gt=0)] | None = None,  # tune among these values
    n_heads: Annotated[tuple[int, ...], Range(ge=1)] | None = None,  # tune among these values
    tuning_seeds: Seeds = (101, 102, 103),  # seeds to tune with; every setting is trained with the first of them
    n_best: PositiveInt = 3,  # settings per mechanism that are trained with the other tuning seeds, too
    jobs: PositiveInt = 1,  # runs at the same time, which share the cores
    out_dir: str | None = None,  # folder of the runs, runs.jsonl and figures; none: out/compare-<dataset>
    **options: train,  # and every option of train.py; {seed} in --init_from is the run's seed
):
    """Train several mechanisms with several seeds, and print a table. Returns its rows."""
    options.pop("overwrite", None)  # smoke.toml has it; here the same command continues
    lists = {"learning_rate": learning_rates, "init_std": init_stds, "n_head": n_heads}
    grid = {name: values for name, values in lists.items() if values is not None}
    check(compare, {"seeds": seeds, "tuning_seeds": tuning_seeds, "n_best": n_best, "jobs": jobs})
    check_lists(attentions, seeds, tuning_seeds, grid, options)
    settings = [dict(zip(grid, values, strict=True)) for values in itertools.product(*grid.values())]
    first, *_ = [  # all of them, so that a mistake is found before any training
        with_defaults({**options, **setting, "attention": attention})
        for attention, setting in itertools.product(attentions, settings)
    ]
    device = find_device(first["device"])
    data = load_dataset(first["dataset"], "cpu", first["block_size"], first["eval_tokens"])
    out = Path(out_dir or f"out/compare-{data.name}")
    found = {}

    def train_in(settings, seeds, purpose):
        """Train {mechanism: settings}, every setting with every seed; returns {folder: record} of those that ended."""
        runs = {
            name_of(attention, setting, seed): options_of_run(options, attention, setting, seed)
            for seed in seeds
            for attention, setting in in_turns(settings)
        }
        failed = train_all(out, runs, data.meta, jobs)
        for name, why in failed.items():
            print(f"{name} failed, and is left out: {why} ({out / name}.log)")
        records = {out / name: record(out / name, out.name, purpose) for name in runs if name not in failed}
        found.update(records)
        write_text(
            out / "runs.jsonl", "".join(json.dumps(line, separators=(",", ":")) + "\n" for line in found.values())
        )
        return records

    with locked(out / ".lock", f"comparing in {out}"):
        best = dict.fromkeys(attentions, settings)
        if len(settings) > 1:
            tried = train_in(best, tuning_seeds[:1], "tuning")
            best = {attention: ranked(tried.values(), attention, grid)[:n_best] for attention in attentions}
            tried |= train_in(best, tuning_seeds[1:], "tuning")
            n = len(tuning_seeds)
            best = {attention: ranked(tried.values(), attention, grid, n)[:1] for attention in attentions}
            print(f"\nthe best of {len(settings)} settings per mechanism, tuned with seeds {show(tuning_seeds)}\n")
            print(table([chosen_cells(attention, *best[attention], grid) for attention in attentions]))
        records = train_in(best, seeds, "comparison")
        rows = summarize(records.values(), attentions)
        if rows:
            at_once = f", {jobs} runs at a time" if jobs > 1 else ""
            title = f"{description(first, data, seeds)}; {device_name(device)}{at_once}"
            print(f"\n{title}\n\n{table([cells(row, grid) for row in rows])}")
            draw(out, title, records, attentions)
            print(f"\n{out}: runs.jsonl and figures")
    if len(records) < len(attentions) * len(seeds):
        sys.exit(1)
    return rows


def check_lists(attentions, seeds, tuning_seeds, grid, options):
    """Raises UsageError for what cannot be compared."""
    for name, instead in CHOSEN_PER_RUN.items():
        if name in options:
            raise UsageError(f"{name}: is chosen for every run; {instead}")
    if options.get("init_from") == "resume":
        raise UsageError("init_from=resume: the same command continues by itself; leave it out")
    for word in attentions:
        one_of("attentions", word, ATTENTION)
    lists = {"attentions": attentions, "seeds": seeds, "tuning_seeds": tuning_seeds}
    for name, values in {**lists, **{f"{name}s": values for name, values in grid.items()}}.items():
        if not values or len({*values}) < len(values):
            raise UsageError(f"{name}={show(values)}: must name at least one, and none twice")
    if grid and (both := {*seeds} & {*tuning_seeds}):
        raise UsageError(f"seeds={show(seeds)}: {min(both)} is also one of tuning_seeds, and would not be fresh")


def with_defaults(options):
    """All options of train.py, those not in `options` at their defaults. Raises UsageError."""
    (model,), rest = bind(train, [], options)
    return {**dataclasses.asdict(model), **check(train, {**train.__kwdefaults__, **rest})}


def options_of_run(options, attention, setting, seed):
    """All options of one run but its out_dir."""
    options = with_defaults({**options, **setting, "attention": attention, "seed": seed})
    return options | {"init_from": options["init_from"].replace("{seed}", str(seed))}


def name_of(attention, setting, seed):
    """The folder of a run: vanilla-1 or, where something is tuned, vanilla-learning_rate=0.001-n_head=4-1."""
    return "-".join([attention, *(f"{name}={show(value)}" for name, value in setting.items()), str(seed)])


def in_turns(settings):
    """(mechanism, setting) of {mechanism: settings}; mechanisms take turns: whatever slows down slows down all."""
    for turn in itertools.zip_longest(*settings.values()):
        yield from (pair for pair in zip(settings, turn, strict=True) if pair[1] is not None)


# ---------------------------------------------------------------------------- runs


def train_all(out, runs, meta, jobs):
    """Train those of `runs`, {name: options}, that are not complete, `jobs` at a time, each into out/<name>.

    Returns {name: why} of those that failed. After a signal the runs save, and the program ends. Raises UsageError
    where a folder has another run.
    """
    waiting = [name for name, options in runs.items() if not is_done(out / name, options, meta)]
    running, failed, told = {}, {}, False
    steps = sum(options["max_iters"] for options in runs.values())
    with stop_signals() as signals, tqdm(total=steps, unit="step", disable=None) as bar:
        try:
            while running or (waiting and not signals):
                free = (name for name in waiting if is_free(out / name))
                for name in [*itertools.islice(free, jobs - len(running))] if not signals else ():
                    waiting.remove(name)
                    running[name] = begin(out / name, runs[name], jobs)
                if signals and not told:  # only once: a second signal would kill them
                    told = True
                    for child in running.values():
                        child.terminate()
                for name in [name for name, child in running.items() if child.poll() is not None]:
                    if (code := running.pop(name).returncode) and not signals:
                        killed = f"killed by signal {-code}, after: " if code < 0 else ""
                        failed[name] = killed + last_line(out / f"{name}.log")
                bar.n = sum(steps_done(out / name) for name in runs)
                bar.set_description(" ".join(running) or "waiting for a run that another process trains")
                time.sleep(0.2)
        finally:
            for child in running.values():
                child.kill()
    if signals:
        left = sum(not is_done(out / name, options, meta) for name, options in runs.items())
        print(f"stopped, {left} of {len(runs)} runs are left: the same command continues")
        sys.exit(128 + max(signals))
    return failed


def begin(folder, options, jobs):
    """The process that trains into `folder`, or resumes the run there. Its output goes to <folder>.log."""
    settings, log = folder.with_name(f"{folder.name}.toml"), folder.with_name(f"{folder.name}.log")
    write_text(settings, to_toml({**options, "out_dir": folder.as_posix()}))
    mode = "--init_from=resume" if (folder / "ckpt.pt").exists() else "--overwrite=true"
    threads = {"OMP_NUM_THREADS": str(max(1, torch.get_num_threads() // jobs))} if jobs > 1 else {}
    with open(log, "wb") as output:  # in a session of its own: Ctrl-C reaches this process alone, which passes it on
        return subprocess.Popen(
            [sys.executable, ROOT / "train.py", settings, mode],
            stdout=output,
            stderr=output,
            env={**os.environ, **threads},
            start_new_session=True,
        )


def is_done(folder, options, meta):
    """Whether the run in `folder` is complete. Raises UsageError where it is of other options, data or code."""
    if not (folder / "ckpt.pt").exists():
        return False
    saved, names = load(folder / "ckpt.pt"), options.keys() - {"out_dir", "overwrite"}
    before, wanted = saved["options"], options | {"vocab_size": max(options["vocab_size"], meta["vocab_size"])}
    other = [f"{k} {show(before.get(k))} -> {show(wanted[k])}" for k in sorted(names) if before.get(k) != wanted[k]]
    other += [same_data(saved["data"], meta)]
    other += ["other code"] * (saved["code"] != provenance(options["attention"])["code"])
    if other := ", ".join(filter(None, other)):
        raise UsageError(f"{folder} has another run ({other}): choose another --out_dir")
    last = (read_metrics(folder / "metrics.jsonl") or [{}])[-1]
    return last.get("step") == options["max_iters"] and "val_loss" in last


def is_free(folder):
    """Whether nobody trains there: a run outlives a comparison that was killed."""
    with contextlib.suppress(UsageError), locked(folder / ".lock", f"training in {folder}"):
        return True
    return False


def steps_done(folder):
    """Steps in the metrics of a run: its lines but the last one, which has the evaluation at the end."""
    with contextlib.suppress(OSError):
        return max(0, (folder / "metrics.jsonl").read_bytes().count(b"\n") - 1)
    return 0


def last_line(log):
    """The last line that a run has printed."""
    return (log.read_text(encoding="utf-8", errors="replace").strip().splitlines() or ["no output"])[-1]


# ---------------------------------------------------------------------------- statistics


def record(folder, experiment, purpose):
    """The line of runs.jsonl for the run in `folder`; options are those that are not train.py's defaults."""
    saved, rows = load(folder / "ckpt.pt"), read_metrics(folder / "metrics.jsonl")
    config, rows = GPTConfig(**saved["config"]), [row for row in rows if "val_loss" in row]
    with torch.device("meta"):
        gpt = GPT(config)
    known = {name: digits for name, digits in (("step", 0), ("val_loss", 6), ("accuracy", 4)) if name in rows[-1]}
    return {
        "experiment": experiment,
        "purpose": purpose,
        "attention": config.attention,
        "seed": saved["options"]["seed"],
        "options": {k: v for k, v in saved["options"].items() if k not in NO_SETTINGS and v != DEFAULTS[k]},
        "commit": saved["commit"] and saved["commit"][:7] + "-dirty" * saved["commit"].endswith("-dirty"),
        "torch": saved["versions"]["torch"].partition("+")[0],
        "parameters": gpt.n_params(),
        "flops_per_token": sum(gpt.flops_per_token()),
        "seconds": max(0.1, round(saved["seconds"], 1)),
        "best": round(min(row["val_loss"] for row in rows), 6),
        "final": round(rows[-1]["val_loss"], 6),
        "evaluations": {name: [round(row[name], digits) for row in rows] for name, digits in known.items()},
        **{
            name: [round(statistics.fmean(layer), 4) for layer in rows[-1][name]]
            for name in gpt.blocks[0].attention.watch
        },
    }


def ranked(records, attention, grid, n_seeds=1):
    """The settings of `grid` that n_seeds runs of a mechanism have finished, the lowest mean of best losses first.

    Raises UsageError where there is none.
    """
    losses = {}
    for record in records:
        if record["attention"] == attention:
            losses.setdefault(tuple(option(record, name) for name in grid), []).append(record["best"])
    means = {values: statistics.fmean(found) for values, found in losses.items() if len(found) == n_seeds}
    if not means:
        raise UsageError(f"{attention}: no setting is left, a run of each has failed")
    return [dict(zip(grid, values, strict=True)) for values in sorted(means, key=means.get)]


def option(record, name):
    """The value of an option of train.py in a record."""
    return record["options"].get(name, DEFAULTS[name])


def summarize(records, attentions):
    """A row per mechanism: `spread` over seeds of its best loss, and of its paired difference to the first."""
    runs_of = {name: {run["seed"]: run for run in records if run["attention"] == name} for name in attentions}
    all_seeds, base, rows = {seed for runs in runs_of.values() for seed in runs}, runs_of[attentions[0]], []
    for name, runs in runs_of.items():
        if not runs:
            continue
        example, pairs = next(iter(runs.values())), [(run, base[seed]) for seed, run in runs.items() if seed in base]
        row = {"attention": name, "options": example["options"], "parameters": example["parameters"]}
        row |= {"missing": sorted(all_seeds - runs.keys()), "loss": spread([run["best"] for run in runs.values()])}
        if pairs:
            row["time"] = spread([run["seconds"] / other["seconds"] for run, other in pairs])
        if pairs and name != attentions[0]:
            row["difference"] = spread([run["best"] - other["best"] for run, other in pairs])
        if "accuracy" in example["evaluations"]:
            row["accuracy"] = spread([run["evaluations"]["accuracy"][-1] for run in runs.values()])
            row["solved_at"] = [solved_at(run) for run in runs.values()]
        rows.append(row)
    return rows


def solved_at(record, accuracy=0.99):
    """The step of a run's first evaluation with that accuracy, or None."""
    steps, accuracies = record["evaluations"]["step"], record["evaluations"]["accuracy"]
    return next((step for step, reached in zip(steps, accuracies, strict=True) if reached >= accuracy), None)


# ---------------------------------------------------------------------------- tables


def chosen_cells(attention, setting, grid):
    """A row of the table of best settings; says what lies on an edge of the grid: a wider grid may have a better."""
    edge = [name for name, value in setting.items() if value in (min(grid[name]), max(grid[name]))]
    return {"attention": attention} | setting | {"on the grid's edge": ", ".join(edge)}


def cells(row, grid):
    """A row of `summarize` as {column: text}."""
    missing = f" (without seed {show(tuple(row['missing']))})" if row["missing"] else ""
    found = {"attention": row["attention"]} | {name: show(option(row, name)) for name in grid}
    found["best val loss, mean ± sd"] = mean_and_sd(row["loss"], 4) + missing
    found["seeds"] = row["loss"]["n"]
    found["difference, 95 % interval"] = mean_and_interval(row["difference"]) if "difference" in row else ""
    if "accuracy" in row:
        found["accuracy at the end"] = mean_and_sd(row["accuracy"])
        found["step with 99 %, per seed"] = " ".join("–" if at is None else str(at) for at in row["solved_at"])
    return found | {"time": mean_and_sd(row["time"]) if "time" in row else "", "parameters": f"{row['parameters']:,}"}


def description(options, data, seeds):
    """What was compared, for the head of the table and the title of a figure."""
    size = f"{options['n_layer']} layers of {options['n_embd']}, {options['max_iters']} steps of "
    size += f"{options['batch_size'] * options['gradient_accumulation_steps']} windows of {options['block_size']}"
    return f"{data.name} ({data.meta['tokenizer']}), {size}, seeds {show(seeds)}"


# ---------------------------------------------------------------------------- figures


def draw(out, title, records, attentions):
    """loss.png, of a task accuracy.png, and a figure for each kind of learned numbers: lam.png, g.png …."""
    folders = {name: [f for f, run in records.items() if run["attention"] == name] for name in attentions}
    runs = {name: [records[f] for f in of_name] for name, of_name in folders.items() if of_name}
    panels = [functools.partial(draw_curves, runs, "val_loss", "validation loss (nats per token)")]
    if attentions[0] in runs:
        panels.append(functools.partial(draw_pairs, runs))
    draw_figure(out / "loss.png", title, panels)
    if "accuracy" in next(iter(records.values()))["evaluations"]:
        draw_figure(out / "accuracy.png", title, [functools.partial(draw_curves, runs, "accuracy", "accuracy")])
    for name in dict.fromkeys(name for attention in runs for name in ATTENTION[attention].watch):
        watching = [attention for attention in runs if name in ATTENTION[attention].watch]
        panels = [functools.partial(draw_watched, attention, folders[attention], name) for attention in watching]
        draw_figure(out / f"{name}.png", title, panels)


def draw_figure(path, title, panels):
    """Write a figure with `panels`, functions that draw into axes, at most four side by side."""
    columns, rows = min(4, len(panels)), math.ceil(len(panels) / 4)
    with drawing(path, 5 * columns + 1.5, 4.8 * rows, rows, columns) as (figure, all_axes):
        for axes, panel in zip(all_axes, panels, strict=False):
            panel(axes)
            axes.grid(alpha=0.3)
        for axes in all_axes[len(panels) :]:
            axes.set_visible(False)
        figure.suptitle(textwrap.fill(title, 75 * columns), fontsize=9, parse_math=False)


def draw_curves(runs, name, label, axes):
    """A number over a run: a thin line per seed, a thick one for their mean. Losses begin after the first step."""
    for attention, records in runs.items():
        steps, curves = records[0]["evaluations"]["step"], np.array([run["evaluations"][name] for run in records])
        first, style = int(name == "val_loss" and len(steps) > 1), look(attention)
        axes.plot(steps[first:], curves[:, first:].T, color=style["color"], lw=0.8, alpha=0.5)
        axes.plot(steps[first:], curves[:, first:].mean(0), label=attention, lw=2, ms=5, **style)
    axes.set(xlabel="step", ylabel=label, title="seeds, and their mean")
    axes.legend()


def draw_pairs(runs, axes):
    """Every seed's difference to the first mechanism, their mean and its 95 % interval."""
    (first, base), *others = runs.items()
    losses = {run["seed"]: run["best"] for run in base}
    for i, (name, records) in enumerate(others):
        differences = [run["best"] - losses[run["seed"]] for run in records if run["seed"] in losses]
        style, x = look(name), [i - 0.15] * len(differences)
        axes.plot(x, differences, ls="", marker=style["marker"], mfc="none", color=style["color"])
        if len(differences) > 1:
            difference = spread(differences)
            axes.errorbar(i + 0.15, difference["mean"], difference["half"], marker="_", capsize=5, color=style["color"])
    axes.axhline(0, color="0.4", lw=0.8)
    axes.set_xticks(range(len(others)), [name for name, _ in others], rotation=30 * (len(others) > 4))
    axes.set(xlim=(-0.6, max(1, len(others)) - 0.4), title="pairs of the same seed; mean, 95 % interval")
    axes.set_ylabel(f"best val loss − that of {first} (nats per token)")


def draw_watched(attention, folders, name, axes):
    """A learned number of each layer over a run, its mean over heads: a thin line per seed, a thick mean."""
    runs = [[row for row in read_metrics(folder / "metrics.jsonl") if name in row] for folder in folders]
    steps, curves = [row["step"] for row in runs[0]], [[[*map(np.mean, row[name])] for row in rows] for rows in runs]
    for i, layer in enumerate(np.array(curves).transpose(2, 1, 0)):  # steps × seeds
        axes.plot(steps, layer, color=f"C{i % 10}", lw=0.8, alpha=0.5)
        axes.plot(steps, layer.mean(1), color=f"C{i % 10}", lw=2, marker="osD^v<>"[i % 7], label=f"layer {i}")
    axes.set(xlabel="step", ylabel={"lam": "λ"}.get(name, name), title=f"{attention}: seeds, and their mean")
    axes.legend()


if __name__ == "__main__":
    run(compare, preset=preset, program="python -m lab.compare")
