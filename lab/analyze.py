"""What attention does in trained models: numbers and figures.

python -m lab.analyze out/NAME [more checkpoints]                      on the validation split

The terminal shows the few numbers that matter most; analysis.json has all of them, and a `key` that explains each.
"""

import re
import statistics
from pathlib import Path
from typing import Annotated, NamedTuple

import numpy as np
import torch
from tqdm import tqdm

from configurable import PositiveInt, Range, UsageError, check, only_one, run
from lab import maps
from lab.show import draw_parts, look, table
from model import GPT
from plumbing.checkpoint import load_model, no_checkpoint_given, write_json
from plumbing.machine import device_name, find_device
from plumbing.run import command, drawing, provenance, read_metrics
from prepare import Tokenizer, load_dataset, same_data
from sample import read
from train import watched

READABLE = 32  # tokens that can be read beside a heatmap
NEAR_ZERO = 1e-3  # colours of weights are on a logarithmic scale down to this, and linear from there to 0


class Model(NamedTuple):
    name: str  # what tables and figures call it
    path: str
    gpt: GPT
    checkpoint: dict


def analyze(
    *checkpoints: str,  # runs' folders (their best.pt is read) or checkpoint files
    text: str = "",  # text that the heatmaps show; without: the beginning of the validation split
    text_file: str | None = None,  # file whose text is shown instead of --text
    dataset: str | None = None,  # folder under data/ whose validation split is read; none: that of the first checkpoint
    tokens: PositiveInt = 65536,  # first tokens of the validation split, on which losses are measured
    windows: PositiveInt = 16,  # windows on which maps are measured, spread over the first --tokens
    layer: int | None = None,  # layer that map-NAME.png shows, from 0; none: the last layer
    head: int = 0,  # head that map-NAME.png shows, from 0
    ngram: Annotated[int, Range(ge=2)] | None = None,  # tokens per repeated n-gram; none: 4 of bytes, else 2
    out_dir: str = "out/analysis",  # folder for analysis.json and the figures
    device: str = "auto",  # cpu, cuda ...; auto: cuda where there is one, else cpu
):
    """Look into trained models: a table on the terminal, analysis.json and figures in out_dir. Returns the report."""
    check(analyze, {"tokens": tokens, "windows": windows, "ngram": ngram})
    device, out = find_device(device), Path(out_dir)
    models = load_models(checkpoints, device)
    for name, _, gpt, _ in models:
        if gpt.blocks[0].attention.attention_map is None:
            raise UsageError(
                f"{name} has no maps to look at: its attention, {gpt.config.attention}, is not linear in V"
            )
        for what, value, n in (("layer", layer or 0, len(gpt.blocks)), ("head", head, gpt.blocks[0].attention.G)):
            if not 0 <= value < n:
                raise UsageError(f"{what}={value}: {name} has {what}s 0 to {n - 1}")
    data = dataset_of(models, dataset)
    tokenizer = Tokenizer.thaw(data.tokenizer)
    ids = shown_text(text, text_file, tokenizer, data.val, min(m.gpt.config.block_size for m in models))
    ngram = ngram or (2 if tokenizer.encoding else 4)
    entries = []
    for model in models:
        entries.append(entry := measure(model, data.val, tokens, windows, ngram))
        size = f"{entry['attention']}, {entry['parameters']:,} parameters, step {entry['step']}, seed {entry['seed']}"
        print(f"{entry['path']}: {size}; maps of {entry['windows']} windows of {entry['T']} tokens", flush=True)
    out.mkdir(parents=True, exist_ok=True)
    report = {"command": command(), "device": device_name(device), **provenance(), "source": data.name}
    report |= {"ngram": ngram, "key": KEY, "checkpoints": entries}
    write_json(out / "analysis.json", report)
    print(f"\n{table(compared(entries))}\n")
    for entry, model in zip(entries, models, strict=True):
        draw_maps(out, entry, model.gpt, ids.to(device), tokenizer, layer, head)
        draw_learned(out, entry)
        draw_mixtures(out, entry)
    draw_weights(out / "weights.png", entries)
    draw_losses(out / "losses.png", entries, data.name, ngram)
    print(f"{out}: figures, and analysis.json with all numbers and a `key` that explains each")
    return report


