"""Compare mechanisms fairly: one budget, several seeds, each run a `python train.py` of its own.

python -m lab.compare config/cpu.toml --dataset=tinyshakespeare --seeds=1,2,3,4
python -m lab.compare config/cpu.toml --learning_rates=1e-3,2e-3,4e-3      tries each rate with every mechanism
python -m lab.compare config/cpu.toml --equal=time                         a faster mechanism takes more steps

Runs of the same seed see the same data in the same order, and begin with the same value of every weight that their
mechanisms share: so runs are compared in pairs. `{seed}` in --init_from is the run's seed: so each can be fine-tuned
from a run of its own. After an interruption the same command continues.
"""

import dataclasses
import json
import statistics
import sys
from pathlib import Path
from typing import Annotated, Literal

import torch

from configurable import PositiveInt, UsageError, bind, check_ranges, one_of, run, show
from lab.bench import Plan, training_steps
from lab.charts import draw
from lab.needles import find_needles, task_of
from lab.runs import is_done, run_all
from lab.show import THE_FOUR, table
from lab.spread import spread
from model import ATTENTION, GPTConfig
from plumbing.checkpoint import load, load_model
from plumbing.dataset import load_dataset
from plumbing.files import locked, write_json
from plumbing.machine import device_name, find_autocast, find_device
from plumbing.run import command, provenance, read_metrics
from train import check_options, preset, train

Seeds = Annotated[tuple[int, ...], "at least 0 and less than 2^63"]
Rates = Annotated[tuple[float, ...], "at least 0 and finite"]
CHOSEN_PER_RUN = {  # options of train.py, and what to give instead
    "attention": "give attentions",
    "seed": "give seeds",
    "overwrite": "leave it out",
}


def compare(
    *,
    attentions: tuple[str, ...] = THE_FOUR,  # mechanisms; each is compared with the first
    seeds: Seeds = (1, 2, 3, 4),  # every mechanism is trained once with each seed
    learning_rates: Rates | None = None,  # rates to try with every mechanism; none: only --learning_rate
    equal: Literal["tokens", "time"] = "tokens",  # equal for all runs; time: max_iters is of the first mechanism
    jobs: PositiveInt = 1,  # runs at the same time, which share the cores
    out_dir: str | None = None,  # folder of the runs, results.json and figures; none: out/compare-<dataset>
    **options: train,  # and every option of train.py
):
    """Train several mechanisms with several seeds; tables go to the terminal, all else to out_dir. Returns the rows."""
    check(attentions, seeds, learning_rates, equal, jobs, options)
    settings = with_defaults({**options, "attention": attentions[0]})
    check_options(settings)
    device, rates = find_device(settings["device"]), learning_rates or (settings["learning_rate"],)
    data = load_dataset(settings["dataset"], "cpu", settings["block_size"], settings["eval_tokens"])
    task_of({"data": data.meta, "options": settings})  # damaged needles are reported now, not after the training
    out = Path(out_dir or f"out/compare-{data.name}")
    with locked(out / ".lock", f"comparing in {out}"):
        steps = steps_of(attentions, equal, settings, device, jobs, out)
        runs = {
            f"{attention}-{rate!r}-{seed}": with_defaults(
                {**options, "attention": attention, "learning_rate": rate, "seed": seed, "max_iters": steps[attention]}
                | {"init_from": settings["init_from"].replace("{seed}", str(seed))}
            )
            for seed in seeds
            for rate in rates
            for attention in attentions  # the innermost loop: a machine that slows down slows down all mechanisms
        }
        failed, signal = run_all(out, runs, data.meta, jobs)
        rows = [result(out / name) for name in runs if is_done(out / name, runs[name], data.meta)]
        summary = summarize(rows, attentions)
        report = {"command": command(), "commit": provenance()["commit"], "device": device_name(device), "jobs": jobs}
        report |= {"equal": equal, "table": summary, "failed": failed, "runs": rows}
        write_json(out / "results.json", report)
    if rows:
        title = description(rows, device, jobs)
        print_tables(title, summary)
        draw(out, title, rows, summary)
        print(f"\n{out}: results.json and figures")
    for name, why in failed.items():
        print(f"{name} failed: {why}")
    if signal:
        print(f"stopped, {len(runs) - len(rows)} runs left: the same command continues")
        sys.exit(128 + signal)
    if failed:
        sys.exit(1)
    return summary


