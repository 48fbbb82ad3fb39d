"""How do maps change while a model is trained? They are looked at before, after a few, after more and after all steps.

python -m lab.course config/missing.toml --steps=0,25,50,75,100,150,200,400
python -m lab.course config/cpu.toml --dataset=tinyshakespeare --steps=0,50,100,200,400,800,1200

Each run stops where it is looked at, and is resumed: it is the run that never stopped. After an interruption the same
command continues.
"""

import concurrent.futures
import json
import multiprocessing
import statistics
from pathlib import Path
from typing import Annotated

import numpy as np
import torch

from configurable import PositiveInt, UsageError, bind, check_ranges, run
from lab import maps
from lab.compare import CHOSEN_PER_RUN, Seeds, with_defaults
from lab.show import look
from model import Differential
from plumbing.checkpoint import load_model
from plumbing.dataset import load_dataset
from plumbing.figure import new_figure, plain, write_figure
from plumbing.files import locked, write_json
from plumbing.machine import device_name, find_device
from plumbing.run import command, provenance, read_metrics
from train import check_options, preset, train

NUMBERS = ("effective_tokens", "A1_effective_tokens", "A1_A2_cosine", "negative_share", "negative_mass", "row_sum")
SMALL = 1e-3  # softmax weights below this are followed: are they still small at the next look?
CHOSEN = CHOSEN_PER_RUN | {"lr_decay_iters": "leave it out"}  # and max_iters, which presets have, is the last of steps


def course(
    *,
    attentions: tuple[str, ...] = ("vanilla", "differential", "lambda-zero"),  # mechanisms
    seeds: Seeds = (1, 2, 3, 4),  # every mechanism is trained once with each seed
    steps: Annotated[tuple[int, ...], "at least 0"] = (0, 50, 100, 200, 400),  # when to look; the last is max_iters
    windows: PositiveInt = 64,  # first windows of the validation split, whose maps are looked at
    jobs: PositiveInt = 1,  # runs at the same time
    out_dir: str | None = None,  # folder of the runs, results.json and course.png; none: out/course-<dataset>
    **options: train,  # and every option of train.py
):
    """Train several mechanisms, and measure their maps after some of the steps. Returns a row for each look."""
    check_ranges(course, {"seeds": seeds, "steps": steps, "windows": windows, "jobs": jobs, **options})
    for name in CHOSEN.keys() & options.keys():
        raise UsageError(f"{name}: is chosen for every run; {CHOSEN[name]}")
    if sorted({*steps}) != [*steps] or steps[-1] == 0:
        raise UsageError(f"steps={','.join(map(str, steps))}: must rise, to more than 0")
    runs = [
        with_defaults({**options, "attention": attention, "seed": seed, "lr_decay_iters": steps[-1]})
        for seed in seeds
        for attention in attentions
    ]
    for settings in runs:
        check_options(settings)
    data = load_dataset(runs[0]["dataset"], "cpu", runs[0]["block_size"], runs[0]["eval_tokens"])
    out = Path(out_dir or f"out/course-{data.name}")
    with locked(out / ".lock", f"training in {out}"):
        context = multiprocessing.get_context("spawn")  # a fork would share torch's threads
        with concurrent.futures.ProcessPoolExecutor(jobs, context) as pool:
            looks = [pool.submit(follow, out, settings, steps, windows) for settings in runs]
            rows = [row for one in looks for row in one.result()]
        device = device_name(find_device(runs[0]["device"]))
        report = {"command": command(), "commit": provenance()["commit"], "device": device, "dataset": data.name}
        write_json(out / "results.json", report | {"rows": rows})
    draw(out / "course.png", rows, data.name)
    print(f"{out}: results.json and course.png")
    return rows


def follow(out, settings, steps, windows):
    """Train one run from look to look. A row for each, which NAME.json keeps."""
    name = f"{settings['attention']}-{settings['seed']}"
    path = out / f"{name}.json"
    rows = json.loads(path.read_text(encoding="utf-8")) if path.exists() else []
    torch.set_num_threads(1)
    for step in steps[len(rows) :]:
        begun = (out / name / "ckpt.pt").exists()
        mode = {"init_from": "resume"} if begun else {"overwrite": True}
        (shape,), rest = bind(train, [], {**settings, "max_iters": step, "out_dir": str(out / name), **mode})
        train(shape, **rest)
        row, small = look_at(out / name, windows)
        np.save(out / name / f"small-{step}.npy", small)
        if rows:
            kept = out / name / f"small-{rows[-1]['step']}.npy"
            if not kept.exists() or (before := np.load(kept)).shape != small.shape:
                raise UsageError(f"{path} was made with other windows or by an older version: give another out_dir")
            row["small_stays"] = (small & before).sum() / max(1, before.sum())
        rows.append(row)
        write_json(path, rows)
    return rows


