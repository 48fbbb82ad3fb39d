"""How is "which one is missing?" answered? Other lengths, interventions, and a picture of the row that answers.

python -m lab.solved out/missing-differential [more checkpoints]
"""

import dataclasses
import functools
import random
import statistics
import sys
from pathlib import Path
from typing import Annotated

import numpy as np
import torch

from configurable import PositiveInt, Seed, UsageError, check_ranges, run
from lab.interventions import edited, edits_for, is_difference, mean_maps, replaced
from lab.maps import activations
from lab.missing import context
from lab.show import look, table
from model import GPT
from plumbing.checkpoint import load_model, no_checkpoint_given
from plumbing.figure import new_figure, write_figure
from plumbing.files import write_json
from plumbing.machine import device_name, find_device
from plumbing.run import provenance


def solved(
    *checkpoints: str,  # runs' folders (their best.pt is read) or checkpoint files, trained on lab.missing's task
    lengths: Annotated[tuple[int, ...], "at least 2 and at most 87"] = (6, 9, 12, 15, 18),  # numbers of items to try
    contexts: PositiveInt = 1000,  # fresh contexts per number
    seed: Seed = 1,  # seed of the contexts
    out_dir: str = "out/solved",  # folder for solved.json and the figures
    device: str = "auto",  # cpu, cuda ...; auto: cuda where there is one, else cpu
):
    """Measure accuracy with more and fewer items and without parts of the maps; draw the row that answers."""
    check_ranges(solved, locals())
    if not checkpoints:
        raise no_checkpoint_given("CHECKPOINTS")
    device, out, entries = find_device(device), Path(out_dir), []
    out.mkdir(parents=True, exist_ok=True)
    for path in checkpoints:
        gpt, checkpoint = load_model(path, device)
        if not (task := checkpoint["data"].get("missing")):
            raise UsageError(f"{path} was not trained on a dataset of lab.missing")
        if (n_symbols := task["n_symbols"]) < max(lengths):
            raise UsageError(f"lengths={max(lengths)}: {path} knows {n_symbols} different items")
        entry = {"path": str(path), "seed": checkpoint["options"]["seed"], **checkpoint["config"], **task}
        entry["by_length"] = {n: accuracy(longer(gpt, n), *asked(n, n_symbols, contexts, seed)) for n in lengths}
        entry["interventions"] = intervened(gpt, *asked(task["n_items"], n_symbols, contexts, seed))
        entries.append(entry)
        draw_answer(out / f"answer-{entry['attention']}-{entry['seed']}.png", gpt, entry, seed)
    report = {"command": sys.argv, "device": device_name(device), "commit": provenance()["commit"]}
    write_json(out / "solved.json", report | {"contexts": contexts, "seed": seed, "checkpoints": entries})
    for name, title in (("by_length", "accuracy by number of items"), ("interventions", "accuracy without a part")):
        print(f"\n{title}, mean ± sd over seeds\n\n{table(summary(entries, name))}")
    print(f"\n{out}: solved.json, and a figure of the answering row of each checkpoint")
    return entries


def asked(n_items, n_symbols, n, seed):
    """n contexts x BT without their answers, and the answers y B."""
    draw = random.Random(f"{seed} solved {n_items}")
    tokens = torch.tensor([[*context(draw, n_items, n_symbols).encode()] for _ in range(n)])
    return tokens[:, :-1], tokens[:, -1]


def longer(gpt, n_items):
    """gpt with windows that hold n_items."""
    config = dataclasses.replace(gpt.config, block_size=max(gpt.config.block_size, 2 * n_items + 1))
    copy = GPT(config).to(gpt.device).eval()
    copy.load_state_dict(gpt.state_dict())
    return copy


@torch.no_grad()
def accuracy(gpt, x, y):
    """Share of the contexts x BT whose answer y B is the likeliest token behind them."""
    return (gpt(x.to(gpt.device))[:, -1].argmax(-1) == y.to(gpt.device)).float().mean().item()


@torch.no_grad()
def intervened(gpt, x, y):
    """{"nothing replaced": accuracy, name of an edit: ...}, in all layers at once and in the last layer alone."""
    attentions = [block.attention for block in gpt.blocks]
    inputs, _ = activations(gpt, x[:100].to(gpt.device))
    means = {attention: mean_maps(attention, z) for attention, z in zip(attentions, inputs, strict=True)}
    found = {"nothing replaced": accuracy(gpt, x, y)}
    for name, edit in edits_for(attentions, inputs).items():
        for where, some in (("", attentions), (", last layer", attentions[-1:])):
            with replaced(some, mix=edited(functools.partial(edit, means))):
                found[name + where] = accuracy(gpt, x, y)
    return found


def summary(entries, name):
    """Rows for a table: a column per mechanism, mean ± sd over its checkpoints; empty where a number is missing."""
    rows = []
    for key in dict.fromkeys(key for entry in entries for key in entry[name]):
        row = {"items" if name == "by_length" else "replaced": key}
        for attention in dict.fromkeys(entry["attention"] for entry in entries):
            mine = [entry[name][key] for entry in entries if entry["attention"] == attention and key in entry[name]]
            sd = f" ± {statistics.stdev(mine):.2f}" if len(mine) > 1 else ""
            row[attention] = f"{statistics.fmean(mine):.2f}{sd}" if mine else ""
        rows.append(row)
    return rows


@torch.no_grad()
def draw_answer(path, gpt, entry, seed):
    """Where each head of each layer looks in the row that answers; of a difference also A₁ and λA₂."""
    x, y = asked(entry["n_items"], entry["n_symbols"], 1, seed)
    inputs, _ = activations(gpt, x.to(gpt.device))
    panels = []
    for i, (block, z) in enumerate(zip(gpt.blocks, inputs, strict=True)):
        attention, A = block.attention, block.attention.map(z)[0, :, -1]
        for h in range(len(A)):
            parts = {"A": A[h]}
            if is_difference(attention, z):
                A1, A2 = (part[0, h, -1] for part in attention.maps(z))
                parts = {"A₁": A1, "λA₂": attention.lam * A2, "A = A₁ − λA₂": A[h]}
            panels += [(f"layer {i}, head {h}: {name}", row.tolist()) for name, row in parts.items()]
    columns = 3 if len(panels) % 3 == 0 else 2
    rows = -(-len(panels) // columns)
    figure, grid = new_figure(5 * columns, 2.4 * rows, rows, columns, sharey=True)
    words, answer = [chr(token) for token in x[0]], words_index(x[0], y[0])
    for axes, (title, weights) in zip(grid, panels, strict=False):
        colors = ["black" if j == answer else look(entry["attention"])["color"] for j in range(len(weights))]
        axes.bar(range(len(weights)), weights, color=colors)
        axes.axhline(0, color="0.4", lw=0.8)
        axes.set_xticks(range(len(words)), words, fontsize=8)
        axes.set_title(title, fontsize=10, parse_math=False)
    for axes in grid[len(panels) :]:
        axes.set_visible(False)
    what = f"{entry['attention']}, seed {entry['seed']}: weights of the row that answers; black: the missing item"
    figure.suptitle(what, fontsize=10, parse_math=False)
    write_figure(path, figure)


def words_index(tokens, answer):
    """The position of the token `answer` in the first list."""
    return int(np.flatnonzero(tokens.numpy() == int(answer))[0])


if __name__ == "__main__":
    run(solved, program="python -m lab.solved")
