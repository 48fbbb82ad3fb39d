"""Why the difference? Other ways to put two maps together.

The words in quotation marks are from the discussion of the paper: https://news.ycombinator.com/item?id=41776324
"""

import math

import torch
import torch.nn as nn
import torch.nn.functional as F

from ideas.ablations import FixedLambda, NormedVanilla
from ideas.denominator import seen
from model import Attention, Differential, identity_like, pairs, scores, softmax


class Sum(Differential):
    """sum: A = softmax(S₁) + λ softmax(S₂), where λ may become negative.

    "why … the difference … instead of the sum?"
    """

    def mix(self, x, q, k, v):
        (q1, q2), (k1, k2) = pairs(q), pairs(k)
        return self.attend(q1, k1, v) + self.lam * self.attend(q2, k2, v)


class AddOnly(Differential):
    """add-only: A = softmax(S₁) + |λ| softmax(S₂), which can never subtract."""

    def mix(self, x, q, k, v):
        (q1, q2), (k1, k2) = pairs(q), pairs(k)
        return self.attend(q1, k1, v) + self.lam.abs() * self.attend(q2, k2, v)


class OneMap(Attention):
    """A = weights(S): BHTN scores of all maps to weights of half as many heads, which are stored."""

    maps_per_head = 2

    def mix(self, x, q, k, v):
        return self.attend(q, k, v, self.weights).to(x.dtype)  # what normalises heads does so in float32

    def flops(self, n):
        return 2 * (self.H * self.D + self.G * self.E) * n


class Rectified(OneMap, Differential):
    """rectified: A = max(0, softmax(S₁) − λ softmax(S₂)). Stores A.

    "Rectify the difference of the softmaxes"
    """

    def weights(self, S):
        A1, A2 = pairs(softmax(S))
        return (A1 - self.lam * A2).relu()


class Gate(OneMap, FixedLambda):
    """gate: A = softmax(S₁) where that is above λ softmax(S₂), else 0; λ = λ_init. Stores A. Nothing teaches S₂ or λ.

    "Apply the Heaviside function … (as a gate)"
    """

    def weights(self, S):
        A1, A2 = pairs(softmax(S))
        return A1.where(self.lam * A2 < A1, 0)


class Heaviside(OneMap, Differential):
    """heaviside: A = A₁ − λ where A₁ is above λA₂, else A₁; A₁ and A₂ as in differential. Stores A. Nothing teaches A₂.

    "softmax(A1) - lambda H(s(A1) - lambda s(A2))", to the letter
    """

    def weights(self, S):
        A1, A2 = pairs(softmax(S))
        return A1 - self.lam * (self.lam * A2 < A1)


class Surprise(OneMap):
    """surprise: A = d softmax(S₁), d = ½ Σ |softmax(S₁) − softmax(S₂)| per row, from 0 to 1. Stores A.

    "if one attention head is surprised by what another learns, up-weight it"
    """

    def weights(self, S):
        A1, A2 = pairs(softmax(S))
        return (A1 - A2).abs().sum(-1, keepdim=True) / 2 * A1


class LogSigmoid(OneMap):
    """log-sigmoid: A = softmax(αS₁ − ln σ(βS₂)), α and β learned per head, from 1. Stores A.

    "softmax(α q₁k₁ − log σ(β q₂k₂))": a small second score lifts a token, a large one does nothing.
    """

    watch = ("alpha", "beta")

    def __init__(self, config, depth):
        super().__init__(config, depth)
        self.alpha, self.beta = (nn.Parameter(torch.ones(self.G, 1, 1)) for _ in range(2))

    def mix(self, x, q, k, v):
        factors = torch.stack((self.alpha, self.beta), 1).flatten(0, 1)  # α of head 0, β of head 0, α of head 1 …
        return super().mix(x, factors * q, k, v)

    def weights(self, S):
        S1, S2 = pairs(S)
        return softmax(S1 - F.logsigmoid(S2.where(S2.isfinite(), 0)))


