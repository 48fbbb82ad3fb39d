"""The mechanisms of ideas/ keep the laws of the four, and are what their docstrings say."""

import importlib
import math

import pytest
import test_model as laws
import torch
import torch.nn.functional as F

import ideas
from conftest import BOUNDED_TESTED, WORDS
from ideas.ablations import ABLATIONS
from ideas.bounded import BOUNDED
from ideas.denominator import DENOMINATORS
from ideas.difference import DIFFERENCES
from ideas.lambdas import LAMBDAS
from ideas.mistakes import MISTAKES
from ideas.mixing import MIXTURES
from ideas.outputs import OUTPUTS
from ideas.positions import POSITIONS
from ideas.retrofit import RETROFITS
from ideas.selection import SELECTIONS
from ideas.steps import STEPS
from model import ATTENTION, Attention, Differential, GPTConfig, attend, pairs, softmax

IDEAS = ABLATIONS | DENOMINATORS | DIFFERENCES | LAMBDAS | MIXTURES | OUTPUTS | POSITIONS | RETROFITS | SELECTIONS
IDEAS |= STEPS | {name: c for name, c in BOUNDED.items() if name in WORDS}
C, H, D = laws.SMALL["n_embd"], 4, 8
V1 = 4 * D + 2 * D  # λ's vectors and the norm's gain
MORE_NUMBERS = dict.fromkeys(IDEAS, 0) | {
    **{"init-0.8": V1, "init-0.5": V1, "fixed-lambda": 2 * D, "lambda-zero": 2 * D, "normed-vanilla": D},
    **{"wide-values": 2 * C * C, "sink": H, "layer-sink": 1, "sum": V1, "add-only": V1, "rectified": V1},
    **{"gate": 2 * D, "heaviside": V1, "log-sigmoid": 2 * H // 2, "decorrelated": V1, "head-lambda": 2 * 4 * D + 2 * D},
    **{"token-lambda": C * H // 2, "v2": C * C + C * H, "minus-even": H, "mixed": H * H, "unit-mix": H * H},
    **{"mixed-by-token": H * H + C * 4 * H + 4 * H * H * H, "talking-heads": 2 * H * H, "nope-differential": V1},
    "talking-differential": H * H + H * H // 2 + 2 * D,
    "tied-narrow": -C * C,
    **{"alibi-differential": V1, "xpos-differential": V1, "grown": C * C + H, "dex": D * D},
    **{"selective-differential": V1, "hierarchical": C * C + H, "factored": H // 2},
    **{"bounded-2-differential": V1, "bounded-2-v2": C * C + C * H, "rms-qk": 2 * D, "rms-qk-differential": V1 + 2 * D},
    **{"ssmax": H, "grouped": 2 * C * D + H + D, "dint": V1, "forgetting": C * H + H, "gated": C * C},
}
# What the class says of itself, and the tests expect:
STORED = {name for name, c in IDEAS.items() if "Stores A." in c.__doc__}  # it cannot be written with the fused kernel
NO_MAP = {name for name, c in IDEAS.items() if c.attention_map is None}  # it is not linear in v
SPARSE = {"surprise", "exp-minus-one", "softpick", "threshold", "rectified", "gate", "heaviside", "no-softmax", "xsa"}
every_idea = pytest.mark.parametrize("name", IDEAS)


def test_none_hides_another():
    files = (ABLATIONS, BOUNDED, DENOMINATORS, DIFFERENCES, LAMBDAS, MISTAKES, MIXTURES, OUTPUTS, POSITIONS)
    files += (RETROFITS, SELECTIONS, STEPS)
    names = [name for file in files for name in file]
    assert len({*names, *laws.MORE_NUMBERS}) == len(names) + 4 == len(ATTENTION)


def test_a_mechanism_of_model_py_keeps_its_name(monkeypatch):
    monkeypatch.setitem(ATTENTION, "sum", Attention)
    monkeypatch.delitem(ATTENTION, "sink")
    importlib.reload(ideas)
    assert ATTENTION["sum"] is Attention and ATTENTION["sink"] is DENOMINATORS["sink"]


@every_idea
@pytest.mark.parametrize("T", [1, 2, 16])
def test_fused_is_unfused_in_output_and_every_gradient(name, T):
    laws.test_fused_is_unfused_in_output_and_every_gradient(name, T)


@every_idea
@pytest.mark.parametrize("fused", [False, True])
def test_no_token_depends_on_a_later_one(name, fused):
    """And on every earlier one, where no weight is exactly 0 (in `surprise` and `xsa` a row with one token gives 0)."""
    attention, x = laws.layer(name, fused).eval(), laws.inputs(7, B=1).requires_grad_()
    y = attention(x)
    for t in range(7):
        (gradient,) = torch.autograd.grad(y[0, t].sum(), x, retain_graph=True)
        assert (gradient[0, t + 1 :] == 0).all()
        assert (gradient[0, : t + 1] != 0).any(-1).all() or name in SPARSE


@every_idea
@pytest.mark.parametrize("fused", [False, True])
def test_map_times_values_is_mix(name, fused):
    if name in NO_MAP:
        assert "has no `attention_map`" in " ".join(IDEAS[name].__doc__.split())
    else:
        laws.test_map_times_values_is_mix(name, fused)


@every_idea
@pytest.mark.parametrize(
    "law",
    [
        laws.test_cache_gives_what_recomputing_gives,
        laws.test_several_tokens_after_a_cache_give_what_recomputing_gives,
        laws.test_generate_is_greedy_recomputation_also_beyond_block_size,
        laws.test_evaluation_mode_has_no_dropout_and_training_has,
        laws.test_counting_agrees_with_torch,
    ],
)
def test_laws(law, name):
    law(name)


@every_idea
def test_every_parameter_gets_gradient(name):
    """But the second queries of `grown`, before its λ has left 0."""
    net, tokens = laws.gpt(name), torch.randint(32, (2, 16))
    net(tokens, tokens.roll(-1)).backward()
    idle = {n.rpartition(".")[2] for n, p in net.named_parameters() if p.grad is None or not p.grad.abs().sum() > 0}
    assert idle == ({"q2"} if name == "grown" else set())


@pytest.mark.parametrize("name", [name for name in IDEAS if name not in NO_MAP])
def test_maps_know_distances_only(name):
    laws.test_maps_know_distances_only(name)


@every_idea
@pytest.mark.parametrize("n_embd", [32, 64])
def test_the_fused_ones_suit_flash_attention_and_those_that_store_a_never_call_it(name, n_embd, monkeypatch):
    if name not in STORED:
        laws.test_what_the_kernel_is_given_suits_flash_attention(name, n_embd, monkeypatch)
    else:
        monkeypatch.setattr(F, "scaled_dot_product_attention", None)
        laws.layer(name, fused=True)(laws.inputs())


@every_idea
def test_a_mechanism_that_learns_more_shares_all_other_initial_weights(name, monkeypatch):
    if name in ("wide-values", "tied-narrow"):
        pytest.skip("its projections have other shapes than those of vanilla")
    laws.test_a_mechanism_that_learns_more_shares_all_other_initial_weights(name, monkeypatch)


@every_idea
def test_bfloat16_keeps_scalars_norms_and_loss_in_float32(name, monkeypatch):
    laws.test_bfloat16_keeps_scalars_norms_and_loss_in_float32(name, monkeypatch)


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:.*should not be instantiated")  # by torch's compiler itself
@every_idea
def test_torch_compile_takes_it_whole(name):
    torch.compiler.reset()
    net, tokens = laws.gpt(name, n_layer=1).float().train(), torch.randint(32, (2, 16))
    losses, gradients = [], []
    for loss_of in (net, torch.compile(net, fullgraph=True, backend="eager")):
        net.zero_grad()
        losses.append(loss_of(tokens, tokens.roll(-1)))
        losses[-1].backward()
        gradients.append([p.grad.clone() for p in net.parameters()])
    torch.testing.assert_close(*losses)
    torch.testing.assert_close(*gradients)


@pytest.mark.parametrize(
    ("name", "lam", "change"),
    [("absolute", None, torch.abs), ("rectified-0.5", 0.5, torch.relu), ("rectified-0.9", 0.9, torch.relu)],
)
def test_a_control_changes_the_sign_of_a_difference_and_nothing_else(name, lam, change):
    attention, x = laws.layer(f"bounded-2-{name}"), laws.inputs()
    A1, A2 = attention.both_maps(x)
    A = A1 - (attention.lam if lam is None else lam) * A2
    assert (A < 0).any()
    torch.testing.assert_close(attention.attention_map(x), change(A))


def test_stretched_is_minus_even_whose_rows_sum_to_one():
    stretched, even = (laws.layer(f"bounded-2-{name}") for name in ("stretched", "minus-even"))
    even.load_state_dict(stretched.state_dict())
    A = stretched.attention_map(x := laws.inputs())
    torch.testing.assert_close(A.sum(-1), torch.ones_like(A[..., 0]))
    torch.testing.assert_close(A * (1 - even.lam), even.attention_map(x))


@pytest.mark.parametrize("name", IDEAS | BOUNDED)
def test_its_docstring_begins_with_its_word(name):
    assert ATTENTION[name].__doc__.startswith(f"{name}: ")
    assert ATTENTION[name] is (IDEAS | BOUNDED)[name]


@every_idea
def test_it_has_as_many_more_numbers_than_vanilla_as_its_docstring_says(name):
    n = {word: sum(p.numel() for p in laws.layer(word).parameters()) for word in (name, "vanilla")}
    assert n[name] - n["vanilla"] == MORE_NUMBERS[name]


def row(S, extra=0.0):
    return laws.softmax_in_a_loop(S, extra)


def of_scores(definition):
    """The loop of a mechanism whose row is definition(scores of the row, the layer, head)."""

    def loop(layer, x, q, k, head):
        maps = [head] if layer.maps_per_head == 1 else [2 * head, 2 * head + 1]
        S = [[float(q[i] @ kj[i]) / math.sqrt(D) for kj in k] for i in maps]
        return definition(*S, layer, head)

    return loop


def first(what):
    """A definition from one score at a time."""
    return of_scores(lambda S, layer, head: [what(s) for s in S])


def exp_minus_one(S, layer, head):
    E = [max(0, math.exp(s) - 1) for s in S]
    return [e / sum(E) if sum(E) else 0.0 for e in E]


def softpick(S, layer, head):
    return [max(0, math.exp(s) - 1) / sum(abs(math.exp(z) - 1) for z in S) for s in S]


def surprise(S1, S2, layer, head):
    A1, A2 = row(S1), row(S2)
    return [sum(abs(a - b) for a, b in zip(A1, A2, strict=True)) / 2 * a for a in A1]


def of_two(what):
    """A definition from the two weights of a token and λ."""

    def definition(S1, S2, layer, head):
        return [what(a, b, lam_of(layer, head)) for a, b in zip(row(S1), row(S2), strict=True)]

    return of_scores(definition)


def lam_of(layer, head):
    return float(layer.lam.flatten()[head % layer.lam.numel()])


def log_sigmoid(S1, S2, layer, head):
    alpha, beta = (float(p.flatten()[head]) for p in (layer.alpha, layer.beta))
    weights = [math.exp(alpha * a) * (1 + math.exp(-beta * b)) for a, b in zip(S1, S2, strict=True)]
    return [w / sum(weights) for w in weights]


def gate_log_sigmoid(S1, S2, layer, head):
    weights = [math.exp(a) / (1 + math.exp(-b)) for a, b in zip(S1, S2, strict=True)]
    return [w / sum(weights) for w in weights]


def grouped(layer, x, q, k, head):
    A, A0 = (laws.loop_vanilla(layer, x, q, k, i) for i in (head, H))  # the noise map comes after the last head
    return [a - lam_of(layer, head) * b for a, b in zip(A, A0, strict=True)]


def token_lambda(layer, x, q, k, head):
    lam = 1 / (1 + math.exp(-float(layer.to_lam.weight[head] @ x)))
    A1, A2 = (laws.loop_vanilla(layer, x, q, k, i) for i in (2 * head, 2 * head + 1))
    return [a - lam * b for a, b in zip(A1, A2, strict=True)]


def sink(layer, x, q, k, head):
    b = float(layer.b.flatten()[head % layer.b.numel()])
    return row([float(q[head] @ kj[head]) / math.sqrt(D) for kj in k], math.exp(b))


def all_rows(layer, x, q, k):
    return [laws.loop_vanilla(layer, x, q, k, g) for g in range(H)]


def mixture(matrix):
    def loop(layer, x, q, k, head):
        rows, M = all_rows(layer, x, q, k), matrix(layer, x)
        return [sum(float(M[head, g]) * rows[g][j] for g in range(H)) for j in range(len(k))]

    return loop


def by_token(layer, x):
    return layer.M + (layer.to_M.weight @ torch.tanh(layer.hidden.weight @ x)).view(H, H)


def talking(layer, x, q, k, head):
    S = [[float(q[f] @ kj[f]) / math.sqrt(D) for kj in k] for f in range(H)]
    mixed = [[sum(float(layer.P[g, f]) * S[f][j] for f in range(H)) for j in range(len(k))] for g in range(H)]
    return [sum(float(layer.M[head, g]) * row(mixed[g])[j] for g in range(H)) for j in range(len(k))]


def alibi(S, layer, head):
    m = 2 ** (-8 * (head + 1) / layer.G)
    return row([s - m * (len(S) - 1 - j) for j, s in enumerate(S)])


def alibi_differential(S1, S2, layer, head):
    return [a - lam_of(layer, 0) * b for a, b in zip(alibi(S1, layer, head), alibi(S2, layer, head), strict=True)]


def grown(layer, x, q, k, head):
    more = layer.rotate((layer.q2 @ x).view(1, H, 1, D), len(k) - 1)[0, :, 0]
    rows = [row([float(z @ kj[head]) / math.sqrt(D) for kj in k]) for z in (q[head], q[head] + more[head])]
    return [a - lam_of(layer, head) * b for a, b in zip(*rows, strict=True)]


def cosine(layer, x, q, k, head):
    g = float(layer.g.flatten()[head])
    assert g == pytest.approx(2 * math.log2(16 * 16 - 16))
    return row([g * float(q[head] @ kj[head] / q[head].norm() / kj[head].norm()) for kj in k])


def cog(S, layer, head):
    return [math.copysign(a, s) for a, s in zip(row([abs(s) for s in S]), S, strict=True)]


def ssmax(S, layer, head):
    return row([float(layer.s[head]) * math.log(len(S)) * s for s in S])


def even(S, layer, head):
    return [a - lam_of(layer, head) / len(S) for a in row(S)]


V1_MAP = of_two(lambda a, b, lam: a - lam * b)
DEFINITIONS = {
    **dict.fromkeys(("sink", "layer-sink"), sink),
    "softmax1-but-last": of_scores(lambda S, layer, head: row(S)),  # laws.layer is the last one
    "exp-minus-one": of_scores(exp_minus_one),
    "softpick": of_scores(softpick),
    "sigmoid": first(lambda s: 1 / (1 + math.exp(math.log(16) - s))),
    "no-softmax": of_scores(lambda S, layer, head: [s / len(S) for s in S]),
    "threshold": of_scores(lambda S, layer, head: [a if a >= (1 - 1e-6) / len(S) else 0.0 for a in row(S)]),
    "cold": of_scores(lambda S, layer, head: row([2 * s for s in S])),
    "cold-cosine": cosine,
    "cog": of_scores(cog),
    "ssmax": of_scores(ssmax),
    "rectified": of_two(lambda a, b, lam: max(0.0, a - lam * b)),
    "gate": of_two(lambda a, b, lam: a if a > lam * b else 0.0),
    "heaviside": of_two(lambda a, b, lam: a - lam * (a > lam * b)),
    "surprise": of_scores(surprise),
    "log-sigmoid": of_scores(log_sigmoid),
    "gate-log-sigmoid": of_scores(gate_log_sigmoid),
    "grouped": grouped,
    "decorrelated": V1_MAP,
    "head-lambda": V1_MAP,
    "token-lambda": token_lambda,
    "minus-even": of_scores(even),
    "mixed": mixture(lambda layer, x: layer.M),
    "unit-mix": mixture(lambda layer, x: layer.M / layer.M.norm(dim=1, keepdim=True)),
    "mixed-by-token": mixture(by_token),
    **dict.fromkeys(("talking-heads", "talking-differential"), talking),
    **dict.fromkeys(("nope-vanilla", "xpos-vanilla", "dex"), laws.loop_vanilla),
    **dict.fromkeys(("nope-differential", "xpos-differential"), V1_MAP),
    "alibi-vanilla": of_scores(alibi),
    "alibi-differential": of_scores(alibi_differential),
    "grown": grown,
}


@pytest.mark.parametrize("name", DEFINITIONS)
def test_map_is_the_definition_in_plain_loops(name, monkeypatch):
    monkeypatch.setitem(laws.DEFINITIONS, name, DEFINITIONS[name])
    laws.test_map_is_the_definition_in_plain_loops(name)


def test_every_idea_has_a_definition_here():
    elsewhere = {*ABLATIONS, *BOUNDED_TESTED, "sum", "add-only", "v2", "dint", *OUTPUTS, *SELECTIONS, *STEPS}  # below
    elsewhere |= {"rms-qk", "rms-qk-differential"}
    assert {*DEFINITIONS} | elsewhere == {*IDEAS} and not elsewhere & {*DEFINITIONS}


@pytest.mark.parametrize("name", [name for name in BOUNDED if name.startswith("bounded-")])
def test_bounded_is_the_mechanism_with_cosines_for_scores(name, monkeypatch):
    layer, x = laws.layer(name), laws.inputs()
    mechanism, g = BOUNDED[name].__mro__[1], int(name.split("-")[1])
    plain = mechanism(GPTConfig(**laws.SMALL), 1).to(x.dtype)
    plain.load_state_dict(layer.state_dict())

    def with_cosines(layer, q, k, v, weights=softmax, scale=None):  # every pair of maps that `mix` asks for
        q, k = (F.normalize(z, dim=-1, eps=1e-6) for z in (q, k))
        return attend(g * q, k, v, weights, scale=1.0)

    A = layer.attention_map(x)
    monkeypatch.setattr(Attention, "attend", with_cosines)
    torch.testing.assert_close(A, plain.attention_map(x))


def test_no_weight_of_a_bounded_softmax_is_more_than_e_to_the_2g_times_another():
    x = 100 * laws.inputs()
    A = laws.layer("bounded-2").attention_map(x)[..., -1, :]
    assert (A.amax(-1) / A.amin(-1)).max() <= math.exp(4)
    A = laws.layer("vanilla").attention_map(x)[..., -1, :]
    assert (A.amax(-1) / A.amin(-1)).max() > math.exp(4)


@pytest.mark.parametrize("name, base", [("rms-qk", "vanilla"), ("rms-qk-differential", "differential")])
def test_normed_queries_and_keys_bound_the_scores(name, base):
    layer, plain, x = laws.layer(name), laws.layer(base), 100 * laws.inputs()  # ε hardly counts
    q, k = (heads_of(z) for z in layer.qkv(x)[..., : 2 * C].chunk(2, -1))
    q, k = (z / z.square().mean(-1, keepdim=True).sqrt() for z in (q, k))
    q, k = layer.q_norm.weight * q, layer.k_norm.weight * k
    S = Attention.rotate(plain, q, 0) @ Attention.rotate(plain, k, 0).mT / math.sqrt(D)
    q, k, v = layer.project(x)
    torch.testing.assert_close(q @ k.mT / math.sqrt(D), S)
    bound = math.sqrt(D) * layer.q_norm.weight.abs().max() * layer.k_norm.weight.abs().max()
    assert bound / 4 < S.abs().max() <= bound
    plain.load_state_dict(layer.state_dict(), strict=False)
    torch.testing.assert_close(layer.mix(x, q, k, v), plain.mix(x, q, k, v))


def both_maps(layer, x):
    """A₁ and A₂ of a layer that is Differential, from its queries and keys alone."""
    q, k, _ = layer.project(x)
    S = (q @ k.mT / layer.D**0.5).masked_fill(torch.ones(x.size(1), x.size(1)).triu(1).bool(), -torch.inf)
    return pairs(softmax(S))


LAM = {
    "init-0.8": lambda layer: Differential.lam.fget(layer),
    "init-0.5": lambda layer: Differential.lam.fget(layer),
    "fixed-lambda": lambda layer: layer.lam_init,
    "lambda-zero": lambda layer: 0.0,
    "tied": lambda layer: layer.lam_init,
    "tied-0.9": lambda layer: 0.9,
    "tied-narrow": lambda layer: 0.9,
    "sum": lambda layer: -Differential.lam.fget(layer),
    "add-only": lambda layer: -abs(Differential.lam.fget(layer)),
}


@pytest.mark.parametrize("name", LAM)
def test_each_of_those_with_lambda_is_a_difference_of_the_two_maps(name):
    layer, x = laws.layer(name), laws.inputs()
    A1, A2 = both_maps(layer, x)
    torch.testing.assert_close(layer.attention_map(x), A1 - LAM[name](layer) * A2)


@pytest.mark.parametrize("name, start", [("init-0.8", 0.8), ("init-0.5", 0.5)])
@pytest.mark.parametrize("depth", [0, 3])
def test_lambda_starts_where_the_name_says_also_in_the_factor(name, start, depth):
    layer, y = laws.layer(name, depth=depth), torch.randn(2, 2, 5, 16, dtype=torch.float64)
    with torch.no_grad():
        for p in (layer.lam_q1, layer.lam_k1, layer.lam_q2, layer.lam_k2):
            p.zero_()
        assert layer.lam.item() == pytest.approx(start)
        torch.testing.assert_close(layer.norm(y), (1 - start) * layer.head_norm(y))


def test_talking_differential_begins_as_a_difference():
    layer, x = laws.layer("talking-differential"), laws.inputs()
    fresh = ATTENTION["talking-differential"](GPTConfig("talking-differential", **laws.SMALL), 1)
    with torch.no_grad():
        layer.M.copy_(fresh.M)
        layer.P.copy_(fresh.P)
    A1, A2 = both_maps(layer, x)
    torch.testing.assert_close(layer.attention_map(x), A1 - fresh.lam_init * A2)


def test_add_only_never_subtracts_and_sum_may():
    for name, negative in (("add-only", False), ("sum", True)):
        layer, x = laws.layer(name), laws.inputs()
        with torch.no_grad():
            for p in (layer.lam_q2, layer.lam_k2):
                p.fill_(1.0)  # λ = exp(·) − exp(8) + λ_init: far below zero
            for p in (layer.lam_q1, layer.lam_k1):
                p.zero_()
            assert bool((layer.attention_map(x) < 0).any()) is negative


def test_v2_subtracts_a_map_of_second_queries_on_the_same_keys():
    layer, x = laws.layer("v2"), laws.inputs()
    q, k, v = layer.project(x)
    q2 = layer.rotate(layer.q2(x).unflatten(2, (4, 8)).transpose(1, 2), 0)
    future = torch.ones(11, 11).triu(1).bool()
    A1, A2 = (softmax((z @ k.mT / 8**0.5).masked_fill(future, -torch.inf)) for z in (q, q2))
    lam = torch.stack([torch.sigmoid(x @ w) for w in layer.lam.weight], 1)[..., None]  # BHT1
    torch.testing.assert_close(layer.attention_map(x), A1 - lam * A2)
    torch.testing.assert_close(layer(x), layer.out(((A1 - lam * A2) @ v).transpose(1, 2).flatten(2)))


def test_normed_vanilla_is_vanilla_with_normed_heads():
    layer, x = laws.layer("normed-vanilla"), laws.inputs()
    v = layer.project(x)[2]
    y = F.rms_norm(layer.attention_map(x) @ v, (8,), layer.head_norm.weight, 1e-5)
    torch.testing.assert_close(layer(x), layer.out(y.transpose(1, 2).flatten(2)))


def test_wide_values_contain_differential_without_its_norm():
    """Two vanilla heads with values 2D wide, equal in pairs, and outputs W and −λW, are one such head."""
    wide, tied, x = laws.layer("wide-values"), laws.layer("tied"), laws.inputs()
    with torch.no_grad():
        q_and_k, v = tied.qkv.weight.split((2 * C, C))
        v = v.view(2, 16, C).repeat_interleave(2, 0).flatten(0, 1)
        wide.qkv.weight.copy_(torch.cat((q_and_k, v)))
        out = tied.out.weight.view(C, 2, 1, 16) * torch.tensor([1, -tied.lam_init])[:, None]
        wide.out.weight.copy_(out.flatten(1))
        torch.testing.assert_close(wide(x), tied(x))


def forgotten(q0, k0):
    """F of Selective Attention in loops, from rotated queries and keys of map 0, TD each."""
    T = len(q0)
    S0 = [[max(0.0, float(q0[t] @ k0[j]) / math.sqrt(D)) for j in range(T)] for t in range(T)]
    return torch.tensor([[sum(S0[t][j] for t in range(j + 1, i)) * (j > 0) for j in range(T)] for i in range(T)])


@pytest.mark.parametrize("name", ["selective", "selective-differential"])
@torch.no_grad()
def test_what_earlier_tokens_pointed_at_is_taken_from_all_scores(name):
    layer, x = laws.layer(name), laws.inputs(7, B=1)
    q, k, _ = layer.project(x)
    k = k[..., :D]
    F = forgotten(q[0, 0], k[0, 0]).to(q.dtype)
    assert (F > 0).any() and (F[:, 0] == 0).all() and (F.diagonal() == 0).all() and (F.diagonal(-1) == 0).all()
    A = softmax((q @ k.mT / math.sqrt(D) - F).masked_fill(torch.ones(7, 7).triu(1).bool(), -torch.inf))
    if name == "selective-differential":
        A = A[:, 0::2] - layer.lam * A[:, 1::2]
    torch.testing.assert_close(layer.attention_map(x), A)


def causal(q, k):
    return softmax((q @ k.mT / math.sqrt(D)).masked_fill(torch.ones(q.size(2), k.size(2)).triu(1).bool(), -torch.inf))


def heads_of(z, width=D):
    return z.unflatten(2, (-1, width)).transpose(1, 2)


def test_hierarchical_asks_again_with_what_it_found():
    layer, x = laws.layer("hierarchical"), laws.inputs()
    q, k, v = layer.project(x)
    y = causal(q, k) @ v
    q2 = layer.rotate(heads_of(layer.q2(y.transpose(1, 2).flatten(2))), 0)
    y = y - layer.lam * (causal(q2, k) @ v)
    torch.testing.assert_close(layer(x), layer.out(y.transpose(1, 2).flatten(2)))


def test_factored_is_two_attentions_with_the_same_values():
    layer, x = laws.layer("factored"), laws.inputs()
    (q, k, v), out = layer.project(x), layer.out.weight
    first = causal(q[:, 0::2], k[:, 0::2]) @ v
    q, k, _ = layer.project(x + first.transpose(1, 2).flatten(2) @ out.T)
    second = causal(q[:, 1::2], k[:, 1::2]) @ v
    y = (first - layer.lam * second).transpose(1, 2).flatten(2)
    torch.testing.assert_close(layer(x), y @ out.T)


def test_forgetting_subtracts_what_was_forgotten_since():
    layer, x = laws.layer("forgetting"), laws.inputs(7, B=1)
    q, k, _ = layer.project(x)
    f = torch.sigmoid(x[0] @ layer.forget.weight.T + layer.b)  # TH
    past = torch.zeros(H, 7, 7, dtype=x.dtype)
    for i in range(7):
        for j in range(i):
            past[:, i, j] = f[j + 1 : i + 1].prod(0).log()
    S = q @ k[..., :D].mT / math.sqrt(D) + past
    A = softmax(S.masked_fill(torch.ones(7, 7).triu(1).bool(), -torch.inf))
    torch.testing.assert_close(layer.attention_map(x), A)


@pytest.mark.parametrize("L", [64, 1024])
def test_forgetting_begins_with_a_factor_of_e_per_window(L):
    layer = ATTENTION["forgetting"](GPTConfig("forgetting", block_size=L), 0)
    ln_f = layer.project(torch.zeros(1, L, 128))[1][..., -1]
    assert ln_f[:, :, 1:].sum(-1).flatten().tolist() == pytest.approx([-1] * 4, abs=0.03)


@pytest.mark.parametrize("fused", [False, True])
def test_forgetting_is_as_exact_in_bfloat16_as_vanilla_when_half_is_forgotten_at_every_token(fused):
    layers = [laws.layer(name, fused, block_size=256).float() for name in ("vanilla", "forgetting")]
    for p in (layers[1].b, layers[1].forget.weight):
        torch.nn.init.zeros_(p)
    x, errors = laws.inputs(256, B=1).float(), []
    for layer in layers:
        exact = layer.attention_map(x)
        with torch.autocast("cpu", torch.bfloat16):
            errors.append((layer.attention_map(x) - exact).abs().sum(-1).mean())
    assert errors[1] < 1.5 * errors[0]


def test_dint_adds_the_mean_of_the_rows_so_far_so_that_rows_sum_to_one():
    layer, x = laws.layer("dint"), laws.inputs()
    q, k, _ = layer.project(x)
    A1, A2 = pairs(causal(q, k[..., :D]))
    G = torch.stack([A1[:, :, : i + 1].mean(2) for i in range(11)], 2)
    A = layer.attention_map(x)
    torch.testing.assert_close(A, A1 - layer.lam * A2 + layer.lam * G)
    torch.testing.assert_close(A.sum(-1), torch.ones_like(A[..., 0]))
    torch.testing.assert_close(layer.both_maps(x), (A1, A2))


def test_all_heads_of_grouped_share_one_noise_map():
    layer, x = laws.layer("grouped"), laws.inputs()
    q, k, _ = layer.project(x)
    noise = causal(*layer.rotate(heads_of(layer.noise(x)), 0).chunk(2, 1))  # B1TT
    subtracted = (causal(q[:, :H], k[:, :H]) - layer.attention_map(x)) / layer.lam
    torch.testing.assert_close(subtracted, noise.expand_as(subtracted))


def test_grouped_begins_with_the_lambda_and_the_norm_of_differential():
    ours, theirs = (ATTENTION[name](GPTConfig(name, **laws.SMALL), 3) for name in ("grouped", "differential"))
    assert ours.lam.flatten().tolist() == pytest.approx([theirs.lam_init] * H)
    y = torch.randn(2, H, 5, D)
    torch.testing.assert_close(ours.norm(y), (1 - theirs.lam_init) * F.rms_norm(y, (D,), eps=1e-5))


def test_gated_opens_and_closes_channels_of_vanilla():
    layer, x = laws.layer("gated"), laws.inputs()
    q, k, v = layer.project(x)
    y = (causal(q, k) @ v).transpose(1, 2).flatten(2)
    torch.testing.assert_close(layer(x), layer.out(y * torch.sigmoid(x @ layer.gate.weight.T)))


def test_xsa_is_vanilla_without_what_is_parallel_to_the_own_value():
    layer, x = laws.layer("xsa"), laws.inputs()
    q, k, v = layer.project(x)
    y = layer.mix(x, q, k, v)
    torch.testing.assert_close((y * v).sum(-1), torch.zeros_like(y[..., 0]))
    removed = causal(q, k) @ v - y
    torch.testing.assert_close(F.cosine_similarity(removed, v, dim=-1).abs(), torch.ones_like(y[..., 0]))


def test_ssmax_begins_as_vanilla_in_its_last_row():
    x = laws.inputs(16)
    ours, vanilla = (laws.gpt(name).blocks[0].attention.attention_map(x) for name in ("ssmax", "vanilla"))
    torch.testing.assert_close(ours[:, :, 15], vanilla[:, :, 15])
    assert not torch.allclose(ours[:, :, 14], vanilla[:, :, 14])
    assert laws.layer("ssmax", block_size=1)(laws.inputs(1)).isfinite().all()


def test_cog_has_both_signs():
    A = laws.layer("cog").attention_map(laws.inputs())
    assert (A < 0).any() and (A > 0).any()
    torch.testing.assert_close(A.abs().sum(-1), torch.ones_like(A[..., 0]))


def test_softmax1_but_last_is_softmax1_in_all_other_layers():
    for depth, other in ((0, "softmax1"), (1, "vanilla")):
        layers = [laws.layer(name, depth=depth) for name in ("softmax1-but-last", other)]
        torch.testing.assert_close(*(layer(laws.inputs()) for layer in layers))


def test_positions_are_what_the_names_say():
    q = torch.ones(1, 8, 5, D, dtype=torch.float64)  # four queries, four keys
    assert torch.equal(laws.layer("nope-vanilla").rotate(q, 3), q)
    assert torch.equal(laws.layer("alibi-differential").rotate(q, 3), q)
    plain, turned = (laws.layer(name).rotate(q, 3) for name in ("vanilla", "xpos-vanilla"))
    for i in range(D):
        zeta = (2 * (i % (D // 2)) / D + 0.4) / 1.4
        for t in range(5):
            ratio = turned[0, :, t, i] / plain[0, :, t, i]
            grown = zeta ** ((t + 3) / 512)
            torch.testing.assert_close(ratio, torch.tensor([grown] * 4 + [1 / grown] * 4, dtype=torch.float64))


def test_dex_changes_every_second_head():
    layer, y = laws.layer("dex"), torch.randn(2, H, 5, D, dtype=torch.float64)
    torch.testing.assert_close(layer.norm(y)[:, 0::2], y[:, 0::2])
    torch.testing.assert_close(layer.norm(y)[:, 1::2], y[:, 1::2] - y[:, 1::2] @ layer.W)


@pytest.mark.parametrize("name", RETROFITS)
def test_a_retrofit_begins_as_vanilla(name):
    tokens = torch.randint(32, (2, 16))
    torch.testing.assert_close(laws.gpt(name)(tokens), laws.gpt("vanilla")(tokens))


def test_the_penalty_is_the_mean_cosine_of_the_two_maps():
    layer, x = laws.layer("decorrelated"), laws.inputs()
    y = layer(x)
    (0 * y).sum().backward()  # the penalty's gradient alone
    found = layer.qkv.weight.grad.clone()
    layer.zero_grad()
    A1, A2 = both_maps(layer, x)
    cosines = (A1 * A2).sum(-1) / A1.norm(dim=-1) / A2.norm(dim=-1)
    (0.1 * cosines[..., 1:].mean()).backward()
    torch.testing.assert_close(found, layer.qkv.weight.grad)
    plain = laws.layer("differential")
    plain.load_state_dict(layer.state_dict())
    torch.testing.assert_close(y, plain(x))
    layer.zero_grad()
    (0 * layer.eval()(x)).sum().backward()
    assert not layer.qkv.weight.grad.any(), "no penalty outside of training"


@pytest.mark.parametrize("name, last", [("exp-minus-one", 0), ("softpick", 0), ("cog", -3)])
def test_large_scores_do_not_overflow(name, last):
    layer = laws.layer(name)
    q = torch.tensor([[1e4], [1e4], [-1e4]]).view(1, 1, 3, 1).requires_grad_()
    k, v = torch.ones(1, 1, 3, 1), torch.tensor([1.0, 3.0, 5.0]).view(1, 1, 3, 1)
    y = layer.mix(None, q, k, v)
    assert y.flatten().tolist() == pytest.approx([1, 2, last])
    y.sum().backward()
    assert q.grad.isfinite().all()


def test_nothing_teaches_the_second_map_of_gate():
    layer = laws.layer("gate")
    layer(laws.inputs()).sum().backward()
    gradient = layer.qkv.weight.grad.view(-1, D, C)[: 2 * H]  # queries and keys of four maps
    assert gradient[0::2].any() and not gradient[1::2].any()
