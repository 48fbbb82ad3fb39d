"""Scores are bounded: how well can one attention layer read one token among many? S = g cos(q, k), g fixed.

python -m lab.experiments.bounded_scores

A context has n tokens, each with a random key in R¹⁶ and a value ~ N(0, I) in R³². The last token also carries one of
the keys; the answer is the value of that key. One attention layer learns it, without positions, residual stream or MLP.
No weight of a softmax row is more than e^(2g) times another, so the asked token gets at most e^(2g)/(e^(2g) + n − 1).
"""

import itertools
import math
import statistics
from operator import itemgetter
from pathlib import Path
from typing import Annotated

import torch

from configurable import PositiveFloat, PositiveInt, Range, check, run
from ideas.bounded import WithoutNorm, bounded
from ideas.lambdas import MinusEven
from lab.maps import shares
from lab.one_layer import asking, one_layer, relative_error, train, train_all
from lab.show import look, mean_and_sd, spread, table
from model import ATTENTION, Attention, Differential
from plumbing.run import drawing

KEY, VALUE = 16, 32  # channels of a key, of a value


class Adds(WithoutNorm):
    """two maps that add: A = softmax(S₁) + |λ| softmax(S₂), without head norm."""

    @property
    def lam(self):
        return -super().lam.abs()


KINDS = {  # name: (mechanism, softmax maps)
    "vanilla": (Attention, 1),
    "vanilla, two heads": (Attention, 2),
    "two maps that add": (Adds, 2),
    "minus a uniform map": (MinusEven, 1),
    "difference": (WithoutNorm, 2),
    "difference with head norm": (Differential, 2),
}


def bounded_scores(
    *,
    ranges: Annotated[tuple[float, ...], Range(gt=0)] = (1.0, 2.0, 4.0),  # g, the largest score
    n_items: Annotated[int, Range(ge=2)] = 64,  # tokens in a context, n
    seeds: Annotated[tuple[int, ...], Range(ge=0)] = (1, 2, 3, 4),  # each setting is trained with each seed
    learning_rate: PositiveFloat = 5e-3,  # reached after 100 steps; it falls to 0 over the second half
    steps: PositiveInt = 800,  # training steps, of 64 new contexts each
    out: str = "out/bounded-scores.jsonl",  # file to add a line per run to; the figure lies beside it
):
    """Train one layer of each kind at each score range, and look at its rows. Returns the runs."""
    check(bounded_scores, locals())
    same = {"n_items": n_items, "learning_rate": learning_rate, "steps": steps}
    settings = [{"kind": kind, "g": g, **same} for g, kind in itertools.product(ranges, KINDS)]
    runs = train_all(settings, seeds, trained, out)
    rows = []
    for (g, kind), iterator in itertools.groupby(runs, itemgetter("g", "kind")):
        group = list(iterator)
        row = {"g": g, "": kind, "error": mean_and_sd(spread([run["error"] for run in group]), 3)}
        for name in ("near_zero", "negative_share", "contrast", "A1_near_zero", "lam"):
            if name in group[0]:
                row[name] = statistics.fmean(run[name] for run in group)
        rows.append(row)
    print(table(rows))
    draw(Path(out).with_suffix(".png"), [run for run in runs if run["seed"] == seeds[0]])
    return runs


def contexts(count, n_items, draw):
    """`count` contexts x BTC, their answers B×VALUE, and which token was asked for, B; drawn by a torch.Generator."""
    keys, values = (torch.randn(count, n_items, size, generator=draw) for size in (KEY, VALUE))
    keys *= math.sqrt(KEY) / keys.norm(dim=-1, keepdim=True)
    asked = torch.randint(n_items, (count,), generator=draw)
    return asking(keys, values, asked), values[range(count), asked], asked


def trained(kind, g, n_items, seed, learning_rate, steps):
    """The error ÷ variance of the answer, numbers of the rows that answer, and one of these rows."""
    mechanism, n_head = KINDS[kind]
    ATTENTION[kind] = bounded(mechanism, g, kind)
    layer, draw = one_layer(kind, n_head, n_items, seed), torch.Generator().manual_seed(seed)
    train(layer, lambda count: contexts(count, n_items, draw)[:2], learning_rate, steps)
    with torch.no_grad():
        x, y, asked = contexts(1000, n_items, draw)
        numbers = {"error": relative_error(layer, x, y)} | of_rows(layer.attention_map(x)[:, :, -1], asked)
        if layer.maps_per_head == 2:
            numbers["A1_near_zero"] = of_rows(layer.both_maps(x)[0][:, :, -1], asked)["near_zero"]
        if "lam" in layer.watch:
            numbers["lam"] = layer.lam.mean().item()
        row = layer.attention_map(x[:1])[0, 0, -1]
    return numbers | {"asked": asked[0].item(), "row": [round(weight, 5) for weight in row.tolist()]}


def of_rows(a, asked):
    """Numbers of rows of weights, BGT, of which the token asked B was wanted: means over rows and heads.

    near_zero: share of the other weights below a tenth of the uniform share of their row. contrast: |asked| ÷ mean of
    the others' |a|.
    """
    asked = asked[:, None, None].expand(-1, a.size(1), 1)
    share, others = shares(a), torch.ones_like(a).scatter(-1, asked, 0).bool()
    wanted, rest = a.gather(-1, asked).abs(), a.abs().masked_fill(~others, 0).sum(-1, keepdim=True) / (a.size(-1) - 1)
    return {
        "near_zero": (share < 0.1 / a.size(-1))[others].float().mean().item(),
        "negative_share": (a < 0)[others].float().mean().item(),
        "contrast": (wanted / rest).mean().item(),
    }


def draw(path, runs):
    """The row that answers one context: vanilla above, the difference below, a column per score range."""
    ranges = sorted({run["g"] for run in runs})
    with drawing(path, 4 * len(ranges) + 0.5, 5, 2, len(ranges), sharey="col") as (figure, panels):
        for axes, (kind, g) in zip(panels, itertools.product(("vanilla", "difference"), ranges), strict=True):
            (run,) = (run for run in runs if (run["kind"], run["g"]) == (kind, g))
            color = look("differential" if kind == "difference" else kind)["color"]
            axes.bar(
                range(len(run["row"])),
                run["row"],
                color=["k" if i == run["asked"] else color for i in range(len(run["row"]))],
            )
            axes.axhline(0, color="0.4", lw=0.8)
            axes.set_title(f"{kind}, |S| ≤ {g:g}: error {run['error']:.2f}", fontsize=11)
            axes.set(xlabel="token", ylabel="weight")
        figure.suptitle("The row that answers, one seed. Black: the token that was asked for", fontsize=11)


if __name__ == "__main__":
    run(bounded_scores, program="python -m lab.experiments.bounded_scores")
