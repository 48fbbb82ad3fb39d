"""The multi-needle task: a dataset whose signal is known, and what a model trained on it finds.

python -m lab.needles                                    makes data/needles
python -m lab.needles --n_needles=6 --length=128         more needles, in longer contexts
python train.py config/needles.toml                      trains on it

After https://arxiv.org/abs/2410.05258, table 2.
"""

import functools
import hashlib
import random
from typing import Annotated, NamedTuple

import torch
import torch.nn.functional as F

from configurable import PositiveInt, Seed, UsageError, check_ranges, run
from lab.maps import activations, batch_size, parts, shares
from lab.records import write_records
from plumbing.dataset import mismatch

WORDS = tuple("ash bay brook cloud dew elm fern fog grass hill ice lake leaf mist moss oak rain reed sand sky".split())  # noqa: SIM905
CAPITALS = "ABCDEFGHIJKLMNOPQRSTUVWXYZ"
NEEDLE, QUERY = len("KQ472 "), len("?KQ472")
EXAMPLE = {"n_needles": 0, "n_queries": 0, "length": 0}  # what meta.json says about the task
LOOKS = ("answer", "other needles", "filler", "query", "row_sum")  # the numbers of `looked_at`


def needles(
    *,
    n_needles: Annotated[int, "at least 1 and at most 50"] = 4,  # most needles per context; each has from 1 to so many
    n_queries: PositiveInt = 4,  # queries at the end of each context
    length: Annotated[int, "at most 65536"] = 64,  # characters in each context; a character is a token
    n_contexts: Annotated[int, "at least 2"] = 100000,  # contexts to train on
    n_val_contexts: Annotated[int, "at least 2"] = 2000,  # contexts to validate on, with other cities and numbers
    seed: Seed = 1,  # seed of the contexts
    name: str = "needles",  # folder under data/
):
    """Make the multi-needle task: contexts of filler with needles in it, and queries for some of them at the end.

    A needle is `KQ472 ` (the number of city KQ is 472), a query `?KQ472`, of which only the number counts in the
    loss. A quarter of the cities and a twentieth of the numbers occur only in the validation split. A random guess is
    right once in 1000 times; a copy of any of the N numbers in the context is right once in N times.
    """
    options = {name: value for name, value in locals().items() if name in needles.__kwdefaults__}
    check_ranges(needles, options)
    if length < (least := shortest(n_needles, n_queries)):
        needed = f"at least {least} for {n_needles} needles and {n_queries} queries"
        raise UsageError(f"length={length}: must be {needed}")
    scored = sorted(length - QUERY * r - i for r in range(n_queries) for i in (1, 2, 3))
    about = {"n_needles": n_needles, "n_queries": n_queries, "length": length}

    def context(draw, part):
        return hide(draw, draw.randint(1, n_needles), n_queries, length, held_out=part == "val").text

    n_records = {"train": n_contexts, "val": n_val_contexts}
    return write_records("needles", options, about, length, scored, n_records, context)


# ---------------------------------------------------------------------------- contexts


def apart(words, share):
    """{True: a `share` of `words`, held out for val, False: the others}. A hash chooses: there is no rule to learn."""
    words = sorted(words, key=lambda word: hashlib.sha256(word.encode()).digest())
    return {True: words[: int(share * len(words))], False: words[int(share * len(words)) :]}


CITIES = apart([a + b for a in CAPITALS for b in CAPITALS], 0.25)
NUMBERS = apart([f"{n:03}" for n in range(1000)], 0.05)


def shortest(n_needles, n_queries):
    """Characters of the shortest context with so many needles and queries: it has room for two words of filler."""
    return NEEDLE * n_needles + QUERY * n_queries + 10


class Context(NamedTuple):
    """A context of the needles task."""

    text: str
    starts: list  # where each needle begins in it
    asked: list  # which needle each query asks for


