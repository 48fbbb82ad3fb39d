"""What attention does in trained models: numbers and figures.

python -m lab.analyze out/NAME [more checkpoints]                      on the validation split

The terminal shows the few numbers that matter most; analysis.json has all of them, and a `key` that explains each.
"""

import math
import statistics
from pathlib import Path
from typing import Annotated, NamedTuple

import numpy as np
import torch
from tqdm import tqdm

from configurable import PositiveInt, UsageError, check_ranges, comments, only_one, run
from lab import maps, pictures
from lab.gradients import KEY as OF_GRADIENTS
from lab.gradients import gradients_of_heads
from lab.interventions import KEY as OF_INTERVENTIONS
from lab.interventions import interventions, visible_logits
from lab.needles import LOOKS, find_needles, task_of
from lab.show import table
from model import GPT, GPTConfig
from plumbing.checkpoint import load_model, no_checkpoint_given
from plumbing.dataset import Split, check_record, load_dataset
from plumbing.files import read_bytes, write_json
from plumbing.machine import device_name, find_device
from plumbing.run import command, provenance, read_metrics
from prepare import Tokenizer
from train import watched


class Model(NamedTuple):
    name: str  # what tables and figures call it
    path: str
    gpt: GPT
    checkpoint: dict


def analyze(
    *checkpoints: str,  # runs' folders (their best.pt is read) or checkpoint files
    text: str | None = None,  # text that the heatmaps show; none: the beginning of the validation split
    text_file: str | None = None,  # file whose text is shown instead of --text
    dataset: str | None = None,  # folder under data/ whose validation split is read; none: that of the first checkpoint
    tokens: PositiveInt = 65536,  # first tokens of the validation split, on which losses are measured
    windows: PositiveInt = 16,  # windows on which maps are measured, spread over the first --tokens
    layer: int | None = None,  # layer that map-NAME.png shows, from 0; none: the last layer
    head: int = 0,  # head that map-NAME.png shows, from 0
    ngram: Annotated[int, "at least 2"] | None = None,  # tokens per repeated n-gram; none: 4 of bytes, else 2
    out_dir: str = "out/analysis",  # folder for analysis.json and the figures
    device: str = "auto",  # cpu, cuda ...; auto: cuda where there is one, else cpu
):
    """Look into trained models: a table on the terminal, analysis.json and figures in out_dir. Returns the report.

    Where the dataset is missing, a given text is all that is read.
    """
    check_ranges(analyze, locals())
    device, out = find_device(device), Path(out_dir)
    models = load_models(checkpoints, device)
    check_models(models, layer, head)
    tokenizer = Tokenizer.thaw(models[0].checkpoint["tokenizer"], checkpoints[0])
    ids = read_text(text, text_file, tokenizer, models)
    source, split = read_val(dataset, models, ids)
    if ids is None:
        ids = split.gather(np.arange(min(pictures.READABLE, len(split.tokens), block_size(models)))).cpu()
    ngram = ngram or (2 if tokenizer.encoding else 4)
    out.mkdir(parents=True, exist_ok=True)
    entries = []
    for model in models:
        entries.append(entry := measure(model, split, tokens, windows, ngram))
        print(headline(entry), flush=True)
        shown = len(model.gpt.blocks) - 1 if layer is None else layer
        pictures.draw_maps(out, entry, model.gpt, ids.to(device), tokenizer, shown, head)
        pictures.draw_learned(out, entry)
        pictures.draw_mixtures(out, entry)
    report = {"command": command(), "device": device_name(device)}
    report |= {name: value for name, value in provenance().items() if name in ("versions", "commit")}
    report |= {"source": source, "ngram": ngram, "key": KEY, "checkpoints": entries}
    write_json(out / "analysis.json", report)
    pictures.draw_weights(out / "weights.png", entries)
    pictures.draw_losses(out / "losses.png", entries, source, ngram)
    if any("needles" in entry for entry in entries):
        pictures.draw_needles(out / "needles.png", entries)
    print(f"\n{table(compared(entries))}\n")
    print(f"{out}: figures, and analysis.json with all numbers and a `key` that explains each")
    return report


# ---------------------------------------------------------------------------- what is read


