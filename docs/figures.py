"""The figures of the tutorial, and whether its numbers are still those of docs/results.

python -m docs.figures draws docs/figures/*.png. With --check it draws nothing, and fails where a number has drifted.
"""

import math
from pathlib import Path

import numpy as np
import torch

from configurable import UsageError, run
from docs.kept import DOCS, results
from docs.numbers import MISTAKES, drifted, numbers
from docs.of_ideas import difference, ideas, is_solved
from lab.charts import draw_accuracies
from lab.compare import differences, paired
from lab.one_layer import least_error
from lab.show import THE_FOUR, look
from model import softmax1
from plumbing.figure import new_figure, write_figure


def figures(
    *,
    check: bool = False,  # draw nothing; fail where a number in a page is not that of docs/results
    out_dir: str = str(DOCS / "figures"),  # folder of the pictures
):
    """Draw the pictures of the tutorial, or check its numbers."""
    if check:
        if missing := drifted():
            raise UsageError("; ".join(f"{page} lacks {text!r}" for page, text in missing))
        return print(f"{len([*numbers()])} texts with numbers are what docs/results says")
    Path(out_dir).mkdir(parents=True, exist_ok=True)
    for draw in (hull, floor, without, subtraction, pole, schedule, mistakes, summary, discussion):
        figure = draw()
        write_figure(Path(out_dir) / f"{draw.__name__}.png", figure)
        print(Path(out_dir) / f"{draw.__name__}.png")


def panels(n=1, height=4.0, width=4.4):
    """(figure, axes) with n panels side by side."""
    return new_figure(max(5.5, width * n), height, 1, n)


# ---------------------------------------------------------------------------- pictures


def hull():
    """Chapter 1: where outputs lie, three values in the plane, many scores."""
    torch.manual_seed(0)
    v = torch.tensor([[1.0, 0.2], [2.2, 0.6], [1.3, 1.7]])
    (S1, S2), lam = 2.5 * torch.randn(2, 4000, 3), 0.8
    shapes = {
        "vanilla": ("softmax", S1.softmax(-1)),
        "softmax1": ("softmax1", softmax1(S1)),
        "differential": (f"difference, λ = {lam}", S1.softmax(-1) - lam * S2.softmax(-1)),
    }
    figure, axes = panels(3, 3.6, 3.4)
    for ax, (name, (title, A)) in zip(axes, shapes.items(), strict=True):
        y = (A @ v).numpy()
        ax.plot(y[:, 0], y[:, 1], ls="", marker=".", ms=1.5, color=look(name)["color"], alpha=0.5)
        ax.plot(*v[[0, 1, 2, 0]].T.numpy(), color="k", lw=1)
        if name == "differential":  # its hull has the corners vᵢ − λvⱼ
            corners = torch.stack(
                [v[i] - lam * v[j] for i, j in ((0, 1), (2, 1), (2, 0), (1, 0), (1, 2), (0, 2), (0, 1))]
            )
            ax.plot(*corners.T.numpy(), color="k", lw=0.8, ls="--")
        for i, (x0, y0) in enumerate(v.tolist()):
            place = (-6, -14) if i == 0 else (4, 4)
            ax.annotate(f"v{'₁₂₃'[i]}", (x0, y0), xytext=place, textcoords="offset points", weight="bold")
        ax.plot(0, 0, marker="+", ms=10, color="k")
        ax.annotate("zero", (0, 0), xytext=(5, -10), textcoords="offset points", fontsize=8)
        ax.set(title=title, xlim=(-2, 2.8), ylim=(-2, 2.2), aspect="equal")
        ax.grid(alpha=0.3)
    figure.suptitle("A head's output, 4000 random rows of scores", fontsize=10)
    return figure