def hide(draw, n_needles, n_queries, length, held_out=False, depth=None):
    """A Context of `length` characters, drawn by the random.Random `draw`; no city and no number is in it twice.

    depth: where between the beginning (0) and the end (1) of the filler the needle lies that is asked for first; None:
    anywhere, as the other needles. Every query may ask for any needle, also for one that was asked for before: else
    the last answers could be found by elimination.
    """
    pairs = zip(draw.sample(CITIES[held_out], n_needles), draw.sample(NUMBERS[held_out], n_needles), strict=True)
    hidden = [city + number for city, number in pairs]
    asked = [draw.randrange(n_needles) for _ in range(n_queries)]
    queries = "".join(f"?{hidden[i]}" for i in asked)
    room = length - len(queries) - NEEDLE * n_needles
    filler = "".join(f"{draw.choice(WORDS)} " for _ in range(room // 3))  # no word is shorter than that
    filler = filler[len(filler) - room :]
    gaps = [0, *(i + 1 for i, letter in enumerate(filler) if letter == " ")]
    places = [draw.choice(gaps) for _ in hidden]
    if depth is not None:
        places[asked[0]] = min(gaps, key=lambda gap: abs(gap - depth * room))
    text, starts, done = "", [0] * n_needles, 0
    for i in sorted(range(n_needles), key=places.__getitem__):
        text += filler[done : places[i]]
        starts[i], done = len(text), places[i]
        text += f"{hidden[i]} "
    return Context(text + filler[done:] + queries, starts, asked)


# ---------------------------------------------------------------------------- what a model finds


def task_of(checkpoint):
    """The options n_needles, n_queries and length of the needles that a checkpoint was trained on, or None.

    Raises UsageError where its data was damaged.
    """
    if (task := checkpoint["data"].get("needles")) is None:
        return None
    if (
        mismatch(task, EXAMPLE, "needles")
        or task.keys() != EXAMPLE.keys()
        or not all(0 < number <= 2**16 for number in task.values())
        or task["n_needles"] > len(NUMBERS[True])
        or task["length"] < shortest(task["n_needles"], task["n_queries"])
    ):
        raise UsageError(f"{checkpoint['options']['dataset']}: needles of which no context can be made")
    return task


@torch.no_grad()
def find_needles(gpt, n_needles, n_queries, length, n=400):
    """How many needles a model finds, and where it looks: in `n` contexts per row, with held-out cities and numbers.

    The contexts are the same for every model. Only the first query counts: its answer may help with those after it.
    Returns {"by_n", "by_depth", "by_length": rows of `exact`, "attention": rows of `looked_at`}.
    """
    if length > gpt.config.block_size:
        raise UsageError(f"contexts of {length} tokens do not fit into block_size={gpt.config.block_size}")
    least = shortest(n_needles, n_queries)
    find = functools.partial(exact, gpt, n, n_queries)
    return {
        "by_n": [find(i, length) for i in range(1, n_needles + 1)],
        "by_depth": [find(n_needles, length, d / 4) for d in range(5)],
        "by_length": [find(n_needles, t) for t in sorted({least, (least + length) // 2, length})],
        "attention": looked_at(gpt, n, n_queries, n_needles, length),
    }


def in_contexts(n, n_needles, n_queries, length, depth=None):
    """n Contexts with held-out cities and numbers, and their tokens, BT."""
    draw = random.Random(0)
    contexts = [hide(draw, n_needles, n_queries, length, True, depth) for _ in range(n)]
    return contexts, torch.tensor([list(context.text.encode()) for context in contexts])


def exact(gpt, n, n_queries, n_needles, length, depth=None):
    """Share of first queries answered exactly: every digit is the likeliest one, given the right digits before it."""
    _, tokens = in_contexts(n, n_needles, n_queries, length, depth)
    logits = [gpt(part).cpu() for part in tokens.to(gpt.device).split(batch_size(tokens))]
    right = torch.cat(logits)[:, :-1].argmax(-1) == tokens[:, 1:]
    digits = right[:, -QUERY * n_queries :][:, QUERY - 3 : QUERY]
    row = {"needles": n_needles, "length": length} | ({} if depth is None else {"depth": depth})
    return row | {"exact": digits.all(-1).float().mean().item(), "of": n}


def looked_at(gpt, n, n_queries, n_needles, length):
    """A row per head: its `shares` on the needle asked for, on the other needles, on filler and on the query, and the
    sum of its weights, in the rows of its map that predict the digits of the first answer; means over these rows and
    over n contexts.

    Shares are of |a|: a negative weight that takes filler away counts as a look at it.
    """
    contexts, tokens = in_contexts(n, n_needles, n_queries, length)
    asking = length - QUERY * n_queries  # where the first query begins
    kinds = torch.full(tokens.shape, 2)  # 0 the needle, 1 the others, 2 filler, 3 the query
    kinds[:, asking:] = 3
    for row, context in zip(kinds, contexts, strict=True):
        for i, start in enumerate(context.starts):
            row[start : start + NEEDLE] = int(i != context.asked[0])
    kinds, answering = F.one_hot(kinds).float().to(gpt.device), slice(asking + QUERY - 4, asking + QUERY - 1)
    rows = []
    for layer, x in enumerate(activations(gpt, tokens.to(gpt.device))[0]):
        attention, numbers = gpt.blocks[layer].attention, []
        for part, kind in zip(parts(attention, x), parts(attention, kinds), strict=True):
            A = attention.map(part)[:, :, answering]
            by_kind = torch.einsum("bhtn,bnk->bhk", shares(A), kind) / 3
            numbers.append(torch.cat((by_kind, A.sum(-1).mean(-1, keepdim=True)), -1))
        for head, means in enumerate(torch.cat(numbers).mean(0).tolist()):
            rows.append({"layer": layer, "head": head, **dict(zip(LOOKS, means, strict=True))})
    return rows


if __name__ == "__main__":
    run(needles, program="python -m lab.needles")
