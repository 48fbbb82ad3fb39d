"""How does one get it wrong? Seven mistakes that train without an error; most were made in public (docs, chapter 6)."""

import torch
import torch.nn as nn
import torch.nn.functional as F

from model import Differential, Softmax1, pairs


class Halved(Differential):
    """halved: half the heads, and half the width too, so that every projection shrinks to half."""

    def __init__(self, config, depth):
        super().__init__(config, depth)
        C, self.D, self.E = config.n_embd, self.D // 2, self.D
        self.qkv, self.out = nn.Linear(C, C // 2 * 3, bias=False), nn.Linear(C // 2, C, bias=False)
        self.cos, self.sin = self.cos[:, ::2], self.sin[:, ::2]
        self.lam_q1, self.lam_k1, self.lam_q2, self.lam_k2 = (nn.Parameter(0.1 * torch.randn(self.D)) for _ in range(4))
        self.head_norm = nn.RMSNorm(self.E, eps=1e-5)


class SplitAfterRotation(Differential):
    """split-late: heads of width 2D are rotated, then split: the two channels of each turning pair are separated."""

    def __init__(self, config, depth):
        super().__init__(config, depth)
        angles = torch.outer(torch.arange(config.block_size), 10000 ** -(torch.arange(self.D) / self.D))
        self.cos, self.sin = torch.cat((angles.cos(),) * 2, -1), torch.cat((-angles.sin(), angles.sin()), -1)

    def rotate(self, q, start):
        wide = q.unflatten(1, (-1, 2)).transpose(2, 3).flatten(3)  # BHTD -> B(H/2)T(2D)
        cos, sin = (z[start : start + q.size(2)] for z in (self.cos, self.sin))
        wide = wide * cos + wide.roll(self.D, -1) * sin
        return wide.unflatten(3, (2, -1)).transpose(2, 3).flatten(1, 2)


class ScoresSubtracted(Differential):
    """scores: A = softmax(S₁ − λS₂), one softmax of a difference."""

    def mix(self, x, q, k, v):
        (q1, q2), (k1, k2) = pairs(q), pairs(k)
        return self.attend(torch.cat((q1, -self.lam * q2), -1), torch.cat((k1, k2), -1), v, scale=self.D**-0.5)


class NoNorm(Differential):
    """no-norm: the heads are joined as they are."""

    def norm(self, y):
        return y


class NoScale(Differential):
    """no-scale: heads are normalised, without the factor (1 − λ_init)."""

    def norm(self, y):
        return self.head_norm(y)


class OneBased(Differential):
    """one-based: depth counts layers from 1, as the paper's l does, where it should count from 0."""

    def __init__(self, config, depth):
        super().__init__(config, depth + 1)


class ZeroTokenTrap(Softmax1):
    """zero-token: a zero token before k and v, none before q: is_causal then hides each token from itself."""

    def mix(self, x, q, k, v):
        if q.size(2) < k.size(2):
            return super().mix(x, q, k, v)
        k, v = F.pad(k, (0, 0, 1, 0)), F.pad(v, (0, 0, 1, 0))
        dropout = self.dropout if self.training else 0.0
        return F.scaled_dot_product_attention(q, k, v, dropout_p=dropout, is_causal=True)


MISTAKES = {
    "halved": Halved,
    "split-late": SplitAfterRotation,
    "scores": ScoresSubtracted,
    "no-norm": NoNorm,
    "no-scale": NoScale,
    "one-based": OneBased,
    "zero-token": ZeroTokenTrap,
}
