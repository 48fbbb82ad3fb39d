"""The figures of the course, drawn from formulas and from lab/records.

python docs/figures.py                draws docs/figures/*.png
python docs/figures.py hull contrast  only these
"""

import json
import math
import sys
from pathlib import Path

import numpy as np
import torch
from matplotlib.patches import Rectangle

sys.path.insert(0, str(Path(__file__).parent.parent))  # a script finds only what lies beside it

from configurable import one_of, run
from lab.analyze import signed_colors
from lab.show import draw_parts, look, spread
from model import softmax1
from plumbing.run import drawing

DOCS = Path(__file__).parent


def figures(
    *names: str,  # figures to draw; none: all
    out_dir: str = str(DOCS / "figures"),  # folder of the pictures
):
    """Draw the pictures of the course."""
    for name in names:
        one_of("names", name, FIGURES)
    Path(out_dir).mkdir(parents=True, exist_ok=True)
    for name in names or FIGURES:
        draw, width, height, columns = FIGURES[name]
        with drawing(path := Path(out_dir) / f"{name}.png", width, height, 1, columns) as (figure, axes):
            draw(figure, *axes)
            print(path)


def records(experiment):
    """{mechanism: [its runs]} of an experiment, from the lines of lab/records/*.jsonl; runs that tuned are left out."""
    found = {}
    for path in sorted((DOCS.parent / "lab/records").glob("*.jsonl")):
        for line in path.read_text(encoding="utf-8").splitlines():
            one = json.loads(line)
            if one.get("experiment", path.stem) == experiment and one.get("purpose") != "tuning":
                found.setdefault(one["attention"], []).append(one)
    return found


def differences(runs, base):
    """[best loss of a run − that of the run of `base` with the same seed]"""
    losses = {one["seed"]: one["best"] for one in base}
    return [one["best"] - losses[one["seed"]] for one in runs if one["seed"] in losses]


# ---------------------------------------------------------------------------- pictures


def head(figure, ax):
    """README: one head of differential attention, from its scores to its output."""
    torch.manual_seed(4)
    n, lam = 10, 0.8
    future, keys = torch.ones(n, n).triu(1).bool(), torch.nn.functional.normalize(torch.randn(8, n), dim=0)
    queries = torch.nn.functional.normalize(torch.randn(2, n, 8), dim=-1)
    A1, A2 = (2.5 * queries @ keys).masked_fill(future, -math.inf).softmax(-1)
    maps = [(2.6, 2.55, "A₁", A1), (2.6, 0.35, "λA₂", lam * A2), (5.15, 1.45, "A = A₁ − λA₂", A1 - lam * A2)]
    for x, y, title, A in maps:
        inset = ax.inset_axes((x, y, 1.5, 1.5), transform=ax.transData)
        inset.imshow(np.ma.array(A, mask=future), cmap=signed_colors(), vmin=-0.4, vmax=0.4)
        inset.set(xticks=[], yticks=[], facecolor="0.88")
        inset.set_title(title, fontsize=11, pad=3)
    box = {"boxstyle": "round,pad=0.35", "fc": "white", "ec": "0.3"}
    for x, y, text in (
        (1.2, 3.3, "softmax(Q₁K₁ᵀ/√D)"),
        (1.2, 1.1, "λ softmax(Q₂K₂ᵀ/√D)"),
        (7.55, 2.2, "times V"),
        (8.95, 2.2, "head\nnorm"),
    ):
        ax.text(x, y, text, ha="center", va="center", fontsize=10, bbox=box)
    arrows = [
        ((2.12, 3.3), (2.55, 3.3)),
        ((2.12, 1.1), (2.55, 1.1)),
        ((4.15, 3.3), (4.55, 2.4)),
        ((4.15, 1.1), (4.55, 2.0)),
    ]
    arrows += [
        ((4.8, 2.2), (5.1, 2.2)),
        ((6.7, 2.2), (7.08, 2.2)),
        ((8.02, 2.2), (8.42, 2.2)),
        ((9.48, 2.2), (9.95, 2.2)),
    ]
    for start, end in arrows:
        ax.annotate("", end, start, arrowprops={"arrowstyle": "-|>", "color": "0.2", "shrinkA": 0, "shrinkB": 0})
    ax.text(
        4.66,
        2.2,
        "−",
        ha="center",
        va="center",
        fontsize=16,
        bbox={"boxstyle": "circle,pad=0.15", "fc": "white", "ec": "0.3"},
    )
    ax.text(5.9, 1.15, "orange above 0, blue below", ha="center", fontsize=8.5, color="0.3")
    ax.text(10.0, 2.2, "y", va="center", fontsize=12)
    ax.set(xlim=(0.1, 10.3), ylim=(0.1, 4.5))
    ax.axis("off")