def load_models(checkpoints, device):
    """A Model for each path. Raises UsageError where there is none, or two of them would write the same files."""
    if not checkpoints:
        raise no_checkpoint_given("CHECKPOINTS")
    files = [pictures.file_name(str(path)) for path in checkpoints]
    if same := [path for path, file in zip(checkpoints, files, strict=True) if files.count(file) > 1]:
        raise UsageError(f"{same[0]} is given twice, or the files of {' and '.join(map(str, same))} would be the same")
    loaded = [load_model(path, device) for path in checkpoints]
    kinds = [gpt.config.attention for gpt, _ in loaded]
    names = [kind if kinds.count(kind) == 1 else str(path) for kind, path in zip(kinds, checkpoints, strict=True)]
    return [Model(name, str(path), *pair) for name, path, pair in zip(names, checkpoints, loaded, strict=True)]


def check_models(models, layer, head):
    """Raises UsageError for models that cannot be compared, a layer or a head that one of them does not have."""
    first, steps = models[0].checkpoint, {}
    for name, _, gpt, checkpoint in models:
        maps.check_map(name, gpt)
        if checkpoint["tokenizer"] != first["tokenizer"]:
            kinds = f"{name} has {checkpoint['data']['tokenizer']}, {models[0].name} {first['data']['tokenizer']}"
            raise UsageError(f"the losses of different tokenizers cannot be compared: {kinds}")
        n_layer, n_head = len(gpt.blocks), gpt.blocks[0].attention.n_heads
        for what, value, n in (("layer", n_layer - 1 if layer is None else layer, n_layer), ("head", head, n_head)):
            if not 0 <= value < n:
                raise UsageError(f"{what}={value}: {name} has {what}s 0 to {n - 1}")
        steps.setdefault(checkpoint["step"], []).append(name)
    if len(steps) > 1:
        of_steps = "; ".join(f"step {step}: {', '.join(names)}" for step, names in sorted(steps.items()))
        print(f"warning: checkpoints of different steps are compared, which is not fair ({of_steps})")


def block_size(models):
    """The tokens that all of the models can see at once."""
    return min(model.gpt.config.block_size for model in models)


def read_text(text, text_file, tokenizer, models):
    """The ids of a text to look at, T int64, or None where there is none. Raises UsageError."""
    if only_one(text=text, text_file=text_file) is None:
        return None
    text = text if text_file is None else read_bytes(text_file)
    ids = torch.from_numpy(tokenizer.encode(text, text_file or "the text").astype(np.int64))
    if len(ids) < 2:
        raise UsageError(f"the text has {len(ids)} token{'s' * (len(ids) != 1)}: 2 is the least")
    if len(ids) > (T := block_size(models)):
        name = next(model.name for model in models if model.gpt.config.block_size == T)
        raise UsageError(f"the text has {len(ids)} tokens, and {name} sees {T} at once: give at most {T}")
    check_vocabulary("the text", int(ids.max()), models)
    return ids


def read_val(dataset, models, ids):
    """(name of what losses are measured on, its Split): the validation split. Raises UsageError.

    It is the text `ids` where there is one and the models' dataset is missing. Its tokenizer must be the models'.
    """
    first = models[0]
    try:
        data = load_dataset(dataset or first.checkpoint["options"]["dataset"], first.gpt.device)
    except UsageError as error:
        if ids is not None and dataset is None:
            print(f"{error}; the text is all that is read")
            return "the text", Split(ids, len(ids) - 1)
        raise
    folder, meta = data.folder, data.meta
    if meta["tokenizer"] != first.checkpoint["data"]["tokenizer"]:
        raise UsageError(
            f"{folder} is in {meta['tokenizer']}, {first.name} reads {first.checkpoint['data']['tokenizer']}"
        )
    check_vocabulary(folder, meta["vocab_size"] - 1, models)
    for name, _, gpt, checkpoint in models:
        check_record(folder, meta.get("record"), gpt.config.block_size)
        if checkpoint["data"]["train"]["sha256"] != meta["train"]["sha256"]:
            print(
                f"warning: {name} was trained on another text than {folder}: it may know some of its validation split"
            )
    return data.name, data.val


def check_vocabulary(what, largest, models):
    """Raises UsageError where a model has no row for a token."""
    for name, _, gpt, _ in models:
        if largest >= (n := gpt.config.vocab_size):
            raise UsageError(f"{what} has token {largest}, and the vocabulary of {name} is 0 to {n - 1}")


# ---------------------------------------------------------------------------- what is measured


