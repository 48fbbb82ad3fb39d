"""How results are shown: one kind of table, one kind of interval, and one look for each mechanism in every figure."""

import functools
import math
import statistics
import zlib

import numpy as np

THE_FOUR = ("vanilla", "softmax1", "temperature", "differential")  # the mechanisms of model.py, without ideas/


def table(rows):
    """Markdown of dicts: a column for every key, in the order in which the rows bring them."""
    names = list(dict.fromkeys(name for row in rows for name in row))
    cells = [[shown(row.get(name, "")) for name in names] for row in rows]
    widths = [max(map(len, column)) for column in zip(names, *cells, strict=True)]
    lines = [names, ["-" * width for width in widths], *cells]
    return "\n".join("| " + " | ".join(map(str.ljust, line, widths)) + " |" for line in lines)


def shown(value):
    """A cell: a float with three digits, [lower quartile, median, upper quartile] as median (lower-upper)."""
    if isinstance(value, list):
        low, median, high = map(shown, value)
        return f"{median} ({low}-{high})"
    if isinstance(value, float):
        return f"{value:,.0f}" if abs(value) >= 1000 else f"{value:.3g}"
    return str(value)


def look(name):
    """Colour, marker and line style of a mechanism, for matplotlib; the four differ in each, also in grey."""
    known, number = (*THE_FOUR, "nanoGPT"), zlib.crc32(name.encode())
    if name in known:
        color, marker, line = (known.index(name),) * 3
    else:
        color, marker, line = 5 + number % 5, 5 + number // 5 % 8, number // 40
    return {"color": f"C{color}", "marker": "osD^xvP*<>Xhd"[marker], "ls": ("-", "--", "-.", ":")[line % 4]}


def draw_parts(ax, first, second):
    """Bars of the row `first` − `second`: grey cancels, what is above it stays, what is below zero is negative."""
    x, common = np.arange(len(first)), np.minimum(first, second).clip(min=0)  # with λ < 0 nothing cancels
    ax.bar(x, common, color="0.8", label="cancels: in A₁ and in λA₂")
    ax.bar(x, (first - second).clip(min=0), bottom=common, color="C1", label="A above 0")
    ax.bar(x, (first - second).clip(max=0), color="C0", label="A below 0")
    ax.axhline(0, color="k", lw=0.8)


# ---------------------------------------------------------------------------- statistics


def spread(values):
    """{n, mean, sd, half}: mean ± half is its 95 % interval (Student's t). One value has neither sd nor half."""
    n, mean = len(values), statistics.fmean(values)
    if n < 2:
        return {"n": n, "mean": mean}
    sd = statistics.stdev(values)
    return {"n": n, "mean": mean, "sd": sd, "half": student(n - 1) * sd / math.sqrt(n)}


@functools.cache
def student(freedom):
    """The 97.5th percentile of Student's t. With t = √freedom tan θ its density is cos(θ)^(freedom − 1)."""
    theta = np.linspace(0, math.pi / 2, 1_000_001)
    share = np.cumsum(np.cos(theta) ** (freedom - 1))
    return math.sqrt(freedom) * math.tan(np.interp(0.95 * share[-1], share, theta))


def mean_and_sd(number, digits=2):
    """A `spread` as text: mean ± standard deviation."""
    return f"{number['mean']:.{digits}f}" + (f" ± {number['sd']:.{digits}f}" if "sd" in number else "")


def mean_and_interval(number, digits=4):
    """A `spread` of differences as text: signed mean ± half of the 95 % interval."""
    return f"{number['mean']:+.{digits}f} " + (f"± {number['half']:.{digits}f}" if "half" in number else "(one seed)")
