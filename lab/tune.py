"""Tune every mechanism with the same budget, then compare them, each at its best, with seeds that tuned nothing.

python -m lab.tune config/missing.toml --init_stds=0.02,0.088,0.125 --learning_rates=1e-3,2e-3,4e-3 --n_heads=2,4,8

Every mechanism is trained in every setting (first weights × learning rate × heads) with the first of the tuning seeds.
Its n_best settings are trained with the other tuning seeds too, and the lowest mean loss decides. Only then are the
fresh seeds trained. After an interruption the same command continues. With `--chosen_in=out/tune-missing/results.json`
nothing is tuned: every mechanism has the setting that was chosen there, for other data or another size.
"""

import itertools
import json
import math
import statistics
import sys
from pathlib import Path
from typing import Annotated

from configurable import PositiveInt, UsageError, check_ranges, run, show
from lab.charts import draw
from lab.compare import (
    Rates,
    Seeds,
    check,
    description,
    print_tables,
    result,
    summarize,
    with_defaults,
)
from lab.runs import is_done, outcome, run_all
from lab.show import THE_FOUR, table
from plumbing.dataset import load_dataset
from plumbing.files import locked, write_json
from plumbing.machine import device_name, find_device
from plumbing.run import command, provenance
from train import check_options, preset, train

Sizes = Annotated[tuple[float, ...], "more than 0"]
Counts = Annotated[tuple[int, ...], "at least 1"]
GRID = ("init_std", "learning_rate", "n_head")  # what is tuned


def tune(
    *,
    attentions: tuple[str, ...] = THE_FOUR,  # mechanisms; each is compared with the first
    init_stds: Sizes | None = None,  # values of init_std to try; none: the one value of --init_std
    learning_rates: Rates | None = None,  # learning rates to try; none: the one value of --learning_rate
    n_heads: Counts | None = None,  # values of n_head to try; none: the one value of --n_head
    tuning_seeds: Seeds = (101, 102, 103),  # seeds to choose with; every setting is trained with the first of them
    n_best: PositiveInt = 3,  # settings per mechanism that are trained with the other tuning seeds too
    seeds: Seeds = (1, 2, 3, 4, 5, 6),  # fresh seeds, each trained with the chosen setting of every mechanism
    chosen_in: str | None = None,  # results.json of another tuning, whose settings are compared here; none: tune
    jobs: PositiveInt = 1,  # runs at the same time, which share the cores
    out_dir: str | None = None,  # folder of the runs, results.json and figures; none: out/tune-<dataset>
    **options: train,  # and every other option of train.py
):
    """Give mechanisms the same budget of tuning, and compare them at their best. Returns the rows of the comparison."""
    check(attentions, seeds, learning_rates, "tokens", jobs, options)
    usual = with_defaults({**options, "attention": attentions[0]})
    given = {"init_std": init_stds, "learning_rate": learning_rates, "n_head": n_heads}
    grid = {name: (usual[name],) if values is None else values for name, values in given.items()}
    check_ranges(tune, {"n_best": n_best})
    check_tuning(grid, tuning_seeds, seeds)
    tried, chosen = {}, []
    settings = [
        with_defaults({**options, **dict(zip(grid, values, strict=True)), "attention": attention})
        for *values, attention in itertools.product(*grid.values(), attentions)  # mechanisms take turns
    ]
    if chosen_in is not None:
        if lists := [f"{name}s" for name, values in given.items() if values is not None]:
            raise UsageError(f"{lists[0]}: is chosen already in chosen_in={show(chosen_in)}; leave out one of the two")
        there = chosen_before(chosen_in, attentions)
        settings = chosen = [with_defaults({**options, **one}) for one in there]
    for setting in settings:
        check_options(setting)
    device = find_device(settings[0]["device"])
    data = load_dataset(settings[0]["dataset"], "cpu", settings[0]["block_size"], settings[0]["eval_tokens"])
    out = Path(out_dir or f"out/tune-{data.name}")
    with locked(out / ".lock", f"tuning in {out}"):
        if not chosen:
            tried, chosen = choose(out, settings, attentions, tuning_seeds, n_best, data.meta, jobs)
        fresh, failed = outcomes(out, chosen, seeds, data.meta, jobs)
        folders = [out / f"{name}-{seed}" for name, by_seed in fresh.items() for seed in by_seed]
        if not folders:
            raise UsageError(f"no run with fresh seeds is left: {next(iter(failed.values()))}")
        rows = [result(folder) for folder in folders]
        summary = summarize(rows, attentions)
        report = {"command": command(), "commit": provenance()["commit"], "device": device_name(device), "jobs": jobs}
        report |= {"grid": grid, "tuning": tried, "chosen": {x["attention"]: name_of(x) for x in chosen}}
        write_json(out / "results.json", report | {"table": summary, "failed": failed, "runs": rows})
    title = description(rows, device, jobs)
    n_settings, by = math.prod(map(len, grid.values())), show(tuning_seeds)
    how = f"the best of {n_settings} settings per mechanism, chosen with seeds {by}"
    print(f"\n{how if tried else f'the settings chosen in {chosen_in}'}\n")
    print(table([table_row(one, tried.get(name_of(one))) for one in chosen]))
    print_tables(title, summary)
    draw(out, title, rows, summary)
    print(f"\n{out}: results.json and figures")
    if failed:
        sys.exit(1)
    return summary