def hull(figure, *panels):
    """Chapter 1: where outputs lie, three values in the plane, many scores."""
    torch.manual_seed(0)
    v = torch.tensor([[1.0, 0.2], [2.2, 0.6], [1.3, 1.7]])
    (S1, S2), lam = 2.5 * torch.randn(2, 4000, 3), 0.8
    shapes = {
        "vanilla": ("softmax", S1.softmax(-1)),
        "softmax1": ("softmax1", softmax1(S1)),
        "differential": (f"difference, λ = {lam}", S1.softmax(-1) - lam * S2.softmax(-1)),
    }
    paper = {"boxstyle": "square,pad=0.1", "color": "w", "alpha": 0.8}  # behind words
    for ax, (name, (title, A)) in zip(panels, shapes.items(), strict=True):
        y = (A @ v).numpy()
        ax.plot(y[:, 0], y[:, 1], ls="", marker=".", ms=1.5, color=look(name)["color"], alpha=0.5)
        ax.plot(*v[[0, 1, 2, 0]].T.numpy(), color="k", lw=1)
        if name == "differential":  # its hull has the corners vᵢ − λvⱼ
            pairs = ((0, 1), (2, 1), (2, 0), (1, 0), (1, 2), (0, 2), (0, 1))
            corners = torch.stack([v[i] - lam * v[j] for i, j in pairs]).numpy()
            ax.plot(*corners.T, color="k", lw=0.8)
            ax.plot(*(2 * corners.T), color="k", lw=0.8, ls="--")
            for text, corner, up in ((f"v₃ − {lam} v₁", 2, 7), (f"v₁ − {lam} v₃", 5, -8)):
                place = {"xytext": (0, up), "textcoords": "offset points", "ha": "center", "va": "center"}
                ax.annotate(text, corners[corner], **place, fontsize=7)
        for i, (x0, y0) in enumerate(v.tolist()):
            place = (-6, -14) if i == 0 else (4, 4)
            ax.annotate(f"v{'₁₂₃'[i]}", (x0, y0), xytext=place, textcoords="offset points", weight="bold", bbox=paper)
        ax.plot(0, 0, marker="+", ms=10, color="k")
        ax.annotate("zero", (0, 0), xytext=(5, -10), textcoords="offset points", fontsize=8, bbox=paper)
        ax.set(title=title, xlim=(-2.2, 3), ylim=(-2.5, 3.3), aspect="equal")
        ax.grid(alpha=0.3)
    figure.suptitle("A head's output, 4000 random rows of scores", fontsize=10)


