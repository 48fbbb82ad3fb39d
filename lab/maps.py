"""Numbers of attention maps, of activations and of losses, and what the loss becomes if a part of the maps is replaced.

Numbers of a map say how its weights are spread: functions of A, BGTT, that give one number per window and head, BG, a
mean over rows. Only what a row can see counts. The docstring of such a function explains its number to the user.

Shapes: B windows, T time, C channels, H softmax maps, G heads.
"""

import contextlib
import functools
import math

import numpy as np
import torch
import torch.nn.functional as F

from model import Differential, identity_like, scores, softmax
from prepare import Split

BIG = 1 << 24  # weights of maps to have in memory at once
BITS = (8, 6, 4)
EDGES = 10 ** torch.linspace(-6, 0, 37)  # of the bins in which weights are counted: 6 per factor of 10, and one at 0
EDGES = torch.cat((-EDGES.flip(0), EDGES))


def visible(T, device=None):
    """What each row of a map sees, TT bool: its own token and those before it."""
    return torch.ones(T, T, dtype=torch.bool, device=device).tril()


def shares(A):
    """|a| / Σ|a| of each row, BGTT: how attention is divided, whatever its sign and its sum."""
    return A.abs() / A.abs().sum(-1, keepdim=True).clamp_min(1e-30)


# ---------------------------------------------------------------------------- numbers of a map: BGTT -> BG


def row_sum(A):
    """Sum of the weights of a row: 1 for softmax, less for softmax1, 1 − λ for differential."""
    return A.sum(-1).mean(-1)


def negative_share(A):
    """Share of the visible weights of a row that are below 0."""
    return ((A < 0).sum(-1) / visible(A.size(-1), A.device).sum(-1)).mean(-1)


def negative_mass(A):
    """Sum of |a| over the negative weights of a row, divided by the sum of |a| over all its weights."""
    return (shares(A) * (A < 0)).sum(-1).mean(-1)


def near_zero(A):
    """Share of the visible weights of a row whose share of Σ|a| is below a tenth of the uniform one, 0.1/n."""
    seen = visible(A.size(-1), A.device)
    n = seen.sum(-1, keepdim=True)
    return (((shares(A) < 0.1 / n) & seen).sum(-1) / n[:, 0]).mean(-1)


def effective_tokens(A):
    """How many tokens a row is spread over: exp of the entropy of |a|/Σ|a|, 1 if all is on one token, n if uniform."""
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


def cosine(A1, A2):
    """Cosine of a row of A₁ and the same row of A₂."""
    return F.cosine_similarity(A1, A2, dim=-1).mean(-1)


def cancelled(A, lam):
    """How much of a row of A₁ and of λA₂ cancels: (1 + |λ| − Σ|a|) / 2."""
    return (1 + lam.abs().flatten()[:, None] - A.abs().sum(-1)).mean(-1) / 2  # one λ, or one per head


def score_range(S):
    """Δ: largest less smallest visible score of a row, median over the rows that see two tokens and more. BHTT -> BH"""
    low = S.masked_fill(~visible(S.size(-1), S.device), math.inf).amin(-1)
    return (S.amax(-1) - low)[..., 1:].median(-1).values


OF_A_MAP = (row_sum, negative_share, negative_mass, near_zero, effective_tokens, on_first, on_itself, on_previous)
KEY = {f.__name__: " ".join(f.__doc__.split()) for f in (*OF_A_MAP, cancelled, score_range)}
KEY |= {"A1_A2_cosine": cosine.__doc__, "A1_effective_tokens": f"Of A₁: {effective_tokens.__doc__}"}


