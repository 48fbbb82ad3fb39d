"""Which part of it matters? Differential attention with one part changed, and vanilla with one part added."""

import torch.nn as nn

from model import Attention, Differential


class Init08(Differential):
    """init-0.8: λ_init = 0.8 in every layer, also in the factor (1 − λ_init)."""

    def __init__(self, config, depth):
        super().__init__(config, depth)
        self.lam_init = 0.8


class Init05(Differential):
    """init-0.5: λ_init = 0.5 in every layer, also in the factor (1 − λ_init)."""

    def __init__(self, config, depth):
        super().__init__(config, depth)
        self.lam_init = 0.5


class FixedLambda(Differential):
    """fixed-lambda: λ = λ_init, not learned."""

    def __init__(self, config, depth):
        super().__init__(config, depth)
        del self.lam_q1, self.lam_k1, self.lam_q2, self.lam_k2

    @property
    def lam(self):
        return self.cos.new_full((1,), self.lam_init)


class LambdaZero(FixedLambda):
    """lambda-zero: A = softmax(S₁), with the norm and the wide value of differential: the second map is not used."""

    @property
    def lam(self):
        return self.cos.new_zeros(1)


class Tied(FixedLambda):
    """tied: A = softmax(S₁) − λ_init softmax(S₂): λ is not learned, and there is no head norm."""

    def __init__(self, config, depth):
        super().__init__(config, depth)
        del self.head_norm

    def norm(self, y):
        return y


class Tied09(Tied):
    """tied-0.9: A = softmax(S₁) − 0.9 softmax(S₂), with no head norm."""

    def __init__(self, config, depth):
        super().__init__(config, depth)
        self.lam_init = 0.9


class TiedNarrow(Tied09):
    """tied-narrow: tied-0.9 with values as wide as those of vanilla; C² fewer numbers per layer."""

    def __init__(self, config, depth):
        super().__init__(config, depth)
        C, self.E = config.n_embd, self.D
        self.qkv, self.out = nn.Linear(C, 2 * C + C // 2, bias=False), nn.Linear(C // 2, C, bias=False)


class NormedVanilla(Attention):
    """normed-vanilla: y = RMSNorm(softmax(S) V) per head, with one gain for all heads."""

    def __init__(self, config, depth):
        super().__init__(config, depth)
        self.head_norm = nn.RMSNorm(self.E, eps=1e-5)

    def norm(self, y):
        return self.head_norm(y.to(self.head_norm.weight.dtype))  # float32, also where y is bfloat16


class WideValues(Attention):
    """wide-values: A = softmax(S), with values as wide as those of differential; 2C² more numbers per layer."""

    def __init__(self, config, depth):
        super().__init__(config, depth)
        C, self.E = config.n_embd, 2 * self.D
        self.qkv, self.out = nn.Linear(C, 4 * C, bias=False), nn.Linear(2 * C, C, bias=False)


ABLATIONS = {
    "init-0.8": Init08,
    "init-0.5": Init05,
    "fixed-lambda": FixedLambda,
    "lambda-zero": LambdaZero,
    "tied": Tied,
    "tied-0.9": Tied09,
    "tied-narrow": TiedNarrow,
    "normed-vanilla": NormedVanilla,
    "wide-values": WideValues,
}
