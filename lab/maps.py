"""Numbers of attention maps, of activations and of losses: what `lab.analyze` measures in a trained model.

Numbers of a map say how its weights are spread. They are functions of A, BHTT, and give one number per window and head,
BH, which is a mean over the rows of the map. Only what a row can see counts. A row with negative weights is normalised
in one way everywhere: by `shares`. The first paragraph of such a function's docstring explains its number to the user.

Shapes: B windows, T time, C channels, H heads, E value width, L layers.
"""

import functools
import inspect
import math

import numpy as np
import torch
import torch.nn.functional as F

from configurable import UsageError
from model import Differential
from plumbing.dataset import Split

BIG = 1 << 24  # weights of maps to have in memory at once


def check_map(name, gpt):
    """Raises UsageError for a model, shown as `name`, whose mechanism has no map."""
    if gpt.blocks[0].attention.map is None:
        raise UsageError(f"{name} has no maps to look at: its attention, {gpt.config.attention}, is not linear in V")


def visible(T, device=None):
    """What each row of a map sees, TT bool: its own token and those before it."""
    return torch.ones(T, T, dtype=torch.bool, device=device).tril()


def shares(A):
    """|a| / Σ|a| of each row, BHTT: how attention is divided, whatever its sign and its sum."""
    return A.abs() / A.abs().sum(-1, keepdim=True).clamp_min(1e-30)


# ---------------------------------------------------------------------------- numbers of a map: BHTT -> BH


def row_sum(A):
    """Sum of the weights of a row: 1 for softmax, less for softmax1, 1 − λ for differential."""
    return A.sum(-1).mean(-1)


def negative_share(A):
    """Share of the visible weights of a row that are below 0."""
    return ((A < 0).sum(-1) / visible(A.size(-1), A.device).sum(-1)).mean(-1)


def negative_mass(A):
    """Sum of |a| over the negative weights of a row, divided by the sum of |a| over all its weights."""
    return (shares(A) * (A < 0)).sum(-1).mean(-1)


def small_share(A, eps):
    """Share of the visible weights of a row with |a| ≤ eps; eps = 0 counts exact zeros."""
    seen = visible(A.size(-1), A.device)
    return (((A.abs() <= eps) & seen).sum(-1) / seen.sum(-1)).mean(-1)


def entropy(A):
    """Entropy of a row's shares of |a|, in nats: 0 if all is on one token, log n if it is spread evenly over n."""
    return torch.special.entr(shares(A)).sum(-1).mean(-1)


def effective_tokens(A):
    """How many tokens a row is spread over: exp of its entropy, 1 if all is on one token, n if even over n."""
    return torch.special.entr(shares(A)).sum(-1).exp().mean(-1)


def on_first(A):
    """Share of a row's |a| that is on the first token (the sink), in all rows but the first."""
    return shares(A)[..., 1:, 0].mean(-1) if A.size(-1) > 1 else A.new_ones(A.shape[:2])


def on_itself(A):
    """Share of a row's |a| that is on its own token."""
    return shares(A).diagonal(0, -2, -1).mean(-1)


def on_previous(A):
    """Share of a row's |a| that is on the token before its own, in all rows but the first."""
    return shares(A).diagonal(-1, -2, -1).mean(-1) if A.size(-1) > 1 else A.new_zeros(A.shape[:2])


def head_cosine(A):
    """Cosine of a row with the same row of another head, mean over the other heads; 1 where there is no other head."""
    H, unit = A.size(1), F.normalize(A, dim=-1)
    if H == 1:
        return A.new_ones(A.shape[:2])
    return torch.einsum("bhtn,bgtn->bht", unit, unit).sub(1).mean(-1) / (H - 1)


def cosine(A1, A2):
    """Cosine of a row of A₁ and the same row of A₂."""
    return F.cosine_similarity(A1, A2, dim=-1).mean(-1)


def correlation(A1, A2):
    """Pearson's correlation of the visible weights of a row of A₁ and the same row of A₂, in all rows but the first;
    0 for a constant row."""
    seen = visible(A1.size(-1), A1.device)
    A1, A2 = (torch.where(seen, A - A.sum(-1, keepdim=True) / seen.sum(-1, keepdim=True), 0) for A in (A1, A2))
    return F.cosine_similarity(A1, A2, dim=-1)[..., 1:].mean(-1) if A1.size(-1) > 1 else A1.new_zeros(A1.shape[:2])


def zero_by_itself(A1, A, eps=1e-3):
    """Of the visible weights with |a| ≤ ε (0.001 where the name has none), the share whose a₁ is at most ε, too: small
    before anything is subtracted. In all rows together."""
    small = (A.abs() <= eps) & visible(A.size(-1), A.device)
    return (small & A1.le(eps)).sum((-2, -1)) / small.sum((-2, -1)).clamp_min(1)


def context_rms(A, v):
    """Root mean square of A V over that of V: how much shorter attention makes the values that it mixes.

    v BHTE
    """
    return (A @ v).square().mean((-2, -1)).sqrt() / v.square().mean((-2, -1)).sqrt()


