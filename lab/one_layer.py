"""One attention layer and nothing else, on two tasks whose answer must be a difference of values.

python -m lab.one_layer                          noise that all values of a context share: λ has a closed form
python -m lab.one_layer --task=regression        linear regression in the context: predictions need signed weights

noise       n tokens of a key in R⁸ and a value s + c; s ~ N(0, I) is the token's own, c ~ N(0, σ² I) the same for all
            tokens of a context. Query: one of the keys. Answer: the s of that token.
regression  n tokens of x ~ N(0, I) in R⁵ and a value y = W x + 0.1 N(0, I), with a new W ~ N(0, I/5) for each context.
            Query: another x. Answer: its W x.

The last token also carries the query, in channels of its own: so every token that it sees has a value. No residual
stream, norm or MLP: the answer is the layer's output itself. Error: squared error ÷ variance of the answer. Order:
variance of what is said over ten orders of the tokens before the last ÷ variance of the answer; 0 without positions.
After an interruption the same command continues.
"""

import itertools
import json
import math
from pathlib import Path
from typing import Annotated, Literal

import numpy as np
import torch
from torch.nn.utils import clip_grad_norm_
from tqdm import tqdm

from configurable import PositiveFloat, PositiveInt, UsageError, check_ranges, one_of, run, show
from lab.compare import Seeds
from lab.show import look, table
from lab.spread import spread
from model import ATTENTION, GPT, GPTConfig
from plumbing.figure import new_figure, write_figure
from plumbing.files import locked, write_json
from plumbing.machine import AdamW, device_name
from plumbing.run import command, provenance

C, KEY, FEATURES, NOISE = 64, 8, 5, 0.1
NAMES = ("vanilla", "differential", "no-norm")
SIGMAS = (0.125, 0.25, 0.5, 1.0, 2.0, 4.0)
Many = Annotated[tuple[int, ...], "at least 1"]
Sigmas = Annotated[tuple[float, ...], "more than 0"]


def one_layer(
    *,
    task: Literal["noise", "regression"] = "noise",  # what is to be learnt
    attentions: tuple[str, ...] = NAMES,  # mechanisms; no-norm: differential without its head norm
    n_heads: Many = (2,),  # numbers of softmax maps; differential needs an even number, and is left out at others
    n_items: Many = (16, 32),  # numbers of tokens in a context, n
    widths: Annotated[tuple[int, ...], "at least 1 and at most 48"] = (48,),  # numbers of channels of a value
    sigmas: Sigmas | None = None,  # standard deviations of the shared noise; none: 0.125,0.25,0.5,1,2,4; only for noise
    seeds: Seeds = (1, 2, 3, 4),  # every setting is trained once with each seed
    positions: bool = False,  # whether queries and keys are rotated by their place in the context
    learning_rate: PositiveFloat = 5e-3,  # highest learning rate, after 100 steps; it falls to 0 over the second half
    steps: PositiveInt = 1600,  # training steps, of 64 fresh contexts each
    out_dir: str | None = None,  # folder for results.json and the figure; none: out/one-layer-<task>
):
    """Train one attention layer on a task that asks for a subtraction, and compare it with theory. Returns the runs."""
    check_ranges(one_layer, locals())
    for word in attentions:
        one_of("attentions", word, ATTENTION)
    out = Path(out_dir or f"out/one-layer-{task}")
    if task == "regression":
        if sigmas:
            raise UsageError("sigmas: are those of --task=noise; leave them out")
        sigmas = (NOISE,)
    sigmas, code = sigmas or SIGMAS, {a: provenance(a)["code"] for a in attentions}
    settings = [
        {"task": task, "width": w, "n_items": n, "sigma": sigma, "attention": a, "n_head": h, "seed": seed}
        | {"positions": positions, "learning_rate": learning_rate, "steps": steps, "code": code[a]}
        for seed, w, n, sigma, a, h in itertools.product(seeds, widths, n_items, sigmas, attentions, n_heads)
        if h % ATTENTION[a].maps_per_head == 0
    ]
    if not settings:
        needed = ATTENTION[attentions[0]].maps_per_head
        raise UsageError(f"n_heads={show(n_heads)}: {attentions[0]} needs a multiple of {needed}")
    for one in settings:
        shape(one["attention"], one["n_head"], one["n_items"])
    about = {"command": command(), "commit": provenance()["commit"], "device": device_name(torch.device("cpu"))}
    with locked(out / ".lock", f"training in {out}"):
        runs = runs_before(out / "results.json", settings)
        for setting in tqdm(settings, unit="run", disable=None):
            if not any(setting.items() <= one.items() for one in runs):
                runs.append(setting | trained(**setting))
                write_json(out / "results.json", about | {"runs": runs})
    rows = summary(runs)
    print(table([cells(row) for row in rows]))
    draw(out / f"{task}.png", rows)
    print(f"\n{out}: results.json and {task}.png")
    return runs