@torch.no_grad()
def measure(model, split, tokens, windows, ngram):
    """The entry of a model in the report: losses over `tokens`; maps and activations of `windows` of their windows."""
    name, path, gpt, checkpoint = model
    options = checkpoint["options"]
    entry = {"name": name, "path": path, "parameters": gpt.n_params(), "step": checkpoint["step"]}
    entry |= {"seed": options["seed"], "dataset": options["dataset"], **checkpoint["config"]}
    with tqdm(desc=name, unit="part", leave=False, disable=None) as bar:
        x, y = maps.cut(split, tokens, gpt)
        nats = maps.losses(gpt, x, y)
        bar.update()
        chosen = torch.linspace(0, len(x) - 1, min(windows, len(x))).long()
        some = x[chosen]
        inputs, outputs = maps.activations(gpt, some)
        heads, counts = [], torch.zeros(len(maps.EDGES) - 1)
        for depth, (block, z) in enumerate(zip(gpt.blocks, inputs, strict=True)):
            heads += [{"layer": depth, "head": h, **row} for h, row in enumerate(maps.of_heads(block.attention, z))]
            counts += maps.histogram(block.attention, z)
            bar.update()
        for row, gradients in zip(heads, gradients_of_heads(gpt, some, y[chosen]), strict=True):
            row |= gradients
        entry |= {"tokens": x.numel(), "windows": len(some), "T": x.size(1)}
        entry |= {"loss": maps.split_losses(nats, maps.completes(x, y, ngram)), "heads": heads}
        entry["weights"] = (counts / counts.sum()).tolist()
        entry["outliers"] = maps.all_outliers({"logits": visible_logits(gpt, inputs), "hidden": outputs})
        entry["interventions"] = interventions(gpt, inputs, x, y, nats, bar.update)
    entry["learned"] = learned(gpt, path)
    entry["mixtures"] = maps.mixtures(gpt)
    if task := task_of(checkpoint):
        entry["needles"] = find_needles(gpt, **task)
    return entry


def learned(gpt, path):
    """λ or g of each layer (g: the mean of its heads) at step 0, from metrics.jsonl beside the checkpoint, and now.

    {name: {"start": [] where there is no such file, "now": [...], "over_training": [[step, layer 0's, ...], ...]}}
    """
    folder = Path(path) if Path(path).is_dir() else Path(path).parent
    rows, numbers = read_metrics(folder / "metrics.jsonl"), {}
    for name, now in watched(gpt).items():
        fits = [row for row in rows if list(map(len, row.get(name, ()))) == list(map(len, now))]
        course = [[row["step"], *map(np.mean, row[name])] for row in fits]
        start = course[0][1:] if course and course[0][0] == 0 else []
        numbers[name] = {"start": start, "now": [float(np.mean(layer)) for layer in now], "over_training": course}
    return numbers


KEY = {name: f"Option of the model: {comment}." for name, comment in comments(GPTConfig).items()}
KEY |= maps.KEY | OF_GRADIENTS | OF_INTERVENTIONS
KEY |= {
    "parameters": "How many numbers the model has learned.",
    "step": "Training steps before the checkpoint was saved.",
    "seed": "Seed of the run.",
    "learned": "Learned numbers of the mechanism: lam is λ of differential, g that of temperature.",
    "ngram": "Length of the n-grams whose repetitions are counted, in tokens.",
    "start": "The learned number of each layer at step 0, mean over its heads; empty where metrics.jsonl is missing.",
    "now": "The learned number of each layer in the checkpoint, mean over its heads.",
    "over_training": "Step, then the learned number of each layer, for each evaluation in metrics.jsonl.",
    "by_n": "Needles: queries answered, for 1, 2 ... needles in a context.",
    "by_depth": "Needles: queries answered, by the depth of the needle asked for, from 0 (first) to 1 (last).",
    "by_length": "Needles: queries answered, by the length of the context.",
    "attention": "The mechanism. In needles: where each head looks in the rows that predict the first answer.",
    "needles": "Needles in a context.",
    "length": "Tokens in a context.",
    "depth": "Where the needle asked for lies: 0 first, 1 last.",
    "exact": "Share of first queries that are answered exactly, with every digit.",
    "of": "In outliers: what the numbers are of, visible logits or hidden states. In needles: number of contexts.",
    "answer": "Share of a row's |a| on the needle that is asked for.",
    "other needles": "Share of a row's |a| on the other needles.",
    "filler": "Share of a row's |a| on the filler between the needles.",
    "query": "Share of a row's |a| on the query itself, and on what comes after it.",
}


# ---------------------------------------------------------------------------- what is shown


