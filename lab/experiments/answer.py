"""How does a trained model answer "which one is missing?"

python -m lab.experiments.answer out/missing-differential [more checkpoints]

Its accuracy with more and fewer items, in other orders, and with parts of its maps replaced; and the row that answers.
"""

import dataclasses
import json
import random
from pathlib import Path
from typing import Annotated

import torch

from configurable import PositiveInt, Range, Seed, UsageError, check, run
from lab.maps import activations, edited, edits_for
from lab.show import look, table
from lab.tasks import draw_missing
from model import GPT, Differential
from plumbing.checkpoint import load_model, no_checkpoint_given
from plumbing.run import drawing, provenance


def answer(
    *checkpoints: str,  # runs' folders (their best.pt is read) or checkpoint files
    n_items: Annotated[tuple[int, ...], Range(ge=2)] = (3, 5, 8, 12, 16, 19, 22),  # numbers of items to try
    contexts: PositiveInt = 1000,  # new contexts per number of items
    orders: Annotated[int, Range(ge=2)] = 10,  # orders of the items in which each context is asked
    seed: Seed = 1,  # seed of the contexts
    out: str = "out/answer.jsonl",  # file to add a line per checkpoint to; a figure of each lies beside it
):
    """Measure accuracy with other contexts and with other maps; draw the row that answers. Returns the lines."""
    check(answer, {"n_items": n_items, "contexts": contexts, "orders": orders, "seed": seed})
    if not checkpoints:
        raise no_checkpoint_given("CHECKPOINTS")
    lines = []
    Path(out).parent.mkdir(parents=True, exist_ok=True)
    for path in checkpoints:
        gpt, checkpoint = load_model(path)
        task = checkpoint["data"].get("missing", {})
        if "min_items" not in task:
            raise UsageError(f"{path} was not trained on the task `missing` of lab.tasks")
        n, n_symbols = (task["min_items"] + task["max_items"]) // 2, task["n_symbols"]
        if n_symbols < max(n_items):
            raise UsageError(f"n_items={max(n_items)}: {path} knows {n_symbols} different items")
        drawn = {i: draw_contexts(i, n_symbols, contexts, seed) for i in {*n_items, n}}
        line = {"checkpoint": path, "attention": gpt.config.attention, "seed": checkpoint["options"]["seed"]}
        line["items"] = {str(i): accuracy(longer(gpt, i), *drawn[i]) for i in n_items}
        line["always right"] = in_other_orders(gpt, drawn[n][0], n, orders, seed)
        line["interventions"] = intervened(gpt, *drawn[n])
        line["answering"] = weights_on(gpt, drawn[n][0][:100], n)
        lines.append(line | {"commit": provenance()["commit"]})
        with open(out, "a", encoding="utf-8") as file:
            file.write(json.dumps(lines[-1]) + "\n")
        draw(Path(out).with_name(f"{Path(out).stem}-{len(lines)}.png"), gpt, *(z[:1] for z in drawn[n]))
    for name in ("items", "interventions"):
        keys = dict.fromkeys(key for line in lines for key in line[name])  # vanilla has no λ to replace
        rows = [{name: key} | {line["checkpoint"]: line[name].get(key, "") for line in lines} for key in keys]
        print(f"\naccuracy\n\n{table(rows)}")
    print(f"\nright in each of {orders} orders:", *(f"{line['always right']:.2f}" for line in lines))
    return lines


def draw_contexts(n_items, n_symbols, count, seed):
    """`count` contexts without their answers, BT, and their answers, B."""
    draw = random.Random(f"{seed} solved {n_items}")
    drawn = [draw_missing(draw, n_items, n_items, n_symbols) for _ in range(count)]
    questions, answers = zip(*drawn, strict=True)
    return torch.tensor([[*question.encode()] for question in questions]), torch.tensor([*map(ord, answers)])


def longer(gpt, n_items):
    """The model with windows that hold n_items."""
    config = dataclasses.replace(gpt.config, block_size=max(gpt.config.block_size, 2 * n_items + 1))
    copy = GPT(config).eval()
    copy.load_state_dict(gpt.state_dict())
    return copy