def parts(attention, x):
    """x BT… in as few parts as possible, so that the maps of each part have no more than BIG weights."""
    return x.split(max(1, BIG // (attention.H * x.size(1) ** 2)))


def of_heads(attention, x):
    """[{name: number}], one for each head of a layer whose input is x BTC: means over windows."""
    of_parts = {}
    for part in parts(attention, x):
        A, S = attention.attention_map(part), all_scores(attention, part)
        numbers = {f.__name__: f(A) for f in OF_A_MAP}
        if S is not None and S.size(1) % attention.G == 0:
            numbers["score_range"] = score_range(S).unflatten(1, (attention.G, -1)).mean(-1)
        if is_difference(attention, part):
            A1, A2 = attention.both_maps(part)
            numbers |= {"A1_A2_cosine": cosine(A1, A2), "A1_effective_tokens": effective_tokens(A1)}
            numbers["cancelled"] = cancelled(A, attention.lam)
        for name, value in numbers.items():
            of_parts.setdefault(name, []).append(value)
    means = {name: torch.cat(values).mean(0).tolist() for name, values in of_parts.items()}
    return [{name: values[g] for name, values in means.items()} for g in range(attention.G)]


def histogram(attention, x):
    """Number of visible weights in each bin of EDGES, of a layer whose input is x BTC; beyond ±1 is in the last bin."""
    seen, counts = visible(x.size(1), x.device), torch.zeros(len(EDGES) - 1)
    for part in parts(attention, x):
        counts += torch.histogram(attention.attention_map(part)[..., seen].float().cpu().clamp(-1, 1), EDGES).hist
    return counts


def is_difference(attention, x):
    """Whether A is A₁ − λA₂ in a layer whose input is x BTC."""
    if not isinstance(attention, Differential):
        return False
    A1, A2 = attention.both_maps(x[:1])
    return torch.allclose(attention.attention_map(x[:1]), A1 - attention.lam * A2, atol=1e-4)


def all_scores(attention, x):
    """S of all maps of a layer whose input is x BTC, BHTT, −∞ in the future; None where it attends to none."""
    found = []

    def attend(attention, q, k, v, weights=softmax, scale=None):
        found.append(scores(q, k, scale))
        return type(attention).attend(attention, q, k, v, weights, scale)

    with shadowed([attention], "attend", attend):
        attention.attention_map(x)
    return torch.stack(found, 2).flatten(1, 2) if found else None  # both maps of a head are neighbours


# ---------------------------------------------------------------------------- activations


def activations(gpt, tokens):
    """Inputs of each layer's attention, and outputs of each block, two lists of BTC, for tokens BT."""
    inputs, outputs, hooks = [[] for _ in gpt.blocks], [[] for _ in gpt.blocks], []
    for block, into, out in zip(gpt.blocks, inputs, outputs, strict=True):
        hooks.append(block.attention.register_forward_pre_hook(lambda _, args, into=into: into.append(args[0])))
        hooks.append(block.register_forward_hook(lambda _, args, y, out=out: out.append(y)))
    try:
        for part in tokens.split(windows_at_once(tokens)):
            gpt(part)
    finally:
        for hook in hooks:
            hook.remove()
    return [torch.cat(x) for x in inputs], [torch.cat(x) for x in outputs]


def windows_at_once(tokens):
    """How many of the windows BT a model reads at once."""
    return max(1, 4096 // tokens.size(1))


def outliers(x):
    """{"top_1": largest |x|, "median": of |x|, "kurtosis": of x, 3 for a normal distribution}."""
    sizes, z = x.abs().flatten(), (x - x.mean()).flatten().cpu().double()
    kurtosis = (z.pow(4).mean() / z.square().mean().square().clamp_min(1e-30)).item()
    return {"top_1": sizes.max().item(), "median": sizes.median().item(), "kurtosis": kurtosis}


# ---------------------------------------------------------------------------- losses


def cut(split, n, gpt):
    """Windows of block_size and what follows each of their tokens, x and y BT: as many as the first n tokens fill.

    y is −1 for the tokens of a record that do not count.
    """
    T = min(gpt.config.block_size, len(split.tokens) - 1)
    count = max(1, min(n, len(split.tokens) - 1) // T)
    part = split.gather(np.arange(count * T + 1)).to(gpt.device)
    x, y = part[:-1].view(-1, T), part[1:].view(-1, T)
    return x, Split(split.tokens, T, split.record).scored(x, y)


def losses(gpt, x, y):
    """Loss in nats of each of the tokens y that follow the tokens x, BT; NaN where y is −1, which does not count."""
    n, nats = windows_at_once(x), []
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


# ---------------------------------------------------------------------------- interventions


@contextlib.contextmanager
def shadowed(attentions, name, method):
    """Inside, attention.NAME(*arguments) is method(attention, *arguments), for each of the attentions."""
    for attention in attentions:
        setattr(attention, name, functools.partial(method, attention))
    try:
        yield
    finally:
        for attention in attentions:
            delattr(attention, name)


def edited(attentions, edit):
    """Inside, each attention gives A' V, A' = edit(attention, A, A₂), all BGTT; A₂ is None if there is one map.

    The head norm of differential comes after it: it gives the output its length again, whatever A' has lost.
    """

    def mix(attention, x, q, k, v):
        A = type(attention).mix(attention, x, q, k, identity_like(v))
        A2 = attention.both_maps(x)[1] if isinstance(attention, Differential) else None
        return edit(attention, A, A2) @ v

    return shadowed(attentions, "mix", mix)


def rounded(attentions, bits):
    """Inside, scores are rounded to 2^bits − 1 values from −max|S| to max|S| of what is visible.

    One scale for all maps of a call of `attend` in a window; nothing else is rounded.
    """

    def attend(attention, q, k, v, weights=softmax, scale=None):
        seen = scores(q, k, scale).masked_fill(~visible(q.size(2), q.device), 0)
        step = (seen.abs().amax((1, 2, 3), keepdim=True) / (2 ** (bits - 1) - 1)).clamp_min(1e-30)
        return type(attention).attend(attention, q, k, v, lambda S: weights((S / step).round() * step), scale)

    return shadowed(attentions, "attend", attend)


def as_much_positive(A, order):
    """A (BGTT) with as much positive weight set to 0 as its row has negative, from the lowest of `order` (BGTT) up."""
    tokens = order.argsort(-1)
    positive = A.clamp(min=0).gather(-1, tokens)
    left = -A.clamp(max=0).sum(-1, keepdim=True) - (positive.cumsum(-1) - positive)  # to be taken, before each
    return A - torch.zeros_like(A).scatter(-1, tokens, positive.minimum(left.clamp(min=0)))


def at_random(A):
    """Random numbers of the shape of A, the same in every call."""
    return torch.rand(A.shape, generator=torch.Generator().manual_seed(0)).to(A.device)


def uniform(A):
    """The map that is uniform over what each row sees, TT."""
    seen = visible(A.size(-1), A.device)
    return seen / seen.sum(-1, keepdim=True)


def small(A):
    """Whether a weight's share of its row's Σ|a| is below a tenth of the uniform one."""
    return shares(A) < 0.1 * uniform(A)


def edits_for(attentions, inputs):
    """{name: edit} for `edited`: the edits that mean something for these layers, whose inputs are BTC."""
    layers = list(zip(attentions, inputs, strict=True))
    means = {attention: mean_maps(attention, x) for attention, x in layers}
    edits = {
        "near zero by 0": lambda attention, A, A2: A.masked_fill(small(A), 0),
        "A by its mean over windows": lambda attention, A, A2: means[attention][0].expand_as(A),
    }
    differences = all(is_difference(attention, x) for attention, x in layers)
    if differences or any((attention.attention_map(x[:1]) < 0).any() for attention, x in layers):
        edits |= {
            "negative by 0": lambda attention, A, A2: A.clamp(min=0),
            "as much positive by 0, smallest first": lambda attention, A, A2: as_much_positive(A, A),
            "as much positive by 0, at random": lambda attention, A, A2: as_much_positive(A, at_random(A)),
        }
    if differences:
        edits |= {
            "λ by 0": lambda attention, A, A2: A + attention.lam * A2,
            "A₂ by a uniform map": lambda attention, A, A2: A + attention.lam * (A2 - uniform(A)),
            "A₂ by its mean over windows": lambda attention, A, A2: A + attention.lam * (A2 - means[attention][1]),
        }
    return edits


def mean_maps(attention, x):
    """The means over windows of A and of A₂ (None if there is one map), GTT. x BTC"""
    A = sum(attention.attention_map(part).sum(0) for part in parts(attention, x)) / len(x)
    if not isinstance(attention, Differential):
        return A, None
    return A, sum(attention.both_maps(part)[1].sum(0) for part in parts(attention, x)) / len(x)


def interventions(gpt, inputs, x, y, before):
    """Rows {what, loss_change, standard_error}: what edits, and scores in fewer BITS, do to the losses `before` BT.

    All layers are edited at once. Means over windows are of those whose `inputs` of attention are given.
    """
    attentions, rows = [block.attention for block in gpt.blocks], []
    changes = {name: edited(attentions, edit) for name, edit in edits_for(attentions, inputs).items()}
    changes |= {f"scores in {bits} bits": rounded(attentions, bits) for bits in BITS}
    for name, change in changes.items():
        with change:
            difference = (losses(gpt, x, y) - before).cpu().double().nanmean(1)  # per window
        error = difference.std().item() / math.sqrt(len(difference)) if len(difference) > 1 else None
        rows.append({"what": name, "loss_change": difference.mean().item(), "standard_error": error})
    return rows
