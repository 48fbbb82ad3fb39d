"""Compare mechanisms fairly: one budget, several seeds, each run a `python train.py` of its own.

python compare.py config/cpu.toml --dataset=tinyshakespeare --seeds=1,2,3,4
python compare.py config/cpu.toml --learning_rates=1e-3,2e-3,4e-3          the rate swept, for every mechanism alike
python compare.py config/cpu.toml --equal=time                             a faster mechanism takes more steps

The same seed is the same data in the same order and the same first value of every weight that mechanisms share, so what
is compared are pairs. Stopped, or cut off, the same command goes on where it was.
"""

import dataclasses
import functools
import json
import math
import os
import statistics
import subprocess
import sys
import textwrap
import time
from pathlib import Path
from typing import Literal

import numpy as np
import torch
from tqdm import tqdm

from analyze import find_needles
from bench import Plan, look, table, training_steps
from configurable import UsageError, bind, nearest, run, show, to_toml
from model import ATTENTION, GPTConfig
from train import check as check_train
from train import (
    check_record,
    find_amp,
    find_device,
    load,
    load_dataset,
    load_model,
    name_of,
    origin,
    preset,
    read_metrics,
    stop_signals,
    train,
    write_figure,
    write_whole,
)

OURS = {"attention": "attentions", "seed": "seeds", "init_from": None, "overwrite": None}  # options of train.py


def compare(
    *,
    attentions: tuple[str, ...] = tuple(ATTENTION),  # mechanisms; the others are compared with the first
    seeds: tuple[int, ...] = (1, 2, 3, 4),  # a run of every mechanism with each
    learning_rates: tuple[float, ...] | None = None,  # tried with every mechanism alike; none: learning_rate
    equal: Literal["tokens", "time"] = "tokens",  # what all get alike; time: max_iters is the first mechanism's
    jobs: int = 1,  # runs at a time, which share the cores
    out_dir: str | None = None,  # folder of the runs, results.json and figures; none: out/compare-<dataset>
    **options: train,  # and every option of train.py
):
    """Train several mechanisms with several seeds; tables go to the terminal, all else to out_dir. Returns the rows."""
    check(attentions, seeds, learning_rates, equal, jobs, options)
    settings = whole({**options, "attention": attentions[0]})
    device, rates = find_device(settings["device"]), learning_rates or (settings["learning_rate"],)
    folder, data, _ = load_dataset(settings["dataset"], "cpu", settings["block_size"])  # made here, where it is missing
    check_record(folder, data.get("record"), settings["block_size"], settings["eval_tokens"])
    out = Path(out_dir or f"out/compare-{folder.name}")
    out.mkdir(parents=True, exist_ok=True)
    steps = steps_of(attentions, equal, settings, device, jobs, out)
    runs = {
        f"{attention}-{rate!r}-{seed}": whole(
            {**options, "attention": attention, "learning_rate": rate, "seed": seed, "max_iters": steps[attention]}
        )
        for seed in seeds
        for rate in rates
        for attention in attentions  # the innermost, so that a machine that slows down slows down all
    }
    for options in runs.values():
        check_train(options)
    failed, stop = run_all(out, runs, data, jobs)
    rows = [result(out / name) for name in runs if is_done(out / name, runs[name], data)]
    summary = summarize(rows, attentions)
    report = {
        "command": sys.argv,
        "commit": origin(out)["commit"],
        "device": name_of(device),
        "jobs": jobs,
        "equal": equal,
        "table": summary,
        "failed": failed,
        "runs": rows,
    }
    write_whole(out / "results.json", lambda file: file.write(json.dumps(report, indent=1).encode()))
    if rows:
        what = about(rows, device, jobs)
        swept = len({row["learning_rate"] for row in summary}) > 1
        print(f"\n{what}\n\n{table([written(row, swept) for row in summary])}")
        if "needles" in rows[0]:
            print("\nqueries answered exactly, and shares of |a| in the rows that answer (mean of all heads)\n")
            print(table([written_needles(row) for row in summary]))
        draw(out, what, rows, summary)
        print(f"\n{out}: results.json and figures")
    for name, why in failed.items():
        print(f"{name} failed: {why}")
    if stop:
        print(f"stopped, {len(runs) - len(rows)} runs left: the same command goes on")
        sys.exit(128 + stop)
    if failed:
        sys.exit(1)
    return summary