def check(attentions, seeds, learning_rates, equal, jobs, options):
    """Raises UsageError for what cannot be compared."""
    for name, instead in CHOSEN_PER_RUN.items():
        if name in options:
            raise UsageError(f"{name}: is chosen for every run; {instead}")
    check_ranges(compare, {"seeds": seeds, "learning_rates": learning_rates, "jobs": jobs, **options})
    for word in attentions:
        one_of("attentions", word, ATTENTION)
    for name, values in (("attentions", attentions), ("seeds", seeds), ("learning_rates", learning_rates or ())):
        if len({*values}) < len(values):
            raise UsageError(f"{name}={show(values)}: must not name one twice")
    if options.get("gradient_accumulation_steps", 1) > 1 and equal == "time":
        raise UsageError("equal=time measures a step of one micro-batch: gradient_accumulation_steps must be 1")
    if options.get("init_from") == "resume":
        raise UsageError("init_from=resume: the same command continues by itself; leave it out")
    for attention in attentions:
        with_defaults({**options, "attention": attention})


def with_defaults(options):
    """All options of train.py, those not in `options` at their defaults. Raises UsageError for an impossible shape."""
    (model,), rest = bind(train, [], options)
    return {**dataclasses.asdict(model), **train.__kwdefaults__, **rest}


# ---------------------------------------------------------------------------- equal time


def steps_of(attentions, equal, settings, device, jobs, out):
    """{mechanism: max_iters}. For equal time a step of each mechanism is measured once, and kept in steps.json.

    Raises UsageError where steps.json was measured for other mechanisms, jobs or options.
    """
    max_iters, path = settings["max_iters"], out / "steps.json"
    if equal == "tokens":
        return dict.fromkeys(attentions, max_iters)
    asked = json.loads(json.dumps({"attentions": attentions, "jobs": jobs, "settings": settings}))
    if path.exists():
        try:
            saved = json.loads(path.read_text(encoding="utf-8"))
            steps = [saved["steps"][name] for name in attentions]
            same = saved["asked"] == asked and all(type(n) is int and n > 0 for n in steps)
        except (ValueError, KeyError, TypeError, AttributeError, RecursionError):
            same = False
        if not same:
            raise UsageError(f"{path} is of other mechanisms, jobs or options: choose another --out_dir, or remove it")
        return saved["steps"]
    ms = milliseconds_per_step(attentions, settings, device, jobs)
    steps = {name: max(1, round(max_iters * ms[attentions[0]] / ms[name])) for name in attentions}
    write_json(path, {"asked": asked, "steps": steps})
    return steps


