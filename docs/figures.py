"""The figures of the tutorial, and whether its numbers are still those of docs/results.

python -m docs.figures draws docs/figures/*.png. With --check it draws nothing, and fails where a number has drifted.
"""

import functools
import json
import math
from pathlib import Path

import numpy as np
import torch

from configurable import UsageError, run
from lab.analyze import summary
from lab.compare import differences, paired
from lab.show import THE_FOUR, look
from model import softmax1
from plumbing.figure import new_figure, write_figure

DOCS = Path(__file__).parent


def figures(
    *,
    check: bool = False,  # draw nothing; fail where a number in a page is not that of docs/results
    out_dir: str = str(DOCS / "figures"),  # folder of the pictures
):
    """Draw the pictures of the tutorial, or check its numbers."""
    if check:
        if gone := drifted():
            raise UsageError("; ".join(f"{page} lacks {text!r}" for page, text in gone))
        return print(f"{len([*numbers()])} texts with numbers are what docs/results says")
    Path(out_dir).mkdir(parents=True, exist_ok=True)
    for draw in (hull, floor, without, subtraction, schedule, mistakes):
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
    S1, S2 = 2.5 * torch.randn(2, 4000, 3)
    shapes = {
        "vanilla": ("softmax", S1.softmax(-1)),
        "softmax1": ("softmax1", softmax1(S1)),
        "differential": ("difference, λ = 0.8", S1.softmax(-1) - 0.8 * S2.softmax(-1)),
    }
    figure, axes = panels(3, 3.6, 3.4)
    for ax, (name, (title, A)) in zip(axes, shapes.items(), strict=True):
        y = (A @ v).numpy()
        ax.plot(y[:, 0], y[:, 1], ls="", marker=".", ms=1.5, color=look(name)["color"], alpha=0.5)
        ax.plot(*v[[0, 1, 2, 0]].T.numpy(), color="k", lw=1)
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


MISTAKES = {  # of chapter 6, and what each of them should have been
    **dict.fromkeys(("halved", "split-late", "scores", "no-norm", "no-scale", "one-based"), "differential"),
    "zero-token": "softmax1",
}


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


# ---------------------------------------------------------------------------- numbers


def results(name):
    """What a run of docs/results.sh left in docs/results/NAME."""
    found = sorted((DOCS / "results" / name).glob("*.json"))
    if not found:
        raise UsageError(f"nothing in docs/results/{name}: docs/results.sh makes it")
    return json.loads(found[0].read_text(encoding="utf-8"))


def drifted():
    """[(page, text)] for every text with numbers that a page should have, as computed now, and has not."""
    paths = {path.name: path for path in DOCS.glob("*.md")} | {"the README": DOCS.parent / "README.md"}
    pages = {name: " ".join(path.read_text(encoding="utf-8").split()) for name, path in paths.items()}
    return [(page, text) for page, text in numbers() if text not in pages[page]]


def signed(number, digits):
    """A difference as the pages write it."""
    return f"{number:+.{digits}f}".replace("-", "−")


def value(text):
    """The number that `signed` wrote."""
    return float(text.replace("−", "-"))


def numbers():
    """(page, text): what the pages say of docs/results, computed from there again."""
    for some in (of_losses, of_first_weights, of_maps, of_interventions, of_lambda, of_speed, of_mistakes):
        yield from some()


