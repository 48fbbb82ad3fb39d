"""The figures of `lab.analyze`."""

import re

import numpy as np
import torch

from lab.interventions import is_difference
from lab.maps import EDGES, activations, visible
from lab.show import look
from plumbing.figure import new_figure, plain, write_figure

READABLE = 32  # tokens that can be read beside a heatmap
NEAR_ZERO = 1e-3  # colours of weights are on a logarithmic scale down to this, and linear from there to 0
STYLES = ("-", "--", "-.", ":")


def file_name(name):
    """A checkpoint's name as a part of a file's name."""
    return re.sub(r"[^\w.-]+", "-", name).strip("-.")


def description(entry):
    """What a figure says of a checkpoint."""
    size = f"{entry['n_layer']} layers of {entry['n_embd']}, {entry['parameters'] / 1e6:.2f}M parameters"
    return plain(f"{entry['attention']}, {size}; {entry['dataset']}, step {entry['step']}, seed {entry['seed']}")


def description_of_all(entries):
    """What a figure says of several checkpoints: what they share, and their seeds."""
    first, seeds = entries[0], ", ".join(dict.fromkeys(str(entry["seed"]) for entry in entries))
    sizes = dict.fromkeys(f"{e['n_layer']} layers of {e['n_embd']}, T = {e['T']}" for e in entries)
    return plain(f"{', '.join(sizes)}; trained on {first['dataset']}, seed{'s' * (',' in seeds)} {seeds}")


def style_of(i, entry):
    """The look of checkpoint i: colour and marker are its mechanism's, as in every figure, the dashes its own."""
    return {**look(entry["attention"]), "ls": STYLES[i % 4], "label": plain(entry["name"])}


def spelled(ids, tokenizer):
    """A label for each token: ⏎ for a new line, ␣ for a space, · for what the font of figures does not have."""
    from matplotlib.font_manager import findfont, get_font

    known = get_font(findfont("DejaVu Sans")).get_charmap()
    marks = {"\n": "⏎", " ": "␣", "\t": "→", "\ufffd": "·"}
    words = [tokenizer.decode([i]) for i in ids]
    return ["".join(marks.get(c, c if c.isprintable() and ord(c) in known else "·") for c in word) for word in words]


# ---------------------------------------------------------------------------- maps of one checkpoint


@torch.no_grad()
def draw_maps(out, entry, gpt, ids, tokenizer, layer, head):
    """maps-NAME.png: every head on the tokens ids. map-NAME.png: one of them, large; of differential also its A₁."""
    name = file_name(entry["name"])
    inputs, _ = activations(gpt, ids[None])
    maps = [block.attention.map(x)[0] for block, x in zip(gpt.blocks, inputs, strict=True)]
    rows, columns = len(maps), len(maps[0])
    figure, grid = new_figure(max(5.5, 1.6 * columns + 1.5), 1.6 * rows + 1, rows, columns)
    named = [(f"layer {i}, head {j}", A) for i, layer_maps in enumerate(maps) for j, A in enumerate(layer_maps)]
    heatmaps(figure, grid, named, None)
    figure.suptitle(f"Attention weights on {len(ids)} tokens\n{description(entry)}", fontsize=9)
    write_figure(out / f"maps-{name}.png", figure)

    attention, shown = gpt.blocks[layer].attention, {"A": maps[layer][head]}
    if is_difference(attention, inputs[layer]):
        shown = {"A₁": attention.maps(inputs[layer])[0][0, head], "A = A₁ − λA₂": shown["A"]}
    side = max(4.5, 0.2 * min(len(ids), READABLE))
    figure, grid = new_figure(side + 1, len(shown) * side + 0.5, len(shown), 1)
    words = spelled(ids.tolist(), tokenizer) if len(ids) <= READABLE else None
    heatmaps(figure, grid, list(shown.items()), words)
    title = f"Layer {layer}, head {head}: a row is a token that looks, a column what it sees (−: negative)"
    figure.suptitle(f"{title}\n{description(entry)}", fontsize=10)
    write_figure(out / f"map-{name}.png", figure)


