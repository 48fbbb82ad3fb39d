"""Exercise: one map minus the mean of two."""

from model import Differential, identity_like


class ThreeMaps(Differential):
    """three-maps: A = softmax(S₁) − λ (softmax(S₂) + softmax(S₃)) / 2; a value is three queries wide."""

    maps_per_head = 3

    def combine(self, A):
        A1, A2, A3 = (A[:, i::3] for i in range(3))
        return A1 - self.lam * (A2 + A3) / 2

    def maps(self, x):
        """The first, and the mean of the others: what lab.analyze takes for A₁ and A₂."""
        q, k, _ = self.project(x)
        A = self.attend(q, k, identity_like(q))
        return A[:, 0::3], (A[:, 1::3] + A[:, 2::3]) / 2


SOLUTION = ThreeMaps
