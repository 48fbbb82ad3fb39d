"""Does a difference learn to remove noise that all values share? The best λ and the error have a closed form.

python -m lab.experiments.shared_noise

A context has n tokens, each with a key in R⁸ and a value s + c: s ~ N(0, I) is the token's own, c ~ N(0, σ² I) is
shared by all. The last token also carries a query, one of the keys; the answer is the s of that key. One attention
layer learns it, without positions, residual stream or MLP. If A₁ finds the token and A₂ is uniform, what is left is
(1 − λ)c − λ mean(s). Its variance (1 − λ)²σ² + λ²/n is least at λ = σ²/(σ² + 1/n), where it is σ²/(nσ² + 1).
"""

import itertools
import math
from operator import itemgetter
from pathlib import Path
from typing import Annotated

import numpy as np
import torch

import ideas  # noqa: F401  adds no-norm
from configurable import PositiveFloat, PositiveInt, Range, check, one_of, run
from lab.one_layer import C, asking, one_layer, relative_error, suits, train, train_all
from lab.show import look, mean_and_sd, spread, table
from model import ATTENTION
from plumbing.run import drawing

KEY = 8  # channels of a key
Counts = Annotated[tuple[int, ...], Range(ge=1)]


def shared_noise(
    *,
    attentions: tuple[str, ...] = ("vanilla", "differential", "no-norm"),  # no-norm: differential without head norm
    n_heads: Counts = (2,),  # numbers of softmax maps; a mechanism is left out where it cannot have so many
    n_items: Counts = (16, 32),  # tokens in a context, n
    widths: Annotated[tuple[int, ...], Range(ge=1, le=48)] = (48,),  # channels of a value
    sigmas: Annotated[tuple[float, ...], Range(gt=0)] = (0.125, 0.25, 0.5, 1.0, 2.0, 4.0),  # sd of the noise, σ
    seeds: Annotated[tuple[int, ...], Range(ge=0)] = (1, 2, 3, 4),  # each setting is trained with each seed
    learning_rate: PositiveFloat = 5e-3,  # reached after 100 steps; it falls to 0 over the second half
    steps: PositiveInt = 1600,  # training steps, of 64 new contexts each
    out: str = "out/shared-noise.jsonl",  # file to add a line per run to; the figure lies beside it
):
    """Train one attention layer on values with shared noise, and compare λ and error with theory. Returns the runs."""
    check(shared_noise, locals())
    for word in attentions:
        one_of("attentions", word, ATTENTION)
    names = ("width", "n_items", "sigma", "attention", "n_head")
    settings = [
        {**dict(zip(names, values, strict=True)), "learning_rate": learning_rate, "steps": steps}
        for values in itertools.product(widths, n_items, sigmas, attentions, n_heads)
        if suits(*values[-2:])
    ]
    runs = train_all(settings, seeds, trained, out)
    rows = []
    for values, iterator in itertools.groupby(runs, itemgetter(*names)):
        row, group = dict(zip(names, values, strict=True)), list(iterator)
        row["error"] = mean_and_sd(spread([run["error"] for run in group]), 4)
        row["λ"] = " ".join(f"{run['lam']:.3f}" for run in group if "lam" in run)
        best = {
            "least error": least_error(row["sigma"], row["n_items"]),
            "best λ": best_lam(row["sigma"], row["n_items"]),
        }
        rows.append(row | best)
    print(table(rows))
    draw(Path(out).with_suffix(".png"), runs)
    return runs


def best_lam(sigma, n):
    return sigma**2 / (sigma**2 + 1 / n)


def least_error(sigma, n):
    return sigma**2 / (n * sigma**2 + 1)


def contexts(count, n_items, width, sigma, draw):
    """`count` contexts x BTC and their answers B×width, drawn by a torch.Generator. A token: key, value, 0, query."""
    keys, own, shared = (
        torch.randn(s, generator=draw) for s in ((count, n_items, KEY), (count, n_items, width), (count, 1, width))
    )
    keys *= math.sqrt(KEY) / keys.norm(dim=-1, keepdim=True)
    asked = torch.randint(n_items, (count,), generator=draw)
    return asking(keys, own + sigma * shared, asked), own[range(count), asked]


def trained(attention, n_head, n_items, width, sigma, seed, learning_rate, steps):
    """{"error": squared error ÷ variance of the answer} after training; of a mechanism with λ also {"lam"}."""
    layer, draw = one_layer(attention, n_head, n_items, seed), torch.Generator().manual_seed(seed)
    train(layer, lambda count: contexts(count, n_items, width, sigma, draw), learning_rate, steps)
    with torch.no_grad():
        error = relative_error(layer, *contexts(4096, n_items, width, sigma, draw))
    return {"error": error} | ({"lam": layer.lam.item()} if "lam" in layer.watch else {})


def draw(path, runs):
    """λ, and errors of the smallest n and the widest values, against σ: a mark per run, and what theory says."""
    sigmas = np.geomspace(min(run["sigma"] for run in runs), max(run["sigma"] for run in runs), 100)
    n, width = min(run["n_items"] for run in runs), max(run["width"] for run in runs)
    with drawing(path, 12, 4.6, 1, 2) as (figure, (left, right)):
        for i, items in enumerate(sorted({run["n_items"] for run in runs})):
            marked = [run for run in runs if (run["attention"], run["n_items"]) == ("no-norm", items)]
            marks = {"color": f"C{i}", "marker": "osD^"[i % 4], "ls": "", "mfc": "none"}
            left.plot([run["sigma"] for run in marked], [run["lam"] for run in marked], **marks)
            left.plot(sigmas, best_lam(sigmas, items), color=f"C{i}", label=f"σ²/(σ² + 1/n), n = {items}")
        for name in dict.fromkeys(run["attention"] for run in runs):
            marked = [run for run in runs if (run["attention"], run["n_items"], run["width"]) == (name, n, width)]
            marks = look(name) | {"ls": "", "mfc": "none", "label": name}
            right.plot([run["sigma"] for run in marked], [run["error"] for run in marked], **marks)
        right.plot(sigmas, least_error(sigmas, n), color="0.4", label="σ²/(nσ² + 1)")
        left.set(ylabel="λ of no-norm")
        right.set(title=f"n = {n}, values in {width} channels", yscale="log", ylabel="error ÷ variance of the answer")
        for axes in (left, right):
            axes.set(xscale="log", xlabel="σ of the shared noise")
            axes.grid(alpha=0.3)
            axes.legend(fontsize=8)
        figure.suptitle(f"one attention layer of {C} channels; a mark per seed", fontsize=10)


if __name__ == "__main__":
    run(shared_noise, program="python -m lab.experiments.shared_noise")