def load_models(checkpoints, device):
    """A Model for each path. Raises UsageError where there is none, or one is given twice."""
    if not checkpoints:
        raise no_checkpoint_given("CHECKPOINTS")
    for path in checkpoints:
        if [*map(file_name, checkpoints)].count(file_name(path)) > 1:
            raise UsageError(f"{path} is given twice, or the files of two checkpoints would have the same names")
    loaded = [load_model(path, device) for path in checkpoints]
    kinds = [gpt.config.attention for gpt, _ in loaded]
    names = [kind if kinds.count(kind) == 1 else str(path) for kind, path in zip(kinds, checkpoints, strict=True)]
    return [Model(name, str(path), *pair) for name, path, pair in zip(names, checkpoints, loaded, strict=True)]


def dataset_of(models, name=None):
    """The Dataset that the models were trained on, or data/<name>. Raises UsageError where it is of another tokenizer

    or, found by the name that a checkpoint has of it, of another text.
    """
    first, device = models[0], models[0].gpt.device
    data = load_dataset(name or first.checkpoint["options"]["dataset"], device)
    for model in models:
        if model.checkpoint["tokenizer"] != data.tokenizer:
            of = model.checkpoint["data"]["tokenizer"]
            raise UsageError(f"{data.folder} is in {data.meta['tokenizer']}, {model.name} reads {of}")
        if (other := same_data(model.checkpoint["data"], data.meta)) and name is None:
            raise UsageError(
                f"{data.folder} is not what {model.name} was trained on ({other}): "
                f"--dataset={data.name} measures on it all the same"
            )
    return data


def shown_text(text, text_file, tokenizer, split, block_size):
    """The ids of the text that heatmaps show, T int64. Raises UsageError."""
    if only_one(text=text, text_file=text_file) is None:
        return split.gather(np.arange(min(READABLE, len(split.tokens), block_size))).cpu()
    text = text if text_file is None else read(text_file)
    ids = torch.from_numpy(tokenizer.encode(text).astype(np.int64))
    if not 2 <= len(ids) <= block_size:
        raise UsageError(f"the text has {len(ids)} tokens: give 2 to {block_size}, the models' block_size")
    return ids


# ---------------------------------------------------------------------------- what is measured


@torch.no_grad()
def measure(model, split, tokens, windows, ngram):
    """The entry of a model in the report: losses over `tokens`; maps and activations of `windows` of their windows."""
    name, path, gpt, checkpoint = model
    options = checkpoint["options"]
    entry = {"name": name, "path": path, "parameters": gpt.n_params(), "step": checkpoint["step"]}
    entry |= {"seed": options["seed"], "dataset": options["dataset"], **checkpoint["config"]}
    x, y = maps.cut(split, tokens, gpt)
    nats = maps.losses(gpt, x, y)
    some = x[torch.linspace(0, len(x) - 1, min(windows, len(x))).long()]
    inputs, outputs = maps.activations(gpt, some)
    heads, counts, layers = [], 0, list(zip(gpt.blocks, inputs, strict=True))
    for depth, (block, z) in enumerate(tqdm(layers, name, leave=False, disable=None)):
        heads += [{"layer": depth, "head": h, **row} for h, row in enumerate(maps.of_heads(block.attention, z))]
        counts += maps.histogram(block.attention, z)
    entry |= {"tokens": x.numel(), "windows": len(some), "T": x.size(1), "heads": heads}
    entry["weights"] = (counts / counts.sum()).tolist()
    hit, counts = maps.completes(x, y, ngram), ~nats.isnan()
    groups = {"loss": counts, "loss_hit": hit & counts, "loss_rest": ~hit & counts}
    entry |= {of: nats[which].mean().item() if which.any() else None for of, which in groups.items()}
    entry["hit_share"] = hit[counts].float().mean().item()
    entry["by_position"] = [None if z != z else z for z in nats.nanmean(0).tolist()]
    logits = [S[S.isfinite()] for b, z in layers if (S := maps.all_scores(b.attention, z[:1])) is not None]
    entry["outliers"] = {of: maps.outliers(torch.cat(of_layers)) for of, of_layers in
                         (("scores", logits), ("hidden", [z.flatten() for z in outputs])) if of_layers}  # fmt: skip
    entry["interventions"] = maps.interventions(gpt, inputs, x, y, nats)
    entry["learned"], entry["mixtures"] = learned(gpt, path), mixtures(gpt)
    return entry


