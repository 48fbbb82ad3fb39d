"""Interventions: what the loss becomes if a part of the attention maps is replaced, which tells whether it matters.

Shapes: B windows, T time, C channels, H heads, D query width, E value width.
"""

import contextlib
import functools
import itertools
import math

import torch

from lab.maps import first_paragraph, losses, parts, visible
from model import Differential, identity_like, scores, softmax

BITS = (8, 6, 4)


@contextlib.contextmanager
def replaced(attentions, **functions):
    """Inside, a call of method NAME of each attention is functions[NAME](attention, the method, *its arguments)."""
    for attention, (name, function) in itertools.product(attentions, functions.items()):
        assert name not in vars(attention), f"{name} is replaced already"
        setattr(attention, name, functools.partial(function, attention, getattr(attention, name)))
    try:
        yield
    finally:
        for attention, name in itertools.product(attentions, functions):
            delattr(attention, name)


# ---------------------------------------------------------------------------- edits of a map


def edited(edit):
    """A `mix` for `replaced` that gives A' V, A' = edit(attention, A, A₂), each BHTT; A₂ is None if there is one map.

    The head norm of differential comes after it: it gives the output its length again, whatever A' has lost.
    """

    def mix(attention, original, x, q, k, v):
        A2 = attention.maps(x)[1] if isinstance(attention, Differential) else None
        return edit(attention, original(x, q, k, identity_like(v)), A2) @ v

    return mix


def without_thousandths(means, attention, A, A2):
    """A with 0 in place of all weights within ±0.001."""
    return A.where(A.abs() >= 1e-3, 0)


def without_hundredths(means, attention, A, A2):
    """A with 0 in place of all weights within ±0.01."""
    return A.where(A.abs() >= 1e-2, 0)


def without_first(means, attention, A, A2):
    """A with 0 in place of the weights on the first token, but in the first row, which sees no other token."""
    kept = torch.ones(A.shape[-2:], device=A.device)
    kept[1:, 0] = 0
    return A * kept


def mean_map(means, attention, A, A2):
    """The mean of A over windows in place of A; it knows positions and no content."""
    return means[attention][0].expand_as(A)


def without_negative(means, attention, A, A2):
    """A with 0 in place of all negative weights."""
    return A.clamp(min=0)


def without_as_much(means, attention, A, A2):
    """A with 0 in place of the smallest positive weights of a row, as much of them as of its negative ones."""
    positive, tokens = A.clamp(min=0).sort(-1)
    taken = positive.cumsum(-1) <= -A.clamp(max=0).sum(-1, keepdim=True)
    return A - torch.zeros_like(A).scatter(-1, tokens, positive * taken)


def without_second(means, attention, A, A2):
    """A₁ in place of A₁ − λA₂, that is λ = 0."""
    return A + attention.lam * A2


def even_second(means, attention, A, A2):
    """A₁ − λU in place of A₁ − λA₂, where each row of U is spread evenly over what it sees."""
    seen = visible(A.size(-1), A.device)
    return A + attention.lam * (A2 - seen / seen.sum(-1, keepdim=True))


def mean_second(means, attention, A, A2):
    """A₁ − λM₂ in place of A₁ − λA₂, where M₂ is the mean of A₂ over windows; it knows positions and no content."""
    return A + attention.lam * (A2 - means[attention][1])


# edit(means, attention, A, A₂), where means[attention] are the means of A and of A₂ over windows
EDITS = {"weights within ±0.001 by 0": without_thousandths, "weights within ±0.01 by 0": without_hundredths}
EDITS |= {"first token by 0": without_first, "A by its mean": mean_map}
SIGNED_EDITS = {"negative by 0": without_negative, "as much positive by 0": without_as_much}
DIFFERENTIAL_EDITS = {"λ by 0": without_second, "A₂ by its row's mean": even_second, "A₂ by its mean": mean_second}


def edits_for(attentions, inputs):
    """{name: edit} of the edits that mean something for these layers, judged by their maps for the inputs BTC."""
    edits, layers = dict(EDITS), list(zip(attentions, inputs, strict=True))
    differences = all(is_difference(attention, x) for attention, x in layers)
    if differences or any((attention.map(x) < 0).any() for attention, x in layers):
        edits |= SIGNED_EDITS
    return edits | DIFFERENTIAL_EDITS if differences else edits


