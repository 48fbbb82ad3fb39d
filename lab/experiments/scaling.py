"""Do time and memory of a training step grow as formulas say? Shapes are timed in turns, and compared in pairs.

python -m lab.experiments.scaling

FLOPs are those of `GPT.flops_per_token`. Memory is at most 16 bytes per parameter (weight, gradient, two moments) and
4 (21 LC + 3V) bytes per token of activations, for vanilla with a fused kernel in float32.
"""

import functools
import itertools
import json
from pathlib import Path

import numpy as np
import torch

from configurable import PositiveInt, check, run
from lab.bench import footprint, in_turns, quartiles, training_step
from lab.show import table
from model import GPT, GPTConfig
from plumbing.machine import device_name
from plumbing.run import drawing, provenance
from train import make_optimizer

TOKENS = 1024  # per step
GROWS = {"n_embd": (64, 128, 256, 512), "n_layer": (2, 4, 8), "block_size": (64, 256, 1024)}


def scaling(
    *,
    repetitions: PositiveInt = 15,  # rounds, in each of which every shape is timed once
    out: str = "out/scaling.jsonl",  # file to add a line per pair of shapes to; the figure lies beside it
):
    """Compare predicted and measured growth, one letter at a time from C = 128, L = 4, T = 256. Returns the lines."""
    check(scaling, locals())
    gpts, steps = {}, {}
    cpu, float32 = torch.device("cpu"), torch.autocast("cpu", torch.bfloat16, enabled=False)
    for name, values in GROWS.items():
        for value in values:
            shape = {"n_embd": 128, "n_layer": 4, "block_size": 256, "n_head": 4, name: value}
            gpts[name, value] = gpt = GPT(GPTConfig(**shape))
            x = torch.randint(256, (TOKENS // shape["block_size"], shape["block_size"]))
            optimizer = make_optimizer(gpt, 0.1, (0.9, 0.95))
            steps[name, value] = functools.partial(training_step, gpt, gpt, optimizer, x, x, float32)
    seconds, lines = in_turns(steps, repetitions, cpu), []
    about = {"device": device_name(cpu), "commit": provenance()["commit"]}
    for name, values in GROWS.items():
        for pair in itertools.pairwise((name, value) for value in values):
            (flops_a, bytes_a), (flops_b, bytes_b) = (predicted(gpts[one]) for one in pair)
            peak_a, peak_b = (12 * gpts[one].n_params() + footprint(steps[one], cpu)[0] for one in pair)
            line = {"grows": name, "from": pair[0][1], "to": pair[1][1], "FLOPs, predicted": flops_b / flops_a}
            line["time, measured"] = quartiles(b / a for a, b in zip(*(seconds[one] for one in pair), strict=True))
            line |= {"bytes, predicted": bytes_b / bytes_a, "bytes, measured": peak_b / peak_a}
            lines.append({**line, "MB, predicted": bytes_b / 1e6, "MB": peak_b / 1e6})
    Path(out).parent.mkdir(parents=True, exist_ok=True)
    with open(out, "a", encoding="utf-8") as file:
        file.writelines(json.dumps({**line, **about}) + "\n" for line in lines)
    print(table(lines))
    draw(Path(out).with_suffix(".png"), lines)
    return lines


def predicted(gpt):
    """FLOPs and bytes of a step."""
    c = gpt.config
    activations = 21 * c.n_layer * c.n_embd + 3 * c.vocab_size  # numbers per token
    return TOKENS * sum(gpt.flops_per_token()), 16 * gpt.n_params() + 4 * TOKENS * activations


def draw(path, lines):
    """Growth measured against growth predicted; on the diagonal both are equal."""
    with drawing(path, 8, 4, 1, 2) as (_, panels):
        for axes, (x, y) in zip(panels, (("FLOPs", "time"), ("bytes", "bytes")), strict=True):
            for i, name in enumerate(dict.fromkeys(line["grows"] for line in lines)):
                mine = [line for line in lines if line["grows"] == name]
                measured = [np.median(line[f"{y}, measured"]) for line in mine]
                axes.plot([line[f"{x}, predicted"] for line in mine], measured, marker="osD"[i], ls="", label=name)
            axes.axline((1, 1), slope=1, color="0.6", lw=1)
            axes.set(xlabel=f"{x}, predicted growth", ylabel=f"{y}, measured growth")
            axes.grid(alpha=0.3)
            axes.legend()


if __name__ == "__main__":
    run(scaling, program="python -m lab.experiments.scaling")
