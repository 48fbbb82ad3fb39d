"""Does a difference learn to remove noise that all values share? The best λ and the error have a closed form.

python -m lab.experiments.shared_noise

A context has n tokens, each with a key in R⁸ and a value s + c: s ~ N(0, I) is the token's own, c ~ N(0, σ² I) is
shared by all. The last token also carries a query, one of the keys; the answer is the s of that key. One attention
layer learns it, without positions, residual stream or MLP. If A₁ finds the token and A₂ is uniform, what is left is
(1 − λ)c − λ mean(s). Its variance (1 − λ)²σ² + λ²/n is least at λ = σ²/(σ² + 1/n), where it is σ²/(nσ² + 1).
"""

import itertools
import json
import math
from pathlib import Path
from typing import Annotated

import numpy as np
import torch
from torch.nn.utils import clip_grad_norm_
from tqdm import tqdm

import ideas  # noqa: F401  adds no-norm
from configurable import PositiveFloat, PositiveInt, Range, check, one_of, run
from lab.show import look, mean_and_sd, spread, table
from model import ATTENTION, GPT, GPTConfig
from plumbing.run import drawing, provenance

C, KEY = 64, 8  # channels of the layer, and of a key
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
    how = {"learning_rate": learning_rate, "steps": steps}
    runs, rows, about = [], [], {"commit": provenance()["commit"]}
    Path(out).parent.mkdir(parents=True, exist_ok=True)
    with open(out, "a", encoding="utf-8") as file:
        for w, n, sigma, a, h in tqdm([*itertools.product(widths, n_items, sigmas, attentions, n_heads)], disable=None):
            if h % ATTENTION[a].maps_per_head:
                continue
            one = {"attention": a, "n_head": h, "n_items": n, "width": w, "sigma": sigma}
            mine = [{**one, "seed": seed, **how, **trained(**one, seed=seed, **how)} for seed in seeds]
            file.writelines(json.dumps({**run, **about}) + "\n" for run in mine)
            file.flush()
            runs += mine
            one["error"] = mean_and_sd(spread([run["error"] for run in mine]), 4)
            one["λ"] = " ".join(f"{run['lam']:.3f}" for run in mine if "lam" in run)
            rows.append({**one, "least error": least_error(sigma, n), "best λ": best_lam(sigma, n)})
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
    x = torch.zeros(count, n_items, C)
    x[..., :KEY], x[..., KEY : KEY + width], x[:, -1, -KEY:] = keys, own + sigma * shared, keys[range(count), asked]
    return x, own[range(count), asked]


def trained(attention, n_head, n_items, width, sigma, seed, learning_rate, steps):
    """{"error": squared error ÷ variance of the answer} after training; of a mechanism with λ also {"lam"}."""
    torch.manual_seed(seed)
    sizes = {"n_layer": 1, "n_head": n_head, "n_embd": C, "block_size": n_items, "vocab_size": 1}
    layer = GPT(GPTConfig(attention, init_std=C**-0.5, **sizes)).blocks[0].attention
    layer.rotate = lambda q, start: q  # no positions
    optimizer = torch.optim.AdamW(layer.parameters(), betas=(0.9, 0.95), weight_decay=0.0)
    draw = torch.Generator().manual_seed(seed)
    for step in range(steps):
        optimizer.param_groups[0]["lr"] = learning_rate * min(1, (step + 1) / 100, 2 * (1 - step / steps))
        x, y = contexts(64, n_items, width, sigma, draw)
        loss = ((answer(layer, x)[:, :width] - y) ** 2).mean()
        optimizer.zero_grad()
        loss.backward()
        clip_grad_norm_(layer.parameters(), 1.0)
        optimizer.step()
    with torch.no_grad():
        x, y = contexts(4096, n_items, width, sigma, draw)
        error = ((answer(layer, x)[:, :width] - y) ** 2).mean() / y.var()
    return {"error": error.item()} | ({"lam": layer.lam.item()} if "lam" in layer.watch else {})


def answer(layer, x):
    """The last row of layer(x), BTC -> BC, without computing the others."""
    q, k, v = layer.project(x)
    return layer.out(layer.norm(layer.mix(x[:, -1:], q[:, :, -1:], k, v)).flatten(1))


def draw(path, runs):
    """λ, and errors of the smallest n and the widest values, against σ: a mark per run, and what theory says."""
    sigmas = np.geomspace(min(one["sigma"] for one in runs), max(one["sigma"] for one in runs), 100)
    n, width = min(one["n_items"] for one in runs), max(one["width"] for one in runs)
    with drawing(path, 12, 4.6, 1, 2) as (figure, (left, right)):
        for i, items in enumerate(sorted({one["n_items"] for one in runs})):
            mine = [one for one in runs if (one["attention"], one["n_items"]) == ("no-norm", items)]
            marks = {"color": f"C{i}", "marker": "osD^"[i % 4], "ls": "", "mfc": "none"}
            left.plot([one["sigma"] for one in mine], [one["lam"] for one in mine], **marks)
            left.plot(sigmas, best_lam(sigmas, items), color=f"C{i}", label=f"σ²/(σ² + 1/n), n = {items}")
        for name in dict.fromkeys(one["attention"] for one in runs):
            mine = [one for one in runs if (one["attention"], one["n_items"], one["width"]) == (name, n, width)]
            marks = look(name) | {"ls": "", "mfc": "none", "label": name}
            right.plot([one["sigma"] for one in mine], [one["error"] for one in mine], **marks)
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
