"""Figures, with matplotlib but without pyplot: a notebook keeps its own backend."""

import contextlib
import os
import sys
import warnings

from plumbing.files import write_atomic


def new_figure(width, height, rows=1, columns=1, **options):
    """(figure, its axes in a list, row by row). Size in inches; options of matplotlib's subplots."""
    if "matplotlib" not in sys.modules:
        import_matplotlib()
    from matplotlib.figure import Figure

    figure = Figure(figsize=(width, height), layout="constrained")
    return figure, list(figure.subplots(rows, columns, squeeze=False, **options).flatten())


def import_matplotlib():
    """Import matplotlib, also where MPLBACKEND, which is for windows, is a word that it does not know."""
    word = os.environ.pop("MPLBACKEND", "")
    import matplotlib

    if word:
        os.environ["MPLBACKEND"] = word
        with contextlib.suppress(ValueError):
            matplotlib.rcParams["backend"] = word


def plain(text):
    """`text` as a label: a dollar in it begins no formula."""
    return text.replace("$", r"\$")


def write_figure(path, figure):
    """Write a PNG, whole or not at all. Letters that its font lacks become boxes, without a warning."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        write_atomic(path, lambda file: figure.savefig(file, format="png", dpi=110))