def runs_before(path, settings):
    """The runs of a results.json that are among `settings`. Raises UsageError for a file that has others."""
    if not path.exists():
        return []
    try:
        runs = json.loads(path.read_text(encoding="utf-8"))["runs"]
        others = [one for one in runs if not any(setting.items() <= one.items() for setting in settings)]
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError):
        raise UsageError(f"{path} is damaged: remove it, or choose another --out_dir") from None
    if others:
        raise UsageError(f"{path} has runs of other options or code: choose another --out_dir")
    return runs


# ---------------------------------------------------------------------------- tasks


def contexts(task, n, n_items, width, sigma, draw):
    """n contexts x BTC and their answers y Bm, drawn by a torch.Generator. A token: key, value, zeros, query."""

    def normal(*shape):
        return torch.randn(shape, generator=draw)

    x = torch.zeros(n, n_items, C)
    if task == "noise":
        keys, own, shared = normal(n, n_items, KEY), normal(n, n_items, width), normal(n, 1, width)
        keys *= math.sqrt(KEY) / keys.norm(dim=-1, keepdim=True)
        asked = torch.randint(n_items, (n,), generator=draw)
        values, query, answers = own + sigma * shared, keys[range(n), asked], own[range(n), asked]
    else:
        keys, query, W = normal(n, n_items, FEATURES), normal(n, FEATURES), normal(n, FEATURES, width)
        W /= math.sqrt(FEATURES)
        values, answers = keys @ W + sigma * normal(n, n_items, width), (query[:, None] @ W)[:, 0]
    size = keys.size(2)
    x[..., :size], x[..., size : size + width], x[:, -1, -size:] = keys, values, query
    return x, answers


def best_lam(sigma, n):
    """The λ of the least error on shared noise, with A₁ on the token and A₂ even over n tokens: σ²/(σ² + 1/n)."""
    return sigma**2 / (sigma**2 + 1 / n)


def least_error(sigma, n):
    """That error. What is left is (1 − λ)c − λ mean(s), whose variance (1 − λ)²σ² + λ²/n is then σ²/(nσ² + 1)."""
    return sigma**2 / (n * sigma**2 + 1)


# ---------------------------------------------------------------------------- training


def shape(attention, n_head, n_items):
    """The shape of a model with one layer. Raises UsageError for one that cannot be built."""
    sizes = {"n_layer": 1, "n_head": n_head, "n_embd": C, "block_size": n_items, "vocab_size": 1}
    try:
        return GPTConfig(attention, init_std=C**-0.5, fused=False, **sizes)
    except ValueError as error:
        raise UsageError(str(error)) from None


