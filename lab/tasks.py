"""Tasks whose answers are known: datasets of records of one length, of which only the answers count in the loss.

python -m lab.tasks missing                                      makes data/missing
python -m lab.tasks missing --n_items=24 --n_symbols=64          longer lists
python train.py config/missing.toml --attention=differential     trains on it, in less than a minute

A task is a function with options of its own, which tells `make` how one record is drawn, and a line in TASKS.
"""

import random
import shlex
import string
import sys
import tomllib
from typing import Annotated

from configurable import Range, Seed, UsageError, check, one_of, run
from plumbing.run import ROOT
from prepare import write_dataset

SYMBOLS = string.ascii_uppercase + string.ascii_lowercase + string.digits + "!#$%&()*+,-./:;<=>@[]^_{}~"
Count = Annotated[int, Range(ge=2)]


def make(
    task,
    draw_record,
    about,
    *,
    n_contexts: Count = 100000,  # records to train on
    n_val_contexts: Count = 1000,  # records to validate on
    seed: Seed = 1,  # seed of the records
    name: str | None = None,  # folder under data/; none: the name of the task
    overwrite: bool = False,  # replace another dataset of that name
):
    """Make data/<name> of records, each a text as long as the others, and return the folder.

    draw_record(draw, **about): (the next record, its positions that are scored), drawn by the random.Random `draw`.
    about: what meta.json says of the task, under its name; `record` there says length and scored positions.
    """

    def records(part, n):
        draw = random.Random(f"{seed} {part}")
        return (draw_record(draw, **about)[0].encode() for _ in range(n))

    text, scored = draw_record(random.Random(seed), **about)
    name = name or task
    options = {**about, "n_contexts": n_contexts, "n_val_contexts": n_val_contexts, "seed": seed, "name": name}
    words = ["python", "-m", "lab.tasks", task, *(f"--{key}={value}" for key, value in options.items())]
    meta = {"source": task, "command": shlex.join(words), task: about}
    meta["record"] = {"length": len(text), "scored": scored}
    parts = {"train": records("train", n_contexts), "val": records("val", n_val_contexts)}
    folder = write_dataset(name, meta, parts, overwrite=overwrite)
    print(f"{folder}: {n_contexts:,} records to train on, {n_val_contexts:,} to validate, of {len(text)} bytes")
    preset = f"config/{task}.toml"
    usual = tomllib.loads((ROOT / preset).read_text(encoding="utf-8"))
    more = {"dataset": name, "block_size": len(text)}
    words = [f"--{key}={value}" for key, value in more.items() if usual[key] != value]
    print("next:", shlex.join(["python", "train.py", preset, "--attention=differential", *words]))
    return folder


# ---------------------------------------------------------------------------- which one is missing?


def missing(
    *,
    n_items: Annotated[int, Range(ge=2, le=87)] = 12,  # items in the first list
    n_symbols: Annotated[int, Range(ge=3, le=88)] = 32,  # size of the alphabet that items are drawn from
    **options: make,
):
    """Make the task "which one is missing?": n items, a bar, the same items but one in another order, ?, that one.

    `QXAEK|KAQE?X`: the missing one is X. Items are drawn anew for each record. A guess among the items of the first
    list is right once in n_items times.
    """
    about = {"n_items": n_items, "n_symbols": n_symbols}
    check(missing, {**about, **options})
    if n_symbols <= n_items:  # else the first list would be all of them, and need not be read
        raise UsageError(f"n_symbols={n_symbols}: must be more than n_items={n_items}")
    return make("missing", draw_missing, about, **options)


def draw_missing(draw, n_items, n_symbols):
    """A record, whose last character is the answer."""
    items = draw.sample(SYMBOLS[:n_symbols], n_items)
    left = items[1:]  # the order of `items` is random already: the answer may be its first
    draw.shuffle(left)
    first = draw.sample(items, n_items)
    return f"{''.join(first)}|{''.join(left)}?{items[0]}", [2 * n_items + 1]


TASKS = {"missing": missing}


def choose(
    task: str = "",  # missing
):
    """Make the dataset of a task; `python -m lab.tasks TASK --help` lists its options."""
    one_of("task", task, TASKS)


if __name__ == "__main__":
    word, *options = sys.argv[1:] or [""]
    if word in TASKS:
        run(TASKS[word], options, program=f"python -m lab.tasks {word}")
    else:
        run(choose, program="python -m lab.tasks")