def learned(gpt, path):
    """{name: [[step, layer 0's, ...], ...]} of learned numbers, means over heads: those in metrics.jsonl, and now."""
    folder = Path(path) if Path(path).is_dir() else Path(path).parent
    rows = [row for row in read_metrics(folder / "metrics.jsonl") if "val_loss" in row]
    return {
        name: [[row["step"], *map(statistics.fmean, row[name])] for row in rows if name in row]
        + [["now", *map(statistics.fmean, now)]]
        for name, now in watched(gpt).items()
    }


def mixtures(gpt):
    """{"M": [matrix of each layer], "P": ...}: the matrices by which ideas/mixing.py mixes the maps of all heads."""
    layers = [block.attention for block in gpt.blocks]
    return {name: [getattr(layer, name).tolist() for layer in layers] for name in "MP" if hasattr(layers[0], name)}


KEY = maps.KEY | {
    "loss": "Mean loss, in nats per token.",
    "loss_hit": "Loss of the tokens that complete an n-gram that is in their window already; loss_rest: of the others.",
    "hit_share": "Share of the tokens that complete an n-gram which is in their window already.",
    "by_position": "Loss at each position of the window, in nats per token; null where no token counts.",
    "outliers": "Of the visible scores, and of the hidden states: largest size, median size, kurtosis (normal: 3).",
    "loss_change": "Loss with an intervention less the loss without it, in nats per token; its error is over windows.",
    "weights": "Share of the visible weights in each bin: 36 from −1 to −10⁻⁶, one about 0, and 36 above.",
    "mixtures": "Matrices that mix maps after (M) or scores before (P) the softmax, of each layer: a row per head.",
    "learned": "Step, then λ, g or b of each layer, mean over its heads.",
}


# ---------------------------------------------------------------------------- what is shown


LINES = {  # a line of the table: its number in `numbers`, a sentence, how it is printed
    "loss": ("loss, nats per token", ".4f"),
    "negative_share": ("weights below zero: share of the visible weights", ".1%"),
    "near_zero": ("weights near zero: less than a tenth of the uniform share of their row", ".1%"),
    "effective_tokens": ("tokens that a row is spread over (exp of its entropy)", ".3g"),
    "score_range": ("range of the scores of a row, Δ", ".3g"),
    "cancelled": ("how much of a row of A₁ and λA₂ cancels", ".3f"),
    "on_first": ("share of a row on the first token (the sink)", ".1%"),
    "negative by 0": ("loss without the negative weights, change in nats per token", "+.4f"),
    "λ by 0": ("loss without the second map (λ = 0), change in nats per token", "+.4f"),
    "scores in 4 bits": ("loss with scores rounded to 4 bits, change in nats per token", "+.4f"),
}


def compared(entries):
    """Rows for a table: a sentence, and its number for each checkpoint. Numbers of heads are means over them all."""
    of, rows = {entry["name"]: numbers(entry) for entry in entries}, []
    for name, (sentence, digits) in LINES.items():
        cells = {title: f"{found[name]:{digits}}" for title, found in of.items() if found.get(name) is not None}
        rows += [{"number": sentence} | cells] if cells else []
    return rows


def numbers(entry):
    """{name: number} of a checkpoint."""
    heads = entry["heads"]
    of_all = [name for name in heads[0] if all(name in row for row in heads) and name not in ("layer", "head")]
    means = {name: statistics.fmean(row[name] for row in heads) for name in of_all}
    return means | {"loss": entry["loss"]} | {row["what"]: row["loss_change"] for row in entry["interventions"]}


def file_name(path):
    """A checkpoint's path as a part of a file's name."""
    return re.sub(r"[^\w.-]+", "-", str(path)).strip("-.")


def described(entry):
    """What a figure says of a checkpoint."""
    size = f"{entry['n_layer']} layers of {entry['n_embd']}, {entry['parameters'] / 1e6:.2f}M parameters"
    return f"{entry['attention']}, {size}; {entry['dataset']}, step {entry['step']}, seed {entry['seed']}"


