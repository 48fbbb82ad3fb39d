"""What should a row of weights add up to? Other denominators, and none at all.

The words in quotation marks are from the discussion of the paper: https://news.ycombinator.com/item?id=41776324
"""

import math

import torch
import torch.nn as nn
import torch.nn.functional as F

from model import Attention, Softmax1, Temperature, softmax, softmax1


class Sink(Attention):
    """sink: A = exp(S) / (exp(b) + Σ exp(S)), one learned b per head, from 0: softmax1 of S − b.

    "replacing the 1 with a constant"; gpt-oss has it, too.
    """

    watch = ("b",)

    def __init__(self, config, depth, n=None):
        super().__init__(config, depth)
        self.b = nn.Parameter(torch.zeros(n or self.H, 1, 1))

    def mix(self, x, q, k, v):
        scale = self.D**-0.5
        q, k = F.pad(q, (0, 1), value=1.0), torch.cat((k, (-self.b / scale).expand_as(k[..., :1])), -1)
        return self.attend(q, k, v, softmax1, scale)

    def flops(self, n):
        return super().flops(n) + 2 * self.H * n  # queries are one channel wider


class LayerSink(Sink):
    """layer-sink: A = exp(S) / (exp(b) + Σ exp(S)), one learned b per layer, from 0.

    "a constant associated with the layer"
    """

    def __init__(self, config, depth):
        super().__init__(config, depth, n=1)


class Softmax1ButLast(Softmax1):
    """softmax1-but-last: softmax1, and softmax in the last layer.

    "I put the mechanism in all the layers rather than avoiding it at the end"
    """

    def __init__(self, config, depth):
        super().__init__(config, depth)
        self.weights = softmax1 if depth < config.n_layer - 1 else softmax

    def mix(self, x, q, k, v):
        return self.attend(q, k, v, self.weights)


class ExpMinusOne(Attention):
    """exp-minus-one: A = E / Σ E, E = max(0, exp(S) − 1), and 0 where no score is above 0. Stores A.

    "max(0, exp(x)-1) instead of exp(x)"
    """

    def mix(self, x, q, k, v):
        return self.attend(q, k, v, self.weights)

    def weights(self, S):
        E = exp_minus_one(S).relu()
        return normed(E, E)


class Softpick(Attention):
    """softpick: A = max(0, exp(S) − 1) / Σ |exp(S) − 1|. Stores A.  https://arxiv.org/abs/2504.20966"""

    def mix(self, x, q, k, v):
        return self.attend(q, k, v, self.weights)

    def weights(self, S):
        E = exp_minus_one(S)
        return normed(E.relu(), E.abs())


def exp_minus_one(S):
    """(exp(S) − 1) / exp(m), m the row's maximum or 0, so that nothing overflows; 0 in the future. BHTN -> BHTN"""
    m = S.amax(-1, keepdim=True).clamp(min=0)
    return ((S - m).exp() - (-m).exp()).where(S.isfinite(), 0)


def normed(E, terms):
    """E / Σ terms over the last dimension; 0 where that sum is."""
    return E / terms.sum(-1, keepdim=True).clamp(min=torch.finfo(E.dtype).tiny)


class Sigmoid(Attention):
    """sigmoid: A = σ(S − ln L), L = block_size. Stores A.  https://arxiv.org/abs/2409.04431

    "or use a sigmoid instead"
    """

    def __init__(self, config, depth):
        super().__init__(config, depth)
        self.b = math.log(config.block_size)

    def mix(self, x, q, k, v):
        return self.attend(q, k, v, lambda S: (S - self.b).sigmoid())


class NoSoftmax(Attention):
    """no-softmax: A = S/n, n the number of tokens that the row sees. Stores A.

    "just remove the softmax"
    """

    def mix(self, x, q, k, v):
        return self.attend(q, k, v, lambda S: S.where(S.isfinite(), 0) / seen(S))


class Threshold(Attention):
    """threshold: A = softmax(S) where that is at least the row's mean, 1/n; else 0. Stores A.

    "thresholding … activations that are below average for a given head"
    """

    def mix(self, x, q, k, v):
        return self.attend(q, k, v, self.weights)

    def weights(self, S):
        A = softmax(S)
        return A.where(A * seen(S) > 1 - 1e-6, 0)


class Cog(Attention):
    """cog: A = sign(S) exp|S| / Σ exp|S|: signs from one map. Stores A.  https://arxiv.org/abs/2411.07176

    The paper keeps softmax in the first and in the last layer; here no layer has it.
    """

    def mix(self, x, q, k, v):
        return self.attend(q, k, v, lambda S: S.sign() * softmax(S.abs().where(S.isfinite(), S)))


def seen(S):
    """How many tokens each row sees. BHTN -> BHT1"""
    return S.isfinite().sum(-1, keepdim=True)


class Cold(Attention):
    """cold: A = softmax(2S).

    "a more aggressive (lower temperature) softmax"
    """

    def mix(self, x, q, k, v):
        return self.attend(q, k, v, scale=2 * self.D**-0.5)


class ColdCosine(Temperature):
    """cold-cosine: A = softmax(g q̂ k̂ᵀ), g twice what it is at the start of temperature, and not learned.

    "softmax with a fixed temperature"
    """

    watch = ()

    def __init__(self, config, depth):
        super().__init__(config, depth)
        g = 2 * self.g.detach()
        del self.g
        self.register_buffer("g", g, persistent=False)


class SSMax(Attention):
    """ssmax: A = softmax(s ln(n) S), n the number of tokens that the row sees; a learned s per head, from 1/ln L.

    So the last row of L = block_size tokens begins as that of vanilla.  https://arxiv.org/abs/2501.19399
    """

    watch = ("s",)

    def __init__(self, config, depth):
        super().__init__(config, depth)
        self.s = nn.Parameter(torch.full((self.H, 1, 1), 1 / math.log(max(config.block_size, 2))))

    def mix(self, x, q, k, v):
        n = torch.arange(1, k.size(2) + 1, dtype=self.s.dtype, device=q.device)[-q.size(2) :, None]
        return self.attend(self.s * n.log() * q, k, v)


DENOMINATORS = {
    "sink": Sink,
    "layer-sink": LayerSink,
    "softmax1-but-last": Softmax1ButLast,
    "exp-minus-one": ExpMinusOne,
    "softpick": Softpick,
    "sigmoid": Sigmoid,
    "no-softmax": NoSoftmax,
    "threshold": Threshold,
    "cog": Cog,
    "cold": Cold,
    "cold-cosine": ColdCosine,
    "ssmax": SSMax,
}
