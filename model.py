"""A GPT with four attention mechanisms. They differ in how a map A is made of the scores S = QKᵀ/√D:

    vanilla        A = softmax(S)
    softmax1       A = exp(S) / (1 + Σ exp(S))
    temperature    A = softmax(g q̂ k̂ᵀ)
    differential   A = softmax(S₁) − λ softmax(S₂)

Everything around A is the same: pre-RMSNorm, rotary positions, SwiGLU, tied embedding, no biases. Only differential
has one value for every two maps, and normalises its heads.

Shapes: B batch, T time, N keys so far (in training T), C channels, V vocabulary; H softmax maps, whose queries and keys
have width D; G heads, whose values have width E. G is H, in differential H/2.
"""

import difflib
import math
import random
from dataclasses import dataclass

import torch
import torch.nn as nn
import torch.nn.functional as F


@dataclass
class GPTConfig:
    """The shape of a model. Raises ValueError, with the numbers, for a shape that cannot be built."""

    attention: str = "vanilla"  # mechanism: vanilla, softmax1, temperature, differential, or a name that ideas/ adds
    fused: bool = True  # compute attention with torch's fused kernel where it can; false: store every map
    block_size: int = 64  # window length: how many tokens the model can see, at least 1
    vocab_size: int = 256  # rows of the embedding, at least 1; train.py enlarges it to what the dataset needs
    n_layer: int = 4  # number of blocks, at least 1
    n_head: int = 4  # softmax maps per layer, at least 1; a head is one map, in differential two
    n_embd: int = 128  # channels, at least 1; a multiple of 2 n_head, as rotary positions turn pairs of channels
    dropout: float = 0.0  # probability of dropping an embedding, attention weight or block output; less than 1
    init_std: float = 0.02  # standard deviation of the initial weights, more than 0; narrow models may need more

    def __post_init__(self):  # so that model.py stands alone; the ranges of other options are in configurable.py
        for name in ("block_size", "vocab_size", "n_layer", "n_head", "n_embd"):
            self.require(name, getattr(self, name) >= 1, "at least 1")
        self.require("dropout", 0 <= self.dropout < 1, "at least 0 and less than 1")
        self.require("init_std", 0 < self.init_std < math.inf, "more than 0 and finite")
        near = [name for name in ATTENTION if name.startswith(str(self.attention))]
        near += difflib.get_close_matches(str(self.attention), ATTENTION, 1, cutoff=0.4)
        hint = f" (did you mean {near[0]}?)" if near else ""
        ours = ", ".join(name for name, c in ATTENTION.items() if c.__module__ == __name__)
        self.require("attention", self.attention in ATTENTION, f"one of {ours}, or a name that ideas/ adds{hint}")
        maps = ATTENTION[self.attention].maps_per_head
        self.require("n_head", self.n_head % maps == 0, f"a multiple of {maps}, the maps per {self.attention} head")
        rule = f"a multiple of 2 n_head = {2 * self.n_head}, since n_head={self.n_head}"
        self.require("n_embd", self.n_embd % (2 * self.n_head) == 0, rule)

    def require(self, name, is_fine, rule):
        if not is_fine:
            raise ValueError(f"{name}={getattr(self, name)}: must be {rule}")


# ---------------------------------------------------------------------------- primitives


def softmax(S):
    """exp(Sᵢ) / Σⱼ exp(Sⱼ) over the last dimension."""
    return S.softmax(-1)


def softmax1(S):
    """exp(Sᵢ) / (1 + Σⱼ exp(Sⱼ)) over the last dimension: softmax with one more key of score 0 and value 0."""
    return softmax(F.pad(S, (1, 0)))[..., 1:]


