"""Exercise: λ as one learned number."""

import torch
import torch.nn as nn

from model import Differential


class PlainLambda(Differential):
    """plain-lambda: differential, with λ one number that starts at λ_init and is learned as it is."""

    def __init__(self, config, depth):
        super().__init__(config, depth)
        del self.lam_q1, self.lam_k1, self.lam_q2, self.lam_k2
        self.plain = nn.Parameter(torch.tensor([self.lam_init]))

    @property
    def lam(self):
        return self.plain


SOLUTION = PlainLambda
