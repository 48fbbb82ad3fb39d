"""What attention does in trained models: numbers and figures, and a page to look at it token by token.

python analyze.py out/NAME [more checkpoints]                      on the validation split
python analyze.py out/NAME --text="to be or not to be" --html      a page: hover over a token of your own text

Numbers of a map: how its weights are spread. They are functions of A, BHTT, and give one number a window and head, BH,
a mean over its rows; only what a row can see counts. Signed rows have one normalisation everywhere, `shares`.
Interventions: what the loss becomes if a part of the map is taken away, which tells whether that part carries anything.

Shapes: B windows, T time, C channels, H heads, D query width, E value width, V vocabulary.
"""

import contextlib
import functools
import itertools
import json
import math
import random
import re
import statistics
import sys
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from tqdm import tqdm

from bench import look, table
from configurable import UsageError, run
from model import Differential, softmax1
from prepare import NEEDLE, QUERY, Tokenizer, hide, shortest
from train import (
    check_record,
    find_device,
    gather,
    load_dataset,
    load_model,
    name_of,
    origin,
    read_metrics,
    scored,
    watched,
    write_figure,
    write_whole,
)

HOVER = Path(__file__).parent / "docs/hover.html"
READABLE = 48  # tokens beside a heatmap
BIG = 1 << 24  # weights of maps to hold at once


def analyze(
    *checkpoints: str,  # runs' folders (their best.pt) or checkpoint files
    text: str | None = None,  # what the heatmaps and the page show; none: the beginning of the validation split
    text_file: str | None = None,  # a file with that text, instead
    dataset: str | None = None,  # folder under data/ whose validation split is read; none: the first checkpoint's
    tokens: int = 65536,  # of the validation split, for losses
    windows: int = 16,  # of block_size tokens, spread over these, for the numbers of maps and activations
    layer: int | None = None,  # of the large heatmap, from 0; none: the last
    head: int = 0,  # of the large heatmap, from 0
    html: bool = False,  # also write page.html, which shows every map of all checkpoints on that text
    ngram: int | None = None,  # tokens of an n-gram whose repetition is told apart; none: 4 in bytes, 2 in others
    out_dir: str = "out/analysis",  # folder for analysis.json and figures
    device: str = "auto",  # cpu, cuda ...; auto: cuda where there is one, else cpu
):
    """Look into trained models; tables go to the terminal, analysis.json and figures to out_dir. Returns the report.

    Where the dataset is not there, a given text is all that is read.
    """
    device, out = find_device(device), Path(out_dir)
    check(checkpoints, tokens, windows, ngram)
    models = [load_model(path, device) for path in checkpoints]
    names = labels(checkpoints, models)
    check_models(names, models, layer, head)
    tokenizer = Tokenizer.thaw(models[0][1]["tokenizer"], checkpoints[0])
    ids = read_text(text, text_file, tokenizer, names, models)
    source, val, record = read_val(dataset, names, models, ids is not None)
    ids = gather(val, np.arange(min(READABLE, len(val), block_size(models)))).cpu() if ids is None else ids
    ngram = ngram or (2 if tokenizer.encoding else 4)
    about = {name: value for name, value in origin(Path(__file__).parent).items() if name in ("versions", "commit")}
    report = {"command": sys.argv, "device": name_of(device), **about, "source": source, "ngram": ngram}
    report["checkpoints"] = []
    out.mkdir(parents=True, exist_ok=True)
    for name, path, (gpt, saved) in zip(names, checkpoints, models, strict=True):
        x, y = cut(ids if val is None else val, tokens, gpt, record)
        entry = {"name": name, "path": str(path), "parameters": gpt.n_params(), "step": saved["step"]}
        entry |= {"seed": saved["options"]["seed"], "dataset": saved["options"]["dataset"], **saved["config"]}
        entry |= look_into(gpt, x, y, windows, ngram, name) | {"learned": learned(gpt, path)}
        if task := saved["data"].get("needles"):
            entry["needles"] = find_needles(gpt, **task)
        report["checkpoints"].append(entry)
        show(entry)
        draw_maps(out, entry, gpt, ids.to(device), tokenizer, len(gpt.blocks) - 1 if layer is None else layer, head)
        draw_learned(out, entry)
    show_all(report["checkpoints"])
    whole = json.dumps(report, indent=1, allow_nan=False)
    write_whole(out / "analysis.json", lambda file: file.write(whole.encode()))
    draw_weights(out / "weights.png", report["checkpoints"])
    draw_losses(out / "losses.png", report["checkpoints"], source, ngram)
    if any("needles" in entry for entry in report["checkpoints"]):
        draw_needles(out / "needles.png", report["checkpoints"])
    if html:
        whole = page([tokenizer.decode([i]) for i in ids.tolist()], list(all_maps(ids, names, models)))
        write_whole(out / "page.html", lambda file: file.write(whole.encode()))
    print(f"\n{out}: analysis.json, {'page.html ' * html}and figures")
    return report


# ---------------------------------------------------------------------------- what is looked at


def check(checkpoints, tokens, windows, ngram):
    """Raises UsageError for a number out of range, and for no checkpoint at all."""
    if not checkpoints:
        there = sorted(path.parent.as_posix() for path in Path("out").glob("*/best.pt"))
        raise UsageError(f"CHECKPOINTS is missing: {'there is ' + ', '.join(there) if there else 'train.py makes one'}")
    for name, value, least in (("tokens", tokens, 1), ("windows", windows, 1), ("ngram", ngram, 2)):
        if value is not None and value < least:
            raise UsageError(f"{name}={value}: must be at least {least}")