def is_difference(attention, x):
    """Whether A is A₁ − λA₂ in a layer whose input is x BTC."""
    if not isinstance(attention, Differential):
        return False
    A1, A2 = attention.maps(x)
    return torch.allclose(attention.map(x), A1 - attention.lam * A2, atol=1e-4)


def mean_maps(attention, x):
    """The means over windows of A and of A₂ (None if there is one map), HTT. x BTC"""
    total = [0, 0]
    for part in parts(attention, x):
        total[0] = total[0] + attention.map(part).sum(0)
        if isinstance(attention, Differential):
            total[1] = total[1] + attention.maps(part)[1].sum(0)
    return total[0] / len(x), total[1] / len(x) if isinstance(attention, Differential) else None


# ---------------------------------------------------------------------------- logits


def logits(attention, mix, x, q, k, v):
    """S of all maps of a layer, BHTT: the scores of all that `mix` attends to, −∞ in the future. None if it calls no
    `attend`."""
    of_maps = []

    def note(attention, attend, q, k, v, weights=softmax, scale=None, combine=None):
        of_maps.append(scores(q, k, scale))
        return torch.zeros_like(v)

    with replaced([attention], attend=note):
        mix(x, q, k, v)
    return torch.cat(of_maps, 1) if of_maps else None


def visible_logits(gpt, inputs):
    """The visible logits of each layer, with BIG of them at most: a list, empty for a mechanism without logits."""
    layers = []
    for block, x in zip(gpt.blocks, inputs, strict=True):
        attention, x = block.attention, parts(block.attention, x)[0]
        S = logits(attention, attention.mix, x, *attention.project(x))
        layers += [] if S is None else [S[..., visible(x.size(1), x.device)]]
    return layers


def quantised(bits):
    """A `mix` for `replaced` whose logits S are rounded to 2^bits − 1 values from −max|S| to max|S| of what is visible.

    One scale for all maps of a layer in a window; nothing else is rounded.
    """

    def attend(step, attention, original, q, k, v, weights=softmax, scale=None, combine=None):
        return original(q, k, v, lambda S: weights((S / step).round() * step), scale, combine)

    def mix(attention, original, x, q, k, v):
        S = logits(attention, original, x, q, k, v).masked_fill(~visible(x.size(1), x.device), 0)
        step = (S.abs().amax((1, 2, 3), keepdim=True) / (2 ** (bits - 1) - 1)).clamp_min(1e-30)
        with replaced([attention], attend=functools.partial(attend, step)):
            return original(x, q, k, v)

    return mix


# ---------------------------------------------------------------------------- all of them


def interventions(gpt, inputs, x, y, before, progress):
    """Rows: what the EDITS, and logits in fewer BITS, do to the losses `before` BT of x, y; in all layers at once.

    Means over windows are of those whose `inputs` of attention are given. `progress()` is called after each.
    """
    attentions = [block.attention for block in gpt.blocks]
    means = {a: mean_maps(a, z) for a, z in zip(attentions, inputs, strict=True)}
    first = [z[:1] for z in inputs]
    mixes = {name: edited(functools.partial(edit, means)) for name, edit in edits_for(attentions, first).items()}
    if visible_logits(gpt, first):
        mixes |= {f"logits in {bits} bits": quantised(bits) for bits in BITS}
    rows = []
    for name, mix in mixes.items():
        with replaced(attentions, mix=mix):
            rows.append({"what": name, **change(before, losses(gpt, x, y))})
        progress()
    return rows


def change(before, after):
    """Mean change of losses BT, nats per token, and its standard error over windows."""
    by_window = (after - before).cpu().double().nanmean(1)
    error = by_window.std().item() / math.sqrt(len(by_window)) if len(by_window) > 1 else None
    return {"loss_change": by_window.mean().item(), "standard_error": error}


KEY = {
    name: f"Intervention: {first_paragraph(edit)}" for name, edit in (EDITS | SIGNED_EDITS | DIFFERENTIAL_EDITS).items()
}
KEY |= {
    f"logits in {bits} bits": f"Intervention: logits rounded to {2**bits - 1} values from −m to m, where m is "
    "the largest visible |logit| of the layer in the window."
    for bits in BITS
}
KEY |= {
    "what": "The part of all maps that an intervention replaces, and by what.",
    "loss_change": "Loss with the intervention less the loss without it, in nats per token.",
    "standard_error": "Standard error of loss_change, over windows; null for one window.",
}