def signed_colors():
    """Orange above the middle, blue below, as on the page of lab.page."""
    from matplotlib.colors import LinearSegmentedColormap

    return LinearSegmentedColormap.from_list("signed", ("#00407a", "#0068be", "white", "#d66e00", "#7a3c00"))


def heatmaps(figure, grid, maps, words):
    """Each (title, A TT) of `maps` in one of the axes `grid`, on one scale: orange above 0, blue and marked below."""
    from matplotlib.colors import SymLogNorm

    figure.get_layout_engine().set(w_pad=0.12)  # inches, for the words on the left
    hidden = ~visible(maps[0][1].size(-1))
    drawn = [np.ma.array(A.float().cpu().numpy(), mask=hidden.numpy()) for _, A in maps]
    largest = max(2 * NEAR_ZERO, *(abs(A).max() for A in drawn))
    norm = SymLogNorm(NEAR_ZERO, linscale=0.3, vmin=-largest, vmax=largest)
    for axes, (title, _), A in zip(grid, maps, drawn, strict=True):
        image = axes.imshow(A, cmap=signed_colors(), norm=norm, interpolation="nearest")
        if words:  # in grey, too, it shows which are negative
            y, x = np.nonzero((-A > NEAR_ZERO).filled(False))
            axes.plot(x, y, ls="", marker="_", ms=5, color="white")
        axes.set_facecolor("0.88")
        axes.set_title(title, fontsize=8 if words is None else 11)
        if words is None:
            axes.tick_params(labelsize=6)
        else:
            axes.set_xticks(range(len(words)), words, fontsize=9, parse_math=False, family="DejaVu Sans")
            axes.set_yticks(range(len(words)), words, fontsize=9, parse_math=False, family="DejaVu Sans")
    figure.colorbar(image, ax=grid, label="weight (grey: the future, hidden)", shrink=0.6)


def draw_learned(out, entry):
    """lam-NAME.png or g-NAME.png: what each layer has learned against steps, where metrics.jsonl has it."""
    for name, values_of in entry["learned"].items():
        if not values_of["over_training"]:
            continue
        figure, (axes,) = new_figure(7, 4.5)
        steps, *layers = zip(*values_of["over_training"], strict=True)
        for i, values in enumerate(layers):
            axes.plot(steps, values, color=f"C{i % 10}", marker="osD^vx*+"[i % 8], ls=STYLES[i % 4])
            axes.annotate(f"   layer {i}", (steps[-1], values[-1]), va="center", fontsize=8)
        axes.margins(x=0.14)
        axes.set(xlabel="step", ylabel="λ" if name == "lam" else f"{name}, mean over the heads of a layer")
        axes.set_title(description(entry), fontsize=9)
        axes.grid(alpha=0.3)
        write_figure(out / f"{name}-{file_name(entry['name'])}.png", figure)


def draw_mixtures(out, entry):
    """M-NAME.png or P-NAME.png: a matrix that mixes heads, of each layer, with its numbers."""
    for name, layers in entry["mixtures"].items():
        figure, grid = new_figure(1 + 2.2 * len(layers), 3.5, 1, len(layers))
        largest, heads, digits = np.abs(layers).max(), range(len(layers[0])), 2 if len(layers[0]) <= 4 else 1
        for i, (axes, M) in enumerate(zip(grid, layers, strict=True)):
            axes.imshow(M, cmap=signed_colors(), vmin=-largest, vmax=largest)
            for (h, g), number in np.ndenumerate(M):
                style = {"ha": "center", "va": "center", "fontsize": 8}
                style["color"] = "white" if abs(number) > 0.6 * largest else "black"
                axes.annotate(f"{number:.{digits}f}".replace("-", "−"), (g, h), **style)
            axes.set(title=f"layer {i}", xlabel="of map", xticks=heads, yticks=heads)
        grid[0].set_ylabel("head")
        figure.suptitle(
            f"{name}: how much of each map{' of scores' * (name == 'P')} each head takes\n{description(entry)}",
            fontsize=9,
        )
        write_figure(out / f"{name}-{file_name(entry['name'])}.png", figure)


# ---------------------------------------------------------------------------- all checkpoints


