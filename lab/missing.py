"""Which one is missing? A task for subtraction: what stands in the first list and not in the second.

python -m lab.missing                                     makes data/missing
python -m lab.missing --n_items=24 --n_symbols=64         longer lists
python train.py config/missing.toml --attention=vanilla   trains on it, in less than a minute
"""

import string
from typing import Annotated

from configurable import Seed, UsageError, check_ranges, run
from lab.records import write_records

SYMBOLS = string.ascii_uppercase + string.ascii_lowercase + string.digits + "!#$%&()*+,-./:;<=>@[]^_{}~"


def missing(
    *,
    n_items: Annotated[int, "at least 2 and at most 87"] = 12,  # items in the first list
    n_symbols: Annotated[int, "at least 3 and at most 88"] = 32,  # size of the alphabet that items are drawn from
    n_contexts: Annotated[int, "at least 2"] = 100000,  # contexts to train on
    n_val_contexts: Annotated[int, "at least 2"] = 1000,  # contexts to validate on
    seed: Seed = 1,  # seed of the contexts
    name: str = "missing",  # folder under data/
):
    """Make the task "which one is missing?": n items, a bar, the same items but one in another order, ?, that one.

    `QXAEK|KAQE?X`: the missing one is X. Items are drawn anew for each context, and only the answer counts in the
    loss. A guess among the items of the context is right once in n_items times.
    """
    options = {name: value for name, value in locals().items() if name in missing.__kwdefaults__}
    check_ranges(missing, options)
    if n_symbols <= n_items:  # else the first list would be all of them, and need not be read
        raise UsageError(f"n_symbols={n_symbols}: must be more than n_items={n_items}")
    about, length = {"n_items": n_items, "n_symbols": n_symbols}, 2 * n_items + 2
    n_records = {"train": n_contexts, "val": n_val_contexts}

    def record(draw, part):
        return draw_context(draw, **about)

    return write_records("missing", options, about, length, [length - 1], n_records, record)


def draw_context(draw, n_items, n_symbols):
    """A context of 2·n_items + 2 characters, drawn by the random.Random `draw`; its last one is the answer."""
    items = draw.sample(SYMBOLS[:n_symbols], n_items)
    left = items[1:]  # the order of `items` is random already: the answer may be its first
    draw.shuffle(left)
    first = draw.sample(items, n_items)
    return f"{''.join(first)}|{''.join(left)}?{items[0]}"


if __name__ == "__main__":
    run(missing, program="python -m lab.missing")
