"""Must the second map know what the first one found? Two attentions in a row, one subtracted from the other.

The words in quotation marks are from the discussion of the paper: https://news.ycombinator.com/item?id=41776324
"""

import torch
import torch.nn as nn

from model import Attention, Cache


class Hierarchical(Attention):
    """hierarchical: y = y₁ − λ softmax(S₂) V, y₁ = softmax(S₁) V, queries of S₂ made of y₁; a λ per head, from 0.5.

    "It has to be done in a hierarchical way to know what you attended to". It is not linear in V, so it has no
    `attention_map`.
    """

    watch, attention_map = ("lam",), None

    def __init__(self, config, depth):
        super().__init__(config, depth)
        self.q2 = nn.Linear(config.n_embd, config.n_embd, bias=False)
        self.lam = nn.Parameter(torch.full((self.G, 1, 1), 0.5))

    def mix(self, x, q, k, v):
        y = self.attend(q, k, v)
        q2 = self.q2(y.transpose(1, 2).flatten(2)).unflatten(2, (-1, self.D)).transpose(1, 2)
        return y - self.lam * self.attend(self.rotate(q2, k.size(2) - q.size(2)), k, v)

    def flops(self, n):
        return 2 * super().flops(n)


class Factored(Attention):
    """factored: two attentions in a row that share V: y = y₁ − λ softmax(S₂) V, y₁ = softmax(S₁) V, S₂ of x + y₁ W_out.

    "2 consecutive attentions in a residual branch … sharing V". A λ per head, from 0.5. It has no `attention_map`:
    what the second attention looks at depends on what the first one brought.
    """

    maps_per_head, watch, attention_map = 2, ("lam",), None

    def __init__(self, config, depth):
        super().__init__(config, depth)
        self.lam = nn.Parameter(torch.full((self.G, 1, 1), 0.5))

    def forward(self, x, cache=None):
        start, second = (cache.length, vars(cache).setdefault("second", Cache(cache.size))) if cache else (0, None)
        q, k, v = self.project(x, start)
        y = self.look(q[:, 0::2], k[:, 0::2], v, cache)
        q, k, _ = self.project(x + self.joined(y), start)
        return self.joined(y - self.lam * self.look(q[:, 1::2], k[:, 1::2], v, second))

    def look(self, q, k, v, cache):
        return self.attend(q, *(cache.append(k, v) if cache else (k, v)))

    def joined(self, y):
        return self.out(y.transpose(1, 2).flatten(2))  # BHTE -> BTC

    def flops(self, n):
        return super().flops(n) + 2 * (self.qkv.weight.numel() + self.out.weight.numel())  # all weights are used twice


STEPS = {"hierarchical": Hierarchical, "factored": Factored}