@torch.no_grad()
def look_at(folder, windows):
    """Numbers of a run's latest checkpoint, means over windows, heads and layers; and which softmax weights are small.

    Those of differential are of A₁. They are bool, layers × BHTT.
    """
    gpt, checkpoint = load_model(folder / "ckpt.pt")
    options, last = checkpoint["options"], read_metrics(folder / "metrics.jsonl")[-1]
    split = load_dataset(options["dataset"], "cpu", gpt.config.block_size).val
    x, _ = maps.cut(split, windows * gpt.config.block_size, gpt)
    inputs, _ = maps.activations(gpt, x)
    layers = [maps.of_heads(block.attention, z) for block, z in zip(gpt.blocks, inputs, strict=True)]
    row = {"attention": options["attention"], "seed": options["seed"], "step": checkpoint["step"]}
    row |= {name: last[name] for name in ("val_loss", "accuracy", "lam") if name in last}
    there = [name for name in NUMBERS if name in layers[0][0]]
    row |= {name: statistics.fmean(head[name] for heads in layers for head in heads) for name in there}
    seen = maps.visible(x.size(1), x.device)
    small = torch.stack([first_map(b.attention, z) < SMALL for b, z in zip(gpt.blocks, inputs, strict=True)]) & seen
    row["small_share"] = (small.sum() / (seen.sum() * small[..., 0, 0].numel())).item()
    return row, small.numpy()


def first_map(attention, x):
    """A₁ of a mechanism that has two maps, else A, BHTT. x BTC"""
    return attention.maps(x)[0] if isinstance(attention, Differential) else attention.map(x)


def draw(path, rows, dataset):
    """Four panels against steps: λ of each layer, how alike both maps are (and accuracy), how negative, how sharp."""
    figure, (lam, alike, negative, sharp) = new_figure(9, 7, 2, 2)
    for attention in dict.fromkeys(row["attention"] for row in rows):
        style = {name: value for name, value in look(attention).items() if name != "ls"}
        title = "λ fixed at 0" if attention == "lambda-zero" else attention
        curve(sharp, rows, attention, "effective_tokens", label=f"{title}: A", **style)
        if attention != "differential":
            continue
        curve(alike, rows, attention, "A1_A2_cosine", label="cosine of A₁ and A₂", **style)
        if "accuracy" in rows[0]:
            curve(alike, rows, attention, "accuracy", label="accuracy", ls=":", **style)
        curve(sharp, rows, attention, "A1_effective_tokens", label="differential: A₁ alone", ls=":", **style)
        curve(negative, rows, attention, "negative_share", label="of the weights", **style)
        curve(negative, rows, attention, "negative_mass", label="of the sum of |weights|", ls=":", **style)
        mine = [row for row in rows if row["attention"] == attention]
        for layer in range(len(mine[0]["lam"])):
            for seed in dict.fromkeys(row["seed"] for row in mine):
                points = [(row["step"], np.mean(row["lam"][layer])) for row in mine if row["seed"] == seed]
                first = {"label": f"layer {layer}"} if seed == mine[0]["seed"] else {}
                lam.plot(*zip(*points, strict=True), color=f"C{layer + 4}", lw=1, **first)
    alike.set(title="how alike both maps are", ylim=(0, 1.03))
    sharp.set(title="effective tokens per row", ylim=(0, None))
    negative.set(title="share below zero", ylim=(0, None))
    lam.set(title="λ of each layer, a line per seed")
    for axes in (alike, sharp, negative, lam):
        axes.set(xlabel="step")
        axes.grid(alpha=0.3)
        if axes.get_legend_handles_labels()[1]:
            axes.legend(fontsize=8)
    figure.suptitle(plain(f"{dataset}: mean ± sd over seeds; λ: each seed"), fontsize=10)
    write_figure(path, figure)


def curve(axes, rows, attention, name, color, **style):
    """A number of a mechanism against steps: mean over seeds, and a band of one standard deviation."""
    by_step = {}
    for row in rows:
        if row["attention"] == attention:
            by_step.setdefault(row["step"], []).append(row[name])
    x, mean = [*by_step], np.array([np.mean(values) for values in by_step.values()])
    sd = np.array([np.std(values, ddof=min(1, len(values) - 1)) for values in by_step.values()])
    axes.plot(x, mean, color=color, ms=5, **style)
    axes.fill_between(x, mean - sd, mean + sd, color=color, alpha=0.2, lw=0)


if __name__ == "__main__":
    run(course, preset=preset, program="python -m lab.course")