def without(figure, left, right):
    """Chapter 2: how much softmax1 spends, how sharp a temperature can be."""
    lse = np.linspace(-6, 8, 200)
    left.plot(lse, 1 / (1 + np.exp(-lse)), color=look("softmax1")["color"], label="softmax1: σ(lse S)")
    left.axhline(1, color=look("vanilla")["color"], ls="--", label="vanilla")
    left.set(xlabel="lse S, log of the sum of exp", ylabel="sum of the row", ylim=(0, 1.08), title="what a row spends")
    g = np.linspace(0, 16, 200)
    for n, style in ((64, "-"), (1024, "--"), (100_000, ":")):
        label = f"n = {n:,}"
        right.plot(g, 1 / (1 + (n - 1) * np.exp(-2 * g)), ls=style, color=look("temperature")["color"], label=label)
    right.axvline(12, color="0.6", lw=0.8)
    style = {"xytext": (3, 0), "textcoords": "offset points", "fontsize": 8, "color": "0.4"}
    right.annotate("12, the start\nof temperature", (12, 0.3), **style)
    right.set(xlabel="g", ylabel="largest possible weight", ylim=(0, 1.08), title="the most that g allows")
    for ax in (left, right):
        ax.grid(alpha=0.3)
        ax.legend(fontsize=8)


def subtraction(figure, *panels):
    """Chapter 3: the example by hand, as bars."""
    A1 = torch.tensor([2.0, 1.0, 0.0]).softmax(-1).numpy()
    A2 = torch.tensor([0.0, 1.0, 0.0]).softmax(-1).numpy()
    for ax, lam in zip(panels, (0.425, 0.5), strict=True):
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


def contrast(figure, left, right):
    """Chapter 3: a row, in what both maps share and what they do not; and its contrast against λ."""
    torch.manual_seed(0)
    keys = torch.nn.functional.normalize(torch.randn(64, 16), dim=-1)
    S, lam = keys @ keys[0], np.linspace(0, 1, 401)
    draw_parts(left, (2 * S).softmax(0).numpy()[:32], np.full(32, 0.8 / 64))
    left.set(
        xlabel="the first 32 of 64 tokens (0 is asked for)",
        ylabel="weight",
        title="g = 2, minus a uniform map, λ = 0.8",
    )
    for g, style in ((1, ":"), (2, "--"), (4, "-")):
        A = (g * S).softmax(0).numpy()[:, None] - lam / 64
        right.plot(lam, abs(A[0]) / abs(A[1:]).mean(0), color="k", ls=style, label=f"g = {g}")
    right.set(yscale="log", xlabel="λ", ylabel="weight asked for ÷ mean of the others", title="contrast")
    right.set_yticks((3, 5, 10, 20, 40), (3, 5, 10, 20, 40), minor=False)
    right.set_yticks((), minor=True)
    for ax in (left, right):
        ax.legend(fontsize=8)
        ax.grid(alpha=0.3)


def schedule(figure, ax):
    """Chapter 5: λ_init by depth, and what the drawn vectors add to it."""
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


def shapes(figure, ax):
    """Chapter 5: what a layer with four keys per token holds; a box is as wide as its channels, a colour is a head."""
    kinds = {  # names of the queries, keys and values of a head, the width of a value in D, heads
        "vanilla": (("q",), ("k",), 1, 4),
        "V1, differential": (("q₁", "q₂"), ("k₁", "k₂"), 2, 2),
        "V2": (("q₁", "q₂"), ("k",), 1, 4),
    }
    left = 0
    for title, (queries, keys, value, heads) in kinds.items():
        wide = max(len(queries), value)
        for head in range(heads):
            middle = left + (head + 0.5) * wide
            for y, names, width in ((2, queries, 1), (1, keys, 1), (0, ("v",), value)):
                for i, name in enumerate(names):
                    x = middle + (i - len(names) / 2) * width
                    ax.add_patch(Rectangle((x, y), width, 0.7, fc=f"C{head}", ec="white", lw=2, alpha=0.55))
                    ax.text(x + width / 2, y + 0.35, name, ha="center", va="center", fontsize=10)
        ax.text(left + heads * wide / 2, 3, title, ha="center", fontsize=11)
        left += heads * wide + 1
    for y, text in enumerate(("values", "keys", "queries")):
        ax.text(-0.2, y + 0.35, text, ha="right", va="center", fontsize=10)
    ax.set(xlim=(-2, left - 1), ylim=(-0.1, 3.5))
    ax.axis("off")