def labels(checkpoints, models):
    """What each is called: its mechanism, or its path where two have the same. Raises UsageError for one path twice."""
    kinds, files = [gpt.config.attention for gpt, _ in models], [in_a_file(str(path)) for path in checkpoints]
    if twice := [path for path, file in zip(checkpoints, files, strict=True) if files.count(file) > 1]:
        raise UsageError(
            f"{twice[0]} is given twice, or the files of {' and '.join(map(str, twice))} would be the same"
        )
    return [kind if kinds.count(kind) == 1 else str(path) for kind, path in zip(kinds, checkpoints, strict=True)]


def check_models(names, models, layer, head):
    """Raises UsageError for models that cannot be compared, a layer or a head that one of them does not have."""
    first, saved = names[0], models[0][1]
    for name, (gpt, other) in zip(names, models, strict=True):
        if other["tokenizer"] != saved["tokenizer"]:
            kinds = f"{name} has {other['data']['tokenizer']}, {first} {saved['data']['tokenizer']}"
            raise UsageError(f"the losses of different tokenizers cannot be compared: {kinds}")
        n_layer, n_head = len(gpt.blocks), gpt.blocks[0].attention.n_heads[2]
        for what, value, n in (("layer", n_layer - 1 if layer is None else layer, n_layer), ("head", head, n_head)):
            if not 0 <= value < n:
                raise UsageError(f"{what}={value}: {name} has {what}s 0 to {n - 1}")


def block_size(models):
    """The tokens that all of the models can see at once."""
    return min(gpt.config.block_size for gpt, _ in models)


def read_text(text, text_file, tokenizer, names, models):
    """The ids of a text to look at, T int64, or None where there is none. Raises UsageError."""
    if text is not None and text_file is not None:
        raise UsageError("give a text or a text_file, not both")
    if text_file is not None:
        try:
            text = Path(text_file).read_bytes()
        except (OSError, ValueError) as error:
            raise UsageError(f"cannot read text_file={text_file}: {getattr(error, 'strerror', error)}") from None
    if text is None:
        return None
    ids = torch.from_numpy(tokenizer.encode(text, text_file or "the text").astype(np.int64))
    if len(ids) < 2:
        raise UsageError(f"the text has {len(ids)} token{'s' * (len(ids) != 1)}: 2 is the least")
    if len(ids) > (T := block_size(models)):
        name = next(name for name, (gpt, _) in zip(names, models, strict=True) if gpt.config.block_size == T)
        raise UsageError(f"the text has {len(ids)} tokens, and {name} sees {T} at once: give at most {T}")
    check_vocabulary("the text", int(ids.max()), names, models)
    return ids


def read_val(dataset, names, models, text_will_do):
    """(what losses are of, tokens of the validation split, its `record`). Raises UsageError.

    No tokens where the dataset is missing and may be. Its tokenizer must be the models'.
    """
    saved = models[0][1]
    device = models[0][0].device
    try:
        folder, meta, tokens = load_dataset(dataset or saved["options"]["dataset"], device, 1)
    except UsageError as error:
        if text_will_do and dataset is None:
            print(f"{error}; the text is all that is read")
            return "the text", None, None
        raise
    if meta["tokenizer"] != saved["data"]["tokenizer"]:
        raise UsageError(f"{folder} is in {meta['tokenizer']}, {names[0]} reads {saved['data']['tokenizer']}")
    check_vocabulary(folder, meta["vocab_size"] - 1, names, models)
    for gpt, _ in models:
        check_record(folder, meta.get("record"), gpt.config.block_size)
    for name, (_, other) in zip(names, models, strict=True):
        if other["data"]["train"]["sha256"] != meta["train"]["sha256"]:
            print(f"{name} was trained on another text than {folder}: it may have seen some of its validation split")
    return folder.name, tokens["val"], meta.get("record")


def check_vocabulary(what, largest, names, models):
    """Raises UsageError where a model has no row for a token."""
    for name, (gpt, _) in zip(names, models, strict=True):
        if largest >= gpt.config.vocab_size:
            n = gpt.config.vocab_size
            raise UsageError(f"{what} has token {largest}, and the vocabulary of {name} is 0 to {n - 1}")


