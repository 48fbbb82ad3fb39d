"""Do signed weights help linear regression in the context? Least squares predicts by a signed sum of values.

python -m lab.experiments.regression

A context has n tokens of x ~ N(0, I) in R⁵ and y = W x + 0.1 N(0, I), with a new W ~ N(0, I/5) per context. The last
token also carries a query, another x; the answer is its W x. One attention layer learns it, without residual stream or
MLP. With --positions=true queries and keys are rotated by their place, and the order of a context may matter.
"""

import itertools
import json
import math
from pathlib import Path
from typing import Annotated

import torch
from torch.nn.utils import clip_grad_norm_
from tqdm import tqdm

import ideas  # noqa: F401  adds no-norm
from configurable import PositiveFloat, PositiveInt, Range, check, one_of, run
from lab.show import look, mean_and_sd, spread, table
from model import ATTENTION, GPT, GPTConfig
from plumbing.run import drawing, provenance

C, FEATURES, NOISE = 64, 5, 0.1  # channels of the layer, of an x; standard deviation of the noise


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
    how = {"n_items": n_items, "positions": positions, "learning_rate": learning_rate, "steps": steps}
    runs, rows, about = [], [], {"commit": provenance()["commit"]}
    Path(out).parent.mkdir(parents=True, exist_ok=True)
    with open(out, "a", encoding="utf-8") as file:
        for w, a, h in tqdm([*itertools.product(widths, attentions, n_heads)], disable=None):
            if h % ATTENTION[a].maps_per_head:
                continue
            one = {"attention": a, "n_head": h, "width": w}
            mine = [{**one, "seed": seed, **how, **trained(**one, seed=seed, **how)} for seed in seeds]
            file.writelines(json.dumps({**run, **about}) + "\n" for run in mine)
            file.flush()
            runs += mine
            found = {name: mean_and_sd(spread([run[name] for run in mine]), 4) for name in ("error", "order")}
            rows.append({**one, **found})
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
    """{"error", "order"}: squared error after training, and variance of what is said over ten orders of the tokens
    before the last, both ÷ variance of the answer."""
    torch.manual_seed(seed)
    sizes = {"n_layer": 1, "n_head": n_head, "n_embd": C, "block_size": n_items, "vocab_size": 1}
    layer = GPT(GPTConfig(attention, init_std=C**-0.5, **sizes)).blocks[0].attention
    if not positions:
        layer.rotate = lambda q, start: q
    optimizer = torch.optim.AdamW(layer.parameters(), betas=(0.9, 0.95), weight_decay=0.0)
    draw = torch.Generator().manual_seed(seed)
    for step in range(steps):
        optimizer.param_groups[0]["lr"] = learning_rate * min(1, (step + 1) / 100, 2 * (1 - step / steps))
        x, y = contexts(64, n_items, width, draw)
        loss = ((answer(layer, x)[:, :width] - y) ** 2).mean()
        optimizer.zero_grad()
        loss.backward()
        clip_grad_norm_(layer.parameters(), 1.0)
        optimizer.step()
    with torch.no_grad():
        x, y = contexts(4096, n_items, width, draw)
        error = ((answer(layer, x)[:, :width] - y) ** 2).mean() / y.var()
        said = torch.stack([answer(layer, reordered(x, draw))[:, :width] for _ in range(10)])
    return {"error": error.item(), "order": (said.var(0).mean() / y.var()).item()}


def reordered(x, draw):
    """Contexts x BTC with the tokens before the last in a random order, one for each context."""
    order = torch.rand(x[:, :-1, 0].shape, generator=draw).argsort(1)
    return torch.cat((x.gather(1, order[..., None].expand(-1, -1, C)), x[:, -1:]), 1)


def answer(layer, x):
    """The last row of layer(x), BTC -> BC, without computing the others."""
    q, k, v = layer.project(x)
    return layer.out(layer.norm(layer.mix(x[:, -1:], q[:, :, -1:], k, v)).flatten(1))


def draw(path, runs):
    """The error of each run, by mechanism and number of maps; a kind of mark per width."""
    kinds = list(dict.fromkeys((one["attention"], one["n_head"]) for one in runs))
    with drawing(path, 6, 4.6) as (_, (axes,)):
        for i, width in enumerate(sorted({one["width"] for one in runs})):
            style = {"marker": "os^D"[i % 4], "ls": "", "mfc": "none" if i else None}
            for one in (one for one in runs if one["width"] == width):
                x = kinds.index((one["attention"], one["n_head"])) + 0.2 * i
                axes.plot(x, one["error"], color=look(one["attention"])["color"], **style)
            axes.plot([], [], color="0.4", label=f"answers in {width} channels", **style)
        axes.set_xticks(range(len(kinds)), [f"{name}\n{n} maps" for name, n in kinds], fontsize=8)
        axes.set(title="linear regression in the context; a mark per seed", ylim=(0, None))
        axes.set_ylabel("squared error ÷ variance of the answer")
        axes.grid(alpha=0.3)
        axes.legend()


if __name__ == "__main__":
    run(regression, program="python -m lab.experiments.regression")