def ideas_measured():
    """{idea: {"accuracy", "solved_at": on the task, a number per seed; "difference": of the loss on text, to vanilla's;
    "fresh": whether that is of seeds that chose nothing}}"""
    found = {}
    for name in ("ideas-missing", "missing-controls", "missing-narrow"):
        for attention, runs in records(name).items():
            evaluations = [
                list(zip(*(e[k] for k in ("step", "accuracy")), strict=True)) for e in (r["evaluations"] for r in runs)
            ]
            solved = [next((step for step, accuracy in rows if accuracy >= 0.99), None) for rows in evaluations]
            found.setdefault(attention, {"accuracy": [rows[-1][1] for rows in evaluations], "solved_at": solved})
    for name in ("ideas", "text", "text-parts", "ideas-look"):
        runs = records(name)
        for attention in runs.keys() & found.keys():
            if "difference" not in found[attention]:
                of = spread(differences(runs[attention], runs["vanilla"]))
                found[attention] |= {"difference": of, "fresh": name != "ideas-look"}
    return {name: row for name, row in found.items() if name != "vanilla" and "difference" in row}


def ideas(figure, ax):
    """Every idea: what it adds to the loss of text, and how well it does the task."""
    rows, most = ideas_measured(), 0.09
    names = sorted(rows, key=lambda name: rows[name]["difference"]["mean"])
    for i, name in enumerate(names):
        of, fresh, accuracy = rows[name]["difference"], rows[name]["fresh"], np.mean(rows[name]["accuracy"])
        color = look("differential")["color"] if None not in rows[name]["solved_at"] else "0.25"
        if of["mean"] < most:
            style = {"color": color, "ls": "", "marker": "o", "ms": 5, "mfc": None if fresh else "none"}
            ax.errorbar([of["mean"]], [i], xerr=[of["half"]] if fresh else None, capsize=2, lw=1, **style)
        else:
            ax.annotate(f"{of['mean']:+.2f} →", (most - 0.003, i), fontsize=8, ha="right", va="center", color=color)
        ax.annotate(
            f"{accuracy:.2f}", (1.02, i), xycoords=("axes fraction", "data"), fontsize=9, va="center", color=color
        )
    ax.set_yticks(range(len(names)), names, fontsize=9)
    ax.set(xlim=(-0.03, most), ylim=(len(names) - 0.4, -0.6), xlabel="loss on text − vanilla's, nats per byte")
    ax.annotate("right answers,\nafter 400 steps", (1.02, -1), xycoords=("axes fraction", "data"), fontsize=8)
    ax.axvline(0, color="k", lw=0.8)
    ax.grid(alpha=0.3)
    for fill, color, label in (
        (None, look("differential")["color"], "solves the task in all four seeds"),
        (None, "0.25", "does not"),
        ("none", "0.25", "text: mean of two preliminary runs"),
    ):
        ax.plot([], [], color=color, marker="o", ls="", ms=5, mfc=fill, label=label)
    ax.legend(fontsize=8, loc="upper right")


