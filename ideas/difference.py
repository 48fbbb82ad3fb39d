"""Why the difference? Other ways to put two maps together."""

import torch.nn as nn

from model import Attention, Differential


class Sum(Differential):
    """sum: A = softmax(S₁) + λ softmax(S₂), where λ may become negative. `lam`, which train.py logs, is −λ."""

    @property
    def lam(self):
        return -super().lam


class AddOnly(Differential):
    """add-only: A = softmax(S₁) + |λ| softmax(S₂), which can never subtract. `lam`, which train.py logs, is −|λ|."""

    @property
    def lam(self):
        return -super().lam.abs()


class DiffV2(Attention):
    """v2: A = softmax(S₁) − σ(x W) softmax(S₂): two queries per key, λ per token and head, no norm.

    The authors' second version, January 2026. It has C² + CH more numbers per layer.
    """

    def __init__(self, config, depth):
        super().__init__(config, depth)
        self.q2 = nn.Linear(config.n_embd, config.n_embd, bias=False)
        self.lam = nn.Linear(config.n_embd, config.n_head, bias=False)

    def mix(self, x, q, k, v):
        q2 = self.q2(x).unflatten(2, (-1, self.D)).transpose(1, 2)  # BTC -> BHTD
        q2 = self.rotate(q2, k.size(2) - q.size(2))
        lam = self.lam(x).sigmoid().mT.unsqueeze(-1)  # BTH -> BHT1
        return self.attend(q, k, v) - lam * self.attend(q2, k, v)

    def flops(self, n):
        return 2 * super().flops(n)


DIFFERENCES = {"sum": Sum, "add-only": AddOnly, "v2": DiffV2}
