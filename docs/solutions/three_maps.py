"""Exercise: one map minus the mean of two."""

import torch

from model import Differential


class ThreeMaps(Differential):
    """three-maps: A = softmax(S₁) − λ (softmax(S₂) + softmax(S₃)) / 2; a value is three queries wide."""

    @staticmethod
    def heads(H):
        if H % 3:
            raise ValueError(f"n_head={H}: a head is three maps, so n_head must be a multiple of 3")
        return H, H, H // 3

    def mix(self, x, q, k, v):
        y1, y2, y3 = (self.attend(q[:, i::3], k[:, i::3], v) for i in range(3))
        return y1 - self.lam * (y2 + y3) / 2

    def maps(self, x):
        """The first, and the mean of the others: what analyze.py takes for A₁ and A₂."""
        q, k, _ = self.project(x)
        A = self.attend(q, k, torch.eye(x.size(1), dtype=q.dtype, device=q.device).expand(*q.shape[:2], -1, -1))
        return A[:, 0::3], (A[:, 1::3] + A[:, 2::3]) / 2


SOLUTION = ThreeMaps