@torch.no_grad()
def draw_maps(out, entry, gpt, ids, tokenizer, layer, head):
    """maps-NAME.png: every head on the tokens ids. map-NAME.png: one of them, large; of differential A₁, λA₂ and A.

    row-NAME.png, of differential alone: the last row of that map.
    """
    name, layer = file_name(entry["name"]), len(gpt.blocks) - 1 if layer is None else layer
    inputs, _ = maps.activations(gpt, ids[None])
    of_layers = [block.attention.attention_map(x)[0] for block, x in zip(gpt.blocks, inputs, strict=True)]
    named = [(f"layer {i}, head {j}", A) for i, heads in enumerate(of_layers) for j, A in enumerate(heads)]
    rows, columns, path = len(of_layers), len(of_layers[0]), out / f"maps-{name}.png"
    with drawing(path, max(5.5, 1.6 * columns + 1.5), 1.6 * rows + 1, rows, columns) as (figure, grid):
        heatmaps(figure, grid, named, None)
        figure.suptitle(f"Attention weights on {len(ids)} tokens\n{described(entry)}", fontsize=9, parse_math=False)

    attention, shown = gpt.blocks[layer].attention, {"A": of_layers[layer][head]}
    words = [spelled(tokenizer.decode([i])) for i in ids.tolist()] if len(ids) <= READABLE else None
    if maps.is_difference(attention, inputs[layer]):
        A1 = attention.both_maps(inputs[layer])[0][0, head]
        shown = {"A₁": A1, "λA₂": A1 - shown["A"], "A = A₁ − λA₂": shown["A"]}
        title = f"The row of the last token, layer {layer}, head {head}\n{described(entry)}"
        draw_row(out / f"row-{name}.png", words, *(shown[of][-1].float().cpu().numpy() for of in ("A₁", "λA₂")), title)
    side = max(4.5 if len(shown) == 1 else 3.2, 0.2 * min(len(ids), READABLE))
    with drawing(out / f"map-{name}.png", len(shown) * side + 1, side + 0.8, 1, len(shown)) as (figure, grid):
        heatmaps(figure, grid, list(shown.items()), words)
        title = f"Layer {layer}, head {head}: a row is a token that looks, a column what it sees (−: negative)"
        figure.suptitle(f"{title}\n{described(entry)}", fontsize=10, parse_math=False)


def draw_row(path, words, first, second, title):
    """The last row of a difference, in what cancels and what is left of it."""
    with drawing(path, max(8, 0.35 * len(first)), 3.2) as (_, (axes,)):
        draw_parts(axes, first, second)
        axes.set_title(title, fontsize=9, parse_math=False)
        axes.set(ylabel="weight", xlabel="token")
        if words:
            axes.set_xticks(range(len(words)), words, parse_math=False)
        axes.legend(fontsize=8)


def spelled(word):
    """A token as a label: ⏎ for a new line, ␣ for a space, · for what cannot be printed."""
    marks = {"\n": "⏎", " ": "␣", "\t": "→", "\ufffd": "·"}
    return "".join(marks.get(c, c if c.isprintable() else "·") for c in word)


def signed_colors():
    from matplotlib.colors import LinearSegmentedColormap

    return LinearSegmentedColormap.from_list("signed", ("#00407a", "#0068be", "white", "#d66e00", "#7a3c00"))


def heatmaps(figure, grid, named, words):
    """Each (title, A TT) of `named` in one of the axes `grid`, on one scale: orange above 0, blue and marked below."""
    from matplotlib.colors import SymLogNorm

    figure.get_layout_engine().set(w_pad=0.12)  # inches, for the words on the left
    hidden = ~maps.visible(named[0][1].size(-1)).numpy()
    drawn = [np.ma.array(A.float().cpu().numpy(), mask=hidden) for _, A in named]
    largest = max(2 * NEAR_ZERO, *(abs(A).max() for A in drawn))
    norm = SymLogNorm(NEAR_ZERO, linscale=0.3, vmin=-largest, vmax=largest)
    for axes, (title, _), A in zip(grid, named, drawn, strict=True):
        image = axes.imshow(A, cmap=signed_colors(), norm=norm, interpolation="nearest")
        axes.set_facecolor("0.88")
        axes.set_title(title, fontsize=11 if words else 8)
        if words:  # in grey, too, it shows which are negative
            y, x = np.nonzero((-A > NEAR_ZERO).filled(False))
            axes.plot(x, y, ls="", marker="_", ms=5, color="white")
            axes.set_xticks(range(len(words)), words, fontsize=9, parse_math=False)
            axes.set_yticks(range(len(words)), words, fontsize=9, parse_math=False)
        else:
            axes.tick_params(labelsize=6)
    ticks = (-1, -0.1, -0.01, 0, 0.01, 0.1, 1)
    figure.colorbar(image, ax=grid, label="weight (grey: the future)", shrink=0.7, ticks=ticks, format="%g")


