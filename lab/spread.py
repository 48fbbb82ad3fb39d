"""Mean, standard deviation and 95 % interval."""

import math
import statistics

import numpy as np


def spread(values):
    """{n, mean, sd, half}: mean ± half is its 95 % interval. Of one value there is neither sd nor half."""
    n, mean = len(values), statistics.fmean(values)
    if n < 2:
        return {"n": n, "mean": mean}
    sd = statistics.stdev(values)
    return {"n": n, "mean": mean, "sd": sd, "half": student(n - 1) * sd / math.sqrt(n)}


def student(freedom):
    """The 97.5th percentile of Student's t, integrated numerically: of t = √freedom tan θ the density is that of

    cos(θ) to the power freedom − 1.
    """
    theta = np.linspace(0, math.pi / 2, 1_000_001)
    share = np.cumsum(np.cos(theta) ** (freedom - 1))
    return math.sqrt(freedom) * math.tan(np.interp(0.95 * share[-1], share, theta))
