"""What is done with A V? A gate, or all but what a token says of itself."""

import torch.nn as nn
import torch.nn.functional as F

from model import Attention


class Gated(Attention):
    """gated: y ⊙ σ(x W), y = softmax(S) V: a gate for every channel of every head.  https://arxiv.org/abs/2505.06708

    Each channel has weights of its own then, so it has no `attention_map`.
    """

    attention_map = None

    def __init__(self, config, depth):
        super().__init__(config, depth)
        self.gate = nn.Linear(config.n_embd, config.n_embd, bias=False)

    def mix(self, x, q, k, v):
        gate = self.gate(x).sigmoid().unflatten(2, (-1, self.E)).transpose(1, 2)  # BTC -> BGTE
        return gate * self.attend(q, k, v)


class Exclusive(Attention):
    """xsa: y − (y·v̂) v̂, y = softmax(S) V, v̂ = v/‖v‖ the token's own value: what is left is orthogonal to it.

    It is not linear in V, so it has no `attention_map`.  https://arxiv.org/abs/2603.09078
    """

    attention_map = None

    def mix(self, x, q, k, v):
        y, own = self.attend(q, k, v), F.normalize(v[:, :, -q.size(2) :], dim=-1, eps=1e-6)
        return y - (y * own).sum(-1, keepdim=True) * own


OUTPUTS = {"gated": Gated, "xsa": Exclusive}
