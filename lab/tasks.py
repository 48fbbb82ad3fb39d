"""Tasks whose answers are known: datasets of records of one length, of which only the answers count in the loss.

python -m lab.tasks missing                                      makes data/missing
python -m lab.tasks missing --max_items=24 --length=64           longer lists
python train.py config/missing.toml --attention=differential     trains on it, in 90 seconds

A task is a function with options of its own, which tells `make` how a question and its answer are drawn, and a line in
TASKS. A record is a question that ends with `?`, the answer, one character, and spaces before and after them.
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
    draw_question,
    about,
    *,
    length: Annotated[int, Range(ge=4)] = 48,  # characters of a record
    n_contexts: Count = 100000,  # records to train on
    n_val_contexts: Count = 1000,  # records to validate on
    seed: Seed = 1,  # seed of the records
    name: str | None = None,  # folder under data/; none: the name of the task
    overwrite: bool = False,  # replace another dataset of that name
):
    """Make data/<name> of records, and return the folder. A question begins at a random place of its record.

    draw_question(draw, **about): the next question and its answer, drawn by the random.Random `draw`.
    about: what meta.json says of the task, under its name; `record` there says how to read the records.
    """

    def records(part, n):
        draw = random.Random(f"{seed} {part}")
        for _ in range(n):
            text = "".join(draw_question(draw, **about))
            yield (" " * draw.randint(0, length - len(text)) + text).ljust(length).encode()

    name, (question, _) = name or task, draw_question(random.Random(seed), **about)
    options = {**about, "length": length, "n_contexts": n_contexts, "n_val_contexts": n_val_contexts}
    options |= {"seed": seed, "name": name}
    words = ["python", "-m", "lab.tasks", task, *(f"--{key}={value}" for key, value in options.items())]
    meta = {"source": task, "command": shlex.join(words), task: about}
    meta["record"] = {"length": length, "after": "?", "example": question}
    parts = {"train": records("train", n_contexts), "val": records("val", n_val_contexts)}
    folder = write_dataset(name, meta, parts, overwrite=overwrite)
    print(f"{folder}: {n_contexts:,} records to train on, {n_val_contexts:,} to validate, of {length} characters")
    preset = f"config/{task}.toml"
    taken = tomllib.loads((ROOT / preset).read_text(encoding="utf-8"))
    more = {"dataset": name, "block_size": length}
    words = [f"--{key}={value}" for key, value in more.items() if taken[key] != value]
    print("next:", shlex.join(["python", "train.py", preset, "--attention=differential", *words]))
    return folder


# ---------------------------------------------------------------------------- which one is missing?


def missing(
    *,
    min_items: Annotated[int, Range(ge=2)] = 8,  # fewest items in the first list
    max_items: Annotated[int, Range(ge=2, le=87)] = 16,  # most items in the first list
    n_symbols: Annotated[int, Range(ge=3, le=88)] = 32,  # size of the alphabet that items are drawn from
    **options: make,
):
    """Make the task "which one is missing?": a list, a bar, the same items but one in another order, ?, that one.

    `QXAEK|KAQE?X`: the missing one is X. Items, their number and the place of the lists are drawn anew for each record.
    """
    about = {"min_items": min_items, "max_items": max_items, "n_symbols": n_symbols}
    values = check(missing, {**about, **options})
    if not min_items <= max_items < n_symbols:  # else the first list would be all of them, and need not be read
        raise UsageError(f"min_items={min_items}, max_items={max_items}, n_symbols={n_symbols}: must rise")
    length = values.get("length", make.__kwdefaults__["length"])
    if length < 2 * max_items + 2:
        raise UsageError(f"length={length}: must be at least 2 max_items + 2 = {2 * max_items + 2}")
    return make("missing", draw_missing, about, **options)


def draw_missing(draw, min_items, max_items, n_symbols):
    """A question, and its answer."""
    items = draw.sample(SYMBOLS[:n_symbols], draw.randint(min_items, max_items))
    left = items[1:]  # the order of `items` is random already: the answer may be its first
    draw.shuffle(left)
    first = draw.sample(items, len(items))
    return f"{''.join(first)}|{''.join(left)}?", items[0]


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
