"""Write the tables of lab/records/results.md from the records beside it: python -m lab.report

A record is a line of records/*.jsonl: a run, or a look into a trained model. The page describes each table in a comment
above it:

<!-- table text
experiment=text
rows: attention=vanilla,softmax1
val loss: mean=best:4
difference to vanilla: difference=best:4 -attention=vanilla
-->

`name=value` is a condition that the records of a cell meet: those of all cells (second line), of the cell's column and
of its row, of which a row is the strongest. One name is in SHOW, and says how the records become text: key:digits.
`-name=value` changes a condition for the records that they are paired with. `row LABEL: …` is a row, any other LABEL is
a column; `rows: …` and `columns: …` are one for each combination of the values between commas. A table ends with
<!-- end -->.
"""

import itertools
import json
import re
import statistics
import tomllib
from pathlib import Path

from configurable import run
from lab.compare import DEFAULTS
from lab.show import mean_and_sd, spread, table
from plumbing.checkpoint import write_text

RECORDS = Path(__file__).parent / "records"
TABLE = re.compile(r"(<!-- table \S+\n(.*?)-->\n).*?(<!-- end -->)", re.DOTALL)


def report(
    *,
    page: str = str(RECORDS / "results.md"),  # page whose tables are written
):
    """Write the tables of a page from all records."""
    write_text(Path(page), filled(Path(page).read_text(encoding="utf-8"), load()))


def load(folder=RECORDS):
    """All records, as dicts. A run's settings are among its keys, whether its preset or its options have them."""
    config = (RECORDS.parents[1] / "config").glob("*.toml")
    presets = {f"config/{path.name}": tomllib.loads(path.read_text(encoding="utf-8")) for path in config}
    found, paths = [], sorted(folder.glob("*.jsonl"))
    for line in itertools.chain(*(path.read_text(encoding="utf-8").splitlines() for path in paths)):
        one = json.loads(line)
        settings = DEFAULTS | presets.get(one.get("preset"), {}) | one["options"] if "options" in one else {}
        one = {"purpose": "comparison"} | settings | one
        if accuracies := one.get("evaluations", {}).get("accuracy"):
            steps = zip(one["evaluations"]["step"], accuracies, strict=True)
            one |= {"accuracy": accuracies[-1], "solved_at": next((step for step, a in steps if a >= 0.99), None)}
        found.append(one)
    return found


# ---------------------------------------------------------------------------- tables


def filled(text, records):
    """The text of a page with its tables written anew."""
    return TABLE.sub(lambda match: f"{match[1]}\n{table(rows(match[2], records))}\n\n{match[3]}", text)


def rows(description, records):
    """The rows of a table, for `lab.show.table`. Raises ValueError for a row without a number."""
    common, *lines = description.strip().splitlines()
    labels, columns = {}, {}
    for label, words in (line.rsplit(": ", 1) for line in lines):
        into = labels if label.startswith("row") else columns
        if label in ("rows", "columns"):
            names, values = zip(*conditions(words).items(), strict=True)
            for some in itertools.product(*(value.split(",") for value in values)):
                into[", ".join(some)] = dict(zip(names, some, strict=True))
        else:
            into[label.removeprefix("row ")] = conditions(words)
    common, found = conditions(common), []
    for label, row in labels.items():
        cells = {title: cell(records, common | column | row) for title, column in columns.items()}
        if not any(cells.values()):
            raise ValueError(f"no records for the row {label!r} of {description}")
        found.append({"": label} | cells)
    return found


def conditions(words):
    return dict(word.split("=", 1) for word in words.split())


def cell(records, wanted):
    """The text of a cell; '' where no record meets its conditions, or has the number that is shown."""
    (show, of) = next((SHOW[name], value) for name, value in wanted.items() if name in SHOW)
    key, digits = (*of.split(":"), "0")[:2]
    wanted = {name: value for name, value in wanted.items() if name not in SHOW}
    key += f"@{layer}" if (layer := wanted.pop("layer", None)) else ""
    changes = {name[1:]: wanted.pop(name) for name in [*wanted] if name[0] == "-"}
    found = select(records, **wanted)
    if not found or key.partition("@")[0] not in found[0]:
        return ""
    return show(found, select(records, **wanted | changes) if changes else [], key, int(digits)).replace("-", "−")


