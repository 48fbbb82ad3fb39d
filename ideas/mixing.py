"""Why only two maps, and only neighbours? Maps of all heads mixed by a matrix, of which −λ is one entry.

The words in quotation marks are from the discussion of the paper: https://news.ycombinator.com/item?id=41776324
"""

import math

import torch
import torch.nn as nn
import torch.nn.functional as F

from ideas.ablations import FixedLambda
from ideas.difference import OneMap
from model import Attention, softmax


class Mixed(Attention):
    """mixed: A of head h is Σ_g M[h, g] softmax(S_g), M learned per layer, from the identity. Stores A.

    "the affine combination of N softmax attention operations … more general, like a matrix"
    """

    def __init__(self, config, depth):
        super().__init__(config, depth)
        self.M = nn.Parameter(torch.eye(self.G))

    def mix(self, x, q, k, v):
        return self.attend(q, k, v, lambda S: mixed(self.M, softmax(S)))

    def flops(self, n):
        return super().flops(n) + 2 * self.M.numel() * n


def mixed(M, A):
    """Σ_g M[h, g] A_g for every head h; a constant M is HH. BHTN -> BHTN"""
    return torch.einsum("hg,bgtn->bhtn", M.to(A.dtype), A)


class UnitMix(Mixed):
    """unit-mix: mixed, with each row of M divided by its length. Stores A.

    "λᵢ ∈ Rᵈ, ‖λ‖ = 1"
    """

    def mix(self, x, q, k, v):
        return self.attend(q, k, v, lambda S: mixed(F.normalize(self.M, dim=-1), softmax(S)))


class MixedByToken(Mixed):
    """mixed-by-token: mixed, with M + W₂ tanh(W₁ x) in place of M, a matrix for every query. Stores A.

    "… or MLP"
    """

    def __init__(self, config, depth):
        super().__init__(config, depth)
        self.hidden = nn.Linear(config.n_embd, 4 * self.G, bias=False)
        self.to_M = nn.Linear(4 * self.G, self.G**2, bias=False)

    def mix(self, x, q, k, v):
        M = self.M + self.to_M(self.hidden(x).tanh()).unflatten(2, self.M.shape)  # BTHH
        return self.attend(q, k, v, lambda S: torch.einsum("bthg,bgtn->bhtn", M, softmax(S)))


class TalkingHeads(Mixed):
    """talking-heads: A of head h is Σ_g M[h, g] softmax(Σ_f P[g, f] S_f), M and P from the identity. Stores A.

    Shazeer et al., https://arxiv.org/abs/2003.02436; "should explore usage of talking heads a bit more"
    """

    def __init__(self, config, depth):
        super().__init__(config, depth)
        self.P = nn.Parameter(torch.eye(self.G))

    def mix(self, x, q, k, v):
        return self.attend(q, k, v, self.weights).to(x.dtype)

    def weights(self, S):
        future = S[:, :1] == -math.inf
        S = mixed(self.P, S.masked_fill(future, 0)).masked_fill(future, -math.inf)
        return mixed(self.M, softmax(S))

    def flops(self, n):
        return super().flops(n) + 2 * self.P.numel() * n


class TalkingDifferential(TalkingHeads, OneMap, FixedLambda):
    """talking-differential: talking-heads with H/2 rows in M, which begins as a difference: 1 and −λ_init for the two

    maps of each head, 0 for the others. Wide values and the norm are those of differential. Stores A.
    """

    def __init__(self, config, depth):
        super().__init__(config, depth)
        self.P = nn.Parameter(torch.eye(self.H))
        self.M = nn.Parameter(self.M.detach().kron(torch.tensor([[1, -self.lam_init]])))


MIXTURES = {
    "mixed": Mixed,
    "unit-mix": UnitMix,
    "mixed-by-token": MixedByToken,
    "talking-heads": TalkingHeads,
    "talking-differential": TalkingDifferential,
}
