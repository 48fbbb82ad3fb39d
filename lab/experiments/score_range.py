"""When is a minus sign worth something? Scores are bounded by g, S = g cos(q, k), and both kinds are trained on text.

python -m lab.experiments.score_range config/cpu.toml --dataset=tinyshakespeare --max_iters=600 --eval_interval=600
"""

import itertools
import json
import statistics
from pathlib import Path
from typing import Annotated

import numpy as np
import torch

from configurable import PositiveInt, Range, UsageError, check, run
from lab.analyze import heatmaps
from lab.compare import compare
from lab.maps import activations, of_heads
from lab.show import mean_and_interval, mean_and_sd, spread, table
from plumbing.checkpoint import load_model
from plumbing.run import drawing
from prepare import load_dataset
from train import preset, train

NUMBERS = ("effective_tokens", "near_zero", "negative_share", "negative_mass", "cancelled", "score_range")


def score_range(
    *,
    ranges: tuple[str, ...] = ("1", "2", "3", "4", "6", "8", "free"),  # g, as in the words of ideas/bounded.py; free
    windows: Annotated[tuple[int, ...], Range(ge=2)] = (16, 64, 256),  # block_size
    tokens: PositiveInt = 768,  # per step, a multiple of all --windows
    seeds: Annotated[tuple[int, ...], Range(ge=0)] = (11, 12, 13, 14),  # every mechanism is trained once with each
    jobs: PositiveInt = 2,  # runs at the same time, which share the cores
    out: str = "out/score-range.jsonl",  # file for a line per run; runs and figure lie beside it
    **options: train,  # and every option of train.py; block_size and batch_size follow from windows and tokens
):
    """Train vanilla and differential at each score range and window, and compare them. Returns the lines."""
    if chosen := {"attention", "seed", "out_dir"} & options.keys():
        raise UsageError(f"{chosen.pop()}: is chosen for every run")
    check(score_range, {**options, "windows": windows, "tokens": tokens, "seeds": seeds, "jobs": jobs})
    lines, rows, runs = [], [], Path(out).with_suffix("")
    for window, g in itertools.product(windows, ranges):
        words = words_of(g)
        folder = runs / f"window-{window}-range-{g}"
        shape = {"block_size": window, "batch_size": tokens // window}
        compare(attentions=words, seeds=seeds, jobs=jobs, out_dir=str(folder), **{**options, **shape})
        lines += [line_of(window, g, record, folder) for record in read_lines(folder / "runs.jsonl")]
        rows.append(row_of(window, g, lines))
        Path(out).write_text("".join(json.dumps(line) + "\n" for line in lines), encoding="utf-8")
    print(f"\n{table(rows)}")
    draw(Path(out).with_suffix(".png"), lines, runs)
    return lines


def words_of(g):
    """The words of vanilla and of differential with scores bounded by g."""
    return ("vanilla", "differential") if g == "free" else (f"bounded-{g}", f"bounded-{g}-differential")


def read_lines(path):
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


@torch.no_grad()
def line_of(window, g, record, folder, windows=64):
    """A run's record of lab.compare with the numbers of its maps, means over heads, layers and `windows` windows."""
    gpt, checkpoint = load_model(folder / f"{record['attention']}-{record['seed']}")
    split = load_dataset(checkpoint["options"]["dataset"], block_size=window).val
    x, _ = next(split.in_order(windows))
    heads = []
    for block, z in zip(gpt.blocks, activations(gpt, x)[0], strict=True):
        heads += of_heads(block.attention, z)
    numbers = {
        name: statistics.fmean(head[name] for head in heads) for name in NUMBERS if all(name in head for head in heads)
    }
    record = {name: value for name, value in record.items() if name != "experiment"}
    kind = "differential" if record["attention"].endswith("differential") else "vanilla"
    return {
        "window": window,
        "g": g,
        "kind": kind,
        **record,
        **{name: round(value, 4) for name, value in numbers.items()},
    }


def pair(lines, window, g):
    """{seed: line} of vanilla, and of differential."""
    of_point = [line for line in lines if (line["window"], line["g"]) == (window, g)]
    return [{line["seed"]: line for line in of_point if line["kind"] == kind} for kind in ("vanilla", "differential")]


def row_of(window, g, lines):
    """A row of the table: both losses, their paired difference, and numbers of the maps."""
    vanilla, differential = pair(lines, window, g)
    row = {"window": window, "g": g}
    row |= {"vanilla": mean_and_sd(spread([line["best"] for line in vanilla.values()]), 3)}
    row |= {"differential": mean_and_sd(spread([line["best"] for line in differential.values()]), 3)}
    row["difference"] = mean_and_interval(differences(vanilla, differential), 3)
    for name in ("effective_tokens", "near_zero", "negative_mass"):
        row[name] = " → ".join(
            f"{statistics.fmean(line[name] for line in runs.values()):.3g}" for runs in (vanilla, differential)
        )
    return row | {
        "λ": " ".join(f"{np.mean(x):.2f}" for x in zip(*(r["lam"] for r in differential.values()), strict=True))
    }


def differences(vanilla, differential):
    """`spread` of the paired differences of the best loss, of {seed: line} of both."""
    return spread([differential[seed]["best"] - vanilla[seed]["best"] for seed in differential if seed in vanilla])


def draw(path, lines, runs):
    """The loss difference against g, a line per window; beside it one map of each kind at g = 2."""
    windows = sorted({line["window"] for line in lines})
    ranges = sorted({line["g"] for line in lines}, key=lambda g: float("inf") if g == "free" else float(g))
    with drawing(path, 10.5, 3.7, 1, 3, width_ratios=(1.5, 1, 1)) as (figure, (left, *panels)):
        for i, window in enumerate(windows):
            measured = [g for g in ranges if any((line["window"], line["g"]) == (window, g) for line in lines)]
            points = [differences(*pair(lines, window, g)) for g in measured]
            x = [ranges.index(g) + 0.08 * (i - (len(windows) - 1) / 2) for g in measured]
            style = {"color": f"C{i}", "marker": "osD^"[i % 4], "capsize": 3, "label": f"windows of {window}"}
            means = [point["mean"] for point in points]
            left.errorbar(x, means, [point.get("half", 0) for point in points], ls="none", **style)
            bounded = len([g for g in measured if g != "free"])  # free scores are also not normalised: no line to them
            left.plot(x[:bounded], means[:bounded], color=f"C{i}")
        left.axhline(0, color="0.4", lw=1)
        left.set_xticks(range(len(ranges)), ranges)
        left.set(xlabel="g: the largest score", ylabel="loss of differential − vanilla (nats per byte)")
        left.set_title("below 0 subtraction helps", fontsize=10)
        left.grid(alpha=0.3)
        left.legend()
        window, g = 64 if 64 in windows else windows[0], "2" if "2" in ranges else ranges[0]
        folder, seed = runs / f"window-{window}-range-{g}", lines[0]["seed"]
        named = [
            (f"{kind}, g = {g}", one_map(folder / f"{word}-{seed}"))
            for kind, word in zip(("vanilla", "differential"), words_of(g), strict=True)
        ]
        heatmaps(figure, panels, named, None)
        for axes, (title, _) in zip(panels, named, strict=True):
            axes.set(xticks=(), yticks=(), xlabel="token that is seen", ylabel="token that looks")
            axes.set_title(title, fontsize=10)


@torch.no_grad()
def one_map(folder):
    """The map of the first head of the last layer on the first 32 validation tokens, TT."""
    gpt, checkpoint = load_model(folder)
    tokens = load_dataset(checkpoint["options"]["dataset"]).val.gather(np.arange(min(32, gpt.config.block_size)))
    return gpt.blocks[-1].attention.attention_map(activations(gpt, tokens[None])[0][-1])[0, 0]


if __name__ == "__main__":
    run(score_range, preset=preset, program="python -m lab.experiments.score_range")