def scores(q, k, scale=None):
    """S = scale·QKᵀ (scale 1/√D), −∞ in the future. q BHTD, k BHND -> BHTN; queries are the last T of N positions."""
    (T, D), N = q.shape[-2:], k.size(-2)
    S = (D**-0.5 if scale is None else scale) * q @ k.mT
    if T > 1:  # a single query is the last one: nothing is hidden from it
        S = S + torch.full((T, N), -math.inf, dtype=S.dtype, device=S.device).triu(N - T + 1)
    return S


def attend(q, k, v, weights=softmax, fused=True, scale=None, dropout=0.0):
    """A V with A = weights(scores(q, k, scale)). q BHTD, k BHND, v BHNE -> BHTE

    weights: any function of S. dropout: the probability of dropping a weight, 0 in eval mode. fused: use `flash` where
    it can.
    """
    if fused and weights in (softmax, softmax1) and q.size(2) == k.size(2):
        return flash(q, k, v, weights is softmax1, scale, dropout)
    return F.dropout(weights(scores(q, k, scale)), dropout) @ v


def flash(q, k, v, zero_token=False, scale=None, dropout=0.0):
    """`attend` for T = N by torch's fused kernels: softmax or, with a zero token, softmax1.

    They never store A, except on a CPU with dropout. They want one dtype and one width, a multiple of 8: columns of
    zeros change neither scores nor output. The zero token, of score 0 and value 0, is a row of zeros before k and v. q
    gets one, too, so that the causal mask (row i sees columns 0 to i) still fits; its own output row is dropped.
    """
    D, E, n = q.size(-1), v.size(-1), int(zero_token)
    scale = D**-0.5 if scale is None else scale  # of D before the padding
    width = 8 * math.ceil(max(D, E) / 8)
    if n or not D == E == width:
        q, k, v = (F.pad(z, (0, width - z.size(-1), n, 0)) for z in (q, k, v))
    y = F.scaled_dot_product_attention(q.to(v.dtype), k.to(v.dtype), v, dropout_p=dropout, is_causal=True, scale=scale)
    return y[..., n:, :E]


class Cache:
    """Rotated keys, and values, of one layer, with room for `size` positions."""

    def __init__(self, size):
        self.size, self.length = size, 0

    def append(self, k, v):
        """k BHTD and v BHTE of the next T positions -> those of all N so far, BHND and BHNE."""
        if self.length == 0:
            self.k, self.v = (x.new_empty(*x.shape[:2], self.size, x.size(3)) for x in (k, v))
        start, self.length = self.length, self.length + k.size(2)
        self.k[:, :, start : self.length], self.v[:, :, start : self.length] = k, v
        return self.k[:, :, : self.length], self.v[:, :, : self.length]


# ---------------------------------------------------------------------------- four mechanisms


