"""How long functions take that are compared: they take turns, so that a machine that slows down slows all of them down.

A ratio is the median of the rounds' ratios, between their quartiles. Seconds are those of this machine on this day.
"""

import contextlib
import functools
import itertools
import os
import re
import sys
import time

import numpy as np
import torch
from torch.profiler import profile
from tqdm import tqdm

BAR = {"leave": False, "disable": None}


def in_turns(steps, repetitions, device):
    """{name: {"seconds": one per round, "peak_bytes": ..., "kernel": ...}} of `steps`, {name: function}.

    peak_bytes: the most bytes allocated during a call beyond those before it. kernel: which one computes attention.
    A function that fails, because memory or a compiler is missing, has {"failed": reason} instead.
    """
    measures = {name: warm_up(step, device) for name, step in tqdm(steps.items(), "warm-up", **BAR)}
    names = [name for name in steps if "failed" not in measures[name]]
    for r in tqdm(range(repetitions), "rounds", **BAR):
        first = r % max(1, len(names))
        for name in names[first:] + names[:first]:
            measures[name]["seconds"].append(seconds_of(steps[name], device))
    return measures


def warm_up(step, device):
    """The measures of the third call of `step`, without seconds; the first two calls compile, and fill caches."""
    try:
        step()
        step()
        if device.type == "cuda":
            torch.cuda.reset_peak_memory_stats(device)
            before = torch.cuda.memory_allocated(device)
        with without_stderr(), profile(profile_memory=device.type == "cpu") as trace:
            step()
    except RuntimeError as error:  # out of memory, and the errors of torch.compile, are all of this type
        if isinstance(error, torch.OutOfMemoryError) or "allocate memory" in str(error):
            return {"failed": "out of memory"}
        lines = [line for line in str(error).split("\n") if line.strip() and not line.endswith("raised:")]
        return {"failed": lines[0] if lines else type(error).__name__}
    if device.type == "cuda":
        peak = torch.cuda.max_memory_allocated(device) - before
    else:
        changes = [event for event in trace.profiler.kineto_results.events() if event.name() == "[memory]"]
        changes.sort(key=lambda event: event.start_ns())
        peak = max(itertools.accumulate(event.nbytes() for event in changes), default=0)
    names = " ".join(event.key for event in trace.key_averages())
    kernels = set(re.findall(r"_scaled_dot_product_(?:attention_)?(flash|efficient|cudnn|math)", names))
    return {"seconds": [], "peak_bytes": peak, "kernel": " ".join(sorted(kernels)) or "none"}


def in_mode(mode, function):
    """The function as it is for mode "eager", or compiled."""
    if mode == "eager":
        return function
    torch._dynamo.config.recompile_limit = 64  # variants share code; after 8 dynamo would silently stop compiling
    return torch.compile(function, dynamic=False)


@contextlib.contextmanager
def without_stderr():
    """Hides what some versions of torch's profiler print there when it begins and ends."""
    sys.stderr.flush()
    kept, nowhere = os.dup(2), os.open(os.devnull, os.O_WRONLY)
    os.dup2(nowhere, 2)
    try:
        yield
    finally:
        os.dup2(kept, 2)
        os.close(kept)
        os.close(nowhere)


def seconds_of(step, device):
    """Seconds that one call of `step` takes, until the device has finished it."""
    finish = functools.partial(torch.cuda.synchronize, device) if device.type == "cuda" else lambda: None
    finish()
    started = time.perf_counter()
    step()
    finish()
    return time.perf_counter() - started


def quartiles(values):
    """[lower quartile, median, upper quartile]"""
    return [float(value) for value in np.percentile(values, (25, 50, 75))]


def speedup(base, measures):
    """Quartiles of the rounds' ratios: how many times as fast as `base` a function was."""
    return quartiles([b / s for b, s in zip(base["seconds"], measures["seconds"], strict=True)])
