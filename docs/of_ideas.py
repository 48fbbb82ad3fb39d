"""What the pages say of the ideas of the discussion, computed from docs/results: (page, text) of each number."""

import functools
import statistics

import numpy as np

from docs.kept import accuracy, interval, less, results, signed, solved_at
from ideas import ABLATIONS, MISTAKES
from lab.compare import paired

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


def text_row(rows):
    """The row on text: of fresh seeds where there are any, else of the looks."""
    return rows.get("fresh") or rows["look"]


def difference(rows):
    """The loss on text minus vanilla's: {mean, half …}."""
    return text_row(rows)["difference"]


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
        if name == "scores" or name not in ABLATIONS | MISTAKES:
            yield "11-discussion.md", f"| `{name}` | {on_task(rows['task'])} | {on_text(rows)} |"
        cells = [name, accuracy(rows["task"]), solved_at(rows["task"])]
        cells += [seeds_of(rows[kind]) if kind in rows else "" for kind in ("look", "fresh")]
        cells += [interval(rows["fresh"]["difference"], 3) if "fresh" in rows else ""]
        of = text_row(rows)
        cells += [f"{of['parameters']:,}", f"{of['flops_per_token'] / 1e6:.2f}", speed[name]]
        yield "results.md", f"| {' | '.join(cells)} |"


def of_their_prose():
    """What chapter 11 says of single ideas, in sentences."""
    rows, page = ideas(), "11-discussion.md"
    assert (len(rows), sum(is_solved(of["task"]) for of in rows.values())) == (54, 14)  # "fourteen of fifty-four"
    two_heads = [run | {"attention": "two heads"} for run in results("text-2-heads")["runs"]]
    solvers = {name: of["fresh"] for name, of in rows.items() if is_solved(of["task"]) and "fresh" in of}
    kept = [run for name in SOURCES["fresh"] for run in results(name)["runs"] if run["attention"] in solvers]
    behind = [of["difference"]["mean"] > of["difference"]["half"] for of in solvers.values()]
    assert (len(behind), sum(behind)) == (13, 11)  # "eleven are behind vanilla"
    beside_two = [paired([*kept, *two_heads], name, "two heads") for name in solvers]
    assert sum(of["mean"] > of["half"] for of in beside_two) == 5  # "beside a vanilla with two heads five are behind"

    assert sum("fresh" in of for of in rows.values()) == 42 and sum("look" in of for of in rows.values()) == 38
    yield page, f"With {sum(len(of['look']['pairs']) for of in rows.values() if 'look' in of)} first runs"
    text = {name: on_text(of) for name, of in rows.items()}
    first = (
        f"({text['selective']}), talking heads ({text['talking-heads']}) and a matrix of unit rows ({text['unit-mix']})"
    )
    yield page, f"Selective Attention {first}"
    alibi = results("ideas-alibi")["table"][1]["difference"]["mean"]
    yield page, f"a vanilla with two heads loses {alibi:.2f} by ALiBi"
    differential = [run for run in results("text")["runs"] if run["attention"] == "differential"]
    runs = [*results("ideas")["runs"], *differential]
    yield page, f"lowers differential's loss as well, by {less(runs, 'selective-differential', 'differential')[1:]}"
    wider = [run | {"attention": "wider"} for run in results("text-wider")["runs"]]
    own = less(runs, "alibi-differential", "differential")[1:]
    yield page, f"costs vanilla {text['alibi-vanilla'][1:]}, and differential {own}"
    yield page, f"Against talking heads that is {less(runs, 'selective', 'talking-heads', 4)}"
    grown, hierarchical = (less([*runs, *wider], name, "wider") for name in ("grown", "hierarchical"))
    yield page, f"a vanilla that is at least as large ({grown} and {hierarchical})"
    sigmoid = less(runs, "sigmoid", "vanilla", 4)[1:]
    yield page, f"by {text['exp-minus-one'][1:]}, in all six seeds, and `sigmoid`, by {sigmoid}"
    only_adds = less(runs, "differential", "add-only")[1:]
    yield page, f"*only* add is behind vanilla by {text['add-only'][1:]}, and ahead of differential by {only_adds}"
    per_head, per_token = (less(runs, "differential", name) for name in ("head-lambda", "token-lambda"))
    yield page, f"(differential less these: {per_head} and {per_token})"
    dex, by_token = (less([*runs, *wider], name, "wider") for name in ("dex", "mixed-by-token"))
    yield page, f"beside that larger vanilla they are at {dex} and {by_token}"
    grown, dex = (interval(row["difference"], 4) for row in results("retrofit")["table"][1:])
    yield page, f"`grown` {grown}, `dex` {dex}"
    b = np.mean([run["b"][-1] for run in runs if run["attention"] == "sink"], (0, 2))
    yield page, f"from 0 to {b[0]:.2f} in the first layer and {b[1:].min():.2f} to {b[1:].max():.2f} in the others"
    M, P = (beside(*what) for what in (("mixed", "M"), ("talking-heads", "P")))
    yield page, f"{(M < 0).sum()} of {M.size} entries beside the diagonal"
    yield page, f"*negative*, {signed(M.mean(), 2)} on average"
    yield page, f"{(P > 0).sum()} of {P.size} are positive, {P.mean():.2f} on average"