class Attention(nn.Module):
    """vanilla: A = softmax(QKᵀ/√D).  https://arxiv.org/abs/1706.03762"""

    maps_per_head = 1  # softmax maps that share one value and make one head
    watch = ()  # names of learned numbers that train.py logs

    def __init__(self, config, depth):
        super().__init__()
        C, self.D = config.n_embd, config.n_embd // config.n_head
        self.H, self.G = config.n_head, config.n_head // self.maps_per_head
        self.E = C // self.G
        self.fused, self.dropout = config.fused, config.dropout
        self.qkv = nn.Linear(C, 3 * C, bias=False)
        self.out = nn.Linear(C, C, bias=False)
        # Rotary positions (https://arxiv.org/abs/2104.09864): position t turns channel pair i by t·10000^(−2i/D).
        angles = torch.outer(torch.arange(config.block_size), 10000 ** -(torch.arange(0, self.D, 2) / self.D))
        self.register_buffer("cos", torch.cat((angles.cos(), angles.cos()), -1), persistent=False)
        self.register_buffer("sin", torch.cat((-angles.sin(), angles.sin()), -1), persistent=False)

    def forward(self, x, cache=None):
        """BTC -> BTC; with a `cache`, x is what comes after the positions in it."""
        q, k, v = self.project(x, cache.length if cache else 0)
        if cache:
            k, v = cache.append(k, v)
        y = self.norm(self.mix(x, q, k, v))
        return self.out(y.transpose(1, 2).flatten(2))  # BGTE -> BTC

    def project(self, x, start=0):
        """Queries BHTD and keys BHTD, rotated as if x BTC began at position `start`, and values BGTE."""
        qk, v = self.qkv(x).split((2 * self.H * self.D, self.G * self.E), 2)
        qk = qk.unflatten(2, (-1, self.D)).transpose(1, 2)  # BTC -> BHTD, of queries and keys
        v = v.unflatten(2, (-1, self.E)).transpose(1, 2)  # BTC -> BGTE
        return *self.rotate(qk, start).chunk(2, 1), v

    def rotate(self, q, start):
        """BHTD -> BHTD. A head's halves (a, b) become (a cos − b sin, b cos + a sin): q·k depends on distances only."""
        cos, sin = (z[start : start + q.size(2)].to(q.dtype) for z in (self.cos, self.sin))
        return q * cos + q.roll(self.D // 2, -1) * sin

    def mix(self, x, q, k, v):
        """A V. Override this to write a mechanism; it must be linear in v. x BTC, q BHTD, k BHND, v BGNE -> BGTE"""
        return self.attend(q, k, v)

    def attend(self, q, k, v, weights=softmax, scale=None):
        """The function `attend`, with this layer's kernel and dropout."""
        return attend(q, k, v, weights, self.fused, scale, self.dropout * self.training)

    def norm(self, y):
        """What is done to A V before the heads are joined. BGTE -> BGTE"""
        return y

    def attention_map(self, x):
        """A itself, BGTT, for x BTC: what `mix` gives when v is the identity. For analysis, in eval mode."""
        q, k, v = self.project(x)
        return self.mix(x, q, k, identity_like(v))

    def flops(self, n):
        """FLOPs of `mix` per query that sees n keys; a multiply-add is two."""
        return 2 * self.H * (self.D + self.E) * n


def identity_like(v):
    """Values BGTE -> the identity in their place, BGTT: then A V is A."""
    return torch.eye(v.size(2), dtype=v.dtype, device=v.device).expand(*v.shape[:2], -1, -1)


class Softmax1(Attention):
    """softmax1: A = exp(S) / (1 + Σ exp(S)).  https://www.evanmiller.org/attention-is-off-by-one.html"""

    def mix(self, x, q, k, v):
        return self.attend(q, k, v, softmax1)


class Temperature(Attention):
    """temperature: A = softmax(g q̂ k̂ᵀ), q̂ = q/‖q‖, k̂ = k/‖k‖, g₀ = log₂(L² − L), L = block_size.

    https://arxiv.org/abs/2010.04245, whose code learns one g per layer; here each head learns its own.
    """

    watch = ("g",)

    def __init__(self, config, depth):
        super().__init__(config, depth)
        L = max(config.block_size, 2)
        self.g = nn.Parameter(torch.full((config.n_head, 1, 1), math.log2(L * L - L)))

    def mix(self, x, q, k, v):
        q, k = (F.normalize(z, dim=-1, eps=1e-6) for z in (q, k))
        return self.attend(self.g * q, k, v, scale=1.0)


class Differential(Attention):
    """differential: A = softmax(S₁) − λ softmax(S₂), and y = (1 − λ_init) RMSNorm(A V) per head, with

    λ = exp(λq₁·λk₁) − exp(λq₂·λk₂) + λ_init per layer, λ_init = 0.8 − 0.6 exp(−0.3 depth).
    https://arxiv.org/abs/2410.05258 (V1). Maps 2i and 2i+1 make head i, its value 2D wide, as in the authors' code.
    """

    maps_per_head = 2
    watch = ("lam",)

    def __init__(self, config, depth):
        super().__init__(config, depth)
        self.lam_init = 0.8 - 0.6 * math.exp(-0.3 * depth)  # depth counts from 0: the paper's l − 1
        self.lam_q1, self.lam_k1, self.lam_q2, self.lam_k2 = (nn.Parameter(0.1 * torch.randn(self.D)) for _ in range(4))
        self.head_norm = nn.RMSNorm(self.E, eps=1e-5)  # one gain for all heads

    @property
    def lam(self):
        """λ, of shape (1,) and not (): so the subtraction is in float32 where the maps are bfloat16."""
        lam1 = (self.lam_q1 * self.lam_k1).sum(-1, keepdim=True).exp()
        lam2 = (self.lam_q2 * self.lam_k2).sum(-1, keepdim=True).exp()
        return lam1 - lam2 + self.lam_init

    def mix(self, x, q, k, v):
        (q1, q2), (k1, k2) = pairs(q), pairs(k)
        return self.attend(q1, k1, v) - self.lam * self.attend(q2, k2, v)

    def norm(self, y):
        return (1 - self.lam_init) * self.head_norm(y)

    def both_maps(self, x):
        """A₁ and A₂, each BGTT, of which `attention_map` is A₁ − λA₂. x BTC"""
        q, k, _ = self.project(x)
        return pairs(self.attend(q, k, identity_like(q)))


def pairs(z):
    """What belongs to the first and to the second map of each head: BHTD -> two tensors BGTD."""
    return z[:, 0::2], z[:, 1::2]


ATTENTION = {"vanilla": Attention, "softmax1": Softmax1, "temperature": Temperature, "differential": Differential}


# ---------------------------------------------------------------------------- the transformer around them


class MLP(nn.Module):
    """SwiGLU: down(silu(gate x) · up x), 8/3 C wide: about as many weights as two matrices to 4C.  https://arxiv.org/abs/2002.05202"""

    def __init__(self, config):
        super().__init__()
        C, hidden = config.n_embd, 8 * max(1, round(config.n_embd / 3))
        self.gate = nn.Linear(C, hidden, bias=False)
        self.up = nn.Linear(C, hidden, bias=False)
        self.down = nn.Linear(hidden, C, bias=False)

    def forward(self, x):
        return self.down(F.silu(self.gate(x)) * self.up(x))


def rms_norm(x):
    """x / √mean(x²) over the channels, without a gain: the matrix that comes next can learn it."""
    return F.rms_norm(x, x.shape[-1:], eps=1e-5)


class Block(nn.Module):
    """x + attention(norm x), then x + mlp(norm x)."""

    def __init__(self, config, depth):
        super().__init__()
        self.attention = ATTENTION[config.attention](config, depth)
        self.mlp = MLP(config)
        self.dropout = config.dropout

    def forward(self, x, cache=None):
        x = x + F.dropout(self.attention(rms_norm(x), cache), self.dropout, self.training)
        return x + F.dropout(self.mlp(rms_norm(x)), self.dropout, self.training)


def pick(logits, temperature=1.0, top_k=None, top_p=None, generator=None):
    """Draw a token per row, BV -> B1: among the top_k likeliest, and among the likeliest whose sum reaches top_p."""
    if temperature < torch.finfo(torch.float32).tiny:  # too small to divide by
        return logits.argmax(-1, keepdim=True)
    logits = logits.float() - logits.float().amax(-1, keepdim=True)  # now at most 0: no overflow
    p = (logits / temperature).softmax(-1)
    if top_k is None and top_p is None:
        return torch.multinomial(p, 1, generator=generator)
    p, tokens = p.sort(dim=-1, descending=True, stable=True)
    if top_p is not None:
        p = p.where(p.cumsum(-1) - p < max(top_p, 1e-38), 0)  # the first one stays
    if top_k is not None:
        p[:, top_k:] = 0
    return tokens.gather(1, torch.multinomial(p, 1, generator=generator))


class GPT(nn.Module):
    """Tokens to logits: embedding, n_layer blocks, norm, the embedding again."""

    def __init__(self, config):
        super().__init__()
        self.config = config
        seed = torch.randint(2**62, (), device="cpu").item()  # before any layer draws: the same in every mechanism
        self.embedding = nn.Embedding(config.vocab_size, config.n_embd)
        self.blocks = nn.ModuleList(Block(config, depth) for depth in range(config.n_layer))
        self.init(seed)

    def init(self, seed):
        """Draw every weight from (seed, its name): weights of the same name start equal in every mechanism.

        Linear, Embedding      N(0, init_std); biases, if a mechanism has any, 0
        out, down              N(0, init_std/√(2 n_layer)): 2 n_layer of them add up in the residual stream
        lam_q1, lam_k1 …       N(0, 0.1); other numbers of a mechanism stay as its class made them
        """
        for name, p in self.named_parameters():
            owner, _, kind = name.rpartition(".")
            of_layer = isinstance(self.get_submodule(owner), nn.Linear | nn.Embedding)
            if of_layer and kind == "weight":
                std = self.config.init_std
                if owner.endswith((".out", ".down")):
                    std /= math.sqrt(2 * self.config.n_layer)
            elif of_layer:
                std = 0.0
            elif kind in ("lam_q1", "lam_k1", "lam_q2", "lam_k2"):
                std = 0.1
            else:
                continue
            generator = torch.Generator().manual_seed(random.Random(f"{seed} {name}").getrandbits(63))
            nn.init.normal_(p, std=std, generator=generator)

    def forward(self, tokens, targets=None, cache=None):
        """tokens BT -> logits BTV; with `targets` BT (−1: does not count) their mean cross-entropy, in nats per token.

        With a `cache`, a list of one Cache per layer, `tokens` come after those in it; logits are of the last one, B1V.
        """
        T, L = tokens.size(1) + (cache[0].length if cache else 0), self.config.block_size
        assert T <= L, f"{T} tokens do not fit into block_size={L}"
        x = F.dropout(self.embedding(tokens), self.config.dropout, self.training)
        for depth, block in enumerate(self.blocks):
            x = block(x, cache[depth] if cache else None)
        x = rms_norm(x[:, -1:] if cache else x)
        logits = F.linear(x, self.embedding.weight)
        if targets is None:
            return logits
        return F.cross_entropy(logits.flatten(0, 1), targets.flatten(), ignore_index=-1)

    @torch.inference_mode()
    def generate(self, tokens, max_new_tokens, temperature=1.0, top_k=None, top_p=None, generator=None):
        """Continue tokens BT (T ≥ 1), in eval mode: yields the next token of each row, B, max_new_tokens times.

        When the cache is full, with block_size tokens, it is emptied, and the last block_size/2 tokens are read again.
        """
        L = self.config.block_size
        new, cache = tokens[:, -L:], [Cache(L) for _ in self.blocks]
        for _ in range(max_new_tokens):
            if cache[0].length + new.size(1) > L:
                new, cache = tokens[:, -max(1, L // 2) :], [Cache(L) for _ in self.blocks]
            new = pick(self(new, cache=cache)[:, -1], temperature, top_k, top_p, generator)
            yield new.squeeze(1)
            tokens = torch.cat((tokens[:, -L:], new), 1)

    device = property(lambda self: self.embedding.weight.device)

    def n_params(self):
        """How many numbers are learned; the embedding, which is also the output layer, counts once."""
        return sum(p.numel() for p in self.parameters())

    def flops_per_token(self, T=None):
        """(forward, backward) FLOPs of all matrix products per token; a query sees (T+1)/2 of T keys on average."""
        T = T or self.config.block_size
        weights = sum(m.weight.numel() for m in self.modules() if isinstance(m, nn.Linear | nn.Embedding))
        forward = 2 * weights + sum(block.attention.flops((T + 1) / 2) for block in self.blocks)
        return forward, 2 * forward