def draw_weights(path, entries):
    """How the weights of all maps are distributed, negative ones to the left."""
    figure, (axes,) = new_figure(9, 4.5)
    for i, entry in enumerate(entries):
        share, style = np.array(entry["weights"]), style_of(i, entry)
        del style["marker"]
        axes.stairs(np.where(share > 0, share, np.nan), EDGES.numpy(), baseline=None, lw=1.2, **style)
    axes.axvspan(-0.01, 0.01, color="0.92", zorder=0, label="near zero: within ±0.01")
    axes.set_xscale("symlog", linthresh=EDGES[EDGES > 0].min().item(), linscale=0.5)
    axes.set_xticks([-1, -1e-2, -1e-4, -1e-6, 1e-6, 1e-4, 1e-2, 1])
    if any(share > 0 for entry in entries for share in entry["weights"]):  # of a diverged model all may be nan
        axes.set_yscale("log")
    axes.set(xlabel="weight a", ylabel="share of the visible weights per bin")
    title = "Weights of all layers and heads, 6 bins per decade, one within ±10⁻⁶"
    axes.set_title(f"{title}\n{description_of_all(entries)}", fontsize=10)
    axes.grid(alpha=0.3)
    axes.legend(fontsize=8)
    write_figure(path, figure)


def draw_losses(path, entries, source, ngram):
    """Loss by position in the window, and of tokens that repeat an n-gram and of the rest."""
    figure, (left, right) = new_figure(11, 4.5, 1, 2, width_ratios=(2, 1))
    for i, entry in enumerate(entries):
        style, loss = style_of(i, entry), entry["loss"]
        y = np.array(loss["by_position"], float)  # None is NaN
        left.plot(range(1, len(y) + 1), y, **style, ms=4, lw=1, markevery=(i, max(1, len(y) // 8)))
        pair, errors = (np.array([loss[f"{name}{of}"] for name in ("hit", "rest")], float) for of in ("", "_error"))
        right.errorbar(np.arange(2) + 0.06 * i, pair, errors, **style | {"ls": ""}, ms=6, capsize=3)
    left.set(xlabel="tokens read in the window", ylabel="loss (nats per token)")
    right.set_xticks([0, 1], [f"completes a\nrepeated {ngram}-gram", "the rest"])
    right.set(xlim=(-0.3, 1.5), ylabel="loss (nats per token), standard error")
    left.legend(fontsize=8)
    for axes in (left, right):
        axes.grid(alpha=0.3)
    title = f"Loss on {entries[0]['tokens']:,} tokens of {plain(source)}"
    figure.suptitle(f"{title}\n{description_of_all(entries)}", fontsize=10)
    write_figure(path, figure)


def draw_needles(path, entries):
    """Queries answered, by the number of needles, by how deep the needle lies, and by the length of the context."""
    entries = [entry for entry in entries if "needles" in entry]
    figure, grid = new_figure(13, 4.2, 1, 3, sharey=True)
    ways = (("by_n", "needles", "needles in the context"), ("by_depth", "depth", "depth of the needle (0: first)"))
    ways = (*ways, ("by_length", "length", "tokens in the context"))
    for axes, (way, x, label) in zip(grid, ways, strict=True):
        for i, entry in enumerate(entries):
            rows = entry["needles"][way]
            axes.plot([row[x] for row in rows], [row["exact"] for row in rows], **style_of(i, entry), ms=5)
        axes.set(xlabel=label, ylim=(-0.03, 1.03))
        axes.grid(alpha=0.3)
    first, most = grid[0], entries[0]["needles"]["by_n"][-1]["needles"]
    first.plot(
        range(1, most + 1), [1 / n for n in range(1, most + 1)], color="0.5", lw=1, label="a guess among the needles"
    )
    first.set(ylabel="queries answered exactly (share)", xticks=range(1, most + 1))
    first.legend(fontsize=8)
    counts = f"{entries[0]['needles']['by_depth'][0]['of']} queries per point"
    title = f"Needles with held-out cities and numbers, {counts}"
    figure.suptitle(f"{title}\n{description_of_all(entries)}", fontsize=10)
    write_figure(path, figure)


# ---------------------------------------------------------------------------- the page