def draw_learned(out, entry):
    """lam-NAME.png or g-NAME.png: what each layer has learned against steps, where metrics.jsonl has it."""
    for name, rows in entry["learned"].items():
        if len(rows) < 2:
            continue
        with drawing(out / f"{name}-{file_name(entry['name'])}.png", 7, 4.5) as (_, (axes,)):
            steps, *layers = zip(*rows[:-1], strict=True)
            for i, values in enumerate(layers):
                axes.plot(steps, values, color=f"C{i % 10}", marker="osD^vx*+"[i % 8], label=f"layer {i}")
            axes.set(xlabel="step", ylabel="λ" if name == "lam" else f"{name}, mean over the heads of a layer")
            axes.set_title(described(entry), fontsize=9, parse_math=False)
            axes.grid(alpha=0.3)
            axes.legend(fontsize=8)


def draw_mixtures(out, entry):
    """M-NAME.png or P-NAME.png: a matrix that mixes heads, of each layer."""
    for name, layers in entry["mixtures"].items():
        path, n, largest = out / f"{name}-{file_name(entry['name'])}.png", len(layers), np.abs(layers).max()
        with drawing(path, max(7, 1 + 2.2 * n), 3, 1, n) as (figure, grid):
            for i, (axes, M) in enumerate(zip(grid, layers, strict=True)):
                image = axes.imshow(M, cmap=signed_colors(), vmin=-largest, vmax=largest)
                axes.set(title=f"layer {i}", xlabel="of map", xticks=range(len(M[0])), yticks=range(len(M)))
            figure.colorbar(image, ax=grid, label=f"{name}, a row per head", shrink=0.6)
            figure.suptitle(described(entry), fontsize=9, parse_math=False)


def draw_weights(path, entries):
    """How the weights of all maps are distributed, negative ones to the left."""
    edges = maps.EDGES.numpy()
    with drawing(path, 9, 4.5) as (_, (axes,)):
        for i, entry in enumerate(entries):
            share, style = np.array(entry["weights"]), style_of(i, entry)
            del style["marker"]
            axes.stairs(np.where(share > 0, share, np.nan), edges, baseline=None, **style)
        axes.set_xscale("symlog", linthresh=edges[edges > 0].min(), linscale=0.5)
        axes.set_xticks([-1, -1e-2, -1e-4, -1e-6, 1e-6, 1e-4, 1e-2, 1])
        axes.set(xlabel="weight a", ylabel="share of the visible weights per bin", yscale="log")
        axes.set_title("Weights of all layers and heads, 6 bins per factor of 10, one within ±10⁻⁶", fontsize=10)
        axes.legend(fontsize=8)


def style_of(i, entry):
    """The look of checkpoint i: colour and marker are its mechanism's, the dashes its own."""
    return look(entry["attention"]) | {"ls": ("-", "--", "-.", ":")[i % 4], "label": entry["name"]}


def draw_losses(path, entries, source, ngram):
    """Loss by position in the window, and of tokens that repeat an n-gram and of the rest."""
    with drawing(path, 11, 4.5, 1, 2, width_ratios=(2, 1)) as (figure, (left, right)):
        for i, entry in enumerate(entries):
            style = style_of(i, entry)
            y = np.array(entry["by_position"], float)  # None is NaN
            left.plot(range(1, len(y) + 1), y, **style, ms=4, lw=1, markevery=(i, max(1, len(y) // 8)))
            pair = np.array([entry["loss_hit"], entry["loss_rest"]], float)
            right.plot(np.arange(2) + 0.06 * i, pair, **style | {"ls": ""}, ms=6)
        left.set(xlabel="tokens read in the window", ylabel="loss (nats per token)")
        right.set_xticks([0, 1], [f"completes a\nrepeated {ngram}-gram", "the rest"])
        right.set(xlim=(-0.3, 1.5), ylabel="loss (nats per token)")
        left.legend(fontsize=8)
        title = f"Loss on {entries[0]['tokens']:,} tokens of {source}"
        figure.suptitle(f"{title}\n{described(entries[0])}", fontsize=10, parse_math=False)


if __name__ == "__main__":
    run(analyze, program="python -m lab.analyze")
