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


def side_by_side(**kinds):
    """{mechanism: {kind: its row}}; kinds: names of results whose tables are read. The first that has it counts."""
    found = {}
    for kind, names in kinds.items():
        for row in (row for name in names for row in results(name)["table"]):
            found.setdefault(row["attention"], {}).setdefault(kind, row)
    return found


def parts():
    """Of differential, of vanilla and of what lies between them: rows on the task and on text, four seeds each."""
    return side_by_side(task=("missing-controls", "missing-narrow"), fresh=("text-parts",))


def on_text(rows):
    """What a mechanism adds to vanilla's loss: from fresh seeds with its interval, from two looks in brackets."""
    if "fresh" in rows:
        return difference_of(rows["fresh"], 3)
    return f"({signed(rows['look']['difference']['mean'], 3)})" if "look" in rows else ""


def on_task(rows):
    """Accuracy after 400 steps, and the mean step at which it was right in 99 of 100, if it was with all seeds."""
    at = rows["task"]["solved_at"]
    return accuracy(rows["task"]) + ("" if None in at else f", step {sum(at) / len(at):.0f}")


def ideas():
    """Of every idea of the discussions: rows on the task (four seeds), on text from two looks, and from fresh seeds."""
    return side_by_side(
        task=("ideas-missing", "missing-controls", "missing-narrow"),
        look=("ideas-look",),
        fresh=("ideas", "text-parts"),
    )