def floor():
    """Chapter 1: the needle's weight e^Δ / (e^Δ + n − 1)."""
    figure, (ax,) = panels(1, 3.6, 6.5)
    n = np.logspace(0.31, 5, 200)
    for gap, style in ((2, ":"), (5, "-."), (8, "--"), (12, "-")):
        ax.plot(n, math.exp(gap) / (math.exp(gap) + n - 1), ls=style, color="k", label=f"Δ = {gap}")
    ax.axhline(0.5, color="0.6", lw=0.8)
    ax.set(xscale="log", xlabel="n, tokens in the row", ylabel="weight of the needle", ylim=(0, 1.02))
    ax.set_title("One score is larger than all others by Δ", fontsize=10)
    ax.legend()
    ax.grid(alpha=0.3)
    return figure


def without():
    """Chapter 2: how much softmax1 spends, how sharp a temperature can be."""
    figure, (left, right) = panels(2, 3.6)
    lse = np.linspace(-6, 8, 200)
    left.plot(lse, 1 / (1 + np.exp(-lse)), color=look("softmax1")["color"], label="softmax1: σ(lse S)")
    left.axhline(1, color=look("vanilla")["color"], ls="--", label="vanilla")
    left.set(xlabel="lse S, log of the sum of exp", ylabel="sum of the row", ylim=(0, 1.08), title="what a row spends")
    g = np.linspace(0, 16, 200)
    for n, style in ((64, "-"), (1024, "--"), (100_000, ":")):
        label = f"n = {n:,}"
        right.plot(g, 1 / (1 + (n - 1) * np.exp(-2 * g)), ls=style, color=look("temperature")["color"], label=label)
    right.axvline(12, color="0.6", lw=0.8)
    right.annotate("12: ours", (12, 0.3), xytext=(3, 0), textcoords="offset points", fontsize=8, color="0.4")
    right.set(
        xlabel="g", ylabel="weight of a perfect match", ylim=(0, 1.08), title="the most that temperature g allows"
    )
    for ax in (left, right):
        ax.grid(alpha=0.3)
        ax.legend(fontsize=8)
    return figure


def subtraction():
    """Chapter 3: the example by hand, as bars."""
    A1 = torch.tensor([2.0, 1.0, 0.0]).softmax(-1).numpy()
    A2 = torch.tensor([0.0, 1.0, 0.0]).softmax(-1).numpy()
    figure, axes = panels(2, 3.4)
    for ax, lam in zip(axes, (0.425, 0.5), strict=True):
        x = np.arange(3)
        ax.bar(x - 0.27, A1, 0.25, color="0.75", edgecolor="k", label="A₁")
        ax.bar(x, lam * A2, 0.25, color="white", edgecolor="k", hatch="///", label="λA₂")
        ax.bar(x + 0.27, A1 - lam * A2, 0.25, color=look("differential")["color"], edgecolor="k", label="A₁ − λA₂")
        for i, a in enumerate((A1 - lam * A2).tolist()):
            text, below = f"{a:+.3f}" if abs(a) > 1e-3 else "0.000", a < 0.1
            where = {"ha": "center", "va": "top" if below else "bottom", "fontsize": 8}
            ax.annotate(text, (i + 0.27, min(a, 0) - 0.01 if below else a), **where)
        ax.axhline(0, color="k", lw=0.8)
        ax.set(title=f"λ = {lam}", ylim=(-0.1, 0.78), ylabel="weight")
        ax.set_xticks(x, ["token 1", "token 2", "token 3"])
        ax.legend(fontsize=8)
    return figure


def pole():
    """Chapter 3: by what the ratio of the needle's weight to all others changes when an even map is subtracted."""
    figure, (ax,) = panels(1, 3.8, 6.5)
    n = np.logspace(0.5, 7, 4000)
    w = math.exp(8) / (math.exp(8) + n - 1)
    for lam, style, color in ((0.5, "--", "0.5"), (0.8, "-", look("differential")["color"])):
        factor = (w - lam / n) / w * abs((1 - w) / (1 - w - lam * (n - 1) / n))
        where, level = n[factor.argmax()], n[np.argmax(factor > 1)]
        level, where = (f"{round(x, -3):,.0f}" for x in (level, where))
        label = f"λ = {lam}: worse below n ≈ {level}, pole at n ≈ {where}"
        ax.plot(n, factor, ls=style, color=color, label=label)
        ax.axhline(1 / (1 - lam), ls=":", color=color, lw=1)
    ax.axhline(1, color="k", lw=0.8)
    ax.axvline(64, color="0.7", lw=0.8)
    ax.annotate("64: our windows", (64, 2e2), xytext=(4, 0), textcoords="offset points", fontsize=8, color="0.4")
    ax.set(xscale="log", yscale="log", ylim=(1e-3, 1e3), xlabel="n, tokens in the row", ylabel="after ÷ before")
    ax.set_title(
        "Weight of the needle ÷ sum of all others (without signs);\nthe needle's score is 8 above the others",
        fontsize=10,
    )
    ax.legend(fontsize=8, title="dotted: 1/(1 − λ)", title_fontsize=8)
    ax.grid(alpha=0.3)
    return figure