def of_learned():
    """λ of ideas on text at the end; how far hierarchical comes on the task; how lucky the first seeds are."""
    page, runs = "11-discussion.md", results("ideas")["runs"]
    even, grown = (
        np.array([np.mean(run["lam"][-1], -1) for run in runs if run["attention"] == name])  # seeds, layers
        for name in ("minus-even", "grown")
    )
    yield page, f"in the first layer, from 0.5 to {even[:, 0].min():.2f} to {even[:, 0].max():.2f}"
    of_first = f"to {grown[:, 0].min():.2f} to {grown[:, 0].max():.2f} in the first layer"
    yield page, f"its λ rises {of_first} and to {grown[:, 1:].min():.2f} to {grown[:, 1:].max():.2f} in the others"
    ends = [run["accuracies"][-1] for run in results("ideas-missing")["runs"] if run["attention"] == "hierarchical"]
    yield page, f"three of four seeds ({sorted(ends)[1]:.2f} to {max(ends):.2f})"
    first, fresh = (results(name)["table"][0]["val_loss"]["mean"] for name in ("ideas-look", "ideas"))
    yield page, f"vanilla is lucky in them, by {fresh - first:.3f}"


def of_more_steps():
    """The task with four times the steps."""
    for row in results("ideas-missing-long")["table"]:
        yield "results.md", f"| {row['attention']} | {accuracy(row)} | {solved_at(row)} |"
    steps = [[step for step in row["solved_at"] if step] for row in results("ideas-missing-long")["table"]]
    assert [len(some) for some in steps] == [3, 3, 0, 0]  # "in three of four seeds"; "in none"
    yield "11-discussion.md", f"from step {min(map(min, steps[:2]))} to {max(map(max, steps[:2]))} on"


def of_no_positions():
    """What it costs to leave positions out, each mechanism beside itself; the two seeds of the first runs."""
    loss = {(run["attention"], str(run["seed"])): run["val_loss"] for run in results("ideas-look")["runs"]}
    tuned = results("text")["tuning"]["differential-0.088-0.002-4"]
    vanilla, differential = (
        [loss[f"nope-{name}", seed] - before[seed] for seed in ("101", "102")]
        for name, before in (
            ("vanilla", {seed: loss["vanilla", seed] for seed in ("101", "102")}),
            ("differential", {seed: row["val_loss"] for seed, row in tuned.items()}),
        )
    )
    page, more = "11-discussion.md", np.subtract(differential, vanilla)
    yield page, f"vanilla loses {np.mean(vanilla):.2f} and differential {np.mean(differential):.2f}, each"
    yield page, f"{more[0]:.2f} and {more[1]:.2f} more in the two seeds"


def beside(attention, name):
    """The entries beside the diagonal of a matrix that mixes heads, of all layers and seeds."""
    found = [entry for entry in results("ideas-inside")["checkpoints"] if entry["attention"] == attention]
    matrices = np.array([entry["mixtures"][name] for entry in found])  # seeds, layers, H, H
    return matrices[..., ~np.eye(matrices.shape[-1], dtype=bool)]
