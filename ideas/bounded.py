"""Bounded scores: S = g cos(q, k), so that no weight of a softmax row is more than e^(2g) times another, at any length.

An instrument and no recipe: with free scores vanilla and differential are better than with bounded ones. The bound
shows when a minus sign is worth something. In rms-qk the bound is learned.
"""

import torch
import torch.nn as nn
import torch.nn.functional as F

from ideas.ablations import FixedLambda, LambdaZero, NormedVanilla
from ideas.denominator import Cog, ExpMinusOne, Threshold
from ideas.difference import AddOnly, Gate, Rectified, Sum
from ideas.lambdas import DiffV2, MinusEven
from ideas.mistakes import NoNorm
from ideas.mixing import TalkingHeads
from model import Attention, Differential, Softmax1, pairs, softmax

RANGES = (1, 2, 3, 4, 6, 8)  # g


class WithoutNorm(NoNorm):
    """no-norm: differential without head norm, its gain and its factor (1 − λ_init)."""

    def __init__(self, config, depth):
        super().__init__(config, depth)
        del self.head_norm


class HalfLambda(FixedLambda):
    """lambda-0.5: differential with λ = 0.5 in every layer, not learned."""

    @property
    def lam(self):
        return self.cos.new_full((1,), 0.5)


class LargeLambda(FixedLambda):
    """lambda-0.9: differential with λ = 0.9 in every layer, not learned."""

    @property
    def lam(self):
        return self.cos.new_full((1,), 0.9)


class RectifiedHalf(Rectified, HalfLambda):
    """rectified-0.5: A = max(0, softmax(S₁) − 0.5 softmax(S₂)). Stores A."""


class RectifiedLarge(Rectified, LargeLambda):
    """rectified-0.9: A = max(0, softmax(S₁) − 0.9 softmax(S₂)). Stores A."""


class Absolute(Rectified):
    """absolute: A = |softmax(S₁) − λ softmax(S₂)|: as sharp as differential, without a sign. Stores A."""

    def weights(self, S):
        A1, A2 = pairs(softmax(S))
        return (A1 - self.lam * A2).abs()


class Stretched(MinusEven):
    """stretched: A = (softmax(S) − λ/n) / (1 − λ): minus-even with rows that sum to one, so the mean of V stays."""

    def mix(self, x, q, k, v):
        return super().mix(x, q, k, v) / (1 - self.lam)


CONTROLS = {  # what else differs between vanilla and differential, at g = 2
    "softmax1": Softmax1,
    "add-only": AddOnly,
    "sum": Sum,
    "rectified": Rectified,
    "absolute": Absolute,
    "rectified-0.5": RectifiedHalf,
    "rectified-0.9": RectifiedLarge,
    "threshold": Threshold,
    "cog": Cog,
    "no-norm": WithoutNorm,
    "minus-even": MinusEven,
    "stretched": Stretched,
    "normed-vanilla": NormedVanilla,
    "v2": DiffV2,
    "talking-heads": TalkingHeads,
    "gate": Gate,
    "lambda-zero": LambdaZero,
    "lambda-0.5": HalfLambda,
    "lambda-0.9": LargeLambda,
}


def bounded(mechanism, g, word):
    """A mechanism whose scores are g cos(q, k)."""

    class Bounded(mechanism):
        bound = g

        def rotate(self, q, start):  # queries and keys alike; `scores` divides their product by √D
            return (g * self.D**0.5) ** 0.5 * F.normalize(super().rotate(q, start), dim=-1, eps=1e-6)

    Bounded.__name__ = Bounded.__qualname__ = f"Bounded{g}{mechanism.__name__}"
    Bounded.__doc__ = f"{word}: {mechanism.__doc__.split(': ', 1)[1]}\n\n    S = {g} cos(q, k) in place of QKᵀ/√D."
    return Bounded


class NormedScores:
    """Queries g_q ⊙ q/rms(q) and keys g_k ⊙ k/rms(k), then rotated; g_q and g_k are learned per layer, from 1.

    So |S| ≤ √D max|g_q| max|g_k|.  https://arxiv.org/abs/2505.09388 (Qwen3)
    """

    def __init__(self, config, depth):
        super().__init__(config, depth)
        self.q_norm, self.k_norm = (nn.RMSNorm(self.D, eps=1e-5) for _ in range(2))

    def rotate(self, q, start):
        queries, keys = q.to(self.cos.dtype).chunk(2, 1)  # float32, also where q is bfloat16
        return super().rotate(torch.cat((self.q_norm(queries), self.k_norm(keys)), 1), start)


class NormedScoresVanilla(NormedScores, Attention):
    """rms-qk: vanilla with normed queries and keys, |S| ≤ √D max|g_q| max|g_k|, where the gains g are learned."""


class NormedScoresDifferential(NormedScores, Differential):
    """rms-qk-differential: differential with normed queries and keys, |S| ≤ √D max|g_q| max|g_k| in both maps."""


BOUNDED = {"rms-qk": NormedScoresVanilla, "rms-qk-differential": NormedScoresDifferential}
for g in RANGES:
    BOUNDED[f"bounded-{g}"] = bounded(Attention, g, f"bounded-{g}")
    BOUNDED[f"bounded-{g}-differential"] = bounded(Differential, g, f"bounded-{g}-differential")
    BOUNDED[f"bounded-{g}-exp-minus-one"] = bounded(ExpMinusOne, g, f"bounded-{g}-exp-minus-one")
for name, mechanism in CONTROLS.items():
    BOUNDED[f"bounded-2-{name}"] = bounded(mechanism, 2, f"bounded-2-{name}")