def outside_box(A, v):
    """How far a row of A V is outside the box from the least to the largest value that the row sees in each channel:
    the distance's root mean square over channels, divided by that of V; 0 for softmax.

    v BHTE. It is at most the distance to the hull of the values, where softmax stays. (The hull of softmax1 has a
    corner at 0, the box has not.)
    """
    y = A @ v
    beyond = (y - v.cummax(-2).values).relu() + (v.cummin(-2).values - y).relu()
    return beyond.square().mean(-1).sqrt().mean(-1) / v.square().mean((-2, -1)).sqrt()


def output_overlap(attention, x):
    """Cosine of the covariance of what a head adds to the channels and that of another head, mean over the other heads:
    0 if they write into subspaces at right angles, 1 if into the same one; 1 where there is no other head.

    For a layer whose input is x BTC; a number per head, H.
    """
    y = torch.cat([attention.norm(attention.mix(z, *attention.project(z))) for z in parts(attention, x)])
    y = y.transpose(0, 1).flatten(1, 2)  # BHTE -> H(BT)E
    W = attention.out.weight.unflatten(1, (len(y), -1)).transpose(0, 1)  # HCE
    z = (y - y.mean(1, keepdim=True)) @ W.mT  # H(BT)C
    unit = F.normalize((z.mT @ z).flatten(1), dim=1)
    return (unit @ unit.mT).sum(1).sub(1) / (len(y) - 1) if len(y) > 1 else y.new_ones(1)


def sink_rate(on_first):
    """Share of heads whose mean share on the first token exceeds 0.3 (https://arxiv.org/abs/2410.10781)."""
    return sum(share > 0.3 for share in on_first) / len(on_first)


OF_A_MAP = {f.__name__: f for f in (row_sum, negative_share, negative_mass, entropy, effective_tokens)}
OF_A_MAP |= {f.__name__: f for f in (on_first, on_itself, on_previous, head_cosine)}
AT_MOST = {f"at_most_{eps:g}": eps for eps in (1e-2, 1e-3, 1e-4, 1e-5, 0)}
OF_A_MAP |= {name: functools.partial(small_share, eps=eps) for name, eps in AT_MOST.items()}


