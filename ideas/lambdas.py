"""Which λ? One per head or per token, and a second map that knows nothing.

The words in quotation marks are from the discussion of the paper: https://news.ycombinator.com/item?id=41776324
"""

import torch
import torch.nn as nn

from model import Attention, Differential, pairs


class HeadLambda(Differential):
    """head-lambda: differential, with a λ of its own for every head.

    "each head can choose its own lambda"
    """

    def __init__(self, config, depth):
        super().__init__(config, depth)
        for name in ("lam_q1", "lam_k1", "lam_q2", "lam_k2"):
            setattr(self, name, nn.Parameter(0.1 * torch.randn(self.G, 1, self.D)))


class TokenLambda(Attention):
    """token-lambda: A = softmax(S₁) − σ(x W) softmax(S₂), a λ for every query and head, no norm: the λ of v2."""

    maps_per_head = 2

    def __init__(self, config, depth):
        super().__init__(config, depth)
        self.to_lam = nn.Linear(config.n_embd, self.G, bias=False)

    def mix(self, x, q, k, v):
        lam = self.to_lam(x).sigmoid().mT.unsqueeze(-1)  # BTH -> BHT1
        (q1, q2), (k1, k2) = pairs(q), pairs(k)
        return self.attend(q1, k1, v) - lam * self.attend(q2, k2, v)


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


class MinusEven(Attention):
    """minus-even: A = softmax(S) − λ/n, n the number of tokens that the row sees; a learned λ per head, from 0.5.

    "this trick and just softmax() − 0.5": the second map is made of zero queries, and knows nothing.
    """

    watch = ("lam",)

    def __init__(self, config, depth):
        super().__init__(config, depth)
        self.lam = nn.Parameter(torch.full((self.G, 1, 1), 0.5))

    def mix(self, x, q, k, v):
        return self.attend(q, k, v) - self.lam * self.attend(torch.zeros_like(q), k, v)

    def flops(self, n):
        return 2 * super().flops(n)


LAMBDAS = {
    "head-lambda": HeadLambda,
    "token-lambda": TokenLambda,
    "v2": DiffV2,
    "minus-even": MinusEven,
}
