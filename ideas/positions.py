"""Is it the noise of rotary positions that cancels? Other positions, for vanilla and for differential.

"a table comparing an alibi version of this to an alibi baseline": https://news.ycombinator.com/item?id=41776324
"""

import torch

from model import Attention, Differential, softmax


class NoPositions:
    """S as it is, without rotation: only the causal mask tells where a token stands.  https://arxiv.org/abs/2305.19466"""

    def rotate(self, q, start):
        return q


class LinearPositions(NoPositions):
    """S − m·distance, m = 2^(−8i/H) for heads i = 1 … H. Stores A.  https://arxiv.org/abs/2108.12409"""

    def attend(self, q, k, v, weights=softmax, scale=None):
        t = torch.arange(k.size(2), device=q.device)
        distance = t[k.size(2) - q.size(2) :, None] - t  # TN
        m = 2 ** (-8 * torch.arange(1, self.G + 1, device=q.device) / self.G)
        m = m.repeat_interleave(q.size(1) // self.G)[:, None, None]  # both maps of a head have the same
        return super().attend(q, k, v, lambda S: weights(S - m * distance), scale)


class XPositions:
    """Rotation, and q ζ^(t/512), k ζ^(−t/512), ζ = (2i/D + 0.4)/1.4 for channel pair i: it decays with the distance.

    https://arxiv.org/abs/2212.10554
    """

    def rotate(self, q, start):
        i = torch.arange(0, self.D, 2, device=q.device)
        t = torch.arange(start, start + q.size(2), device=q.device)[:, None] / 512
        grow = ((i / self.D + 0.4) / 1.4).repeat(2) ** t  # TD
        queries, keys = super().rotate(q, start).chunk(2, 1)
        return torch.cat((queries * grow, keys / grow), 1)


class NoPositionsVanilla(NoPositions, Attention):
    """nope-vanilla: vanilla without positions."""


class NoPositionsDifferential(NoPositions, Differential):
    """nope-differential: differential without positions."""


class LinearVanilla(LinearPositions, Attention):
    """alibi-vanilla: vanilla with S − m·distance in place of rotary positions. Stores A."""


class LinearDifferential(LinearPositions, Differential):
    """alibi-differential: differential with S − m·distance in place of rotary positions. Stores A."""


class XVanilla(XPositions, Attention):
    """xpos-vanilla: vanilla with rotary positions that decay with the distance."""


class XDifferential(XPositions, Differential):
    """xpos-differential: differential with rotary positions that decay with the distance."""


POSITIONS = {
    "nope-vanilla": NoPositionsVanilla,
    "nope-differential": NoPositionsDifferential,
    "alibi-vanilla": LinearVanilla,
    "alibi-differential": LinearDifferential,
    "xpos-vanilla": XVanilla,
    "xpos-differential": XDifferential,
}