def parts(attention, x):
    """x BT… in as few parts as possible, so that the maps of each part have no more than BIG weights."""
    return x.split(max(1, BIG // (attention.n_maps * x.size(1) ** 2)))


def of_heads(attention, x):
    """[{name: number}], one for each head of a layer whose input is x BTC: means over windows."""
    of_parts = {}
    for part in parts(attention, x):
        A, v = attention.map(part), attention.project(part)[2]
        numbers = {name: function(A) for name, function in OF_A_MAP.items()}
        numbers |= {"context_rms": context_rms(A, v), "outside_box": outside_box(A, v)}
        if isinstance(attention, Differential):
            A1, A2 = attention.maps(part)
            numbers |= {"A1_A2_cosine": cosine(A1, A2), "A1_A2_correlation": correlation(A1, A2)}
            numbers |= {f"A1_{f.__name__}": f(A1) for f in (effective_tokens, on_first)}
            numbers |= {"zero_by_itself": zero_by_itself(A1, A), "zero_by_itself_0.01": zero_by_itself(A1, A, 1e-2)}
        for name, value in numbers.items():
            of_parts.setdefault(name, []).append(value)
    means = {name: torch.cat(values).mean(0).tolist() for name, values in of_parts.items()}
    means["output_overlap"] = output_overlap(attention, x).tolist()
    return [{name: values[h] for name, values in means.items()} for h in range(len(means["row_sum"]))]


def mixtures(gpt):
    """{name: [HH of each layer]} of matrices that mix the maps of all heads, where the mechanism learns one."""
    layers = [dict(block.attention.named_parameters(recurse=False)) for block in gpt.blocks]
    H = gpt.blocks[0].attention.n_heads
    names = [name for name, p in layers[0].items() if p.shape == (H, H)]
    return {name: [layer[name].tolist() for layer in layers] for name in names}


EDGES = 10 ** torch.linspace(-6, 0, 37)  # of the bins in which weights are counted, and their negatives
EDGES = torch.cat((-EDGES.flip(0), EDGES))


def histogram(attention, x):
    """Number of visible weights in each bin of EDGES, floats; what lies beyond ±1 is counted in the last bin."""
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
    """How many of the windows BT a model reads at once."""
    return max(1, 4096 // tokens.size(1))


def outliers(x):
    """The 1st, 2nd, 3rd, 10th and 100th largest of |x|, and the median: table 5 of arXiv 2410.05258."""
    sizes = x.abs().flatten()
    top = sizes.topk(min(100, len(sizes))).values.tolist()
    return {f"top_{i}": top[i - 1] for i in (1, 2, 3, 10, 100) if i <= len(top)} | {"median": sizes.median().item()}


def kurtosis(x):
    """Mean of z⁴, where z is x less its mean, divided by its standard deviation: 3 for a normal distribution, larger
    where there are outliers."""
    centred = x.cpu().double() - x.cpu().double().mean()  # a GPU of Apple's has no float64
    return (centred.pow(4).mean() / centred.square().mean().square().clamp_min(1e-30)).item()


def inf_norm(x):
    """Largest |x| in a window, mean over windows.

    x LBTC
    """
    return x.abs().amax((0, 2, 3)).mean().item()


def all_outliers(layers):
    """Rows of numbers for {"logits": [x of each layer], "hidden": [...]}: one per layer, and one of all together."""
    rows = []
    for kind, values in layers.items():
        for layer, x in [*enumerate(values), ("all", torch.stack(values))] if values else ():
            row = {"of": kind, "layer": layer, **outliers(x), "kurtosis": kurtosis(x)}
            rows.append(row | ({"inf_norm": inf_norm(x)} if kind == "hidden" and layer == "all" else {}))
    return rows


# ---------------------------------------------------------------------------- losses


def cut(split, n, gpt):
    """Windows of block_size and what follows each of their tokens, x and y BT: as many as the first n tokens fill.

    y is −1 for the tokens of a record that do not count.
    """
    T = min(gpt.config.block_size, len(split.tokens) - 1)
    count = max(1, min(n, len(split.tokens) - 1) // T)
    part = split.gather(np.arange(count * T + 1)).to(gpt.device)
    return part[:-1].view(-1, T), Split(split.tokens, T, split.record).scored(part[1:].view(-1, T))


def losses(gpt, x, y):
    """Loss in nats of each of the tokens y that follow the tokens x, BT; NaN where y is −1, which does not count."""
    n, nats = batch_size(x), []
    for tokens, targets in zip(x.split(n), y.split(n), strict=True):
        logits = gpt(tokens).flatten(0, 1)
        part = F.cross_entropy(logits, targets.flatten(), reduction="none", ignore_index=-1).view_as(targets)
        nats.append(part.where(targets >= 0, math.nan))
    return torch.cat(nats)


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
    """Means of the losses BT: of all, of those in `hit` and of the rest with standard errors, and at each position."""
    counts = ~nats.isnan()
    mean = {"all": nats.nanmean().item(), "hit_share": hit[counts].float().mean().item()}
    for name, which in (("hit", hit & counts), ("rest", ~hit & counts)):
        mean[name] = nats[which].mean().item() if which.any() else None
        mean[f"{name}_error"] = (nats[which].std() / which.sum().sqrt()).item() if which.sum() > 1 else None
    return mean | {"by_position": [None if math.isnan(z) else z for z in nats.nanmean(0).tolist()]}


# ---------------------------------------------------------------------------- what the numbers mean


def first_paragraph(function):
    """The first paragraph of a function's docstring, in one line."""
    return " ".join((inspect.getdoc(function) or "").split("\n\n")[0].split())


KEY = {name: first_paragraph(OF_A_MAP[name]) for name in OF_A_MAP if name not in AT_MOST}
KEY |= {name: f"Share of the visible weights of a row with |a| at most {eps:g}." for name, eps in AT_MOST.items()}
KEY |= {
    f.__name__: first_paragraph(f)
    for f in (zero_by_itself, context_rms, outside_box, output_overlap, kurtosis, inf_norm)
}
KEY |= {f"A1_A2_{f.__name__}": first_paragraph(f) for f in (cosine, correlation)}
KEY |= {f"A1_{f.__name__}": f"Of A₁ instead of A: {first_paragraph(f)}" for f in (effective_tokens, on_first)}
KEY |= {f"top_{i}": f"Number {i} of the sizes |x|, from the largest down." for i in (1, 2, 3, 10, 100)}
KEY |= {
    "zero_by_itself_0.01": "The same with ε = 0.01.",
    "mixtures": "Matrices that mix the maps of all heads, one per layer: how much of each map each head takes.",
    "M": "Mixes maps, after softmax.",
    "P": "Mixes scores, before softmax.",
    "tokens": "Tokens of the validation split on which losses are measured.",
    "windows": "Windows on which the numbers of heads, the weights and the outliers are measured.",
    "T": "Tokens per window.",
    "median": "Median of the sizes |x|.",
    "layer": "Number of the layer, from 0; all: all layers together.",
    "head": "Number of the head in its layer, from 0.",
    "all": "Loss of all tokens, in nats per token.",
    "hit": "Loss of the tokens that complete an n-gram which is in their window already, in nats per token.",
    "hit_share": "Share of the tokens that complete an n-gram which is in their window already.",
    "hit_error": "Standard error of `hit`, over tokens.",
    "rest": "Loss of the tokens that complete no such n-gram, in nats per token.",
    "rest_error": "Standard error of `rest`, over tokens.",
    "by_position": "Loss at each position of the window, in nats per token; null where no token counts.",
    "weights": "Share of the visible weights in each bin: 36 of negative weights from −1 to −10⁻⁶, 6 per factor of 10; "
    "one from there to 10⁻⁶; 36 of positive ones.",
}
