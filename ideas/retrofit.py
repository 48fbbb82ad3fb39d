"""Can a model that was trained without it learn to subtract? Mechanisms that begin as vanilla, weight by weight.

The words in quotation marks are from the discussion of the paper: https://news.ycombinator.com/item?id=41776324
"""

import torch
import torch.nn as nn
import torch.nn.functional as F

from model import Attention


class Grown(Attention):
    """grown: A = softmax(S₁) − λ softmax(S₂), S₂ of queries q + x W; λ per head and W begin at 0, where A is vanilla's.

    "tune an existing model with this attention mechanism": give `--init_from` a run of vanilla. There W gets no
    gradient, as λ = 0, and λ only scales what `out` has scaled already, as S₂ = S₁: it begins at a saddle.
    """

    watch, begins_as = ("lam",), "vanilla"  # whose runs --init_from accepts

    def __init__(self, config, depth):
        super().__init__(config, depth)
        self.lam = nn.Parameter(torch.zeros(self.G, 1, 1))
        self.q2 = nn.Parameter(torch.zeros(config.n_embd, config.n_embd))

    def mix(self, x, q, k, v):
        q2 = F.linear(x, self.q2).unflatten(2, (-1, self.D)).transpose(1, 2)
        q2 = q + self.rotate(q2, k.size(2) - q.size(2))
        return self.attend(q, k, v) - self.lam * self.attend(q2, k, v)

    def flops(self, n):
        return 2 * super().flops(n) + 2 * self.q2.numel()


class Dex(Attention):
    """dex: every second head's output y becomes y − y W, W learned, from 0 (λ is a part of it).

    "replicate this with existing models": https://arxiv.org/abs/2505.16333. Simplified: the paper chooses the heads of
    each layer and anneals λ.
    """

    begins_as = "vanilla"

    def __init__(self, config, depth):
        super().__init__(config, depth)
        self.W = nn.Parameter(torch.zeros(self.D, self.D))

    def norm(self, y):
        changes = torch.arange(self.G, device=y.device)[:, None, None] % 2
        return y - changes * (y @ self.W)

    def flops(self, n):
        return super().flops(n) + 2 * self.G * self.W.numel()


RETROFITS = {"grown": Grown, "dex": Dex}