def trained(task, width, n_items, sigma, attention, n_head, seed, positions, learning_rate, steps, code=""):
    """{"error", "order", "parameters"} and of a mechanism with λ also {"lam"}, after training."""
    torch.manual_seed(seed)
    layer = GPT(shape(attention, n_head, n_items)).blocks[0].attention
    if not positions:
        layer.rotate = lambda q, start: q
    optimizer = AdamW(layer.parameters(), lr=learning_rate, betas=(0.9, 0.95), weight_decay=0.0)
    draw = torch.Generator().manual_seed(seed)
    for step in range(steps):
        optimizer.param_groups[0]["lr"] = learning_rate * min(1, (step + 1) / 100, 2 * (1 - step / steps))
        x, y = contexts(task, 64, n_items, width, sigma, draw)
        loss = ((last_row(layer, x)[:, :width] - y) ** 2).mean()
        optimizer.zero_grad()
        loss.backward()
        clip_grad_norm_(layer.parameters(), 1.0)
        optimizer.step()
    with torch.no_grad():
        x, y = contexts(task, 4096, n_items, width, sigma, draw)
        error = (((last_row(layer, x)[:, :width] - y) ** 2).mean() / y.var()).item()
        said = torch.stack([last_row(layer, reordered(x, draw))[:, :width] for _ in range(10)])
    order = (said.var(0).mean() / y.var()).item()
    numbers = {"error": error, "order": order, "parameters": sum(p.numel() for p in layer.parameters())}
    return numbers | ({"lam": layer.lam.item()} if "lam" in layer.watch else {})


def reordered(x, draw):
    """Contexts x BTC with the tokens before the last in a random order, one for each context."""
    order = torch.rand(x[:, :-1, 0].shape, generator=draw).argsort(1)
    return torch.cat((x.gather(1, order[..., None].expand(-1, -1, C)), x[:, -1:]), 1)


def last_row(layer, x):
    """The last row of layer(x), BTC -> BC, without computing the others."""
    q, k, v = layer.project(x)
    return layer.out(layer.norm(layer.mix(x[:, -1:], q[:, :, -1:], k, v)).flatten(1))


# ---------------------------------------------------------------------------- tables and figures


def summary(runs):
    """A row for each setting, over seeds; those of the noise task with what theory says."""
    groups = {}
    for one in runs:
        names = ("task", "width", "n_items", "sigma", "attention", "n_head")
        groups.setdefault(tuple(one[name] for name in names), []).append(one)
    rows = []
    for (task, width, n, sigma, attention, n_head), mine in sorted(groups.items()):
        row = {"task": task, "width": width, "n_items": n, "sigma": sigma, "attention": attention, "n_head": n_head}
        row |= {"seeds": len(mine), "error": spread([one["error"] for one in mine])}
        row |= {"errors": [one["error"] for one in mine], "parameters": mine[0]["parameters"]}
        if mine[0].get("positions"):
            row["order"] = spread([one["order"] for one in mine])
        if "lam" in mine[0]:
            row["lams"] = [one["lam"] for one in mine]
        if task == "noise":
            row |= {"best_lam": best_lam(sigma, n), "least_error": least_error(sigma, n)}
        rows.append(row)
    return rows


def cells(row):
    """A row of `summary` as {column: text}."""
    names = {"width": "width of values", "n_items": "n", "sigma": "σ", "attention": "attention", "n_head": "maps"}
    shown = {title: row[name] for name, title in names.items() if row["task"] == "noise" or name != "sigma"}
    shown |= {"seeds": row["seeds"], "error, mean ± sd": f"{row['error']['mean']:.4f}"}
    if "sd" in row["error"]:
        shown["error, mean ± sd"] += f" ± {row['error']['sd']:.4f}"
    if "order" in row:
        shown["order"] = f"{row['order']['mean']:.4f}"
    shown["theory"] = f"{row['least_error']:.4f}" if "least_error" in row else ""
    shown["λ"] = " ".join(f"{lam:.3f}" for lam in row.get("lams", ()))
    shown["λ*"] = f"{row['best_lam']:.3f}" if "best_lam" in row and "lams" in row else ""
    return shown


def draw(path, rows):
    """noise: λ learned and derived, and errors, against σ. regression: errors, for each width of the values."""
    panels = [draw_lams, draw_errors] if rows[0]["task"] == "noise" else [draw_bars]
    figure, grid = new_figure(6 * len(panels), 4.6, 1, len(panels))
    for axes, panel in zip(grid, panels, strict=True):
        panel(rows, axes)
        axes.grid(alpha=0.3)
    seeds = max(row["seeds"] for row in rows)
    figure.suptitle(f"one attention layer, {C} channels; {seeds} seeds", fontsize=10)
    write_figure(path, figure)


