"""Can one token tell the others what to ignore? Selective Attention, with a difference, too, and forget gates."""

import math

import torch
import torch.nn as nn
import torch.nn.functional as F

from model import Attention, Differential, identity_like, pairs, scores, softmax


class Selective(Attention):
    """selective: A = softmax(S − F), F_ij = Σ max(0, S⁰_tj) over j < t < i, S⁰ the scores of map 0; F = 0 for j = 0.

    A token t says by S⁰ which tokens those after it need not see. Stores A.  https://arxiv.org/abs/2410.02703
    """

    def project(self, x, start=0):
        q, k, v = super().project(x, start)
        return q, torch.cat((k, q[:, :1].expand_as(k), k[:, :1].expand_as(k)), -1), v  # the cache keeps them together

    def mix(self, x, q, k, v):
        k, weights = self.selected(q, k)
        return self.attend(q, k, v, weights)

    def selected(self, q, k):
        """The keys alone, and softmax(S − F) as a function of S."""
        k, q0, k0 = k.split(self.D, -1)
        S0 = scores(q0[:, :1], k0[:, :1]).relu().tril(-1)
        S0[..., 0] = 0
        past = (S0.cumsum(-2) - S0)[..., -q.size(2) :, :]  # F, the sum over t < i
        return k, lambda S: softmax(S - past)

    def flops(self, n):
        return super().flops(n) + 2 * self.D * n  # S⁰


class SelectiveDifferential(Selective, Differential):
    """selective-differential: A = softmax(S₁ − F) − λ softmax(S₂ − F), F as in selective. Stores A.

    "is this architecture compatible with …": https://news.ycombinator.com/item?id=41776324
    """

    def mix(self, x, q, k, v):
        k, weights = self.selected(q, k)
        (q1, q2), (k1, k2) = pairs(q), pairs(k)
        return self.attend(q1, k1, v, weights) - self.lam * self.attend(q2, k2, v, weights)

    def both_maps(self, x):
        q, k, _ = self.project(x)
        k, weights = self.selected(q, k)
        return pairs(self.attend(q, k, identity_like(q), weights))


class Forgetting(Attention):
    """forgetting: A = softmax(S + F), F_ij = Σ ln f_l over j < l ≤ i, f = σ(x W + b) per token and head, b from ln L.

    So f begins as L/(L + 1), and L = block_size tokens forget the first one by a factor of about e.
    https://arxiv.org/abs/2503.02130
    """

    watch = ("b",)

    def __init__(self, config, depth):
        super().__init__(config, depth)
        self.forget = nn.Linear(config.n_embd, self.H, bias=False)
        self.b = nn.Parameter(torch.full((self.H,), math.log(config.block_size)))

    def project(self, x, start=0):
        q, k, v = super().project(x, start)
        ln_f = F.logsigmoid(self.forget(x) + self.b).mT.unsqueeze(-1)  # BTH -> BHT1
        return q, torch.cat((k, ln_f), -1), v  # the cache keeps them together

    def mix(self, x, q, k, v):
        """F_ij is c_i − c_j, c the running sum of ln f: four more channels, as bfloat16 needs c in two parts."""
        scale, (k, ln_f) = self.D**-0.5, k.split((self.D, 1), -1)
        c = ln_f.cumsum(2) / scale
        coarse = (c / 16).round() * 16
        c = torch.cat((coarse, c - coarse), -1)
        q = F.pad(torch.cat((q, c[:, :, -q.size(2) :]), -1), (0, 2), value=1.0)
        return self.attend(q, torch.cat((F.pad(k, (0, 2), value=1.0), -c), -1), v, scale=scale)

    def flops(self, n):
        return super().flops(n) + 2 * self.H * 4 * n


SELECTIONS = {
    "selective": Selective,
    "selective-differential": SelectiveDifferential,
    "forgetting": Forgetting,
}