def of_losses():
    """Losses of the comparisons, and needles that were found."""
    runs = {name: results(name)["table"] for name in ("shakespeare", "equal-time", "stdlib", "needles")}
    for name, rows in runs.items():
        for row in rows if name != "needles" else ():
            val, of, time = row["val_loss"], row.get("difference"), row["time_ratio"]
            loss = f"{val['mean']:.4f} ± {val['sd']:.4f}"
            difference = f"{signed(of['mean'], 4)} ± {of['half']:.4f}" if of else ""
            steps = f" {row['steps']} |" if name == "equal-time" else ""
            yield "results.md", f"| {row['attention']} |{steps} {loss} | {difference}".rstrip()
            if of:
                yield "results.md", f"| {difference} | {time['mean']:.2f} ± {time['half']:.2f} |"
        short = [f"{row['val_loss']['mean']:.3f} ± {row['val_loss']['sd']:.3f}" for row in rows[:1]]
        short += [f"{signed(row['difference']['mean'], 3)} ± {row['difference']['half']:.3f}" for row in rows[1:]]
        if name != "needles":
            yield "08-measured.md", " | ".join(short)
            for text in short[1:3]:
                yield "02-without-subtraction.md", text
    exact = {
        row["attention"]: " ".join(
            f"{run['needles']['by_n'][3]['exact']:.2f}"
            for run in results("needles")["runs"]
            if run["attention"] == row["attention"]
        )
        for row in runs["needles"]
    }
    yield "08-measured.md", f"seeds 1 2 3: {exact['vanilla']} → {exact['differential']}"
    small = " ".join(f"{run['needles']['by_n'][3]['exact']:.2f}" for run in results("needles-small")["runs"])
    yield "08-measured.md", f"vanilla's {exact['vanilla']} into {small}"
    for name in THE_FOUR:
        yield "results.md", exact[name]


def of_first_weights():
    """The README's table, and the losses before and after first weights were drawn by name."""
    before, after = results("shakespeare")["table"], results("first-weights")["table"]
    for old, new in zip(before, after, strict=True):
        cells = [f"{row['val_loss']['mean']:.4f} ± {row['val_loss']['sd']:.4f}" for row in (old, new)]
        yield "results.md", f"| {new['attention']} | {cells[0]} ("
        yield "results.md", f") | {cells[1]} ("
        text = f"| {new['attention']} | {new['val_loss']['mean']:.3f} ± {new['val_loss']['sd']:.3f} |"
        if of := new.get("difference"):
            yield "results.md", f") | {signed(of['mean'], 4)} ± {of['half']:.4f} |"
            text += f" {signed(of['mean'], 3)} ± {of['half']:.3f}"
        yield "the README", text


@functools.cache
def summaries():
    """{mechanism: the numbers of each seed's checkpoint}."""
    groups = {name: [] for name in THE_FOUR}
    for entry in results("analysis-seeds")["checkpoints"]:
        groups[entry["attention"]].append(summary(entry))
    return groups


def seeds(name, what, digits):
    """Mean ± standard deviation over seeds of a number of a mechanism's checkpoints."""
    values = [row[what] for row in summaries()[name]]
    mean, sd = np.mean(values), np.std(values, ddof=1)
    return f"{signed(mean, digits) if what[0] == 'Δ' else f'{mean:.{digits}f}'} ± {sd:.{digits}f}"


def row(label, what, digits, names=THE_FOUR):
    """A row of a table: that number for several mechanisms."""
    return f"| {label} | {' | '.join(seeds(name, what, digits) for name in names)}"


def of_maps():
    """Where the maps of trained models look, and how large logits and hidden states are."""
    for label, chapter, what, digits in (
        ("on the first token", "on the first token", "on_first", 3),
        ("on itself", "on the token itself", "on_itself", 2),
        ("on the previous token", "on the one before it", "on_previous", 2),
        ("effective number of tokens", "effective number of tokens (e to the entropy)", "effective_tokens", 1),
    ):
        yield "01-budget.md", row(chapter, what, digits, THE_FOUR[:1]) + " |"
        yield "results.md", row(label, what, digits)
    for label, what in (("below 0.001", "at_most_0.001"), ("below 0.00001", "at_most_1e-05")):
        yield "results.md", row(f"\\|a\\| {label}", what, 2)
    for kind, label in (("logits", "attention logits, top 1"), ("hidden", "hidden states, top 1")):
        yield "results.md", row(label, f"{kind} top_1", 1 if kind == "logits" else 0)
        yield "results.md", row("median", f"{kind} median", 1)
        yield "results.md", row("kurtosis", f"{kind} kurtosis", 1)


