"""Which gradient reaches the scores of tokens that get little weight?

Of one softmax the loss's gradient at score j of a row is aⱼ(gⱼ − Σ aᵢgᵢ), where gⱼ is its gradient at weight j: a token
of small weight gets a small gradient. A weight of a difference can be small because two large ones cancel.

Shapes: B windows, T time, H heads.
"""

import torch
import torch.nn.functional as F

from lab.interventions import replaced
from lab.maps import activations, visible
from model import softmax

SMALL = {"gradient_at_most_0.01": 1e-2, "gradient_at_most_0.001": 1e-3}


def score_gradients(gpt, x, y):
    """|∂L/∂S| of each layer, BHTT, L the mean loss of the tokens y BT that follow x BT (−1 does not count).

    Where a weight has several scores, as in a difference, it is their sum.
    """
    attentions = [block.attention for block in gpt.blocks]
    of_layers = {attention: [] for attention in attentions}

    def attend(attention, original, q, k, v, weights=softmax, scale=None, combine=None):
        def noted(S):
            of_layers[attention].append(S)
            return weights(S)

        return original(q, k, v, noted, scale, combine)

    with torch.enable_grad(), replaced(attentions, attend=attend):
        loss = F.cross_entropy(gpt(x).flatten(0, 1), y.flatten(), ignore_index=-1)
        all_scores = [S for layer in of_layers.values() for S in layer]
        found = iter(torch.autograd.grad(loss, all_scores, materialize_grads=True))
    sizes = {attention: [next(found).abs() for _ in S] for attention, S in of_layers.items()}
    return [sum(z.unflatten(1, (a.n_heads, -1)).sum(2) for z in of) for a, of in sizes.items()]


def gradients_of_heads(gpt, x, y):
    """[{name of SMALL: share}], one for each head of each layer, of windows x BT before y BT.

    Of the sizes |∂L/∂S| of all that a head sees, how much is at weights with |a| at most so much.
    """
    inputs, _ = activations(gpt, x)
    rows = []
    for block, z, sizes in zip(gpt.blocks, inputs, score_gradients(gpt, x, y), strict=True):
        A, seen = block.attention.map(z), visible(x.size(1), x.device)
        of = {name: (sizes * (seen & (A.abs() <= eps))).sum((0, 2, 3)) for name, eps in SMALL.items()}
        shares = {name: (some / sizes.sum((0, 2, 3)).clamp_min(1e-30)).tolist() for name, some in of.items()}
        rows += [{name: values[h] for name, values in shares.items()} for h in range(A.size(1))]
    return rows


KEY = {
    name: f"Of the loss's gradient at a head's scores (sum of sizes): the share at weights with |a| at most {eps:g}."
    for name, eps in SMALL.items()
}