def schedule():
    """Chapter 5: λ_init by depth, and what the drawn vectors add to it."""
    figure, (ax,) = panels(1, 3.6, 6.5)
    depth = np.arange(24)
    lam = 0.8 - 0.6 * np.exp(-0.3 * depth)
    for width, alpha in ((128, 0.15), (32, 0.3)):
        sd = math.sqrt(2 * width) * 0.01
        label = f"± sd of λ's first value, D = {width}"
        ax.fill_between(depth, lam - sd, lam + sd, color=look("differential")["color"], alpha=alpha, label=label)
    ax.plot(
        depth, lam, color=look("differential")["color"], marker="x", ms=5, label="λ_init = 0.8 − 0.6 exp(−0.3 depth)"
    )
    ax.plot(depth, 0.8 - 0.6 * np.exp(-0.3 * (depth + 1)), color="0.5", ls=":", label="the mistake of a 1-based depth")
    ax.set(xlabel="depth, from 0", ylabel="λ", ylim=(0, 1))
    ax.legend(fontsize=8, loc="lower right")
    ax.grid(alpha=0.3)
    return figure


def mistakes():
    """Chapter 6: what each mistake does to the loss."""
    runs, (figure, (ax,)) = results("mistakes")["runs"], panels(1, 3.8, 7)
    for i, (name, right) in enumerate(MISTAKES.items()):
        pairs, of = [*differences(runs, name, right).values()], paired(runs, name, right)
        style = {"color": look(right)["color"]}
        ax.plot(pairs, [i + 0.15] * len(pairs), ls="", marker="o", mfc="none", ms=4, **style)
        ax.errorbar([of["mean"]], [i - 0.15], xerr=[of.get("half", 0)], marker="|", ms=12, capsize=4, **style)
    ax.axvline(0, color="k", lw=0.8)
    ax.set_yticks(range(len(MISTAKES)), MISTAKES)
    ax.invert_yaxis()
    ax.set(xlabel="loss − that of the right mechanism, same seed (nats per byte)")
    ax.set_title("One circle per seed; the mean and its 95 % interval", fontsize=10)
    ax.grid(alpha=0.3)
    return figure


def summary():
    """Results: a task that subtraction solves, what decides whether vanilla is level, and text."""
    figure, (left, middle, right) = panels(3, 3.6, 3.7)
    runs = results("missing")["runs"]
    draw_accuracies({name: [run for run in runs if run["attention"] == name] for name in THE_FOUR}, left)
    left.set_title("ahead: which item is missing?", fontsize=10)
    left.legend(fontsize=7, loc="center right")
    draw_widths(middle)
    middle.set_title("ahead: noise that all values share", fontsize=10)
    draw_texts(right)
    right.set_title("behind: the next letter of a text", fontsize=10)
    for ax in (left, middle, right):
        ax.grid(alpha=0.3)
    return figure


