"""The figures of lab.compare. `runs` and `rows` are those of results.json, `summary` is its table."""

import functools
import math
import textwrap

import numpy as np

from lab.show import look
from model import ATTENTION
from plumbing.figure import new_figure, write_figure


def draw(out, title, rows, summary):
    """loss.png, and where there is something to show accuracy, needles, rates, and learned numbers: lam, g, b …."""
    best = {row["attention"]: row for row in summary if row["best"]}
    keys = {name: (name, row["learning_rate"]) for name, row in best.items()}
    chosen = {name: [r for r in rows if (r["attention"], r["learning_rate"]) == key] for name, key in keys.items()}
    if best:
        panels = [functools.partial(draw_losses, chosen), functools.partial(draw_pairs, best, summary[0]["attention"])]
        save_figure(out / "loss.png", title, panels)
    for name in dict.fromkeys(name for mechanism in chosen for name in ATTENTION[mechanism].watch):
        mechanisms = [mechanism for mechanism, runs in chosen.items() if name in runs[0]]
        panels = [functools.partial(draw_watched, chosen[mechanism], name) for mechanism in mechanisms]
        save_figure(out / f"{name}.png", title, panels)
    if best and "accuracy" in summary[0]:
        save_figure(out / "accuracy.png", title, [functools.partial(draw_accuracies, chosen)])
    if best and "exact" in summary[0]:
        save_figure(out / "needles.png", title, [functools.partial(draw_needles, chosen)])
    if len({row["attention"] for row in summary}) < len(summary):  # several rates of one mechanism
        save_figure(out / "rates.png", title, [functools.partial(draw_rates, summary)])


def save_figure(path, title, panels):
    """Write a figure with the `panels`, functions that draw into axes, at most four side by side."""
    columns, rows = min(4, len(panels)), math.ceil(len(panels) / 4)
    figure, all_axes = new_figure(1.5 + 5 * columns, 4.8 * rows, rows, columns)
    for axes, panel in zip(all_axes, panels, strict=False):
        panel(axes)
        axes.grid(alpha=0.3)
    for axes in all_axes[len(panels) :]:
        axes.set_visible(False)
    figure.suptitle(textwrap.fill(title, 75 * columns), fontsize=9, parse_math=False)
    write_figure(path, figure)


def draw_losses(chosen, axes):
    """Validation loss over a run, mean and standard deviation over seeds; the first evaluation is left out."""
    for name, runs in chosen.items():
        curves = np.array([run["val_losses"] for run in runs])[:, 1:]
        x, mean, sd = runs[0]["steps"][1:], curves.mean(0), curves.std(0, ddof=min(1, len(runs) - 1))
        axes.plot(x, mean, label=f"{name}, {runs[0]['learning_rate']:g}", **look(name), ms=4)
        axes.fill_between(x, mean - sd, mean + sd, color=look(name)["color"], alpha=0.2, lw=0)
    axes.set(xlabel="step", ylabel="validation loss (nats per token)", title="mean ± sd over seeds")
    axes.legend(title="learning rate")


def draw_pairs(best, first, axes):
    """Every seed's difference to the first mechanism with the same seed, their mean, its 95 % interval."""
    others = [name for name in best if "pairs" in best[name]]
    for i, name in enumerate(others):
        pairs, difference = best[name]["pairs"].values(), best[name]["difference"]
        style = {"color": look(name)["color"]}
        axes.plot([i - 0.15] * len(pairs), [*pairs], ls="", marker=look(name)["marker"], mfc="none", **style)
        if "half" in difference:
            axes.errorbar([i + 0.15], [difference["mean"]], [difference["half"]], marker="_", ms=16, capsize=5, **style)
    axes.axhline(0, color="0.4", lw=0.8)
    axes.set_xticks(range(len(others)), others, **({"rotation": 30, "ha": "right"} if len(others) > 4 else {}))
    axes.set(xlim=(-0.6, max(1, len(others)) - 0.4), ylabel=f"best val loss − that of {first} (nats per token)")
    axes.set_title("pairs of the same seed; mean and its 95 % interval")


def draw_watched(runs, name, axes):
    """A learned number of each layer over a run, the mean over its heads: a thin line per seed, a thick mean."""
    from matplotlib import colormaps

    values = np.array([[[np.mean(layer) for layer in row] for row in run[name]] for run in runs])  # seed, step, layer
    n_layer = values.shape[2]
    for layer in range(n_layer):
        color, dashes = colormaps["viridis"](0.75 * layer / max(1, n_layer - 1)), ("-", "--", "-.", ":")[layer % 4]
        style = {"color": color, "ls": dashes}
        axes.plot(runs[0]["steps"], values[:, :, layer].T, lw=0.8, alpha=0.7, **style)
        mark = {"marker": "osD^v<>"[layer % 7], "ms": 5, "lw": 2.2}
        axes.plot(runs[0]["steps"], values[:, :, layer].mean(0), label=f"layer {layer}", **style, **mark)
    axes.set(xlabel="step", ylabel={"lam": "λ"}.get(name, name), title=f"{runs[0]['attention']}: seeds, and their mean")
    axes.legend()


def draw_accuracies(chosen, axes):
    """Accuracy over a run: a thin line per seed, a thick one for their mean."""
    for name, runs in chosen.items():
        curves, x, style = np.array([run["accuracies"] for run in runs]), runs[0]["steps"], look(name)
        axes.plot(x, curves.T, color=style["color"], lw=0.8, alpha=0.5)
        axes.plot(x, curves.mean(0), label=name, lw=2.2, ms=5, **style)
    if task := runs[0].get("data", {}).get("missing"):
        axes.axhline(1 / task["n_items"], color="0.4", ls=":", label="a guess among the items")
    axes.set(xlabel="step", ylabel="accuracy on validation contexts", ylim=(-0.03, 1.03), title="seeds, and their mean")
    axes.legend()


def draw_needles(chosen, axes):
    """Queries answered exactly against the number of needles: a small mark per seed, a line through their means."""
    for i, (name, runs) in enumerate(chosen.items()):
        exact = np.array([[row["exact"] for row in run["needles"]["by_n"]] for run in runs])
        x, style = np.arange(1, exact.shape[1] + 1), look(name)
        axes.plot(x, exact.mean(0), label=name, ms=7, **style)
        axes.plot(x + 0.05 * (i + 1), exact.T, **style | {"ls": ""}, ms=4, mfc="none")
    axes.plot(x, 1 / x, color="0.5", lw=1, label="a guess among the needles")
    axes.set(xlabel="needles in the context", ylabel="queries answered exactly (share)", ylim=(-0.03, 1.03), xticks=x)
    axes.set_title("seeds, and their mean; held-out cities and numbers")
    axes.legend()


def draw_rates(summary, axes):
    """Validation loss against the learning rate."""
    for name in dict.fromkeys(row["attention"] for row in summary):
        mine = sorted((r for r in summary if r["attention"] == name), key=lambda row: row["learning_rate"])
        losses = [row["val_loss"] for row in mine]
        x, y, sd = [r["learning_rate"] for r in mine], [v["mean"] for v in losses], [v.get("sd", 0) for v in losses]
        axes.errorbar(x, y, sd, label=name, capsize=3, **look(name))
    axes.set(xscale="log", xlabel="learning rate", ylabel="validation loss (nats per token)")
    axes.set_title("mean ± sd over seeds")
    axes.legend()