def of_interventions():
    """What the loss becomes without a part of the maps."""
    yield "results.md", row("4 bits", "Δ loss, logits in 4 bits", 3)
    yield "results.md", row("weight on the first token by 0", "Δ loss, first token by 0", 3)
    yield "results.md", row("A by its mean over windows", "Δ loss, A by its mean", 2)
    yield "results.md", row("the rest", "loss of the rest", 3)
    yield "01-budget.md", f"is {seeds('vanilla', 'logits top_1', 0)}"
    yield "02-without-subtraction.md", f"Row sums of {seeds('softmax1', 'row_sum', 2)}"
    yield "02-without-subtraction.md", f"{seeds('temperature', 'effective_tokens', 1)} effective tokens"
    for what, digits in (("effective_tokens", 1), ("at_most_0.001", 2), ("at_most_1e-05", 2)):
        yield "04-near-zero.md", f"| {seeds('differential', what, digits)} | {seeds('vanilla', what, digits)} |"
    for what in ("negative_share", "negative_mass"):
        yield "04-near-zero.md", f"| {seeds('differential', what, 2)} | 0 |"
    for what, digits in (("first token by 0", 3), ("A by its mean", 2)):
        texts = [seeds(name, f"Δ loss, {what}", digits) for name in ("vanilla", "differential")]
        yield "04-near-zero.md", f"| {' | '.join(texts)} |"
    for what in ("negative by 0", "λ by 0", "A₂ by its row's mean", "A₂ by its mean"):
        yield "04-near-zero.md", f"| | {seeds('differential', f'Δ loss, {what}', 2)} |"
        yield "results.md", f"| {seeds('differential', f'Δ loss, {what}', 2)} |"
    for what, digits in (("logits top_1", 1), ("hidden top_1", 0)):
        both = [seeds(name, what, digits) for name in ("vanilla", "differential")]
        yield "08-measured.md", f"| {both[0]} → {both[1]} |"
    both = [seeds(name, "Δ loss, logits in 4 bits", 3) for name in ("vanilla", "differential")]
    yield "08-measured.md", f"loss {both[0]} → {both[1]}"


def of_lambda():
    """λ of trained models, and how alike their two maps are."""
    learned = [e for e in results("analysis-seeds")["checkpoints"] if e["attention"] == "differential"]
    lam = [value for entry in learned for value in entry["learned"]["lam"]["now"]]
    yield "04-near-zero.md", f"ends anywhere from {signed(min(lam), 2)} to {max(lam):.2f}"
    yield "09-questions.md", f"It can: {max(lam):.2f} in one of our layers"
    cosine = [np.mean([head["A1_A2_cosine"] for head in entry["heads"]]) for entry in learned]
    yield "04-near-zero.md", f"| {np.mean(cosine):.2f} ± {np.std(cosine, ddof=1):.2f} | | |"
    yield "09-questions.md", f"falls from 1.00 to {np.mean(cosine):.2f}"
    needles = [e for e in results("analysis-needles-seeds")["checkpoints"] if e["attention"] == "differential"]
    lam = [signed(entry["learned"]["lam"]["now"][0], 2) for entry in needles]
    yield "results.md", f"in every seed ({', '.join(lam)})"
    yield "03-subtraction.md", f"(λ from {max(lam, key=value)} to {min(lam, key=value)},"


def of_speed():
    """Rows that two pages share."""
    for line in (DOCS / "07-fast.md").read_text(encoding="utf-8").splitlines():
        if line.startswith(("| softmax1,", "| temperature,", "| differential,", "| vanilla,")):
            yield "speed.md", line.removesuffix(" |")


def of_mistakes():
    """What each mistake does to the loss."""
    runs = results("mistakes")["runs"]
    for name, right in MISTAKES.items():
        of = paired(runs, name, right)
        yield "06-wrong.md", f"| {signed(of['mean'], 3)} ± {of['half']:.3f} |"
    for name, pages in (
        ("no-norm", ("06-wrong.md", "08-measured.md", "results.md")),
        ("differential", ("06-wrong.md",)),
    ):
        of = paired(runs, name, "vanilla")
        for page in pages:
            yield page, f"{signed(of['mean'], 3)} ± {of['half']:.3f}"


if __name__ == "__main__":
    run(figures, program="python -m docs.figures")
