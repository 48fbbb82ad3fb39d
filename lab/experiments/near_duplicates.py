"""Similarity is not identity: one attention layer is asked for one of two tokens whose keys are nearly the same.

python -m lab.experiments.near_duplicates

A context has n tokens in pairs. The keys of a pair, in R¹⁶, have the cosine `similarity`; values are ~ N(0, I) in R³².
The last token also carries one of the keys; the answer is the value of that key. A layer has recalled it when 99 % of
the variance of the answers is explained. "Bounded": S = 6 cos(q, k).
"""

import itertools
import math
import statistics
from operator import itemgetter
from pathlib import Path
from typing import Annotated

import torch

from configurable import PositiveInt, Range, UsageError, check, run
from ideas.bounded import WithoutNorm, bounded
from lab.one_layer import asking, one_layer, relative_error, train, train_all
from lab.show import look, mean_and_sd, spread, table
from model import ATTENTION, Attention, Differential
from plumbing.run import drawing

KEY, VALUE = 16, 32  # channels of a key, of a value
RECALLED = 0.01  # error ÷ variance of the answers


KINDS = {  # name: (mechanism, softmax maps)
    "vanilla": (Attention, 1),
    "difference": (WithoutNorm, 2),
    "differential": (Differential, 2),
    "bounded vanilla": (bounded(Attention, 6, "bounded-6"), 1),
    "bounded difference": (bounded(WithoutNorm, 6, "bounded-6-no-norm"), 2),
}


def near_duplicates(
    *,
    kinds: tuple[str, ...] = (*KINDS,),  # which layers
    lengths: Annotated[tuple[int, ...], Range(ge=2)] = (64,),  # tokens in a context, n
    similarity: Annotated[float, Range(gt=-1, lt=1)] = 0.9,  # cosine of the two keys of a pair
    seeds: Annotated[tuple[int, ...], Range(ge=0)] = tuple(range(11, 27)),  # each setting is trained with each seed
    learning_rates: Annotated[tuple[float, ...], Range(gt=0)] = (5e-3,),  # each is tried
    steps: PositiveInt = 1000,  # training steps, of 32 new contexts each
    every: PositiveInt = 50,  # steps between two evaluations on 200 new contexts
    out: str = "out/near-duplicates.jsonl",  # file to add a line per run to; the figure lies beside it
):
    """Train one layer of each kind, and note when it has recalled. Returns the runs."""
    check(near_duplicates, locals())
    if unknown := {*kinds} - {*KINDS}:
        raise UsageError(f"kinds: {unknown.pop()} is none of {', '.join(KINDS)}")
    settings = [
        {"kind": kind, "n": n, "similarity": similarity, "learning_rate": rate, "steps": steps, "every": every}
        for n, rate, kind in itertools.product(lengths, learning_rates, kinds)
    ]
    runs = train_all(settings, seeds, trained, out)
    rows = []
    for (n, rate, kind), iterator in itertools.groupby(runs, itemgetter("n", "learning_rate", "kind")):
        group = list(iterator)
        row = {
            "n": n,
            "learning rate": rate,
            "": kind,
            "error": mean_and_sd(spread([run["error"] for run in group]), 3),
        }
        row["recalled"] = f"{sum(run['recalled_at'] is not None for run in group)} of {len(group)}"
        row["median step"] = statistics.median_high(run["recalled_at"] or math.inf for run in group)
        rows.append(row)
    print(table(rows))
    draw(Path(out).with_suffix(".png"), runs)
    return runs


def contexts(count, n, similarity, draw):
    """`count` contexts x BTC, and their answers B×VALUE; drawn by a torch.Generator."""
    first, second = (torch.randn(count, (n + 1) // 2, KEY, generator=draw) for _ in range(2))
    first = torch.nn.functional.normalize(first, dim=-1)
    second = second - (second * first).sum(-1, keepdim=True) * first  # at a right angle to the first
    second = similarity * first + math.sqrt(1 - similarity**2) * torch.nn.functional.normalize(second, dim=-1)
    keys = math.sqrt(KEY) * torch.stack((first, second), 2).flatten(1, 2)[:, :n]
    values = torch.randn(count, n, VALUE, generator=draw)
    asked = torch.randint(n, (count,), generator=draw)
    return asking(keys, values, asked), values[range(count), asked]


def trained(kind, n, similarity, seed, learning_rate, steps, every):
    """The error after each `every` steps, and the first step at which the answers were recalled, if any."""
    mechanism, n_head = KINDS[kind]
    ATTENTION[kind] = mechanism
    layer = one_layer(kind, n_head, n, seed)
    draw, errors = torch.Generator().manual_seed(seed), []
    held_out = contexts(200, n, similarity, torch.Generator().manual_seed(10_000 + seed))

    @torch.no_grad()
    def evaluate(step):
        if step % every == 0:
            errors.append(round(relative_error(layer, *held_out), 5))

    train(layer, lambda count: contexts(count, n, similarity, draw), learning_rate, steps, 32, evaluate)
    recalled = [(i + 1) * every for i, error in enumerate(errors) if error <= RECALLED]
    numbers = {"error": errors[-1], "recalled_at": min(recalled, default=None), "errors": errors}
    return numbers | ({"lam": round(layer.lam.mean().item(), 3)} if "lam" in layer.watch else {})


def draw(path, runs):
    """The share of runs that have not recalled yet against steps: a line per kind, a panel per length."""
    lengths = sorted({run["n"] for run in runs})
    with drawing(path, 5 * len(lengths), 4, 1, len(lengths), sharey=True) as (_, panels):
        for axes, n in zip(panels, lengths, strict=True):
            for kind in dict.fromkeys(run["kind"] for run in runs):
                group = [run for run in runs if (run["n"], run["kind"]) == (n, kind)]
                steps = range(0, group[0]["steps"] + 1, group[0]["every"])
                left = [statistics.fmean((run["recalled_at"] or math.inf) > step for run in group) for step in steps]
                axes.step(steps, left, where="post", label=kind, color=look(kind)["color"], ls=look(kind)["ls"])
            axes.set(title=f"{n} tokens", xlabel="training step", ylabel="share of runs that have not recalled yet")
            axes.grid(alpha=0.3)
        axes.legend(fontsize=8)


if __name__ == "__main__":
    run(near_duplicates, program="python -m lab.experiments.near_duplicates")
