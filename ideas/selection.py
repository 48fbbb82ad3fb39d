"""Can one token tell the others what to ignore? Selective Attention, and whether it goes together with a difference."""

import torch

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
        F = (S0.cumsum(-2) - S0)[..., -q.size(2) :, :]  # the sum over t < i
        return k, lambda S: softmax(S - F)

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


SELECTIONS = {"selective": Selective, "selective-differential": SelectiveDifferential}
