"""GPT with four ways to pay attention. They differ in one line each: how a map A is made of scores S = QKᵀ/√D.

    vanilla        A = softmax(S)
    softmax1       A = exp(S) / (1 + Σ exp(S))
    temperature    A = softmax(g q̂ k̂ᵀ)
    differential   A = softmax(S₁) − λ softmax(S₂)

Around A everything is the same, but that differential shares values between two maps and norms its heads: pre-RMSNorm,
rotary positions, SwiGLU, tied embedding, no biases.

Shapes: B batch, T time, N keys so far (N ≥ T), C channels, H heads, D query width, E value width, V vocabulary.
"""

import difflib
import math
from dataclasses import dataclass

import torch
import torch.nn as nn
import torch.nn.functional as F


@dataclass
class GPTConfig:
    """The shape of a model. A shape that cannot be built raises ValueError with its numbers."""

    attention: str = "vanilla"  # vanilla, softmax1, temperature or differential
    fused: bool = True  # attend through torch's fused kernel; false: through readable matrix products
    block_size: int = 64  # tokens the model can see at once
    vocab_size: int = 256  # rows of the embedding; train.py raises it to what the dataset needs
    n_layer: int = 4  # blocks
    n_head: int = 4  # softmax maps a layer: 12 are 12 heads, or 6 differential heads of two maps each
    n_embd: int = 128  # channels
    dropout: float = 0.0  # share of embeddings, attention weights and block outputs dropped in training
    init_std: float = 0.02  # standard deviation of the first weights; GPT-2's, small for a model far narrower than it

    def __post_init__(self):
        for name in ("block_size", "vocab_size", "n_layer", "n_head", "n_embd"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name}={getattr(self, name)}: must be at least 1")
        if self.n_layer > 10_000:  # a slip: the loop that makes them would not end
            raise ValueError(f"n_layer={self.n_layer}: must be at most 10000")
        if not isinstance(self.fused, bool):
            raise ValueError(f"fused={self.fused}: must be true or false")
        if not 0 <= self.dropout < 1:
            raise ValueError(f"dropout={self.dropout}: must be at least 0 and less than 1")
        if not 0 < self.init_std < math.inf:
            raise ValueError(f"init_std={self.init_std}: must be greater than 0 and finite")
        if self.attention not in ATTENTION:
            near = difflib.get_close_matches(self.attention, ATTENTION, 1, cutoff=0.4)
            hint = f" (did you mean {near[0]}?)" if near else ""
            raise ValueError(f"attention={self.attention!r}: must be one of {', '.join(ATTENTION)}{hint}")
        if self.n_embd % self.n_head:
            raise ValueError(f"n_embd={self.n_embd} is no multiple of n_head={self.n_head}")
        if (width := self.n_embd // self.n_head) % 2:
            raise ValueError(
                f"head width n_embd/n_head = {self.n_embd}/{self.n_head} = {width} is odd: rotary positions turn pairs"
            )
        ATTENTION[self.attention].heads(self.n_head)  # raises ValueError for a number that it cannot have


# ---------------------------------------------------------------------------- primitives


def softmax1(S):
    """exp(Sᵢ) / (1 + Σⱼ exp(Sⱼ)) over the last dimension: softmax with one more key of score 0, its share lost."""
    return F.pad(S, (1, 0)).softmax(-1)[..., 1:]


def attend(q, k, v, null=False, fused=True, scale=None, dropout=0.0):
    """A V, where A = softmax(S), or softmax1(S) if `null`, and S = scale·QKᵀ (scale 1/√D) with the future hidden.

    q BHTD, k BHND, v BHNE -> BHTE; the queries are the last T of the N positions. `dropout` drops weights of A.
    `fused` changes the speed, not the result: one kernel that never stores A, instead of three lines that do.
    """
    (T, D), (N, E) = q.shape[-2:], v.shape[-2:]
    scale = D**-0.5 if scale is None else scale

    if not fused or T < N:  # the kernel's is_causal aligns the first query with the first key: wrong if T < N
        scores = scale * q @ k.mT
        if T > 1:  # the last query may see all
            future = torch.ones(T, N, dtype=torch.bool, device=q.device).triu(N - T + 1)
            scores = scores.masked_fill(future, -math.inf)
        A = softmax1(scores) if null else scores.softmax(-1)
        return F.dropout(A, dropout) @ v

    # softmax1 needs no mask: its null key is a zero row in front of k and v (score 0, value 0), and a zero row in
    # front of q keeps the diagonal where is_causal expects it. Values of another width than the queries need no other
    # kernel: zero columns change neither scores nor output.
    def pad(x):
        return F.pad(x, (0, max(D, E) - x.size(-1), int(null), 0))

    if null or D != E:
        q, k, v = pad(q), pad(k), pad(v)
    y = F.scaled_dot_product_attention(q, k, v, dropout_p=dropout, is_causal=True, scale=scale)
    return y[..., int(null) :, :E]


class Cache:
    """Rotated keys and values of one layer, with room for `size` positions."""

    def __init__(self, size):
        self.size, self.length = size, 0

    def append(self, k, v):
        """k BHTD and v BHTE of the next T positions -> those of all N so far, BHND and BHNE."""
        if self.length == 0:
            self.k, self.v = (x.new_empty(*x.shape[:2], self.size, x.size(3)) for x in (k, v))
        start, self.length = self.length, self.length + k.size(2)
        self.k[:, :, start : self.length] = k
        self.v[:, :, start : self.length] = v
        return self.k[:, :, : self.length], self.v[:, :, : self.length]


# ---------------------------------------------------------------------------- four mechanisms


class Attention(nn.Module):
    """vanilla: A = softmax(QKᵀ/√D).  https://arxiv.org/abs/1706.03762

    A mechanism overrides `mix`, and where it must `heads` and `norm`; `watch` names the learned numbers worth logging.
    """

    watch = ()

    def __init__(self, config, depth):
        super().__init__()
        C, self.D = config.n_embd, config.n_embd // config.n_head
        self.n_heads = n_query, n_key, n_value = self.heads(config.n_head)
        self.E = C // n_value
        self.fused, self.dropout = config.fused, config.dropout
        self.widths = (n_query + n_key) * self.D, n_value * self.E
        self.qkv = nn.Linear(C, sum(self.widths), bias=False)
        self.out = nn.Linear(C, C, bias=False)
        # Rotary positions (https://arxiv.org/abs/2104.09864): channel pair i turns by 10000^(−2i/D) a position.
        angles = torch.outer(torch.arange(config.block_size), 10000 ** -(torch.arange(0, self.D, 2) / self.D))
        self.register_buffer("cos", torch.cat((angles.cos(), angles.cos()), -1), persistent=False)
        self.register_buffer("sin", torch.cat((-angles.sin(), angles.sin()), -1), persistent=False)

    @staticmethod
    def heads(H):
        """How many heads of queries, keys and values H softmax maps are."""
        return H, H, H

    def mix(self, x, q, k, v):
        """A V: all that a mechanism is. Linear in v. x BTC, q BHTD, k BHND, v BHNE -> BHTE"""
        return self.attend(q, k, v)

    def norm(self, y):
        """What is done to A V before the heads are joined. BHTE -> BHTE"""
        return y

    def forward(self, x, cache=None):
        """BTC -> BTC; with a `cache`, x is what comes after the positions in it."""
        q, k, v = self.project(x, cache)
        y = self.norm(self.mix(x, q, k, v))
        return self.out(y.transpose(1, 2).flatten(2))  # BHTE -> BTC

    def map(self, x):
        """A itself, BHTT: what `mix` gives when v is the identity. For looking, in eval mode, not for every step."""
        q, k, v = self.project(x)
        identity = torch.eye(x.size(1), dtype=v.dtype, device=v.device).expand(*v.shape[:2], -1, -1)
        return self.mix(x, q, k, identity)

    def attend(self, q, k, v, **options):
        dropout = self.dropout if self.training else 0.0
        return attend(q, k, v, fused=self.fused, dropout=dropout, **options)

    def project(self, x, cache=None):
        """Queries BHTD and keys BHND, rotated, and values BHNE. x BTC"""
        qk, v = self.qkv(x).split(self.widths, 2)
        qk = qk.unflatten(2, (-1, self.D)).transpose(1, 2)  # BTC -> BHTD
        v = v.unflatten(2, (-1, self.E)).transpose(1, 2)  # BTC -> BHTE
        q, k = self.rotate(qk, cache.length if cache else 0).split(self.n_heads[:2], 1)
        return (q, *cache.append(k, v)) if cache else (q, k, v)

    def rotate(self, q, start):
        """BHTD -> BHTD, as if the first of T were at position `start`. Only distances remain in rotated q·k.

        The halves (a, b) of a head become (a cos − b sin, b cos + a sin).
        """
        cos, sin = self.cos[start : start + q.size(2)], self.sin[start : start + q.size(2)]
        return q * cos + q.roll(self.D // 2, -1) * sin


class Softmax1(Attention):
    """softmax1: A = exp(S) / (1 + Σ exp(S)), S = QKᵀ/√D: a head may attend to nothing.

    https://www.evanmiller.org/attention-is-off-by-one.html
    """

    def mix(self, x, q, k, v):
        return self.attend(q, k, v, null=True)


class Temperature(Attention):
    """temperature: A = softmax(g q̂ k̂ᵀ), q̂ = q/‖q‖, k̂ = k/‖k‖, g₀ = log₂(L² − L), L = block_size.

    https://arxiv.org/abs/2010.04245, whose code has one g a layer; one a head is our choice.
    """

    watch = ("g",)

    def __init__(self, config, depth):
        super().__init__(config, depth)
        L = max(config.block_size, 2)
        self.g = nn.Parameter(torch.full((config.n_head, 1, 1), math.log2(L * L - L)))

    def mix(self, x, q, k, v):
        return self.attend(self.g * F.normalize(q, dim=-1, eps=1e-6), F.normalize(k, dim=-1, eps=1e-6), v, scale=1.0)


class Differential(Attention):
    """differential: A = softmax(S₁) − λ softmax(S₂), and y = (1 − λ_init) RMSNorm(A V) a head, with

    λ = exp(λq₁·λk₁) − exp(λq₂·λk₂) + λ_init shared by the heads of a layer, λ_init = 0.8 − 0.6 exp(−0.3 depth).
    https://arxiv.org/abs/2410.05258 (V1). Maps 2i and 2i+1 make head i, its value 2D wide, as in the authors' code.
    """

    watch = ("lam",)

    def __init__(self, config, depth):
        super().__init__(config, depth)
        self.lam_init = 0.8 - 0.6 * math.exp(-0.3 * depth)  # depth from 0: the paper's l − 1
        self.lam_q1, self.lam_k1, self.lam_q2, self.lam_k2 = (nn.Parameter(0.1 * torch.randn(self.D)) for _ in range(4))
        self.head_norm = nn.RMSNorm(self.E, eps=1e-5)  # one gain for all heads

    @staticmethod
    def heads(H):
        if H % 2:
            raise ValueError(f"n_head={H}: a differential head is two maps, so n_head must be even")
        return H, H, H // 2

    @property
    def lam(self):
        """λ, of shape (1,): so that it lifts a bf16 map to its own float32, which a scalar would not."""
        lam1 = (self.lam_q1 * self.lam_k1).sum(-1, keepdim=True).exp()
        lam2 = (self.lam_q2 * self.lam_k2).sum(-1, keepdim=True).exp()
        return lam1 - lam2 + self.lam_init

    def mix(self, x, q, k, v):
        (q1, q2), (k1, k2) = ((z[:, 0::2], z[:, 1::2]) for z in (q, k))
        return self.attend(q1, k1, v) - self.lam * self.attend(q2, k2, v)

    def norm(self, y):
        return (1 - self.lam_init) * self.head_norm(y)

    def maps(self, x):
        """A₁ and A₂, each BHTT, of which `map` is A₁ − λA₂. x BTC"""
        q, k, _ = self.project(x)
        identity = torch.eye(x.size(1), dtype=q.dtype, device=q.device).expand(*q.shape[:2], -1, -1)
        A = self.attend(q, k, identity)
        return A[:, 0::2], A[:, 1::2]


ATTENTION = {"vanilla": Attention, "softmax1": Softmax1, "temperature": Temperature, "differential": Differential}


# ---------------------------------------------------------------------------- the transformer around them


class MLP(nn.Module):
    """SwiGLU: down(silu(gate x) · up x), 8/3 C wide so that three matrices weigh what two of 4C did.

    https://arxiv.org/abs/2002.05202
    """

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
        self.dropout = nn.Dropout(config.dropout)

    def forward(self, x, cache=None):
        x = x + self.dropout(self.attention(rms_norm(x), cache))
        return x + self.dropout(self.mlp(rms_norm(x)))


def pick(logits, temperature=1.0, top_k=None, top_p=None, generator=None):
    """Draw a token a row: logits BV -> B1. temperature 0 takes the likeliest.

    `top_k` keeps the k likeliest, `top_p` the likeliest that together reach p (at least one), and both what both keep.
    """
    if temperature < torch.finfo(torch.float32).tiny:
        return logits.argmax(-1, keepdim=True)
    logits = logits.float() - logits.max(-1, keepdim=True).values.float()
    p = (logits / temperature).softmax(-1)
    if top_k is None and top_p is None:
        return torch.multinomial(p, 1, generator=generator)
    p, tokens = p.sort(dim=-1, descending=True, stable=True)
    if top_p is not None:
        p = p.where(p.cumsum(-1) - p < top_p, 0)
    if top_k is not None:
        p[:, top_k:] = 0
    return tokens.gather(1, torch.multinomial(p, 1, generator=generator))


class GPT(nn.Module):
    """Tokens to logits: embedding, n_layer blocks, norm, the embedding again."""

    def __init__(self, config):
        super().__init__()
        seed = torch.randint(2**62, ()).item()  # drawn before any mechanism draws: all four start from the same weights
        self.config = config
        self.embedding = nn.Embedding(config.vocab_size, config.n_embd)
        self.dropout = nn.Dropout(config.dropout)
        self.blocks = nn.ModuleList(Block(config, depth) for depth in range(config.n_layer))
        self.init(torch.Generator().manual_seed(seed))

    def init(self, generator):
        """Every weight's first value.

        Linear, Embedding      N(0, init_std)
        out, down              N(0, init_std/√(2 n_layer)): 2 n_layer of them add up in the residual stream
        g, λq, λk, head_norm   in their class
        """
        for name, module in self.named_modules():
            if isinstance(module, nn.Linear | nn.Embedding):
                residual = name.endswith((".out", ".down"))
                std = self.config.init_std / (math.sqrt(2 * self.config.n_layer) if residual else 1)
                nn.init.normal_(module.weight, std=std, generator=generator)

    def forward(self, tokens, targets=None, cache=None):
        """tokens BT -> logits BTV; with `targets` BT (−1: none) their mean cross-entropy, in nats a token.

        With a `cache`, one Cache a layer: tokens are what comes next, and only the last one's logits B1V are given.
        """
        T, L = tokens.size(1) + (cache[0].length if cache else 0), self.config.block_size
        assert T <= L, f"{T} tokens do not fit into block_size={L}"
        x = self.dropout(self.embedding(tokens))
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

        The prompt is read once, then one token a step. When block_size tokens are in the cache, the newer half of them
        is read again into an empty one: every token sees the last block_size/2 to block_size, at positions trained on.
        """
        L = self.config.block_size
        new, cache = tokens[:, -L:], [Cache(L) for _ in self.blocks]
        for _ in range(max_new_tokens):
            if cache[0].length + new.size(1) > L:
                new, cache = tokens[:, -max(1, L // 2) :], [Cache(L) for _ in self.blocks]
            new = pick(self(new, cache=cache)[:, -1], temperature, top_k, top_p, generator)
            yield new.squeeze(1)
            tokens = torch.cat((tokens[:, -L:], new), 1)

    @property
    def device(self):
        return self.embedding.weight.device

    def n_params(self, embedding=True):
        """How many numbers are learned, with or without the embedding (which is also the output layer)."""
        return sum(p.numel() for p in self.parameters()) - (0 if embedding else self.embedding.weight.numel())

    def flops_per_token(self, T=None):
        """(forward, backward) floating-point operations a token of a window of T (default block_size).

        Matrix products only, a multiply-add counted as two. A causal query sees (T+1)/2 keys on average, whatever a
        kernel computes beyond them; backward is two products for each one forward.
        """
        T = T or self.config.block_size
        weights = sum(m.weight.numel() for m in self.modules() if isinstance(m, nn.Linear | nn.Embedding))
        maps = sum(b.attention.n_heads[0] * (b.attention.D + b.attention.E) for b in self.blocks)
        forward = 2 * weights + 2 * maps * (T + 1) / 2
        return forward, 2 * forward
