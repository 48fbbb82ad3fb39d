"""How is "which one is missing?" answered? Other numbers and orders of items, interventions, a picture of the answer.

python -m lab.solved out/missing-differential [more checkpoints]
"""

import dataclasses
import functools
import random
from pathlib import Path
from typing import Annotated

import torch

from configurable import PositiveInt, Seed, UsageError, check_ranges, run
from lab.analyze import cell, columns
from lab.interventions import edited, edits_for, is_difference, mean_maps, replaced
from lab.maps import activations, batch_size, check_map
from lab.missing import draw_context
from lab.pictures import file_name
from lab.show import look, table
from model import GPT
from plumbing.checkpoint import load_model, no_checkpoint_given
from plumbing.dataset import mismatch
from plumbing.figure import new_figure, plain, write_figure
from plumbing.files import write_json
from plumbing.machine import device_name, find_device
from plumbing.run import command, provenance

TASK = {"n_items": 0, "n_symbols": 0}  # what meta.json says about the task


def solved(
    *checkpoints: str,  # runs' folders (their best.pt is read) or checkpoint files, trained on the task of lab.missing
    n_items: Annotated[tuple[int, ...], "at least 2 and at most 87"] = (6, 9, 12, 15, 18),  # numbers of items to try
    contexts: PositiveInt = 1000,  # fresh contexts per number of items
    orders: Annotated[int, "at least 2"] = 10,  # orders of the items in which each context is asked
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
        check_map(path, gpt)
        task = checkpoint["data"].get("missing")
        if wrong := mismatch(task, TASK, "missing"):
            raise UsageError(f"{path} was not trained on the task of lab.missing: {wrong}")
        if (n_symbols := task["n_symbols"]) < max(n_items):
            raise UsageError(f"n_items={max(n_items)}: {path} knows {n_symbols} different items")
        options = {name: checkpoint["options"][name] for name in ("seed", "dataset")}
        entry = {"name": str(path), **options, **checkpoint["config"], **task}
        of_n = {n: draw_contexts(n, n_symbols, contexts, seed) for n in {*n_items, task["n_items"]}}
        entry["by_n_items"] = {n: accuracy(longer(gpt, n), *of_n[n]) for n in n_items}
        entry["answering"] = shares(gpt, of_n[task["n_items"]][0][:100], task["n_items"])
        entry["orders"] = in_other_orders(gpt, of_n[task["n_items"]][0], task["n_items"], orders, seed)
        entry["interventions"] = intervened(gpt, *of_n[task["n_items"]])
        entries.append(entry)
        draw_answer(out / f"answer-{file_name(str(path))}.png", gpt, entry, seed)
    report = {"command": command(), "device": device_name(device), "commit": provenance()["commit"]}
    write_json(out / "solved.json", report | {"contexts": contexts, "seed": seed, "checkpoints": entries})
    for name, title in (("by_n_items", "items"), ("orders", f"{orders} orders"), ("interventions", "replaced")):
        print(f"\naccuracy\n\n{table(rows(entries, name, title))}")
    print(f"\n{out}: solved.json, and a figure of the answering row of each checkpoint")
    return entries


def draw_contexts(n_items, n_symbols, n, seed):
    """n contexts without their answers, BT, and their answers, B."""
    draw = random.Random(f"{seed} solved {n_items}")
    tokens = torch.tensor([[*draw_context(draw, n_items, n_symbols).encode()] for _ in range(n)])
    return tokens[:, :-1], tokens[:, -1]


def longer(gpt, n_items):
    """gpt with windows that hold n_items."""
    config = dataclasses.replace(gpt.config, block_size=max(gpt.config.block_size, 2 * n_items + 1))
    copy = GPT(config).to(gpt.device).eval()
    copy.load_state_dict(gpt.state_dict())
    return copy


@torch.no_grad()
def is_right(gpt, x, y):
    """Whether the likeliest token behind each of the contexts x BT is its answer y B: B bool."""
    likeliest = [gpt(part.to(gpt.device))[:, -1].argmax(-1).cpu() for part in x.split(batch_size(x))]
    return torch.cat(likeliest) == y


def accuracy(gpt, x, y):
    """Share of the contexts x BT that are answered with y B."""
    return is_right(gpt, x, y).float().mean().item()


@torch.no_grad()
def in_other_orders(gpt, x, n_items, orders, seed):
    """{"best", "worst": accuracy over contexts x BT, "always": share that is right in every order}, of so many orders.

    Both lists of a context are put into a random order of their own each time; what is missing stays the same.
    """
    draw, right = torch.Generator().manual_seed(seed), []
    lists = slice(0, n_items), slice(n_items + 1, 2 * n_items)
    first, second = (x[:, some] for some in lists)
    y = first[~(first.unsqueeze(2) == second.unsqueeze(1)).any(2)]
    for _ in range(orders):
        x = x.clone()
        for some in lists:
            order = torch.rand(x[:, some].shape, generator=draw).argsort(1)
            x[:, some] = x[:, some].gather(1, order)
        right.append(is_right(gpt, x, y))
    right = torch.stack(right)  # orders, contexts
    of_orders = right.float().mean(1)
    return {
        "best": of_orders.max().item(),
        "worst": of_orders.min().item(),
        "always": right.all(0).float().mean().item(),
    }


@torch.no_grad()
def intervened(gpt, x, y):
    """{"nothing replaced": accuracy, name of an edit: ...}, in all layers at once and in each layer alone."""
    attentions = [block.attention for block in gpt.blocks]
    inputs, _ = activations(gpt, x[:100].to(gpt.device))
    means = {attention: mean_maps(attention, z) for attention, z in zip(attentions, inputs, strict=True)}
    found = {"nothing replaced": accuracy(gpt, x, y)}
    for name, edit in edits_for(attentions, inputs).items():
        for where, some in (("", attentions), *((f", layer {i} alone", [a]) for i, a in enumerate(attentions))):
            with replaced(some, mix=edited(functools.partial(edit, means))):
                found[name + where] = accuracy(gpt, x, y)
    return found


@torch.no_grad()
def shares(gpt, x, n_items):
    """Rows {layer, head, map, lam, weight on the first list, on the second, on `|?`, on `|`} of the row that answers.

    The mean over the contexts x BT. map: A, and of a difference A₁ and A₂; lam: its λ, else None.
    """
    found = []
    for i, (block, z) in enumerate(zip(gpt.blocks, activations(gpt, x.to(gpt.device))[0], strict=True)):
        attention, maps, lam = block.attention, {"A": block.attention.map(z)}, None
        if is_difference(attention, z):
            maps |= dict(zip(("A₁", "A₂"), attention.maps(z), strict=True))
            lam = attention.lam.item()
        for name, A in maps.items():
            row = A[:, :, -1].mean(0)  # HT
            sums = row[:, :n_items].sum(1), row[:, n_items + 1 : 2 * n_items].sum(1), row[:, n_items], row.sum(1)
            for h, (first, second, bar, total) in enumerate(torch.stack(sums, 1).tolist()):
                where = {"first": first, "second": second, "separators": total - first - second, "bar": bar}
                found.append({"layer": i, "head": h, "map": name, "lam": lam, **where})
    return found


def rows(entries, name, title):
    """Rows for a table: a column per mechanism, mean ± sd over checkpoints that differ in their seeds alone."""
    found = []
    for key in dict.fromkeys(key for entry in entries for key in entry[name]):
        found.append({title: key})
        for column, some in columns(entries).items():
            found[-1][column] = cell([entry[name][key] for entry in some if key in entry[name]], ".2f")
    return found


@torch.no_grad()
def draw_answer(path, gpt, entry, seed):
    """Where each head looks in the row that answers, a column of panels per layer; of a difference also A₁ and λA₂."""
    x, y = draw_contexts(entry["n_items"], entry["n_symbols"], 1, seed)
    inputs, _ = activations(gpt, x.to(gpt.device))
    layers = []
    for i, (block, z) in enumerate(zip(gpt.blocks, inputs, strict=True)):
        attention, maps = block.attention, {"A": block.attention.map(z)}
        if is_difference(attention, z):
            (A1, A2), lam = attention.maps(z), attention.lam
            maps = {"A₁": A1, f"λA₂, λ = {lam.item():.2f}": lam * A2, "A₁ − λA₂": maps["A"]}
        heads = range(attention.n_heads)
        layers.append([(f"layer {i}, head {h}: {name}", A[0, h, -1]) for h in heads for name, A in maps.items()])
    figure, grid = new_figure(4.2 * len(layers), 0.8 + 1.7 * len(layers[0]), len(layers[0]), len(layers), sharey=True)
    panels = [panel for row in zip(*layers, strict=True) for panel in row]
    tokens = x[0].tolist()
    missing, bar, color = tokens.index(y.item()), tokens.index(ord("|")), look(entry["attention"])["color"]
    for axes, (title, weights) in zip(grid, panels, strict=True):
        axes.axvspan(bar + 0.5, len(tokens) - 1.5, color="0.93", zorder=0)
        colors = ["k" if j == missing else color for j in range(len(tokens))]
        axes.bar(range(len(tokens)), weights.tolist(), color=colors)
        axes.axhline(0, color="0.4", lw=0.8)
        axes.set_xticks(range(len(tokens)), [plain(chr(token)) for token in tokens], fontsize=8)
        axes.set_title(title, fontsize=10)
    for axes in grid[:: len(layers)]:
        axes.set_ylabel("weight")
    what = f"{entry['attention']}, seed {entry['seed']}: the row that answers"
    figure.suptitle(f"{what}\nblack: the missing item; grey: the second list", fontsize=10)
    write_figure(path, figure)


if __name__ == "__main__":
    run(solved, program="python -m lab.solved")