LINES = {  # a line of the table: its number in `numbers`, a sentence, how it is printed
    "loss": ("loss, nats per token", ".4f"),
    "negative_share": ("weights below zero: share of the visible weights", ".1%"),
    "negative_mass": ("weights below zero: share of the sum of absolute weights", ".1%"),
    "effective_tokens": ("tokens that a row is spread over, on average (exp of its entropy)", ".3g"),
    "on_first": ("share of a row on the first token (the sink)", ".1%"),
    "Δ loss, negative by 0": ("loss without the negative weights, change in nats per token", "+z.4f"),
    "Δ loss, λ by 0": ("loss without the second map (λ = 0), change in nats per token", "+z.4f"),
    "Δ loss, logits in 4 bits": ("loss with logits rounded to 4 bits, change in nats per token", "+z.4f"),
    "exact": ("needles: queries answered exactly, with as many needles as in training", ".1%"),
    "answering, answer": ("needles: share of a row on the right needle while it answers", ".1%"),
    "answering, filler": ("needles: share of a row on the filler while it answers", ".1%"),
}


def headline(entry):
    """The line of a checkpoint, before the table."""
    size = f"{entry['attention']}, {entry['parameters']:,} parameters, step {entry['step']}, seed {entry['seed']}"
    return f"{entry['path']}: {size}; maps of {entry['windows']} windows of {entry['T']} tokens"


def compared(entries):
    """Rows for a table: a sentence, and its number in each column; mean ± standard deviation where that is of several.

    Numbers of heads are means over layers and heads.
    """
    of, rows = {title: [numbers(entry) for entry in column] for title, column in columns(entries).items()}, []
    for name, (sentence, digits) in LINES.items():
        values = {title: [row[name] for row in column if name in row] for title, column in of.items()}
        if any(values.values()):
            rows.append({"number": sentence} | {title: cell(some, digits) for title, some in values.items()})
    return rows


def columns(entries):
    """{title: entries}: a column per checkpoint; one for all of a mechanism that differ in their seeds alone."""
    groups, together = {}, {}
    for entry in entries:
        groups.setdefault(entry["attention"], []).append(entry)
    for kind, group in groups.items():
        shapes = [[entry.get(name) for name in ("dataset", *GPTConfig.__dataclass_fields__)] for entry in group]
        if shapes.count(shapes[0]) == len({entry["seed"] for entry in group}) == len(group) > 1:
            together[f"{kind}, mean ± sd of {len(group)}"] = group
        else:
            together |= {entry["name"]: [entry] for entry in group}
    return together


def cell(values, digits):
    """Mean ± standard deviation of the values; '' where there are none."""
    if not values:
        return ""
    spread = f" ± {statistics.stdev(values):{digits.lstrip('+')}}" if len(values) > 1 else ""
    return f"{statistics.fmean(values):{digits}}{spread}"


def numbers(entry):
    """`summary`, without what there is not, and with the number of LINES that depends on the number of needles."""
    exact = {"exact": entry["needles"]["by_n"][-1]["exact"]} if "needles" in entry else {}
    found = summary(entry) | exact
    return {name: value for name, value in found.items() if value is not None and math.isfinite(value)}


def summary(entry):
    """{name: number or None} of a checkpoint."""
    loss, heads = entry["loss"], entry["heads"]
    numbers = {name: entry[name] for name in ("parameters", "step", "seed")}
    numbers |= {"loss": loss["all"], "loss of repeated n-grams": loss["hit"], "loss of the rest": loss["rest"]}
    numbers["share of repeated n-grams"] = loss["hit_share"]
    numbers |= {
        name: float(np.mean([row[name] for row in heads])) for name in heads[0] if name not in ("layer", "head")
    }
    numbers["sink_rate"] = maps.sink_rate([row["on_first"] for row in heads])
    for row in entry["outliers"]:
        if row["layer"] == "all":
            wanted = ("top_1", "top_2", "top_3", "top_10", "top_100", "median", "kurtosis", "inf_norm")
            numbers |= {f"{row['of']} {name}": row[name] for name in wanted if name in row}
    numbers |= {f"Δ loss, {row['what']}": row["loss_change"] for row in entry["interventions"]}
    if needles := entry.get("needles"):
        numbers |= {f"exact, {row['needles']} needles": row["exact"] for row in needles["by_n"]}
        for name in LOOKS:
            numbers[f"answering, {name}"] = float(np.mean([row[name] for row in needles["attention"]]))
    return numbers


if __name__ == "__main__":
    run(analyze, program="python -m lab.analyze")
