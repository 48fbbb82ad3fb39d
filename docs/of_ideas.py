"""What the pages say of the ideas of the discussion, computed from docs/results: (page, text) of each number."""

import statistics

from docs.kept import accuracy, interval, results, signed

SOURCES = {  # of docs/results; where two have a mechanism, the first counts
    "task": ("ideas-missing", "missing-controls", "missing-narrow"),
    "look": ("ideas-look",),
    "fresh": ("ideas", "text", "text-parts"),
}


def ideas():
    """{mechanism: {"task", "look", "fresh": its row of a comparison's table}}, each where it was run."""
    found = {}
    for kind, names in SOURCES.items():
        for name in names:
            for row in results(name)["table"]:
                found.setdefault(row["attention"], {}).setdefault(kind, row)
    return found


def is_solved(row):
    """Whether every seed was right in 99 of 100 contexts."""
    return None not in row["solved_at"]


def on_task(row):
    """Accuracy at the end, and the mean step at which all seeds had solved it."""
    return accuracy(row) + (f", step {statistics.fmean(row['solved_at']):.0f}" if is_solved(row) else "")


def on_text(rows):
    """The loss on text less vanilla's, from fresh seeds; in brackets that of the looks."""
    if "fresh" in rows:
        return interval(rows["fresh"]["difference"], 3)
    return f"({signed(rows['look']['difference']['mean'], 3)})"


def of_ideas():
    """A row of chapter 11 for each mechanism, and of the records."""
    for name, rows in ideas().items():
        if name != "vanilla" and {"task"} < rows.keys():
            yield "11-discussion.md", f"| `{name}` | {on_task(rows['task'])} | {on_text(rows)} |"