def check_tuning(grid, tuning_seeds, seeds):
    """Raises UsageError for lists to try that are out of range, empty or name one twice."""
    lists = {f"{name}s": values for name, values in grid.items()} | {"tuning_seeds": tuning_seeds}
    check_ranges(tune, lists)
    for name, values in lists.items():
        if not values or len({*values}) < len(values):
            raise UsageError(f"{name}={show(values)}: must name at least one, and none twice")
    if both := {*seeds} & {*tuning_seeds}:
        raise UsageError(f"seeds={show(seeds)}: {min(both)} is also one of tuning_seeds, and would not be fresh")


def chosen_before(path, attentions):
    """The settings, each {attention and what was tuned}, that the tuning of this results.json chose for `attentions`.

    Raises UsageError where there is no such file, or it chose none for one of them.
    """
    try:
        runs = json.loads(Path(path).read_text(encoding="utf-8"))["runs"]
        found = {run["attention"]: {**run["config"], "learning_rate": run["learning_rate"]} for run in runs}
        return [{"attention": one} | {name: found[one][name] for name in GRID} for one in attentions]
    except OSError as error:
        raise UsageError(f"chosen_in={show(path)}: {error.strerror}") from None
    except KeyError as error:
        raise UsageError(f"chosen_in={show(path)}: has no {error.args[0]}; lab.tune writes such a file") from None
    except (ValueError, TypeError):
        raise UsageError(f"chosen_in={show(path)}: is no results.json of lab.tune") from None


def choose(out, settings, attentions, tuning_seeds, n_best, meta, jobs):
    """Tune: ({name of a setting: {seed: outcome}} of all that was tried, the best setting of each mechanism)."""
    first, *others = tuning_seeds
    tried, _ = outcomes(out, settings, [first], meta, jobs)
    more, _ = outcomes(out, best_of(tried, settings, attentions, n_best), others, meta, jobs)
    tried = {name: by_seed | more.get(name, {}) for name, by_seed in tried.items()}
    complete = {name: by_seed for name, by_seed in tried.items() if by_seed.keys() == {*tuning_seeds}}
    return tried, best_of(complete, settings, attentions, 1)


def name_of(setting):
    """The name of a setting, which its runs' folders begin with."""
    return f"{setting['attention']}-" + "-".join(repr(setting[name]) for name in GRID)


def outcomes(out, settings, seeds, meta, jobs):
    """Train every setting with every seed: ({name of a setting: {seed: outcome}}, {name of a run that failed: why}).

    Ends the program where a signal stopped the runs.
    """
    runs = {f"{name_of(setting)}-{seed}": {**setting, "seed": seed} for seed in seeds for setting in settings}
    failed, signal = run_all(out, runs, meta, jobs)
    if signal:
        left = sum(not is_done(out / name, options, meta) for name, options in runs.items())
        print(f"stopped, {left} runs left of this stage: the same command continues")
        sys.exit(128 + signal)
    for name, why in failed.items():
        print(f"{name} failed, and is left out: {why}")
    found = {}
    for name, options in runs.items():
        if name not in failed:
            found.setdefault(name_of(options), {})[options["seed"]] = outcome(out / name)
    return found, failed


def best_of(tried, settings, attentions, n):
    """The n settings of each mechanism in `tried` with the lowest mean loss. Raises UsageError where there is none."""
    best = []
    for attention in attentions:
        mine = [one for one in settings if one["attention"] == attention and name_of(one) in tried]
        if not mine:
            raise UsageError(f"{attention}: no setting is left, runs of all of them failed")
        best += sorted(mine, key=lambda one: mean_loss(tried[name_of(one)]))[:n]
    return best


def mean_loss(by_seed):
    """The mean of the losses in {seed: outcome}."""
    return statistics.fmean(one["val_loss"] for one in by_seed.values())


def table_row(setting, by_seed):
    """A row of the table of chosen settings; by_seed: its outcomes, or None where it was chosen elsewhere."""
    cells = {name: setting[name] for name in ("attention", *GRID)}
    return cells | ({"best val loss, mean over tuning seeds": f"{mean_loss(by_seed):.4f}"} if by_seed else {})


if __name__ == "__main__":
    run(tune, preset=preset, program="python -m lab.tune")