def check(attentions, seeds, learning_rates, equal, jobs, options):
    """Raises UsageError for what cannot be compared."""
    for name, instead in OURS.items():
        if name in options:
            raise UsageError(f"{name}: is chosen for every run; {f'give {instead}' if instead else 'leave it away'}")
    for word in attentions:
        if word not in ATTENTION:
            raise UsageError(f"attentions={word}: must be of {', '.join(ATTENTION)}{nearest(word, ATTENTION)}")
    for name, values in (("attentions", attentions), ("seeds", seeds), ("learning_rates", learning_rates or ())):
        if len({*values}) < len(values):
            raise UsageError(f"{name}={show(values)}: one is named twice")
    if jobs < 1:
        raise UsageError(f"jobs={jobs}: must be at least 1")
    if options.get("gradient_accumulation_steps", 1) > 1 and equal == "time":
        raise UsageError("equal=time measures a step of one micro-batch: gradient_accumulation_steps must be 1")
    for attention in attentions:
        whole({**options, "attention": attention})


def whole(options):
    """All options of train.py, those not in `options` at their defaults. Raises UsageError for an impossible shape."""
    (model,), rest = bind(train, [], options)
    return {**dataclasses.asdict(model), **train.__kwdefaults__, **rest}


def steps_of(attentions, equal, settings, device, jobs, out):
    """{mechanism: max_iters}. For equal time a step of each is measured, in turns and once: it stays in steps.json."""
    max_iters, kept = settings["max_iters"], out / "steps.json"
    if equal == "tokens":
        return dict.fromkeys(attentions, max_iters)
    asked = json.loads(json.dumps({"attentions": attentions, "jobs": jobs, "settings": settings}))
    if kept.exists():
        try:
            found = json.loads(kept.read_text(encoding="utf-8"))
            same = found["asked"] == asked and found["steps"].keys() == {*attentions}
        except (ValueError, KeyError, TypeError, AttributeError, RecursionError):
            same = False
        if not same:
            raise UsageError(f"{kept} is of other mechanisms, jobs or options: choose another --out_dir, or remove it")
        return found["steps"]
    shape = GPTConfig(**{field.name: settings[field.name] for field in dataclasses.fields(GPTConfig)})
    compiled = settings["compile"] is True or (settings["compile"] == "auto" and device.type == "cuda")
    how = ("fused" if shape.fused else "explicit",), ("compiled" if compiled else "eager",)
    plan = Plan(attentions, *how, 40, 1, device, find_amp(settings["dtype"], device), None)
    tokens, threads = settings["batch_size"] * shape.block_size, torch.get_num_threads()
    torch.set_num_threads(max(1, threads // jobs))  # what each run will have
    rows = list(training_steps(plan, shape, shape.block_size, tokens))
    torch.set_num_threads(threads)
    ms = {row["attention"]: row["milliseconds"][1] for row in rows}
    steps = {name: max(1, round(max_iters * ms[attentions[0]] / ms[name])) for name in attentions}
    write_whole(kept, lambda file: file.write(json.dumps({"asked": asked, "steps": steps}).encode()))
    return steps


# ---------------------------------------------------------------------------- running


def run_all(out, runs, data, jobs):
    """Train those of `runs`, {name: options}, that are not done, `jobs` at a time, each into out/<name>.

    Returns {name: why} of those that failed, and the signal that stopped it all, or 0.
    """
    waiting = [name for name in runs if not is_done(out / name, runs[name], data)]
    running, failed, told = {}, {}, False
    bar = tqdm(
        total=sum(options["max_iters"] for options in runs.values()), unit="step", disable=not sys.stderr.isatty()
    )
    with stop_signals() as stopped, bar:
        try:
            while running or (waiting and not stopped):
                while waiting and len(running) < jobs and not stopped:
                    running[name] = begin(out / (name := waiting.pop(0)), runs[name], jobs)
                if stopped and not told:  # once: of two, the second one kills
                    told = [child.terminate() for child in running.values()]
                for name in [name for name, child in running.items() if child.poll() is not None]:
                    code = running.pop(name).returncode
                    if code and not stopped:
                        killed = f"killed by signal {-code}, after: " if code < 0 else ""
                        failed[name] = killed + last_words(out / f"{name}.log")
                bar.n = sum(steps_done(out / name) for name in runs)
                bar.set_description(" ".join(running), refresh=True)
                time.sleep(0.2)
        finally:
            for child in running.values():
                child.kill()
    return failed, max(stopped, default=0)


def begin(folder, options, jobs):
    """The process that trains into `folder`, or goes on there. What it says goes to <folder>.log."""
    settings, log = (folder.with_name(f"{folder.name}.{kind}") for kind in ("toml", "log"))
    options = {**options, "out_dir": folder.as_posix()}
    write_whole(settings, lambda file: file.write(to_toml(options).encode("utf-8", "backslashreplace")))
    how = "--init_from=resume" if (folder / "ckpt.pt").exists() else "--overwrite=true"
    command = [sys.executable, Path(__file__).with_name("train.py"), settings, how]
    threads = {"OMP_NUM_THREADS": str(max(1, torch.get_num_threads() // jobs))} if jobs > 1 else {}
    with open(log, "wb") as said:  # in a session of its own: Ctrl-C reaches us alone, and we tell it
        return subprocess.Popen(
            command, stdout=said, stderr=said, env={**os.environ, **threads}, start_new_session=True
        )


def is_done(folder, options, data):
    """Whether the run in `folder` is complete. Raises UsageError where it is of other options, data or code."""
    if not (folder / "ckpt.pt").exists():
        return False
    saved = load(folder / "ckpt.pt")
    before, same = saved["options"], options.keys() - {"out_dir", "init_from", "overwrite"}
    wanted = options | {"vocab_size": max(options["vocab_size"], data["vocab_size"])}
    changed = [name for name in same if name not in before or before[name] != wanted[name]]
    other = [f"{name} {show(before.get(name))} -> {show(wanted[name])}" for name in changed]
    other += ["another dataset"] * (saved["data"] != data)
    other += ["another model.py or train.py"] * (saved.get("code") != origin(folder)["code"])
    if other:
        raise UsageError(f"{folder} holds another run ({', '.join(sorted(other))}): choose another --out_dir")
    steps = [row["step"] for row in read_metrics(folder / "metrics.jsonl")]
    if steps != list(range(len(steps))):
        raise UsageError(f"{folder}/metrics.jsonl is damaged: remove {folder}, and it is trained again")
    return len(steps) == options["max_iters"] + 1


def steps_done(folder):
    """Lines in the run's metrics, less the one that says how it ended."""
    try:
        with open(folder / "metrics.jsonl", "rb") as lines:
            return max(0, sum(1 for _ in lines) - 1)
    except OSError:
        return 0


def last_words(log):
    lines = log.read_text(encoding="utf-8", errors="replace").strip().splitlines()
    return lines[-1] if lines else "without a word"


# ---------------------------------------------------------------------------- numbers


def result(folder):
    """What came out of the run in `folder`; needles are found by its best checkpoint."""
    saved, rows = load(folder / "ckpt.pt"), read_metrics(folder / "metrics.jsonl")
    gpt, evaluations = load_model(folder)[0], [row for row in rows if "val_loss" in row]
    task = saved["data"].get("needles")
    watched = {name: [row[name] for row in evaluations] for name in gpt.blocks[0].attention.watch}
    return {
        **{name: saved["options"][name] for name in ("attention", "learning_rate", "seed", "dataset", "max_iters")},
        "val_loss": min(row["val_loss"] for row in evaluations),
        "last_val_loss": evaluations[-1]["val_loss"],
        "steps": [row["step"] for row in evaluations],
        "val_losses": [row["val_loss"] for row in evaluations],
        **watched,
        **({"needles": find_needles(gpt, **task)} if task else {}),
        "seconds": saved["seconds"],
        "parameters": gpt.n_params(),
        "flops_per_token": sum(gpt.flops_per_token()),
        "config": saved["config"],
        "data": saved["data"],
        "commit": saved["commit"],
        "versions": saved["versions"],
    }


def summarize(rows, attentions):
    """A row for every mechanism and learning rate: loss over seeds, difference to the first mechanism in pairs.

    Of several rates each mechanism's best is marked, if all its seeds came through, and compared with the first's best.
    """
    rates, all_seeds = list(dict.fromkeys(row["learning_rate"] for row in rows)), {row["seed"] for row in rows}
    runs = {
        (a, r): [x for x in rows if (x["attention"], x["learning_rate"]) == (a, r)] for a in attentions for r in rates
    }
    best = {}
    for attention in attentions:
        whole_ones = [rate for rate in rates if {x["seed"] for x in runs[attention, rate]} == all_seeds]
        if whole_ones:
            best[attention] = min(whole_ones, key=lambda r: statistics.fmean(x["val_loss"] for x in runs[attention, r]))
    found = []
    for (attention, rate), mine in runs.items():
        if not mine:
            continue
        is_best = best.get(attention) == rate
        base_rate = best.get(attentions[0], rate) if is_best else rate
        base = {x["seed"]: x for x in runs[attentions[0], base_rate]}
        pairs = [(x, base[x["seed"]]) for x in mine if x["seed"] in base]
        row = {"attention": attention, "learning_rate": rate, "best": is_best, "steps": mine[0]["max_iters"]}
        row |= {"seeds": [x["seed"] for x in mine], "missing": sorted(all_seeds - {x["seed"] for x in mine})}
        row["val_loss"] = spread([x["val_loss"] for x in mine])
        if attention != attentions[0] and pairs:
            row["to_learning_rate"] = base_rate
            row["pairs"] = {x["seed"]: x["val_loss"] - other["val_loss"] for x, other in pairs}
            row["difference"] = spread([*row["pairs"].values()])
        if pairs:
            row["time_ratio"] = spread([x["seconds"] / other["seconds"] for x, other in pairs])
        if "needles" in mine[0]:
            row |= summarize_needles([x["needles"] for x in mine])
        found.append(row | {name: mine[0][name] for name in ("parameters", "flops_per_token")})
    return found


def summarize_needles(runs):
    """Exact matches by number of needles, and where heads look while they answer, over runs."""
    n_needles, kinds = len(runs[0]["by_n"]), ("answer", "other needles", "filler", "query")
    shares = [{kind: statistics.fmean(row[kind] for row in run["attention"]) for kind in kinds} for run in runs]
    return {
        "exact": [spread([run["by_n"][i]["exact"] for run in runs]) for i in range(n_needles)],
        "looked_at": {kind: spread([share[kind] for share in shares]) for kind in kinds},
    }


def spread(values):
    """{mean, sd, half}: half of the 95 % interval of the mean is `half`. Of one value there is neither sd nor half."""
    n, mean = len(values), statistics.fmean(values)
    if n < 2:
        return {"n": n, "mean": mean}
    sd = statistics.stdev(values)
    return {"n": n, "mean": mean, "sd": sd, "half": student(n - 1) * sd / math.sqrt(n)}


def student(freedom):
    """The 97.5th percentile of Student's t: with t = √freedom tan θ its density is that of cos θ to the freedom − 1."""
    theta = np.linspace(0, math.pi / 2, 1_000_001)
    share = np.cumsum(np.cos(theta) ** (freedom - 1))
    return math.sqrt(freedom) * math.tan(np.interp(0.95 * share[-1], share, theta))


# ---------------------------------------------------------------------------- what is shown


def written(row, swept=False):
    """A row of `summarize` as a person reads it; of several rates, `swept`, the best is marked."""
    val, difference, ratio = row["val_loss"], row.get("difference"), row.get("time_ratio")
    rate = f"{row['learning_rate']:g}" + (", best" if row["best"] and swept else "")
    cells = {"attention": row["attention"], "learning rate": rate, "steps": row["steps"]}
    cells["best val loss, mean ± sd"] = f"{val['mean']:.4f} ± {val['sd']:.4f}" if "sd" in val else f"{val['mean']:.4f}"
    if row["missing"]:
        cells["best val loss, mean ± sd"] += f" (without seed {', '.join(map(str, row['missing']))})"
    cells["seeds"] = val["n"]
    cells["paired difference, 95 % interval"] = ""
    if difference:
        interval = f"± {difference['half']:.4f}" if "half" in difference else "(one seed: no interval)"
        cells["paired difference, 95 % interval"] = f"{difference['mean']:+.4f} {interval}"
    cells["time"] = "" if ratio is None else f"{ratio['mean']:.2f}" + (f" ± {ratio['sd']:.2f}" if "sd" in ratio else "")
    return cells | {"parameters": f"{row['parameters']:,}", "MFLOP a token": f"{row['flops_per_token'] / 1e6:.2f}"}


def written_needles(row):
    """The same for needles: queries answered exactly by number of needles; where heads look."""
    cells = {"attention": row["attention"], "learning_rate": f"{row['learning_rate']:g}"}
    numbers = {f"N = {i}": found for i, found in enumerate(row["exact"], 1)}
    numbers |= {f"on {kind}": found for kind, found in row["looked_at"].items()}
    return cells | {
        name: f"{z['mean']:.2f}" + (f" ± {z['sd']:.2f}" if "sd" in z else "") for name, z in numbers.items()
    }


def about(rows, device, jobs):
    """What was compared, for a table's head and a figure's title."""
    config, data = rows[0]["config"], rows[0]["data"]
    seeds = ", ".join(map(str, dict.fromkeys(row["seed"] for row in rows)))
    size = f"{config['n_layer']} layers of {config['n_embd']}, {config['n_head']} maps each"
    what = f"{Path(rows[0]['dataset']).name} ({data['tokenizer']}), {size}, windows of {config['block_size']}"
    return f"{what}, seeds {seeds}; {name_of(device)}{f' for {jobs} runs at a time' if jobs > 1 else ''}"


def draw(out, title, rows, summary):
    """loss.png, and where they have something to show needles.png, lam.png, g.png and rates.png."""
    best = {row["attention"]: row for row in summary if row["best"]}
    of = {name: (name, row["learning_rate"]) for name, row in best.items()}
    chosen = {name: [r for r in rows if (r["attention"], r["learning_rate"]) == key] for name, key in of.items()}
    if best:
        panels = [functools.partial(draw_losses, chosen), functools.partial(draw_pairs, best, summary[0]["attention"])]
        save_figure(out / "loss.png", title, panels)
    for name in ("lam", "g"):
        if mine := [mechanism for mechanism, runs in chosen.items() if name in runs[0]]:
            save_figure(out / f"{name}.png", title, [functools.partial(draw_watched, chosen[m], name) for m in mine])
    if best and "exact" in summary[0]:
        save_figure(out / "needles.png", title, [functools.partial(draw_needles, chosen)])
    if len({row["learning_rate"] for row in summary}) > 1:
        save_figure(out / "rates.png", title, [functools.partial(draw_rates, summary)])


def save_figure(path, title, panels):
    """A figure with the `panels`, functions that draw into axes, side by side."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(1.5 + 5 * len(panels), 4.8), layout="constrained")
    for axes, panel in zip(figure.subplots(1, len(panels), squeeze=False)[0], panels, strict=True):
        panel(axes)
        axes.grid(alpha=0.3)
    figure.suptitle(textwrap.fill(title, 75 * len(panels)), fontsize=9, parse_math=False)
    write_figure(path, figure)


def draw_losses(chosen, axes):
    """Validation loss over a run, mean and standard deviation over seeds; the first evaluation is left out."""
    for name, runs in chosen.items():
        curves = np.array([run["val_losses"] for run in runs])[:, 1:]
        x, mean, sd = runs[0]["steps"][1:], curves.mean(0), curves.std(0, ddof=min(1, len(runs) - 1))
        axes.plot(x, mean, label=f"{name}, {runs[0]['learning_rate']:g}", **look(name), ms=4)
        axes.fill_between(x, mean - sd, mean + sd, color=look(name)["color"], alpha=0.2, lw=0)
    axes.set(xlabel="step", ylabel="validation loss (nats a token)", title="mean ± sd over seeds")
    axes.legend(title="learning rate")


def draw_pairs(best, first, axes):
    """Every seed's difference to the first mechanism with the same seed, their mean, its 95 % interval."""
    others = [name for name in best if "pairs" in best[name]]
    for i, name in enumerate(others):
        pairs, difference = best[name]["pairs"].values(), best[name]["difference"]
        style = {"color": look(name)["color"]}
        axes.plot([i - 0.15] * len(pairs), [*pairs], ls="", marker=look(name)["marker"], mfc="none", **style)
        if "half" in difference:
            axes.errorbar([i + 0.15], [difference["mean"]], [difference["half"]], marker="_", ms=16, capsize=5, **style)
    axes.axhline(0, color="0.4", lw=0.8)
    axes.set_xticks(range(len(others)), others)
    axes.set(xlim=(-0.6, max(1, len(others)) - 0.4), ylabel=f"best val loss − that of {first} (nats a token)")
    axes.set_title("pairs of the same seed; mean and its 95 % interval")


def draw_watched(runs, name, axes):
    """λ or g of each layer over a run, the mean over its heads: a thin line a seed, a thick one for their mean."""
    from matplotlib import colormaps

    values = np.array([[[np.mean(layer) for layer in row] for row in run[name]] for run in runs])  # seed, step, layer
    n_layer = values.shape[2]
    for layer in range(n_layer):
        style = {
            "color": colormaps["viridis"](0.9 * layer / max(1, n_layer - 1)),
            "ls": ("-", "--", "-.", ":")[layer % 4],
        }
        axes.plot(runs[0]["steps"], values[:, :, layer].T, lw=0.8, alpha=0.7, **style)
        mark = {"marker": "osD^v<>"[layer % 7], "ms": 5, "lw": 2.2}
        axes.plot(runs[0]["steps"], values[:, :, layer].mean(0), label=f"layer {layer}", **style, **mark)
    axes.set(xlabel="step", ylabel={"lam": "λ"}.get(name, name), title=f"{runs[0]['attention']}: seeds, and their mean")
    axes.legend()


def draw_needles(chosen, axes):
    """Queries answered exactly against the number of needles: a small mark a seed, a line through their means."""
    for i, (name, runs) in enumerate(chosen.items()):
        exact = np.array([[row["exact"] for row in run["needles"]["by_n"]] for run in runs])
        x, style = np.arange(1, exact.shape[1] + 1), look(name)
        axes.plot(x, exact.mean(0), label=name, ms=7, **style)
        axes.plot(x + 0.05 * (i + 1), exact.T, **style | {"ls": ""}, ms=4, mfc="none")
    axes.plot(x, 1 / x, color="0.5", lw=1, label="any needle's number")
    axes.set(xlabel="needles in the context", ylabel="queries answered exactly (share)", ylim=(-0.03, 1.03), xticks=x)
    axes.set_title("seeds, and their mean; held-out cities and numbers")
    axes.legend()


def draw_rates(summary, axes):
    """Validation loss against the learning rate."""
    for name in dict.fromkeys(row["attention"] for row in summary):
        mine = sorted((r for r in summary if r["attention"] == name), key=lambda row: row["learning_rate"])
        losses = [row["val_loss"] for row in mine]
        x, y, sd = [r["learning_rate"] for r in mine], [v["mean"] for v in losses], [v.get("sd", 0) for v in losses]
        axes.errorbar(x, y, sd, label=name, capsize=3, **look(name))
    axes.set(
        xscale="log", xlabel="learning rate", ylabel="validation loss (nats a token)", title="mean ± sd over seeds"
    )
    axes.legend()


if __name__ == "__main__":
    run(compare, preset=preset)
