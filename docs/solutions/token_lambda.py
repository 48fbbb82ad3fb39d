"""Exercise: a λ per token and head, computed from the token itself. This is what `mix` gets x for."""

import torch.nn as nn

from model import Attention, pairs


class TokenLambda(Attention):
    """token-lambda: A = softmax(S₁) − σ(x W_λ) softmax(S₂), one λ per query and head; no norm."""

    maps_per_head = 2

    def __init__(self, config, depth):
        super().__init__(config, depth)
        self.to_lam = nn.Linear(config.n_embd, self.n_heads, bias=False)

    def mix(self, x, q, k, v):
        lam = self.to_lam(x).sigmoid().transpose(1, 2).unsqueeze(-1)  # BTH -> BHT1
        (q1, q2), (k1, k2) = pairs(q), pairs(k)
        return self.attend(q1, k1, v) - lam * self.attend(q2, k2, v)


SOLUTION = TokenLambda