def cut(tokens, n, gpt, record=None):
    """Windows of block_size and what follows each of their tokens, x and y BT: whole ones from the first n tokens.

    y is −1 for the tokens of a record that do not count.
    """
    T = min(gpt.config.block_size, len(tokens) - 1)
    count = max(1, min(n, len(tokens) - 1) // T)
    part = gather(tokens, np.arange(count * T + 1)).to(gpt.device)
    return part[:-1].view(-1, T), scored(part[1:].view(-1, T), record)


# ---------------------------------------------------------------------------- numbers of a map: BHTT -> BH


def visible(T, device=None):
    """What each row of a map sees, TT: itself and what came before."""
    return torch.ones(T, T, dtype=torch.bool, device=device).tril()


def shares(A):
    """|a| / Σ|a| of each row, BHTT: how attention is divided, whatever its sign and its sum."""
    return A.abs() / A.abs().sum(-1, keepdim=True).clamp_min(1e-30)


def row_sum(A):
    """Σ a of a row: 1 for softmax, less for softmax1, 1 − λ for differential."""
    return A.sum(-1).mean(-1)


def negative_share(A):
    """Share of a row's visible weights that are below 0."""
    return ((A < 0).sum(-1) / visible(A.size(-1), A.device).sum(-1)).mean(-1)


def negative_mass(A):
    """Σ|a| of a row's negative weights over Σ|a| of all."""
    return (shares(A) * (A < 0)).sum(-1).mean(-1)


def small_share(A, eps):
    """Share of a row's visible weights with |a| ≤ eps; eps = 0 counts exact zeros."""
    seen = visible(A.size(-1), A.device)
    return (((A.abs() <= eps) & seen).sum(-1) / seen.sum(-1)).mean(-1)


def entropy(A):
    """−Σ s log s of a row's shares s, nats: 0 on one token, log n if spread evenly over n."""
    return torch.special.entr(shares(A)).sum(-1).mean(-1)


def effective_tokens(A):
    """exp(entropy) of a row: over how many tokens it is spread."""
    return torch.special.entr(shares(A)).sum(-1).exp().mean(-1)


def on_first(A):
    """Share of a row on the first token, in rows 1 on: the sink."""
    return shares(A)[..., 1:, 0].mean(-1) if A.size(-1) > 1 else A.new_ones(A.shape[:2])


def on_itself(A):
    """Share of a row on its own token."""
    return shares(A).diagonal(0, -2, -1).mean(-1)


def on_previous(A):
    """Share of a row on the token before it, in rows 1 on."""
    return shares(A).diagonal(-1, -2, -1).mean(-1) if A.size(-1) > 1 else A.new_zeros(A.shape[:2])


def head_cosine(A):
    """Cosine of a row with the same row of another head, mean over the other heads; 1 where there is no other."""
    H, unit = A.size(1), F.normalize(A, dim=-1)
    if H == 1:
        return A.new_ones(A.shape[:2])
    return torch.einsum("bhtn,bgtn->bht", unit, unit).sub(1).mean(-1) / (H - 1)


def cosine(A1, A2):
    """Cosine of a row of A₁ and the same row of A₂."""
    return F.cosine_similarity(A1, A2, dim=-1).mean(-1)


def correlation(A1, A2):
    """Pearson's correlation of the visible weights of a row of A₁ and of A₂, in rows 1 on; 0 for a constant row."""
    seen = visible(A1.size(-1), A1.device)
    A1, A2 = (torch.where(seen, A - A.sum(-1, keepdim=True) / seen.sum(-1, keepdim=True), 0) for A in (A1, A2))
    return F.cosine_similarity(A1, A2, dim=-1)[..., 1:].mean(-1) if A1.size(-1) > 1 else A1.new_zeros(A1.shape[:2])


def context_rms(A, v):
    """Root mean square of A V over that of V, BHTE: how much shorter attention makes what it mixes."""
    return (A @ v).square().mean((-2, -1)).sqrt() / v.square().mean((-2, -1)).sqrt()


def outside_box(A, v):
    """Distance of a row of A V from the box [min, max] a channel of the values it sees, V BHTE, root mean square over
    channels and relative to that of V: at most the distance to their hull, where softmax stays. (That of softmax1 has
    a corner at 0, the box here has not.)
    """
    y = A @ v
    beyond = (y - v.cummax(-2).values).relu() + (v.cummin(-2).values - y).relu()
    return beyond.square().mean(-1).sqrt().mean(-1) / v.square().mean((-2, -1)).sqrt()


def sink_rate(first):
    """Share of heads whose mean share on the first token, `first`, exceeds 0.3 (https://arxiv.org/abs/2410.10781)."""
    return sum(share > 0.3 for share in first) / len(first)


OF_A_MAP = {f.__name__: f for f in (row_sum, negative_share, negative_mass, entropy, effective_tokens)}
OF_A_MAP |= {f.__name__: f for f in (on_first, on_itself, on_previous, head_cosine)}
OF_A_MAP |= {f"at_most_{eps:g}": functools.partial(small_share, eps=eps) for eps in (1e-2, 1e-3, 1e-4, 1e-5, 0)}


def parts(attention, x):
    """x BT… in as few parts as can be, so that the maps of each are no more than BIG."""
    return x.split(max(1, BIG // (attention.n_heads[0] * x.size(1) ** 2)))


def of_heads(attention, x):
    """[{name: number}], one for each head of a layer whose input is x BTC: means over windows."""
    found = {}
    for part in parts(attention, x):
        A, v = attention.map(part), attention.project(part)[2]
        numbers = {name: function(A) for name, function in OF_A_MAP.items()}
        numbers |= {"context_rms": context_rms(A, v), "outside_box": outside_box(A, v)}
        if isinstance(attention, Differential):
            A1, A2 = attention.maps(part)
            numbers |= {"A1_A2_cosine": cosine(A1, A2), "A1_A2_correlation": correlation(A1, A2)}
            numbers |= {f"A1_{f.__name__}": f(A1) for f in (effective_tokens, on_first)}
        for name, value in numbers.items():
            found.setdefault(name, []).append(value)
    means = {name: torch.cat(values).mean(0).tolist() for name, values in found.items()}
    return [{name: values[h] for name, values in means.items()} for h in range(len(means["row_sum"]))]


EDGES = 10 ** torch.linspace(-6, 0, 37)  # of the bins in which weights are counted, and their negatives
EDGES = torch.cat((-EDGES.flip(0), EDGES))


def histogram(attention, x):
    """Visible weights in each bin of EDGES, floats: what lies beyond ±1 is counted at the end."""
    seen, counts = visible(x.size(1), x.device), torch.zeros(len(EDGES) - 1)
    for part in parts(attention, x):
        counts += torch.histogram(attention.map(part)[..., seen].float().cpu().clamp(-1, 1), EDGES).hist
    return counts


# ---------------------------------------------------------------------------- activations


def activations(gpt, tokens):
    """Inputs of each layer's attention, and outputs of each block, two lists of BTC, for tokens BT."""
    inputs, outputs, hooks = [[] for _ in gpt.blocks], [[] for _ in gpt.blocks], []
    for block, into, out in zip(gpt.blocks, inputs, outputs, strict=True):
        hooks.append(block.attention.register_forward_pre_hook(lambda _, args, into=into: into.append(args[0])))
        hooks.append(block.register_forward_hook(lambda _, args, y, out=out: out.append(y)))
    try:
        for part in tokens.split(batch_size(tokens)):
            gpt(part)
    finally:
        for hook in hooks:
            hook.remove()
    return [torch.cat(x) for x in inputs], [torch.cat(x) for x in outputs]


def batch_size(tokens):
    """Windows BT that a model reads at once."""
    return max(1, 4096 // tokens.size(1))


def scores(attention, mix, x, q, k, v):
    """S of all its softmax maps, BHTT: what `mix` gives to softmax, scaled, and nothing hidden yet."""
    seen = []

    def note(attention, attend, q, k, v, null=False, scale=None):
        seen.append(scaled(q, k, scale))
        return torch.zeros_like(v)

    with replaced([attention], attend=note):
        mix(x, q, k, v)
    return torch.cat(seen, 1)


def scaled(q, k, scale):
    return (q.size(-1) ** -0.5 if scale is None else scale) * q @ k.mT


def outliers(x):
    """The 1st, 2nd, 3rd, 10th and 100th largest of |x|, and the median: table 5 of arXiv 2410.05258."""
    sizes = x.abs().flatten()
    top = sizes.topk(min(100, len(sizes))).values.tolist()
    return {f"top_{i}": top[i - 1] for i in (1, 2, 3, 10, 100) if i <= len(top)} | {"median": sizes.median().item()}


def kurtosis(x):
    """Mean of z⁴, z the standardised x: 3 for a normal distribution, larger where outliers are."""
    centred = x.cpu().double() - x.cpu().double().mean()  # a GPU of Apple's has no float64
    return (centred.pow(4).mean() / centred.square().mean().square().clamp_min(1e-30)).item()


def inf_norm(x):
    """Largest |x| in a window, mean over windows; x LBTC."""
    return x.abs().amax((0, 2, 3)).mean().item()


def all_outliers(gpt, inputs, outputs):
    """Rows for the visible attention logits and for the hidden states (a block's output), a layer and all together.

    Of the logits as many windows are taken as BIG holds.
    """
    found, seen = {"logits": [], "hidden": outputs}, visible(inputs[0].size(1), inputs[0].device)
    for block, x in zip(gpt.blocks, inputs, strict=True):
        attention, x = block.attention, parts(block.attention, x)[0]
        found["logits"].append(scores(attention, attention.mix, x, *attention.project(x))[..., seen])
    rows = []
    for what, layers in found.items():
        for layer, x in [*enumerate(layers), ("all", torch.stack(layers))]:
            row = {"of": what, "layer": layer, **outliers(x), "kurtosis": kurtosis(x)}
            rows.append(row | ({"inf_norm": inf_norm(x)} if what == "hidden" and layer == "all" else {}))
    return rows


# ---------------------------------------------------------------------------- losses


def losses(gpt, x, y):
    """Loss of each token, nats, BT: x what is read, y what comes next; NaN where y is −1, which does not count."""
    n, found = batch_size(x), []
    for tokens, targets in zip(x.split(n), y.split(n), strict=True):
        logits = gpt(tokens).flatten(0, 1)
        nats = F.cross_entropy(logits, targets.flatten(), reduction="none", ignore_index=-1).view_as(targets)
        found.append(nats.where(targets >= 0, math.nan))
    return torch.cat(found)


def completes(x, y, n):
    """Which of the tokens y complete an n-gram that is in their window already, BT bool.

    "AR-hit" of arXiv 2410.05258, table 6, after 2312.04927, but for every n-gram: also those frequent in training.
    """
    text = torch.cat((x, y[:, -1:]), 1)
    count = text.size(1) - n + 1  # of n-grams in a window; the i-th ends with token y[:, i + n - 2]
    hit = torch.zeros_like(y, dtype=torch.bool)
    if count > 1:
        earlier = torch.ones(count, count, dtype=torch.bool, device=x.device).tril(-1)
        for row, tokens in zip(hit, text, strict=True):
            grams = tokens.unfold(0, n, 1)
            same = functools.reduce(torch.logical_and, (c[:, None] == c for c in grams.T), earlier)
            row[n - 2 :] = same.any(1)
    return hit


def split_losses(nats, hit):
    """The mean of losses BT, of those that `hit` says and of the rest with its standard error, and at each position."""
    counts = ~nats.isnan()
    mean = {"all": nats.nanmean().item(), "hit_share": hit[counts].float().mean().item()}
    for name, which in (("hit", hit & counts), ("rest", ~hit & counts)):
        mean[name] = nats[which].mean().item() if which.any() else None
        mean[f"{name}_error"] = (nats[which].std() / which.sum().sqrt()).item() if which.sum() > 1 else None
    return mean | {"by_position": [None if math.isnan(z) else z for z in nats.nanmean(0).tolist()]}


def change(before, after):
    """Mean change of losses BT, nats a token, and its standard error over windows."""
    by_window = (after - before).cpu().double().nanmean(1)
    error = by_window.std().item() / math.sqrt(len(by_window)) if len(by_window) > 1 else None
    return {"loss_change": by_window.mean().item(), "standard_error": error}


# ---------------------------------------------------------------------------- interventions


@contextlib.contextmanager
def replaced(attentions, **functions):
    """Inside, a call of method NAME of each attention is functions[NAME](attention, the method, what it is given)."""
    for attention, (name, function) in itertools.product(attentions, functions.items()):
        assert name not in vars(attention), f"{name} is replaced already"
        setattr(attention, name, functools.partial(function, attention, getattr(attention, name)))
    try:
        yield
    finally:
        for attention, name in itertools.product(attentions, functions):
            delattr(attention, name)


def edited(edit):
    """A `mix` for `replaced` that gives A' V, A' = edit(attention, A, A₂), each BHTT; A₂ is None if there is one map.

    The head norm of differential comes after: it gives the output its length again, whatever A' has lost.
    """

    def mix(attention, original, x, q, k, v):
        identity = torch.eye(v.size(2), dtype=v.dtype, device=v.device).expand(*v.shape[:2], -1, -1)
        two = isinstance(attention, Differential)
        A2 = attention.attend(q[:, 1::2], k[:, 1::2], identity) if two else None
        return edit(attention, original(x, q, k, identity), A2) @ v

    return mix


def quantised(bits):
    """A `mix` for `replaced` whose logits S are rounded to 2^bits − 1 values from −max|S| to max|S| of what is visible.

    One scale for all maps of a layer in a window; nothing else is rounded.
    """

    def attend(step, attention, original, q, k, v, null=False, scale=None):
        S = (scaled(q, k, scale) / step).round() * step
        S = S.masked_fill(~visible(q.size(2), q.device), -math.inf)
        return (softmax1(S) if null else S.softmax(-1)) @ v

    def mix(attention, original, x, q, k, v):
        S = scores(attention, original, x, q, k, v) * visible(x.size(1), x.device)
        step = (S.abs().amax((1, 2, 3), keepdim=True) / (2 ** (bits - 1) - 1)).clamp_min(1e-30)
        with replaced([attention], attend=functools.partial(attend, step)):
            return original(x, q, k, v)

    return mix


def without_first(means, attention, A, A2):
    """A without the weight on the first token, but in row 0, which sees no other."""
    kept = torch.ones(A.shape[-2:], device=A.device)
    kept[1:, 0] = 0
    return A * kept


def without_second(means, attention, A, A2):
    """A₁ alone: λ = 0."""
    return A + attention.lam * A2


def even_second(means, attention, A, A2):
    """A₁ − λU, U spread evenly over what a row sees: the mean of A₂'s row in place of each of its weights."""
    seen = visible(A.size(-1), A.device)
    return A + attention.lam * (A2 - seen / seen.sum(-1, keepdim=True))


def mean_second(means, attention, A, A2):
    """A₁ − λM₂, M₂ the mean of A₂ over windows, means[attention][1]: it knows positions and no content."""
    return A + attention.lam * (A2 - means[attention][1])


EDITS = {  # edit(means, attention, A, A₂), means[attention] those of A and A₂ over windows
    "weights within ±0.001 by 0": lambda means, attention, A, A2: A.where(A.abs() >= 1e-3, 0),
    "first token by 0": without_first,
    "A by its mean": lambda means, attention, A, A2: means[attention][0].expand_as(A),
}
DIFFERENTIAL_EDITS = {
    "negative by 0": lambda means, attention, A, A2: A.clamp(min=0),
    "λ by 0": without_second,
    "A₂ by its row's mean": even_second,
    "A₂ by its mean": mean_second,
}


def mean_maps(attention, x):
    """The means over windows of A and of A₂ (None if there is one map), HTT."""
    total = [0, 0]
    for part in parts(attention, x):
        total[0] = total[0] + attention.map(part).sum(0)
        if isinstance(attention, Differential):
            total[1] = total[1] + attention.maps(part)[1].sum(0)
    return total[0] / len(x), total[1] / len(x) if isinstance(attention, Differential) else None


def interventions(gpt, inputs, x, y, before, bar):
    """Rows: what each of EDITS and 8, 6 and 4 bits for the logits do to the losses `before` BT of x, y; all layers.

    Means over windows are of those whose `inputs` of attention are given.
    """
    attentions = [block.attention for block in gpt.blocks]
    means = {a: mean_maps(a, z) for a, z in zip(attentions, inputs, strict=True)}
    edits = EDITS | (DIFFERENTIAL_EDITS if isinstance(attentions[0], Differential) else {})
    mixes = {name: edited(functools.partial(edit, means)) for name, edit in edits.items()}
    mixes |= {f"logits in {bits} bits": quantised(bits) for bits in (8, 6, 4)}
    rows = []
    for name, mix in mixes.items():
        with replaced(attentions, mix=mix):
            rows.append({"what": name, **change(before, losses(gpt, x, y))})
        bar.update()
    return rows


# ---------------------------------------------------------------------------- needles


@torch.no_grad()
def find_needles(gpt, n_needles, n_queries, length, n=400):
    """What a model finds of prepare.py's needles, and where it looks: in `n` new contexts a row, of held-out cities and
    numbers, the same for every model. Only the first query counts: an answer may help with those after it.

    {"by_n", "by_depth", "by_length": rows of `exact`, "attention": rows of `looked_at`}
    """
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
    """Share of first queries answered exactly: every digit is the likeliest, those before it being right."""
    _, tokens = in_contexts(n, n_needles, n_queries, length, depth)
    logits = [gpt(part).cpu() for part in tokens.to(gpt.device).split(batch_size(tokens))]
    right = torch.cat(logits)[:, :-1].argmax(-1) == tokens[:, 1:]
    digits = right[:, -QUERY * n_queries :][:, QUERY - 3 : QUERY]
    row = {"needles": n_needles, "length": length} | ({} if depth is None else {"depth": depth})
    return row | {"exact": digits.all(-1).float().mean().item(), "of": n}


def looked_at(gpt, n, n_queries, n_needles, length):
    """A row a head: its `shares` on the needle asked for, on the other needles, on filler and on the query, in the rows
    that predict the digits of the first answer, and those rows' sum of weights; means over them and over n contexts.

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
        attention, found = gpt.blocks[layer].attention, []
        for part, kind in zip(parts(attention, x), parts(attention, kinds), strict=True):
            A = attention.map(part)[:, :, answering]
            shared = torch.einsum("bhtn,bnk->bhk", shares(A), kind) / 3
            found.append(torch.cat((shared, A.sum(-1).mean(-1, keepdim=True)), -1))
        for head, numbers in enumerate(torch.cat(found).mean(0).tolist()):
            rows.append({"layer": layer, "head": head, **dict(zip(LOOKS, numbers, strict=True))})
    return rows


LOOKS = ("answer", "other needles", "filler", "query", "row_sum")


# ---------------------------------------------------------------------------- one checkpoint


@torch.no_grad()
def look_into(gpt, x, y, windows, ngram, name):
    """All that is measured of a model in eval mode: losses over x, y BT, maps and activations of `windows` of x."""
    with tqdm(desc=name, unit="part", leave=False, disable=not sys.stderr.isatty()) as bar:
        nats = losses(gpt, x, y)
        bar.update()
        some = x[torch.linspace(0, len(x) - 1, min(windows, len(x))).long()]
        inputs, outputs = activations(gpt, some)
        heads, counts = [], torch.zeros(len(EDGES) - 1)
        for depth, (block, z) in enumerate(zip(gpt.blocks, inputs, strict=True)):
            heads += [{"layer": depth, "head": h, **row} for h, row in enumerate(of_heads(block.attention, z))]
            counts += histogram(block.attention, z)
            bar.update()
        return {
            "tokens": x.numel(),
            "windows": len(some),
            "T": x.size(1),
            "loss": split_losses(nats, completes(x, y, ngram)),
            "heads": heads,
            "weights": (counts / counts.sum()).tolist(),
            "outliers": all_outliers(gpt, inputs, outputs),
            "interventions": interventions(gpt, inputs, x, y, nats, bar),
        }


def learned(gpt, path):
    """λ or g a layer (g: the mean of its heads) at step 0, from metrics.jsonl beside the checkpoint, and now.

    {name: {"start": [] where there is no such file, "now": [...], "over_training": [[step, ...a layer]]}}
    """
    folder = Path(path) if Path(path).is_dir() else Path(path).parent
    rows, found = read_metrics(folder / "metrics.jsonl"), {}
    for name, now in watched(gpt).items():
        course = [[row["step"], *map(np.mean, row[name])] for row in rows if name in row]
        start = course[0][1:] if course and course[0][0] == 0 else []
        found[name] = {"start": start, "now": [float(np.mean(layer)) for layer in now], "over_training": course}
    return found


def compared(groups):
    """Rows, a number each, a column for every group, {name: entries}: mean ± standard deviation of its checkpoints.

    Numbers of heads are means over layers and heads.
    """
    columns = {who: [summary(entry) for entry in entries] for who, entries in groups.items()}
    names = dict.fromkeys(name for column in columns.values() for one in column for name in one)
    return [
        {"": name} | {who: told(name, [one.get(name) for one in of]) for who, of in columns.items()} for name in names
    ]


def told(name, values):
    """A cell of that table: losses with four digits after the point, other numbers with three in all."""
    values = [value for value in values if value is not None]
    if not values or isinstance(values[0], int):
        return ", ".join(dict.fromkeys(f"{value:,}" for value in values))
    digits = ".4f" if name.startswith(("loss", "Δ")) else ".3g"
    spread = f" ± {statistics.stdev(values):{digits}}" if len(values) > 1 else ""
    return f"{statistics.fmean(values):{'+' * name.startswith('Δ')}{digits}}{spread}"


def summary(entry):
    """{name: number or None} of a checkpoint."""
    loss, heads = entry["loss"], entry["heads"]
    numbers = {name: entry[name] for name in ("parameters", "step", "seed")}
    numbers |= {"loss": loss["all"], "loss of repeated n-grams": loss["hit"], "loss of the rest": loss["rest"]}
    numbers["share of repeated n-grams"] = loss["hit_share"]
    numbers |= {name: float(np.mean([row[name] for row in heads])) for name in heads[0] if name not in PLACE}
    numbers["sink_rate"] = sink_rate([row["on_first"] for row in heads])
    for row in entry["outliers"]:
        if row["layer"] == "all":
            wanted = ("top_1", "top_2", "top_3", "top_10", "top_100", "median", "kurtosis", "inf_norm")
            numbers |= {f"{row['of']} {name}": row[name] for name in wanted if name in row}
    numbers |= {f"Δ loss, {row['what']}": row["loss_change"] for row in entry["interventions"]}
    if found := entry.get("needles"):
        numbers |= {f"exact, {row['needles']} needles": row["exact"] for row in found["by_n"]}
        for name in LOOKS:
            numbers[f"answering, {name}"] = float(np.mean([row[name] for row in found["attention"]]))
    return numbers


PLACE = ("layer", "head")


def show(entry):
    """Print the tables of a checkpoint."""
    size = f"{entry['attention']}, {entry['parameters']:,} parameters, step {entry['step']}, seed {entry['seed']}"
    print(f"\n{entry['path']}: {size}; maps of {entry['windows']} windows of {entry['T']} tokens\n")
    heads = entry["heads"]
    names = list(heads[0])[len(PLACE) :]
    for start in range(0, len(names), 9):  # a table that fits a terminal
        print(table([{name: row[name] for name in (*PLACE, *names[start : start + 9])} for row in heads]) + "\n")
    for name, of in entry["learned"].items():
        layers = itertools.zip_longest(of["start"], of["now"], fillvalue="")
        print(table([{"layer": i, f"{name} at step 0": a, f"{name} now": b} for i, (a, b) in enumerate(layers)]) + "\n")
    print(table(entry["outliers"]) + "\n")
    for rows in entry.get("needles", {}).values():
        print(table(rows) + "\n")
    shown = [{name: "" if value is None else value for name, value in row.items()} for row in entry["interventions"]]
    print(f"loss {entry['loss']['all']:.4f} nats a token over {entry['tokens']:,} tokens\n\n{table(shown)}", flush=True)


def show_all(entries):
    """Print the checkpoints side by side, and their means where several are of one mechanism."""
    print(f"\nall, means over layers and heads\n\n{table(compared({entry['name']: [entry] for entry in entries}))}")
    groups = {}
    for entry in entries:
        groups.setdefault(entry["attention"], []).append(entry)
    if len(groups) < len(entries):
        print(f"\nmean ± sd over the checkpoints of each mechanism\n\n{table(compared(groups))}")


# ---------------------------------------------------------------------------- figures


def in_a_file(name):
    """What a file's name says of a checkpoint's."""
    return re.sub(r"[^\w.-]+", "-", name).strip("-.")


def plain(text):
    """`text` as a figure's label, in which a dollar would begin a formula."""
    return text.replace("$", r"\$")


def figure_of(*size):
    from matplotlib.figure import Figure  # no pyplot: a notebook keeps its own backend

    return Figure(figsize=size, layout="constrained")


def described(entry):
    """What a figure says of a checkpoint."""
    size = f"{entry['n_layer']} layers of {entry['n_embd']}, {entry['parameters'] / 1e6:.2f}M parameters"
    return plain(f"{entry['attention']}, {size}; {entry['dataset']}, step {entry['step']}, seed {entry['seed']}")


def described_all(entries):
    """What a figure says of several: what they share, seeds listed."""
    first, seeds = entries[0], ", ".join(dict.fromkeys(str(entry["seed"]) for entry in entries))
    sizes = dict.fromkeys(f"{e['n_layer']} layers of {e['n_embd']}, T = {e['T']}" for e in entries)
    return plain(f"{', '.join(sizes)}; trained on {first['dataset']}, seed{'s' * (',' in seeds)} {seeds}")


def style_of(i, entry):
    """The look of checkpoint i: colour and mark after its mechanism, as everywhere, the dashes its own."""
    return {**look(entry["attention"]), "ls": ("-", "--", "-.", ":")[i % 4], "label": plain(entry["name"])}


def spelled(ids, tokenizer):
    """A label for each token: ⏎ for a new line, ␣ for a space, · for what the font of figures cannot show."""
    from matplotlib.font_manager import findfont, get_font

    known = get_font(findfont("DejaVu Sans")).get_charmap()
    marks = {"\n": "⏎", " ": "␣", "\t": "→", "\ufffd": "·"}
    words = [tokenizer.decode([i]) for i in ids]
    return ["".join(marks.get(c, c if c.isprintable() and ord(c) in known else "·") for c in word) for word in words]


@torch.no_grad()
def draw_maps(out, entry, gpt, ids, tokenizer, layer, head):
    """maps-NAME.png: every head on the tokens ids; map-NAME.png: one of them, large, of differential also its parts."""
    name = in_a_file(entry["name"])
    inputs, _ = activations(gpt, ids[None])
    maps = [block.attention.map(x)[0] for block, x in zip(gpt.blocks, inputs, strict=True)]
    figure = figure_of(max(5.5, 1.6 * len(maps[0]) + 1.5), 1.6 * len(maps) + 1)
    grid = figure.subplots(len(maps), len(maps[0]), squeeze=False)
    named = [(f"layer {i}, head {j}", A) for i, layer_maps in enumerate(maps) for j, A in enumerate(layer_maps)]
    heatmaps(figure, grid.flatten(), named, None)
    figure.suptitle(f"Attention weights on {len(ids)} tokens\n{described(entry)}", fontsize=9)
    write_figure(out / f"maps-{name}.png", figure)

    attention, shown = gpt.blocks[layer].attention, {"A": maps[layer][head]}
    if isinstance(attention, Differential):
        A1, A2 = (A[0, head] for A in attention.maps(inputs[layer]))
        shown = {"A₁": A1, "A₂": A2, "λA₂": attention.lam * A2, "A = A₁ − λA₂": shown["A"]}
    columns = math.ceil(math.sqrt(len(shown)))
    side = max(4.5, 0.15 * min(len(ids), READABLE))
    figure = figure_of(columns * side + 1, columns * side + 0.5)
    words = spelled(ids.tolist(), tokenizer) if len(ids) <= READABLE else None
    heatmaps(figure, figure.subplots(columns, columns, squeeze=False).flatten(), list(shown.items()), words)
    title = f"Layer {layer}, head {head}: a row is a token that looks, a column what it sees (−: negative)"
    figure.suptitle(f"{title}\n{described(entry)}", fontsize=10)
    write_figure(out / f"map-{name}.png", figure)


def heatmaps(figure, grid, maps, words):
    """Each (title, A TT) of `maps` in one of the axes `grid`, all on one scale with 0 in the middle."""
    hidden = ~visible(maps[0][1].size(-1))
    drawn = [np.ma.array(A.float().cpu().numpy(), mask=hidden.numpy()) for _, A in maps]
    largest = max(abs(A).max() for A in drawn)
    for axes, (title, _), A in zip(grid, maps, drawn, strict=True):
        image = axes.imshow(A, cmap="RdBu_r", vmin=-largest, vmax=largest, interpolation="nearest")
        if words:  # in grey, too, it shows which are negative
            for color, least, most in (("white", largest / 2, largest), ("black", largest / 50, largest / 2)):
                y, x = np.nonzero((least < -A) & (most >= -A))
                axes.plot(x, y, ls="", marker="_", ms=3, color=color)
        axes.set_facecolor("0.88")
        axes.set_title(title, fontsize=8 if words is None else 11)
        if words is None:
            axes.tick_params(labelsize=6)
        else:
            axes.set_xticks(range(len(words)), words, fontsize=7, parse_math=False, family="DejaVu Sans")
            axes.set_yticks(range(len(words)), words, fontsize=7, parse_math=False, family="DejaVu Sans")
    figure.colorbar(image, ax=list(grid), label="weight (grey: the future, hidden)", shrink=0.6)


def draw_weights(path, entries):
    """How the weights of all maps are distributed, negative ones to the left."""
    figure = figure_of(9, 4.5)
    axes = figure.subplots()
    for i, entry in enumerate(entries):
        share, style = np.array(entry["weights"]), style_of(i, entry)
        del style["marker"]
        axes.stairs(np.where(share > 0, share, np.nan), EDGES.numpy(), baseline=None, lw=1.2, **style)
    axes.set_xscale("symlog", linthresh=EDGES[EDGES > 0].min().item(), linscale=0.5)
    axes.set_xticks([-1, -1e-2, -1e-4, -1e-6, 1e-6, 1e-4, 1e-2, 1])
    axes.set(yscale="log", xlabel="weight a", ylabel="share of the visible weights in a bin")
    title = "Weights of all layers and heads, 6 bins a decade, one within ±10⁻⁶"
    axes.set_title(f"{title}\n{described_all(entries)}", fontsize=10)
    axes.grid(alpha=0.3)
    axes.legend(fontsize=8)
    write_figure(path, figure)


def draw_losses(path, entries, source, ngram):
    """Loss by position in the window, and of tokens that repeat an n-gram and of the rest."""
    figure = figure_of(11, 4.5)
    left, right = figure.subplots(1, 2, width_ratios=(2, 1))
    for i, entry in enumerate(entries):
        style, loss = style_of(i, entry), entry["loss"]
        y = np.array(loss["by_position"], float)  # None is NaN
        left.plot(range(1, len(y) + 1), y, **style, ms=4, lw=1, markevery=(i, max(1, len(y) // 8)))
        pair, errors = (np.array([loss[f"{name}{of}"] for name in ("hit", "rest")], float) for of in ("", "_error"))
        right.errorbar(np.arange(2) + 0.06 * i, pair, errors, **style | {"ls": ""}, ms=6, capsize=3)
    left.set(xlabel="tokens read in the window", ylabel="loss (nats a token)")
    right.set_xticks([0, 1], [f"completes a\nrepeated {ngram}-gram", "the rest"])
    right.set(xlim=(-0.3, 1.5), ylabel="loss (nats a token), standard error")
    left.legend(fontsize=8)
    for axes in (left, right):
        axes.grid(alpha=0.3)
    figure.suptitle(
        f"Loss on {entries[0]['tokens']:,} tokens of {plain(source)}\n{described_all(entries)}", fontsize=10
    )
    write_figure(path, figure)


def draw_needles(path, entries):
    """Needles found, by their number, by how deep the needle lies, and by the length of the context."""
    entries = [entry for entry in entries if "needles" in entry]
    figure = figure_of(13, 4.2)
    ways = (("by_n", "needles", "needles in the context"), ("by_depth", "depth", "depth of the needle (0: first)"))
    ways = (*ways, ("by_length", "length", "tokens in the context"))
    for axes, (way, x, label) in zip(figure.subplots(1, 3, sharey=True), ways, strict=True):
        for i, entry in enumerate(entries):
            rows = entry["needles"][way]
            axes.plot([row[x] for row in rows], [row["exact"] for row in rows], **style_of(i, entry), ms=5)
        axes.set(xlabel=label, ylim=(-0.03, 1.03))
        axes.grid(alpha=0.3)
    first, most = figure.axes[0], entries[0]["needles"]["by_n"][-1]["needles"]
    first.plot(range(1, most + 1), [1 / n for n in range(1, most + 1)], color="0.5", lw=1, label="any needle's number")
    first.set(ylabel="queries answered exactly (share)", xticks=range(1, most + 1))
    first.legend(fontsize=8)
    counts = f"{entries[0]['needles']['by_depth'][0]['of']} queries a point"
    figure.suptitle(f"Needles with held-out cities and numbers, {counts}\n{described_all(entries)}", fontsize=10)
    write_figure(path, figure)


def draw_learned(out, entry):
    """lam-NAME.png or g-NAME.png: what each layer has learned against steps, where metrics.jsonl tells."""
    for name, of in entry["learned"].items():
        if not of["over_training"]:
            continue
        figure = figure_of(7, 4.5)
        axes = figure.subplots()
        steps, *layers = zip(*of["over_training"], strict=True)
        for i, values in enumerate(layers):
            axes.plot(steps, values, color=f"C{i % 10}", marker="osD^vx*+"[i % 8], ls=("-", "--", "-.", ":")[i % 4])
            axes.annotate(f"   layer {i}", (steps[-1], values[-1]), va="center", fontsize=8)
        axes.margins(x=0.14)
        axes.set(xlabel="step", ylabel="λ" if name == "lam" else f"{name}, mean of a layer's heads")
        axes.set_title(described(entry), fontsize=9)
        axes.grid(alpha=0.3)
        write_figure(out / f"{name}-{in_a_file(entry['name'])}.png", figure)


# ---------------------------------------------------------------------------- the page


@torch.no_grad()
def all_maps(ids, names, models):
    """What `page` shows of each model: its maps on the tokens ids."""
    for name, (gpt, saved) in zip(names, models, strict=True):
        inputs, _ = activations(gpt, ids[None].to(gpt.device))
        maps = [block.attention.map(x)[0].float().cpu() for block, x in zip(gpt.blocks, inputs, strict=True)]
        trained = f"{saved['options']['dataset']}, seed {saved['options']['seed']}, step {saved['step']}"
        about = f"{gpt.n_params() / 1e6:.2f}M parameters, {trained}"
        lam = [float(np.mean(layer)) for layer in watched(gpt).get("lam", [])]
        yield {"name": name, "about": about, "maps": torch.stack(maps).numpy(), "lam": lam}


def page(tokens, models):
    """The text of an HTML page: hover over a token, see what each head of each model gives to those before it.

    tokens: a text in T pieces. models: dicts of `name`, `about`, `maps` (layers, heads, T, T) and `lam` (one a layer,
    or none). It is docs/hover.html with the maps' lower triangles in it, row by row, in ten-thousandths.
    """
    rows, columns = np.tril_indices(len(tokens))
    shown = [{**m, "maps": np.rint(m["maps"][..., rows, columns] * 1e4).astype(int).tolist()} for m in models]
    text = json.dumps({"tokens": list(tokens), "models": shown}, separators=(",", ":"))  # ASCII
    for c in "<>&":  # no token may end the <script> that holds it
        text = text.replace(c, f"\\u{ord(c):04x}")
    return HOVER.read_text(encoding="utf-8").replace("DATA", text)


if __name__ == "__main__":
    run(analyze)