@torch.no_grad()
def is_right(gpt, x, y):
    """Whether the likeliest token after each of the contexts x BT is its answer y B: B bool."""
    return torch.cat([gpt(part)[:, -1].argmax(-1) for part in x.split(100)]) == y


def accuracy(gpt, x, y):
    return is_right(gpt, x, y).float().mean().item()


def in_other_orders(gpt, x, n_items, orders, seed):
    """Share of the contexts x BT that are right in every one of so many orders, each of both lists."""
    draw, lists = torch.Generator().manual_seed(seed), (slice(0, n_items), slice(n_items + 1, 2 * n_items))
    first, second = (x[:, items] for items in lists)
    y = first[~(first.unsqueeze(2) == second.unsqueeze(1)).any(2)]
    always = torch.ones(len(x), dtype=torch.bool)
    for _ in range(orders):
        x = x.clone()
        for items in lists:
            x[:, items] = x[:, items].gather(1, torch.rand(x[:, items].shape, generator=draw).argsort(1))
        always &= is_right(gpt, x, y)
    return always.float().mean().item()


@torch.no_grad()
def intervened(gpt, x, y):
    """{"nothing replaced": accuracy, edit: accuracy …}, with an edited map in all layers at once, and in each alone."""
    attentions, (inputs, _) = [block.attention for block in gpt.blocks], activations(gpt, x[:100])
    found = {"nothing replaced": accuracy(gpt, x, y)}
    for name, edit in edits_for(attentions, inputs).items():
        for where, layers in (("", attentions), *((f", layer {i} alone", [a]) for i, a in enumerate(attentions))):
            with edited(layers, edit):
                found[name + where] = accuracy(gpt, x, y)
    return found


@torch.no_grad()
def answering_rows(gpt, x):
    """[{head and map: its row that answers, BT}] of each layer; of a difference also A₁ and λA₂ = A₁ − A."""
    layers = []
    for i, (block, z) in enumerate(zip(gpt.blocks, activations(gpt, x)[0], strict=True)):
        maps, A = {}, block.attention.attention_map(z)
        if isinstance(block.attention, Differential):
            A1, _ = block.attention.both_maps(z)
            maps = {"A₁": A1, "λA₂": A1 - A}
        maps["A"] = A
        heads = range(block.attention.G)
        layers.append({f"layer {i}, head {h}: {name}": A[:, h, -1] for h in heads for name, A in maps.items()})
    return layers


def weights_on(gpt, x, n_items):
    """{head and map: [weight on the first list, on the bar, on the second list]} of the row that answers, means."""
    rows = {name: row.mean(0) for layer in answering_rows(gpt, x) for name, row in layer.items()}
    return {
        name: [part.sum().item() for part in row[:-1].split((n_items, 1, n_items - 1))] for name, row in rows.items()
    }


def draw(path, gpt, x, y):
    """The last layer's row that answers the context x 1T, a line of panels per head; red: the missing item y 1."""
    panels, tokens, color = answering_rows(gpt, x)[-1], x[0].tolist(), look(gpt.config.attention)["color"]
    heads = gpt.blocks[-1].attention.G
    columns = len(panels) // heads
    with drawing(path, 3.3 * columns, 0.8 + 1.9 * heads, heads, columns, sharey=True) as (figure, grid):
        for i, (axes, (name, row)) in enumerate(zip(grid, panels.items(), strict=True)):
            axes.axvspan(tokens.index(ord("|")) + 0.5, len(tokens) - 1.5, color="0.92")
            axes.bar(range(len(tokens)), row[0].tolist(), color=color)
            axes.axhline(0, color="0.4", lw=0.8)
            axes.set_xticks(range(len(tokens)), [chr(token) for token in tokens], fontsize=8, parse_math=False)
            axes.get_xticklabels()[tokens.index(y)].set(weight="bold", color="r", fontsize=11)
            axes.set_title(name, fontsize=10)
            if i % columns == 0:
                axes.set_ylabel("weight", fontsize=9)
        title = f"{gpt.config.attention}: the row of “?”, which answers; grey: the second list; red: the missing item"
        figure.suptitle(title, fontsize=10)


if __name__ == "__main__":
    run(answer, program="python -m lab.experiments.answer")
