"""What runs left in docs/results, and how the pages write its numbers."""

import json
from pathlib import Path

from configurable import UsageError

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


def value(text):
    """The number that `signed` wrote."""
    return float(text.replace("−", "-"))


def loss_of(row, digits=4):
    """Mean ± standard deviation of a row's validation loss."""
    return f"{row['val_loss']['mean']:.{digits}f} ± {row['val_loss']['sd']:.{digits}f}"


def difference_of(row, digits=4):
    """A row's paired difference with half of its interval; '' for the first mechanism."""
    of = row.get("difference")
    return f"{signed(of['mean'], digits)} ± {of['half']:.{digits}f}" if of else ""


def accuracy(row):
    """Accuracy at the end of a row of a comparison's table."""
    return f"{row['accuracy']['mean']:.2f} ± {row['accuracy']['sd']:.2f}"


def solved_at(row):
    """At which step each seed was first right in 99 of 100 contexts; – where it never was."""
    return " ".join("–" if step is None else str(step) for step in row["solved_at"])


def ideas():
    """{mechanism: {"task": …, "look": …, "fresh": …}}: its rows in the tables of the runs that answer the discussions."""
    found = {}
    for kind, names in IDEAS.items():
        for row in (row for name in names for row in results(name)["table"]):
            found.setdefault(row["attention"], {}).setdefault(kind, row)
    return found


IDEAS = {  # of docs/results; where several have a mechanism, the first one counts
    "task": ("ideas-missing", "missing-controls", "missing-narrow"),  # four seeds
    "look": ("ideas-look",),  # two seeds, which only rank
    "fresh": ("ideas", "text-parts"),  # six seeds, or four, that ranked nothing
}


def on_text(rows):
    """What a mechanism of `ideas` adds to vanilla's loss: from fresh seeds with its interval, from looks in brackets."""
    if "fresh" in rows:
        return difference_of(rows["fresh"], 3)
    return f"({signed(rows['look']['difference']['mean'], 3)})" if "look" in rows else ""


def on_task(rows):
    """Accuracy after 400 steps of a mechanism of `ideas`, and the mean step at which all seeds were right, if they were."""
    at = rows["task"]["solved_at"]
    return accuracy(rows["task"]) + ("" if None in at else f", step {sum(at) / len(at):.0f}")
