"""What runs left in docs/results, and how the pages write its numbers."""

import json
from pathlib import Path

from configurable import UsageError
from lab.compare import paired

DOCS = Path(__file__).parent


def results(name):
    """What a run of docs/results.sh or docs/ideas.sh left in docs/results/NAME."""
    found = sorted((DOCS / "results" / name).glob("*.json"))
    if not found:
        raise UsageError(f"nothing in docs/results/{name}: docs/results.sh or docs/ideas.sh makes it")
    return json.loads(found[0].read_text(encoding="utf-8"))


def signed(number, digits):
    """A difference as the pages write it."""
    return f"{number:+.{digits}f}".replace("-", "−")


def interval(of, digits):
    """{mean, half}: the mean ± half of its 95 % interval."""
    return f"{signed(of['mean'], digits)} ± {of['half']:.{digits}f}"


def less(runs, name, other, digits=3):
    """The loss of a mechanism less that of another, paired by seed. runs: those of a results.json."""
    return interval(paired(runs, name, other), digits)


def loss_of(row, digits=4):
    """Mean ± standard deviation of a row's validation loss."""
    return f"{row['val_loss']['mean']:.{digits}f} ± {row['val_loss']['sd']:.{digits}f}"


def difference_of(row, digits=4):
    """A row's paired difference with half of its interval; '' for the first mechanism."""
    return interval(row["difference"], digits) if "difference" in row else ""


def accuracy(row):
    """Accuracy at the end of a row of a comparison's table."""
    return f"{row['accuracy']['mean']:.2f} ± {row['accuracy']['sd']:.2f}"


def solved_at(row):
    """At which step each seed was first right in 99 of 100 contexts; – where it never was."""
    return " ".join("–" if step is None else str(step) for step in row["solved_at"])
