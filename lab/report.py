"""Write the tables of lab/records/results.md from the records beside it: python -m lab.report

A record is a line of records/*.jsonl: a run, or a look into a trained model. The page describes each table in a comment
above it:

<!-- table text
experiment=text
rows: attention=vanilla,softmax1
column val loss: mean=best:4
column difference to vanilla: difference=best:4 -attention=vanilla
-->

The second line holds for all cells. `row LABEL: …` is a row and `column LABEL: …` a column; `rows: …` and `columns: …`
are one for each combination of the values between commas. `labels: NAME | NAME` gives the rows' labels, LABEL | LABEL,
several columns with these names.

A cell shows the records that meet the conditions `name=value` of all cells, of its column and of its row, of which a
row's are the strongest. One name is in SHOW, and says how they become text: key:digits. `-name=value` is another
condition for the records that they are paired with. A table ends with <!-- end -->.
"""

import itertools
import json
import re
import statistics
import tomllib
from pathlib import Path

from configurable import run
from lab.compare import DEFAULTS, solved_at
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
        record = json.loads(line)
        settings = DEFAULTS | presets.get(record.get("preset"), {}) | record["options"] if "options" in record else {}
        record = {"purpose": "comparison"} | settings | record
        if accuracies := record.get("evaluations", {}).get("accuracy"):
            record |= {"accuracy": accuracies[-1], "solved_at": solved_at(record)}
        found.append(record)
    return found


# ---------------------------------------------------------------------------- tables


def filled(text, records):
    """The text of a page with its tables written anew."""
    return TABLE.sub(lambda match: f"{match[1]}\n{table(rows(match[2], records))}\n\n{match[3]}", text)


def rows(description, records):
    """The rows of a table, for `lab.show.table`. Raises ValueError for a row without a number."""
    common, *lines = description.strip().splitlines()
    conditions, names = {"row": {}, "column": {}}, [""]  # {kind: {label: conditions}}
    for line in lines:
        head, words = line.rsplit(": ", 1)
        kind, _, label = head.partition(" ")
        if kind == "labels":
            names = words.split(" | ")
        elif kind in ("rows", "columns"):
            keys, values = zip(*parsed(words).items(), strict=True)
            for chosen in itertools.product(*(value.split(",") for value in values)):
                conditions[kind[:-1]][", ".join(chosen)] = dict(zip(keys, chosen, strict=True))
        else:
            conditions[kind][label] = parsed(words)
    table_rows = []
    for label, of_row in conditions["row"].items():
        cells = {
            title: cell(records, parsed(common) | of_column | of_row)
            for title, of_column in conditions["column"].items()
        }
        if not any(cells.values()):
            raise ValueError(f"no records for the row {label!r} of {description}")
        table_rows.append(dict(zip(names, label.split(" | "), strict=True)) | cells)
    return table_rows


def parsed(words):
    """{name: value} of "name=value name=value …"."""
    return dict(word.split("=", 1) for word in words.split())


def cell(records, words):
    """The text of a cell, '' where no record meets its conditions or has the number that is shown."""
    conditions, other, layer = {}, {}, ""
    for name, value in words.items():
        if name in SHOW:
            show, (key, _, digits) = SHOW[name], value.partition(":")
        elif name == "layer":
            layer = f"@{value}"
        elif name.startswith("-"):
            other[name[1:]] = value
        else:
            conditions[name] = value
    found = select(records, **conditions)
    if not found or key.partition("@")[0] not in found[0]:
        return ""
    paired_with = select(records, **conditions | other) if other else []
    return show(found, paired_with, key + layer, int(digits or 0)).replace("-", "−")


def select(records, experiment, **conditions):
    """The records that meet all conditions. Of several experiments, name,name, the first counts that has any."""
    conditions = {"purpose": "comparison"} | conditions
    for name in experiment.split(","):
        found = [
            record
            for record in records
            if record.get("experiment") == name
            and all(plain(record.get(key)) == value for key, value in conditions.items())
        ]
        if found:
            return found
    return []


def plain(value):
    return f"{value:g}" if isinstance(value, float) else str(value)


def number(record, key):
    """A record's number, or that of a layer: key@layer; the mean of several. None if there is none."""
    key, _, layer = key.partition("@")
    value = record.get(key)
    if layer and value:
        return value[int(layer)]
    return statistics.fmean(value) if isinstance(value, list) else value