def milliseconds_per_step(attentions, settings, device, jobs):
    """{mechanism: median milliseconds of a training step}; the mechanisms take turns."""
    shape = GPTConfig(**{field.name: settings[field.name] for field in dataclasses.fields(GPTConfig)})
    compiled = settings["compile"] is True or (settings["compile"] == "auto" and device.type == "cuda")
    paths, modes = ("fused" if shape.fused else "explicit",), ("compiled" if compiled else "eager",)
    plan = Plan(attentions, paths, modes, 40, 1, device, find_autocast(settings["dtype"], device), None)
    threads = torch.get_num_threads()
    torch.set_num_threads(max(1, threads // jobs))  # as many as each run will have
    rows = list(training_steps(plan, shape, shape.block_size, settings["batch_size"] * shape.block_size))
    torch.set_num_threads(threads)
    for row in rows:
        if "failed" in row:
            raise UsageError(f"equal=time: a step of {row['attention']} cannot be measured ({row['failed']})")
    return {row["attention"]: row["milliseconds"][1] for row in rows}


# ---------------------------------------------------------------------------- statistics


def result(folder):
    """The numbers of the run in `folder`; needles are looked for with its best checkpoint."""
    saved, rows = load(folder / "ckpt.pt"), read_metrics(folder / "metrics.jsonl")
    gpt, evaluations = load_model(folder)[0], [row for row in rows if "val_loss" in row]
    task = task_of(saved)
    watched = {name: [row[name] for row in evaluations] for name in gpt.blocks[0].attention.watch}
    accuracies = [row["accuracy"] for row in evaluations if "accuracy" in row]
    return {
        **{name: saved["options"][name] for name in ("attention", "learning_rate", "seed", "dataset", "max_iters")},
        "val_loss": min(row["val_loss"] for row in evaluations),
        "last_val_loss": evaluations[-1]["val_loss"],
        "steps": [row["step"] for row in evaluations],
        "val_losses": [row["val_loss"] for row in evaluations],
        **watched,
        **({"accuracies": accuracies} if accuracies else {}),
        **({"needles": find_needles(gpt, **task)} if task else {}),
        "seconds": saved["seconds"],
        "parameters": gpt.n_params(),
        "flops_per_token": sum(gpt.flops_per_token()),
        **{name: saved[name] for name in ("config", "data", "commit", "versions")},
    }


def summarize(rows, attentions):
    """A row for every mechanism and learning rate: loss over seeds, and in pairs its difference to the first mechanism.

    Of several rates each mechanism's best, among those that no seed failed with, is marked, and compared with the best
    of the first mechanism.
    """
    rates, all_seeds = list(dict.fromkeys(row["learning_rate"] for row in rows)), {row["seed"] for row in rows}
    runs = {
        (a, r): [x for x in rows if (x["attention"], x["learning_rate"]) == (a, r)] for a in attentions for r in rates
    }
    best = best_rates(runs, all_seeds)
    summary = []
    for (attention, rate), mine in runs.items():
        if not mine:
            continue
        first, is_best = attentions[0], best.get(attention) == rate
        base_rate = best.get(first, rate) if is_best else rate
        both = [*mine, *runs[first, base_rate]] if attention != first else mine
        row = {"attention": attention, "learning_rate": rate, "best": is_best, "steps": mine[0]["max_iters"]}
        row |= {"seeds": [x["seed"] for x in mine], "missing": sorted(all_seeds - {x["seed"] for x in mine})}
        row["val_loss"] = spread([x["val_loss"] for x in mine])
        if pairs := pairs_of(both, attention, first):
            if attention != first:
                row |= {"to_learning_rate": base_rate, "pairs": differences(both, attention, first)}
                row["difference"] = paired(both, attention, first)
            row["time_ratio"] = spread([x["seconds"] / other["seconds"] for x, other in pairs])
        if "accuracies" in mine[0]:
            row["accuracy"] = spread([x["accuracies"][-1] for x in mine])
            row["solved_at"] = [solved_at(x) for x in mine]
        if "needles" in mine[0]:
            row |= summarize_needles([x["needles"] for x in mine])
        summary.append(row | {name: mine[0][name] for name in ("parameters", "flops_per_token")})
    return summary


def best_rates(runs, seeds):
    """{mechanism: learning rate} with the lowest mean loss, among those whose runs have all the seeds."""
    means = {}
    for (attention, rate), mine in runs.items():
        if {x["seed"] for x in mine} == seeds:
            means.setdefault(attention, {})[rate] = statistics.fmean(x["val_loss"] for x in mine)
    return {attention: min(mean, key=mean.get) for attention, mean in means.items()}


def pairs_of(rows, attention, base):
    """Pairs (run of `attention`, run of `base`) with the same seed. Raises ValueError for several learning rates."""
    by_seed = []
    for name in (attention, base):
        mine = [row for row in rows if row["attention"] == name]
        if len({row["learning_rate"] for row in mine}) > 1:
            raise ValueError(f"{name} has several learning rates: choose one")
        by_seed.append({row["seed"]: row for row in mine})
    return [(row, by_seed[1][seed]) for seed, row in by_seed[0].items() if seed in by_seed[1]]


def differences(rows, attention, base):
    """{seed: val_loss of `attention` − that of `base`} for the seeds that both have. rows: `runs` of a results.json."""
    return {x["seed"]: x["val_loss"] - other["val_loss"] for x, other in pairs_of(rows, attention, base)}


def paired(rows, attention, base):
    """`spread` of these differences. Raises ValueError where there is none."""
    if not (values := differences(rows, attention, base)):
        raise ValueError(f"{attention} and {base} have no seed in common")
    return spread([*values.values()])


def solved_at(run, accuracy=0.99):
    """The step of the first evaluation of a run of `runs` with that accuracy; None where there is none."""
    return next((step for step, a in zip(run["steps"], run["accuracies"], strict=True) if a >= accuracy), None)


def summarize_needles(runs):
    """Exact answers by number of needles, and where heads look while they answer, over runs."""
    n_needles, kinds = len(runs[0]["by_n"]), ("answer", "other needles", "filler", "query")
    shares = [{kind: statistics.fmean(row[kind] for row in run["attention"]) for kind in kinds} for run in runs]
    return {
        "exact": [spread([run["by_n"][i]["exact"] for run in runs]) for i in range(n_needles)],
        "looked_at": {kind: spread([share[kind] for share in shares]) for kind in kinds},
    }


# ---------------------------------------------------------------------------- tables


def print_tables(title, summary):
    """Print what `summarize` returns."""
    several_rates = len({row["attention"] for row in summary}) < len(summary)
    print(f"\n{title}\n\n{table([loss_cells(row, several_rates) for row in summary])}")
    if "exact" in summary[0]:
        print("\nqueries answered exactly, and shares of |a| in the rows that answer (mean over all heads)\n")
        print(table([needles_cells(row) for row in summary]))


def loss_cells(row, several_rates=False):
    """A row of `summarize` as {column: text}; of several learning rates the best is marked."""
    val, difference, ratio = row["val_loss"], row.get("difference"), row.get("time_ratio")
    rate = f"{row['learning_rate']:g}" + (", best" if row["best"] and several_rates else "")
    cells = {"attention": row["attention"], "learning rate": rate, "steps": row["steps"]}
    cells["best val loss, mean ± sd"] = f"{val['mean']:.4f} ± {val['sd']:.4f}" if "sd" in val else f"{val['mean']:.4f}"
    if row["missing"]:
        cells["best val loss, mean ± sd"] += f" (without seed {', '.join(map(str, row['missing']))})"
    cells["seeds"] = val["n"]
    cells["paired difference, 95 % interval"] = ""
    if difference:
        interval = f"± {difference['half']:.4f}" if "half" in difference else "(one seed: no interval)"
        cells["paired difference, 95 % interval"] = f"{difference['mean']:+.4f} {interval}"
    cells |= accuracy_cells(row) | {"time": mean_and_sd(ratio) if ratio else ""}
    return cells | {"parameters": f"{row['parameters']:,}", "MFLOP per token": f"{row['flops_per_token'] / 1e6:.2f}"}


def accuracy_cells(row):
    """For a task: the accuracy after the last step, and at which step it was 99 %, per seed; `–` where it never was."""
    if "accuracy" not in row:
        return {}
    steps = " ".join("–" if step is None else str(step) for step in row["solved_at"])
    return {"accuracy at the end, mean ± sd": mean_and_sd(row["accuracy"]), "99 % at step, per seed": steps}


def needles_cells(row):
    """The same for needles: queries answered exactly, by number of needles, and where heads look."""
    numbers = {f"N = {i}": exact for i, exact in enumerate(row["exact"], 1)}
    numbers |= {f"on {kind}": share for kind, share in row["looked_at"].items()}
    cells = {"attention": row["attention"], "learning rate": f"{row['learning_rate']:g}"}
    return cells | {name: mean_and_sd(number) for name, number in numbers.items()}


def mean_and_sd(number):
    """A `spread` as text."""
    return f"{number['mean']:.2f}" + (f" ± {number['sd']:.2f}" if "sd" in number else "")


def description(rows, device, jobs):
    """What was compared, for the head of a table and the title of a figure."""
    config, data = rows[0]["config"], rows[0]["data"]
    seeds = ", ".join(map(str, dict.fromkeys(row["seed"] for row in rows)))
    maps = " or ".join(map(str, sorted({row["config"]["n_head"] for row in rows})))
    size = f"{config['n_layer']} layer{'s' * (config['n_layer'] > 1)} of {config['n_embd']}, {maps} maps each"
    what = f"{Path(rows[0]['dataset']).name} ({data['tokenizer']}), {size}, windows of {config['block_size']}"
    return f"{what}, seeds {seeds}; {device_name(device)}{f' for {jobs} runs at a time' if jobs > 1 else ''}"


if __name__ == "__main__":
    run(compare, preset=preset, program="python -m lab.compare")