def free(figure, ax):
    """Chapter 8: differential minus vanilla with free scores, in every setting that has paired seeds."""
    settings = (  # label, experiment, window of its runs; None: all have one window
        ("Shakespeare, tuned, 1200 steps", "text", None),
        ("Python library, the same settings", "code", None),
        ("Shakespeare, windows of 16, 600 steps", "score-range", 16),
        ("windows of 64, 600 steps", "score-range", 64),
        ("windows of 256, 600 steps", "score-range", 256),
        ("windows of 1024, 600 steps", "score-range", 1024),
        ("Python library, 600 steps", "score-range-stdlib-fresh", None),
        ("windows of 256, 1200 steps", "text-256", None),
        ("4800 steps", "text-4800", None),
        ("four differential heads", "text-8-maps", None),
        ("eight differential heads, tuned", "text-16-maps", None),
        ("6.4M parameters, eight heads, 300 steps", "score-range-eight-heads", None),
    )
    for i, (_, experiment, window) in enumerate(settings):
        runs = {
            name: [one for one in of if window in (None, one.get("window"))] for name, of in records(experiment).items()
        }
        of = spread(differences(runs["differential"], runs["vanilla"]))
        style = {"color": look("differential")["color"], "marker": "o", "ms": 5, "capsize": 3, "lw": 1}
        ax.errorbar([of["mean"]], [i], xerr=[of["half"]], **style)
    ax.set_yticks(range(len(settings)), [label for label, _, _ in settings])
    ax.set(xlabel="loss of differential − vanilla, nats per byte", xlim=(-0.02, 0.085))
    ax.invert_yaxis()
    ax.axvline(0, color="k", lw=0.8)
    ax.axvline(-0.026 / 4, color="0.4", lw=1, ls=":", label="the paper, per byte")
    ax.legend(fontsize=8, loc="upper right")
    ax.grid(alpha=0.3, axis="x")


def controls(figure, ax):
    """Chapter 8: what each change of attention gains where scores are bounded by 2."""
    runs = records("score-range-controls") | records("score-range-sharp") | records("score-range")
    runs = {name: [one for one in of if one["window"] == 64] for name, of in runs.items()}
    groups = (
        ("0.5", "nothing is taken away", {
            "vanilla with the head norm": "bounded-2-normed-vanilla",
            "two maps that only add": "bounded-2-add-only",
            "λ = 0, with norm and wide values": "bounded-2-lambda-zero",
        }),
        ("C3", "the common part is taken away", {
            "differential": "bounded-2-differential",
            "differential without the norm": "bounded-2-no-norm",
            "vanilla minus a uniform map": "bounded-2-minus-even",
        }),
        ("C1", "the same, without negative weights", {
            "|A₁ − λA₂|": "bounded-2-absolute",
            "max(0, A₁ − λA₂)": "bounded-2-rectified",
            "max(0, exp(S) − 1) ÷ its sum": "bounded-2-exp-minus-one",
        }),
        ("C0", "only fewer effective tokens", {"softmax where it is at least 1/n": "bounded-2-threshold"}),
        ("C2", "a wider bound", {"vanilla with g = 4": "bounded-4"}),
    )  # fmt: skip
    names = []
    for color, title, kinds in groups:
        for i, (name, attention) in enumerate(kinds.items()):
            of = spread(differences(runs[attention], runs["bounded-2"]))
            label = title if i == 0 else None
            style = {"color": color, "alpha": 0.6, "ecolor": "k", "capsize": 3, "label": label}
            ax.barh(len(names), of["mean"], xerr=of["half"], **style)
            names.append(name)
    ax.set_yticks(range(len(names)), names)
    ax.set(xlabel="loss − that of vanilla, nats per byte (g = 2, windows of 64)", xlim=(-0.145, 0.055))
    ax.invert_yaxis()
    ax.axvline(0, color="k", lw=0.8)
    ax.grid(alpha=0.3, axis="x")
    ax.legend(fontsize=8, loc="upper left")


FIGURES = {  # name: function, width and height in inches, panels
    "head": (head, 9, 3.6, 1),
    "hull": (hull, 10.2, 3.6, 3),
    "without": (without, 8.8, 3.6, 2),
    "subtraction": (subtraction, 8.8, 3.4, 2),
    "contrast": (contrast, 8.8, 3.6, 2),
    "schedule": (schedule, 6.5, 3.6, 1),
    "shapes": (shapes, 9, 2.4, 1),
    "free": (free, 7.5, 4, 1),
    "controls": (controls, 7.5, 4.2, 1),
    "ideas": (ideas, 6.8, 10.5, 1),
}

if __name__ == "__main__":
    run(figures, program="python docs/figures.py")