def draw_widths(axes):
    """Noise that all values share: the error of each seed against the channels of a value, σ = 1 and n = 16."""
    runs = [*results("noise-narrow")["runs"], *results("noise")["runs"]]
    for i, (name, label) in enumerate(
        (("vanilla", "vanilla, two heads"), ("no-norm", "differential without its norm"))
    ):
        style = look({"no-norm": "differential"}.get(name, name)) | {"ls": ""}
        mine = [r for r in runs if (r["attention"], r["n_items"], r["sigma"]) == (name, 16, 1)]
        x, y = [r["width"] + 5 * i + r["seed"] - 5 for r in mine], [r["error"] for r in mine]
        axes.plot(x, y, label=label, mfc="none", ms=6, **style)
    axes.axhline(least_error(1, 16), color="0.4", ls=":", label="derived for a difference")
    axes.set(xlabel="channels of a value, of 64 in the model", xticks=(16, 32, 48), xlim=(8, 56), ylim=(0, 0.56))
    axes.set(ylabel="error, a mark per seed")
    axes.legend(fontsize=7, loc="center")


def draw_texts(axes):
    """Each mechanism's paired difference to vanilla on two texts, both at their best settings, with 95 % intervals."""
    names = ("softmax1", "temperature", "v2", "differential")
    for text, label, shift, fill in (("text", "Shakespeare", -0.15, "full"), ("code", "code", 0.15, "none")):
        of = {row["attention"]: row["difference"] for row in results(text)["table"] if "difference" in row}
        for i, name in enumerate(names):
            style = {"color": look(name)["color"], "marker": look(name)["marker"], "fillstyle": fill}
            axes.errorbar([i + shift], [of[name]["mean"]], [of[name]["half"]], ls="", ms=6, capsize=4, **style)
        axes.plot([], [], ls="", marker="o", color="0.3", fillstyle=fill, label=label)
    axes.axhline(0, color="k", lw=0.8)
    axes.set_xticks(range(len(names)), names, fontsize=8)
    axes.set(xlim=(-0.6, 3.6), ylabel="loss − vanilla's, nats per byte")
    axes.legend(fontsize=7, loc="upper left")


def discussion():
    """Chapter 11: what each idea adds to the loss of text; on the left those that solve the task."""
    rows = ideas()
    names = sorted(rows, key=lambda name: difference(rows[name])["mean"])
    solve = [name for name in names if is_solved(rows[name]["task"])]
    groups, most = (solve, [name for name in names if name not in solve]), 0.09
    figure, panels = new_figure(9.5, 1 + 0.19 * max(map(len, groups)), 1, 2, sharex=True)
    for axes, group in zip(panels, groups, strict=True):
        for i, name in enumerate(group):
            of, fresh, task = difference(rows[name]), "fresh" in rows[name], rows[name]["task"]
            style = look(name) if name in THE_FOUR else {"color": "0.25", "marker": "o"}
            style |= {"ls": "", "ms": 5, "mfc": None if fresh else "none"}
            if of["mean"] < most:
                axes.errorbar([of["mean"]], [i], xerr=[of["half"]] if fresh else None, capsize=2, lw=1, **style)
            else:
                axes.annotate(f"{of['mean']:+.2f} →", (most - 0.003, i), fontsize=8, ha="right", va="center")
            edge = f"{np.mean(task['solved_at']):.0f}" if group is solve else f"{task['accuracy']['mean']:.2f}"
            axes.annotate(edge, (1.01, i), xycoords=("axes fraction", "data"), fontsize=8, va="center")
        axes.set_yticks(range(len(group)), group, fontsize=8)
        axes.set(xlim=(-0.03, most), ylim=(max(map(len, groups)) - 0.4, -0.6))
        axes.set(xlabel="loss on text − vanilla's, nats per byte")
        axes.axvline(0, color="k", lw=0.8)
        axes.grid(alpha=0.3)
    for fill, label in ((None, "fresh seeds, 95 % interval"), ("none", "mean of two first runs")):
        panels[0].plot([], [], color="0.25", marker="o", ls="", ms=5, mfc=fill, label=label)
    panels[0].legend(fontsize=8, loc="lower right")
    panels[0].set_title("solve the task; at the edge: from which step on", fontsize=9)
    panels[1].set_title("do not; at the edge: accuracy after 400 steps", fontsize=9)
    return figure


if __name__ == "__main__":
    run(figures, program="python -m docs.figures")
