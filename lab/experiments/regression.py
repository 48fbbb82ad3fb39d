"""Do signed weights help linear regression in the context? Least squares predicts by a signed sum of values.

python -m lab.experiments.regression

A context has n tokens of x ~ N(0, I) in R⁵ and y = W x + 0.1 N(0, I), with a new W ~ N(0, I/5) per context. The last
token also carries a query, another x; the answer is its W x. One attention layer learns it, without residual stream or
MLP. With --positions=true queries and keys are rotated by their place, and the order of a context may matter.
"""

import itertools
import math
from operator import itemgetter
from pathlib import Path
from typing import Annotated

import torch

import ideas  # noqa: F401  adds no-norm
from configurable import PositiveFloat, PositiveInt, Range, check, one_of, run
from lab.one_layer import C, answer, one_layer, relative_error, suits, train, train_all
from lab.show import look, mean_and_sd, spread, table
from model import ATTENTION
from plumbing.run import drawing

FEATURES, NOISE = 5, 0.1  # channels of an x; standard deviation of the noise


def regression(
    *,
    attentions: tuple[str, ...] = ("vanilla", "differential", "no-norm"),  # no-norm: differential without head norm
    n_heads: Annotated[tuple[int, ...], Range(ge=1)] = (1, 2, 4),  # softmax maps; left out where a mechanism cannot
    n_items: PositiveInt = 20,  # tokens in a context, n
    widths: Annotated[tuple[int, ...], Range(ge=1, le=54)] = (1, 48),  # channels of a y
    seeds: Annotated[tuple[int, ...], Range(ge=0)] = (1, 2, 3, 4),  # each setting is trained with each seed
    positions: bool = False,  # whether queries and keys are rotated by their place in the context
    learning_rate: PositiveFloat = 5e-3,  # reached after 100 steps; it falls to 0 over the second half
    steps: PositiveInt = 1600,  # training steps, of 64 new contexts each
    out: str = "out/regression.jsonl",  # file to add a line per run to; the figure lies beside it
):
    """Train one attention layer on linear regression in the context, and compare errors. Returns the runs."""
    check(regression, locals())
    for word in attentions:
        one_of("attentions", word, ATTENTION)
    same = {"n_items": n_items, "positions": positions, "learning_rate": learning_rate, "steps": steps}
    settings = [
        {"attention": attention, "n_head": n_head, "width": width, **same}
        for width, attention, n_head in itertools.product(widths, attentions, n_heads)
        if suits(attention, n_head)
    ]
    runs = train_all(settings, seeds, trained, out)
    rows = []
    for (attention, n_head, width), group in itertools.groupby(runs, itemgetter("attention", "n_head", "width")):
        error, order = zip(*((run["error"], run["order"]) for run in group), strict=True)
        row = {"attention": attention, "n_head": n_head, "width": width}
        rows.append(row | {"error": mean_and_sd(spread(error), 4), "order": mean_and_sd(spread(order), 4)})
    print(table(rows))
    draw(Path(out).with_suffix(".png"), runs)
    return runs


def contexts(count, n_items, width, draw):
    """`count` contexts x BTC and their answers B×width, drawn by a torch.Generator. A token: x, y, zeros, query."""
    sizes = (count, n_items, FEATURES), (count, FEATURES), (count, FEATURES, width)
    points, query, W = (torch.randn(size, generator=draw) for size in sizes)
    W /= math.sqrt(FEATURES)
    x = torch.zeros(count, n_items, C)
    x[..., :FEATURES], x[:, -1, -FEATURES:] = points, query
    x[..., FEATURES : FEATURES + width] = points @ W + NOISE * torch.randn(count, n_items, width, generator=draw)
    return x, (query[:, None] @ W)[:, 0]


def trained(attention, n_head, n_items, width, seed, positions, learning_rate, steps):
    """{"error", "order"}: squared error after training, and variance of its answers over ten orders of the tokens
    before the last, both ÷ variance of the answer."""
    layer, draw = one_layer(attention, n_head, n_items, seed, positions), torch.Generator().manual_seed(seed)
    train(layer, lambda count: contexts(count, n_items, width, draw), learning_rate, steps)
    with torch.no_grad():
        x, y = contexts(4096, n_items, width, draw)
        answers = torch.stack([answer(layer, reordered(x, draw), width) for _ in range(10)])
        return {"error": relative_error(layer, x, y), "order": (answers.var(0).mean() / y.var()).item()}


def reordered(x, draw):
    """Contexts x BTC with the tokens before the last in a random order, one for each context."""
    order = torch.rand(x[:, :-1, 0].shape, generator=draw).argsort(1)
    return torch.cat((x.gather(1, order[..., None].expand(-1, -1, C)), x[:, -1:]), 1)


def draw(path, runs):
    """The error of each run, by mechanism and number of maps; a kind of mark per width."""
    kinds = list(dict.fromkeys((run["attention"], run["n_head"]) for run in runs))
    with drawing(path, 6, 4.6) as (_, (axes,)):
        for i, width in enumerate(sorted({run["width"] for run in runs})):
            style = {"marker": "os^D"[i % 4], "ls": "", "mfc": "none" if i else None}
            for run in (run for run in runs if run["width"] == width):
                x = kinds.index((run["attention"], run["n_head"])) + 0.2 * i
                axes.plot(x, run["error"], color=look(run["attention"])["color"], **style)
            axes.plot([], [], color="0.4", label=f"answers in {width} channels", **style)
        axes.set_xticks(range(len(kinds)), [f"{name}\n{n} maps" for name, n in kinds], fontsize=8)
        axes.set(title="linear regression in the context; a mark per seed", ylim=(0, None))
        axes.set_ylabel("squared error ÷ variance of the answer")
        axes.grid(alpha=0.3)
        axes.legend()


if __name__ == "__main__":
    run(regression, program="python -m lab.experiments.regression")