def draw_lams(rows, axes):
    """λ of each seed against σ, for one head without a norm, of which the derivation is; lines: what was derived."""
    for n, marker in zip(sorted({row["n_items"] for row in rows}), "osD^v<>", strict=False):
        color = f"C{'osD^v<>'.index(marker)}"
        sigmas = np.geomspace(min(row["sigma"] for row in rows), max(row["sigma"] for row in rows), 100)
        axes.plot(sigmas, best_lam(sigmas, n), color=color, lw=1, label=f"σ²/(σ² + 1/n), n = {n}")
        for row in rows:
            if (row["attention"], row["n_head"], row["n_items"]) == ("no-norm", 2, n):
                x = [row["sigma"]] * len(row["lams"])
                axes.plot(x, row["lams"], color=color, marker=marker, ls="", mfc="none")
    axes.set(ylabel="λ", title="λ of no-norm: learned (marks, one per seed) and derived (lines)")
    of_sigma(rows, axes)
    axes.legend()


def draw_errors(rows, axes):
    """The error of each mechanism against σ, for the smallest n and the widest values; a line: what was derived."""
    n, width = min(row["n_items"] for row in rows), max(row["width"] for row in rows)
    mine = [row for row in rows if (row["n_items"], row["width"]) == (n, width)]
    for name, n_head in sorted({(row["attention"], row["n_head"]) for row in mine}):
        line = [row for row in mine if (row["attention"], row["n_head"]) == (name, n_head)]
        style = look(name) | {"ls": {1: ":", 2: "-", 4: "--"}.get(n_head, "-.")}
        x, errors = [row["sigma"] for row in line], [row["errors"] for row in line]
        axes.plot(x, np.median(errors, 1), label=f"{name}, {n_head} map{'s' * (n_head > 1)}", ms=5, **style)
        axes.plot(x, errors, **style | {"ls": "", "alpha": 0.4}, ms=4, mfc="none")
    sigmas = np.geomspace(min(row["sigma"] for row in mine), max(row["sigma"] for row in mine), 100)
    axes.plot(sigmas, least_error(sigmas, n), color="0.4", lw=3, alpha=0.5, label="σ²/(nσ² + 1)")
    axes.set(yscale="log", ylabel="squared error ÷ variance of the answer")
    of_sigma(rows, axes)
    axes.set_title(f"n = {n}, values in {width} channels; seeds, and their median")
    axes.legend(fontsize=8)


def of_sigma(rows, axes):
    """An x axis of σ."""
    sigmas = sorted({row["sigma"] for row in rows})
    axes.set(xscale="log", xlabel="σ of the shared noise")
    axes.set_xticks(sigmas, [f"{sigma:g}" for sigma in sigmas])
    axes.minorticks_off()


def draw_bars(rows, axes):
    """The error of each seed, for each mechanism and width of the values."""
    kinds = list(dict.fromkeys((row["attention"], row["n_head"]) for row in rows))
    widths = sorted({row["width"] for row in rows})
    for row in rows:
        at, i = kinds.index((row["attention"], row["n_head"])), widths.index(row["width"])
        x = at + 0.3 * (i - (len(widths) - 1) / 2)
        style = {"color": look(row["attention"])["color"], "marker": "os^D"[i % 4], "mfc": "none" if i else None}
        axes.plot([x] * len(row["errors"]), row["errors"], ls="", **style)
    for i, width in enumerate(widths):
        style = {"color": "0.4", "marker": "os^D"[i % 4], "mfc": "none" if i else None, "ls": ""}
        axes.plot([], [], label=f"answers in {width} channel{'s' * (width > 1)}", **style)
    axes.set_xticks(range(len(kinds)), [f"{name}\n{n} map{'s' * (n > 1)}" for name, n in kinds], fontsize=8)
    axes.set(
        ylabel="squared error ÷ variance of the answer",
        title="linear regression in the context; a mark per seed",
        ylim=(0, None),
    )
    axes.legend()


if __name__ == "__main__":
    run(one_layer, program="python -m lab.one_layer")