class GateLogSigmoid(OneMap):
    """gate-log-sigmoid: A = softmax(S₁ + ln σ(S₂)): a small second score removes a token. Stores A.

    What log-sigmoid was probably meant to be: its formula, to the letter, does the opposite.
    """

    def weights(self, S):
        S1, S2 = pairs(S)
        return softmax(S1 + F.logsigmoid(S2))


class Grouped(NormedVanilla):
    """grouped: A = softmax(S) − λ softmax(S₀), S₀ of queries and keys x W: one noise map for all heads of a layer.

    λ per head, from λ_init; y = (1 − λ_init) RMSNorm(A V) per head, λ_init as in differential. Simplified from
    https://arxiv.org/abs/2510.06949, with a noise map for every few heads, as in Motif-2-12.7B
    (https://arxiv.org/abs/2511.07464).
    """

    watch = ("lam",)

    def __init__(self, config, depth):
        super().__init__(config, depth)
        self.lam_init = 0.8 - 0.6 * math.exp(-0.3 * depth)
        self.lam = nn.Parameter(torch.full((self.H, 1, 1), self.lam_init))
        self.noise = nn.Linear(config.n_embd, 2 * self.D, bias=False)

    def project(self, x, start=0):
        q, k, v = super().project(x, start)
        noise = self.noise(x).unflatten(2, (2, self.D)).transpose(1, 2)
        q0, k0 = self.rotate(noise, start).chunk(2, 1)
        return torch.cat((q, q0), 1), torch.cat((k, k0), 1), v

    def mix(self, x, q, k, v):
        q0, k0 = (z[:, -1:].expand(-1, self.H, -1, -1) for z in (q, k))
        return self.attend(q[:, :-1], k[:, :-1], v) - self.lam * self.attend(q0, k0, v)

    def norm(self, y):
        return (1 - self.lam_init) * super().norm(y)

    def flops(self, n):
        return 2 * super().flops(n)


class Dint(OneMap, Differential):
    """dint: A = A₁ − λA₂ + λG, row i of G the mean of rows 1 … i of A₁; A₁, A₂, λ as in differential. Stores A.

    So rows sum to 1 again.  https://arxiv.org/abs/2501.17486
    """

    def project(self, x, start=0):
        q, k, v = super().project(x, start)
        return q, torch.cat((k, q), -1), v  # the cache keeps the queries of the earlier rows, too

    def mix(self, x, q, k, v):
        k, all_q = k.split(self.D, -1)
        return super().mix(x, all_q, k, v)[:, :, -q.size(2) :]

    def weights(self, S):
        A1, A2 = pairs(softmax(S))
        G = A1.cumsum(-2) / seen(S[:, :1])
        return A1 - self.lam * (A2 - G)

    def both_maps(self, x):
        q, k, _ = self.project(x)
        return pairs(self.attend(q, k[..., : self.D], identity_like(q)))


class Decorrelated(Differential):
    """decorrelated: differential, and 0.1 · the mean cosine of the rows of A₁ and A₂ in the loss. Stores A in training.

    "Maybe the loss function could penalize them learning the same thing?" Losses are logged without the penalty.
    """

    def mix(self, x, q, k, v):
        y = super().mix(x, q, k, v)
        if not (self.training and torch.is_grad_enabled()):
            return y
        A1, A2 = pairs(softmax(scores(q, k)))
        rows = F.cosine_similarity(A1, A2, dim=-1)[..., 1:]  # the first row sees one token
        return Penalised.apply(y, 0.1 * rows.sum() / max(1, rows.numel()))


class Penalised(torch.autograd.Function):
    """y as it is; backward, gradients are those of loss + penalty."""

    @staticmethod
    def forward(ctx, y, penalty):
        return y.view_as(y)

    @staticmethod
    def backward(ctx, gradient):
        return gradient, gradient.new_ones(())


DIFFERENCES = {
    "sum": Sum,
    "add-only": AddOnly,
    "rectified": Rectified,
    "gate": Gate,
    "heaviside": Heaviside,
    "surprise": Surprise,
    "log-sigmoid": LogSigmoid,
    "gate-log-sigmoid": GateLogSigmoid,
    "grouped": Grouped,
    "dint": Dint,
    "decorrelated": Decorrelated,
}
