"""What the pages say of the ideas of the discussion, computed from docs/results: (page, text) of each number."""

import functools
import statistics

from docs.kept import accuracy, interval, results, signed, solved_at
from ideas import ABLATIONS, MISTAKES

SOURCES = {  # of docs/results; where several have a mechanism, the first counts
    "task": ("ideas-missing", "missing-controls", "missing-narrow"),
    "look": ("ideas-look",),
    "fresh": ("ideas", "text", "text-parts"),
}


@functools.cache
def ideas():
    """{mechanism: {"task", "look", "fresh": its row of a comparison's table}}, where it was run; without vanilla."""
    found = {}
    for kind, names in SOURCES.items():
        for row in (row for name in names for row in results(name)["table"] if row["attention"] != "vanilla"):
            found.setdefault(row["attention"], {}).setdefault(kind, row)
    return found


def is_solved(row):
    """Whether every seed was right in 99 of 100 contexts."""
    return None not in row["solved_at"]


def on_task(row):
    """Accuracy at the end, and the mean step from which on all seeds had solved it."""
    return accuracy(row) + (f", step {statistics.fmean(row['solved_at']):.0f}" if is_solved(row) else "")


def difference(rows):
    """The loss on text minus vanilla's, from fresh seeds where there are any, else from the looks: {mean, half …}."""
    return (rows.get("fresh") or rows["look"])["difference"]


def on_text(rows):
    """The same as text; that of the looks in brackets."""
    return interval(difference(rows), 3) if "fresh" in rows else f"({signed(difference(rows)['mean'], 3)})"


def seeds_of(row):
    """Each seed's difference to vanilla."""
    return " ".join(signed(pair, 3) for pair in row["pairs"].values())


def of_ideas():
    """A row of chapter 11 and one of the records for each mechanism that was run on the task and on text."""
    speed = {row["attention"]: f"{row['to_fused_vanilla'][1]:.2f}" for row in results("ideas-bench")["rows"]}
    for name, rows in ideas().items():
        if "task" in rows and rows.keys() & {"look", "fresh"}:
            if name not in ABLATIONS | MISTAKES:
                yield "11-discussion.md", f"| `{name}` | {on_task(rows['task'])} | {on_text(rows)} |"
            cells = [name, accuracy(rows["task"]), solved_at(rows["task"])]
            cells += [seeds_of(rows[kind]) if kind in rows else "" for kind in ("look", "fresh")]
            cells += [interval(rows["fresh"]["difference"], 3) if "fresh" in rows else ""]
            of = rows.get("fresh", rows.get("look"))
            cells += [f"{of['parameters']:,}", f"{of['flops_per_token'] / 1e6:.2f}", speed[name]]
            yield "results.md", f"| {' | '.join(cells)} |"