def select(records, experiment, **wanted):
    """The records that meet all conditions. Of several experiments, name,name, the first counts that has any."""
    wanted = {"purpose": "comparison"} | wanted
    for name in experiment.split(","):
        of = [one for one in records if one.get("experiment") == name]
        if found := [one for one in of if all(plain(one.get(key)) == value for key, value in wanted.items())]:
            return found
    return []


def plain(value):
    return f"{value:g}" if isinstance(value, float) else str(value)


def number(one, key):
    """A record's number, or that of a layer: key@layer; the mean of several. None if there is none."""
    key, _, layer = key.partition("@")
    value = one.get(key)
    if layer and value:
        return value[int(layer)]
    return statistics.fmean(value) if isinstance(value, list) else value


# ---------------------------------------------------------------------------- what a cell shows


def mean(found, others, key, digits):
    """Mean ± standard deviation over seeds."""
    return mean_and_sd(spread([number(one, key) for one in found]), digits)


def inside(found, others, key, digits):
    """The same, without a deviation that is rounded to zero; a change of the loss has a sign."""
    of = spread([number(one, key) for one in found])
    text = f"{of['mean']:{'+' * key.startswith('without')}.{digits}f}"
    return text + (f" ± {of['sd']:.{digits}f}" if of["sd"] >= 0.5 * 10**-digits else "")


def average(found, others, key, digits):
    """Mean over seeds; '' where one seed has none."""
    numbers = [number(one, key) for one in found]
    return "" if None in numbers else f"{statistics.fmean(numbers):.{digits}f}"


def seeds(found, others, key, digits):
    """The number of each seed."""
    numbers = [number(one, key) for one in found]
    return " ".join("–" if x is None else f"{x:.{digits}f}" for x in numbers)


def value(found, others, key, digits):
    """A setting, the same in all records."""
    return f"{found[0][key]:,}" if digits == 0 else f"{found[0][key]:.{digits}f}"


def mega(found, others, key, digits):
    return f"{found[0][key] / 1e6:.{digits}f}"


def paired(found, others, key, by=("seed",)):
    """[number minus that of the other record with the same seed]."""
    of = {tuple(one[name] for name in by): number(one, key) for one in others}
    pairs = [(number(one, key), tuple(one[name] for name in by)) for one in found]
    return [x - of[name] for x, name in pairs if name in of]


def difference(found, others, key, digits):
    """Mean of the paired differences ± half of its 95 % interval, if there are three or more; '' against itself."""
    of = spread(paired(found, others, key))
    half = f" ± {of['half']:.{digits}f}" if of["n"] > 2 else ""
    return f"{of['mean']:+.{digits}f}{half}" if found != others else ""


def pairs(found, others, key, digits):
    differences = paired(found, others, key)
    return " ".join(f"{x:+.{digits}f}" for x in differences) if found != others else ""


def gain(found, others, key, digits):
    """Mean of the differences between runs of the same seed, learning rate and number of maps."""
    return f"{statistics.fmean(paired(found, others, key, ('seed', 'learning_rate', 'n_head'))):+.{digits}f}"


def ratio(found, others, key, digits):
    """Number ÷ that of the other record with the same seed, mean ± standard deviation."""
    of = {one["seed"]: one[key] for one in others}
    return mean_and_sd(spread([one[key] / of[one["seed"]] for one in found]), digits)


def low(found, others, key, digits):
    """How many are below 0.1."""
    return f"{sum(one[key] < 0.1 for one in found)} of {len(found)}"


def negative(found, others, key, digits):
    """How many entries are negative, and their mean."""
    entries = [x for one in found for x in one[key]]
    return f"{sum(x < 0 for x in entries)} of {len(entries)}, mean {statistics.fmean(entries):+.{digits}f}"


def derived(found, others, key, digits):
    """Noise that all values share: the λ of the least error σ²/(nσ² + 1), or that error."""
    s, n = found[0]["sigma"] ** 2, found[0]["n_items"]
    return f"{s / (s + 1 / n) if key == 'lam' else s / (n * s + 1):.{digits}f}"


SHOW = {
    f.__name__: f
    for f in (mean, inside, average, seeds, value, mega, difference, pairs, gain, ratio, low, negative, derived)
}

if __name__ == "__main__":
    run(report, program="python -m lab.report")
