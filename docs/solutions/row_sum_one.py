"""Exercise: a difference whose rows sum to one. An even map is attention with queries of zero."""

import torch

from model import Differential


class RowSumOne(Differential):
    """row-sum-one: A = softmax(S₁) − λ softmax(S₂) + λ/n, n the tokens that a row sees."""

    def mix(self, x, q, k, v):
        even = self.attend(torch.zeros_like(q[:, 0::2]), k[:, 0::2], v)
        return super().mix(x, q, k, v) + self.lam * even

    def flops(self, n):
        return 1.5 * super().flops(n)  # a third map per head


SOLUTION = RowSumOne
