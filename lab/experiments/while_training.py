"""How do attention maps change while a model is trained? They are looked at after some of the steps.

python -m lab.experiments.while_training config/missing.toml --steps=0,25,50,75,100,150,200,400
python -m lab.experiments.while_training config/cpu.toml --dataset=tinyshakespeare --steps=0,50,100,200,400,800,1200

Each run stops where it is looked at, and is resumed: it is the run that never stopped.
"""

import itertools
import json
from pathlib import Path
from typing import Annotated

import numpy as np
import torch

from configurable import PositiveInt, Range, UsageError, bind, check, run
from lab.maps import (
    activations,
    all_scores,
    cosine,
    effective_tokens,
    negative_mass,
    negative_share,
    score_range,
    visible,
)
from lab.show import look, table
from model import Differential
from plumbing.checkpoint import load_model
from plumbing.run import drawing, provenance, read_metrics
from prepare import load_dataset
from train import preset, train

SMALL = 1e-3  # are softmax weights below this still below it at the next look?
Many = Annotated[tuple[int, ...], Range(ge=0)]


def while_training(
    *,
    attentions: tuple[str, ...] = ("vanilla", "differential", "lambda-zero"),  # mechanisms
    seeds: Many = (1, 2, 3, 4),  # every mechanism is trained once with each seed
    steps: Many = (0, 50, 100, 200, 400),  # when to look; the last is max_iters
    windows: PositiveInt = 64,  # first windows of the validation split, whose maps are looked at
    out: str = "out/while-training.jsonl",  # file to add a line per look to; runs and figure lie beside it
    **options: train,  # and every option of train.py
):
    """Train mechanisms, and measure their maps after some of the steps. Returns a row per look."""
    if chosen := {"attention", "seed"} & options.keys():
        raise UsageError(f"{chosen.pop()}: is chosen for every run; give attentions and seeds")
    check(while_training, {**options, "seeds": seeds, "steps": steps, "windows": windows})
    if [*steps] != sorted({*steps}) or steps[-1] == 0:
        raise UsageError(f"steps={','.join(map(str, steps))}: must rise, to more than 0")
    rows, about = [], {"commit": provenance()["commit"]}
    Path(out).parent.mkdir(parents=True, exist_ok=True)
    with open(out, "a", encoding="utf-8") as file:
        for seed, attention in itertools.product(seeds, attentions):
            folder, were_small = Path(out).with_suffix("") / f"{attention}-{seed}", None
            for step in steps:
                start = {"overwrite": True} if step == steps[0] else {"init_from": "resume"}
                until = {"attention": attention, "seed": seed, "max_iters": step, "lr_decay_iters": steps[-1]}
                (config,), rest = bind(train, [], {**options, **until, **start, "out_dir": str(folder)})
                train(config, **rest)
                row, were_small = look_at(folder, windows, were_small)
                rows.append(row)
                file.write(json.dumps({**row, **about}) + "\n")
                file.flush()
    print(table([{key: value for key, value in row.items() if not isinstance(value, list)} for row in rows]))
    draw(Path(out).with_suffix(".png"), rows)
    return rows


@torch.no_grad()
def look_at(folder, windows, were_small=None):
    """(numbers of a run's maps, means over windows, heads and layers; which softmax weights are small, (LB)GTT bool).

    were_small: which were small at the last look. Softmax weights of differential are those of A₁.
    """
    gpt, checkpoint = load_model(folder / "ckpt.pt")
    last, options = read_metrics(folder / "metrics.jsonl")[-1], checkpoint["options"]
    row = {"attention": options["attention"], "seed": options["seed"], "step": checkpoint["step"]}
    row |= {name: last[name] for name in ("val_loss", "accuracy") if name in last}
    if "lam" in last:
        row["lam"] = [np.mean(layer) for layer in last["lam"]]
    x, _ = next(load_dataset(options["dataset"], block_size=gpt.config.block_size).val.in_order(windows))
    layers = list(zip((block.attention for block in gpt.blocks), activations(gpt, x)[0], strict=True))
    A = torch.cat([attention.attention_map(z) for attention, z in layers])  # of all layers, (LB)GTT
    numbers, A1 = {f.__name__: f(A) for f in (effective_tokens, negative_share, negative_mass)}, A
    if isinstance(layers[0][0], Differential):
        A1, A2 = (
            torch.cat(of_layers) for of_layers in zip(*(attention.both_maps(z) for attention, z in layers), strict=True)
        )
        numbers |= {"A1_effective_tokens": effective_tokens(A1), "A1_A2_cosine": cosine(A1, A2)}
    numbers["score_range"] = torch.cat([score_range(all_scores(attention, z)) for attention, z in layers])
    row |= {name: number.mean().item() for name, number in numbers.items()}
    seen = visible(x.size(1))
    are_small = (A1 < SMALL) & seen
    row["small_share"] = are_small[..., seen].float().mean().item()
    if were_small is not None:
        row["small_stays"] = ((are_small & were_small).sum() / were_small.sum().clamp_min(1)).item()
    return row, are_small


def draw(path, rows):
    """λ of each layer, how alike both maps are, and how sharp and how negative a map is, against steps."""
    titles = ("λ of differential", "how alike both maps are", "effective tokens per row", "share below zero")
    panels = {"A1_A2_cosine": 1, "accuracy": 1, "effective_tokens": 2, "A1_effective_tokens": 2, "negative_share": 3}
    with drawing(path, 9, 7, 2, 2) as (figure, all_axes):
        for attention in dict.fromkeys(row["attention"] for row in rows):
            for name, panel in panels.items():
                points = {}
                for row in (row for row in rows if row["attention"] == attention and name in row):
                    points.setdefault(row["step"], []).append(row[name])
                if points:
                    mean, sd = (np.array([f(values) for values in points.values()]) for f in (np.mean, np.std))
                    style = look(attention) | {"ls": ":" if name in ("accuracy", "A1_effective_tokens") else "-"}
                    all_axes[panel].plot([*points], mean, label=f"{attention}: {name}", **style, ms=4)
                    all_axes[panel].fill_between([*points], mean - sd, mean + sd, color=style["color"], alpha=0.2, lw=0)
        for seed in {row["seed"] for row in rows}:
            looks = [row for row in rows if (row["attention"], row["seed"]) == ("differential", seed)]
            for layer, values in enumerate(zip(*(row["lam"] for row in looks), strict=True)):
                label = f"layer {layer}" if seed == rows[0]["seed"] else None
                all_axes[0].plot([row["step"] for row in looks], values, color=f"C{layer + 4}", lw=1, label=label)
        for axes, title in zip(all_axes, titles, strict=True):
            axes.set(xlabel="step", title=title)
            axes.grid(alpha=0.3)
            if axes.get_legend_handles_labels()[1]:
                axes.legend(fontsize=7)
        figure.suptitle("mean ± sd over seeds; λ: each seed", fontsize=10)


if __name__ == "__main__":
    run(while_training, preset=preset, program="python -m lab.experiments.while_training")