# ---------------------------------------------------------------------------- what a cell shows


def mean(found, others, key, digits):
    """Mean ± standard deviation over seeds."""
    return mean_and_sd(spread([number(record, key) for record in found]), digits)


def inside(found, others, key, digits):
    """The same, without a deviation that is rounded to zero; a change of the loss has a sign."""
    stats = spread([number(record, key) for record in found])
    text = f"{stats['mean']:{'+' * key.startswith('without')}.{digits}f}"
    return text + (f" ± {stats['sd']:.{digits}f}" if stats["sd"] >= 0.5 * 10**-digits else "")


def interval(found, others, key, digits):
    """Mean over seeds ± half of its 95 % interval."""
    stats = spread([number(record, key) for record in found])
    return f"{stats['mean']:+.{digits}f} ± {stats['half']:.{digits}f}"


def average(found, others, key, digits):
    """Mean over seeds; '' where one seed has none."""
    numbers = [number(record, key) for record in found]
    return "" if None in numbers else f"{statistics.fmean(numbers):.{digits}f}"


def solved(found, others, key, digits):
    """Mean over seeds of an accuracy; where some seeds have 0.99 and others not, how many have."""
    right = sum(record[key] >= 0.99 for record in found)
    return average(found, others, key, digits) + (f" ({right} of {len(found)})" if 0 < right < len(found) else "")


def seeds(found, others, key, digits):
    """The number of each seed."""
    numbers = [number(record, key) for record in found]
    return " ".join("–" if x is None else f"{x:.{digits}f}" for x in numbers)


def value(found, others, key, digits):
    """A setting, the same in all records."""
    return f"{found[0][key]:,}" if digits == 0 else f"{found[0][key]:.{digits}f}"


def mega(found, others, key, digits):
    return f"{found[0][key] / 1e6:.{digits}f}"


def paired(found, others, key, by=("seed",)):
    """[number minus that of the other record with the same seed]."""
    base = {tuple(record[name] for name in by): number(record, key) for record in others}
    pairs = [(number(record, key), tuple(record[name] for name in by)) for record in found]
    return [x - base[name] for x, name in pairs if name in base]


def difference(found, others, key, digits):
    """Mean of the paired differences ± half of its 95 % interval, if there are three or more; '' against itself."""
    stats = spread(paired(found, others, key))
    half = f" ± {stats['half']:.{digits}f}" if stats["n"] > 2 else ""
    return f"{stats['mean']:+.{digits}f}{half}" if found != others else ""


def pairs(found, others, key, digits):
    differences = paired(found, others, key)
    return " ".join(f"{x:+.{digits}f}" for x in differences) if found != others else ""


def gain(found, others, key, digits):
    """Mean of the differences between runs of the same seed, learning rate and number of maps."""
    return f"{statistics.fmean(paired(found, others, key, ('seed', 'learning_rate', 'n_head'))):+.{digits}f}"


def ratio(found, others, key, digits):
    """Number ÷ that of the other record with the same seed, mean ± standard deviation."""
    base = {record["seed"]: record[key] for record in others}
    return mean_and_sd(spread([record[key] / base[record["seed"]] for record in found]), digits)


def low(found, others, key, digits):
    """How many are below 0.1."""
    return f"{sum(record[key] < 0.1 for record in found)} of {len(found)}"


def negative(found, others, key, digits):
    """How many entries are negative, and their mean."""
    entries = [x for record in found for x in record[key]]
    return f"{sum(x < 0 for x in entries)} of {len(entries)}, mean {statistics.fmean(entries):+.{digits}f}"


def derived(found, others, key, digits):
    """Noise that all values share: the λ of the least error σ²/(nσ² + 1), or that error."""
    s, n = found[0]["sigma"] ** 2, found[0]["n_items"]
    return f"{s / (s + 1 / n) if key == 'lam' else s / (n * s + 1):.{digits}f}"


SHOW = {
    f.__name__: f
    for f in (
        *(mean, inside, interval, average, solved, seeds, value, mega),
        *(difference, pairs, gain, ratio, low, negative, derived),
    )
}

if __name__ == "__main__":
    run(report, program="python -m lab.report")
