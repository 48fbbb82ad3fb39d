"""Laws that hold for every mechanism, in float64 unless a test is about precision; and what each one is, in loops.

A law takes the `name` of a mechanism. Three of them ask what only its author knows: its definition in plain loops
(DEFINITIONS), what its rows sum to (ROW_SUMS), and how many numbers it learns more than vanilla (MORE_NUMBERS).
"""

import math
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import nn
from torch.profiler import profile
from torch.utils.flop_counter import FlopCounterMode

import model
from conftest import every
from model import ATTENTION, GPT, Cache, GPTConfig, attend, pick, scores, softmax, softmax1

SMALL = {"block_size": 16, "vocab_size": 32, "n_layer": 2, "n_head": 4, "n_embd": 32}


def layer(name, fused=False, depth=1, **options):
    """An attention layer in float64 whose learned numbers are all away from where they start."""
    torch.manual_seed(0)
    attention = ATTENTION[name](GPTConfig(attention=name, fused=fused, **SMALL | options), depth).double()
    with torch.no_grad():
        for p in attention.parameters():
            p.add_(0.3 * torch.randn_like(p))
    return attention


def inputs(T=11, B=2):
    torch.manual_seed(1)
    return torch.randn(B, T, SMALL["n_embd"], dtype=torch.float64)


def gpt(name, **options):
    torch.manual_seed(0)
    return GPT(GPTConfig(attention=name, **SMALL | options)).double().eval()


# ---------------------------------------------------------------------------- laws


@every
@pytest.mark.parametrize("T", [1, 2, 16, 129, 300])
def test_fused_is_unfused_in_output_and_every_gradient(name, T):
    results = []
    for fused in (False, True):
        attention, x = layer(name, fused, block_size=max(16, T)), inputs(T).requires_grad_()
        y = attention(x)
        y.backward(torch.linspace(-1, 1, y.numel(), dtype=y.dtype).view_as(y))
        results.append({"y": y, "x": x.grad, **{n: p.grad for n, p in attention.named_parameters()}})
    for key, unfused in results[0].items():
        torch.testing.assert_close(results[1][key], unfused, rtol=1e-9, atol=1e-11, msg=key)


@every
@pytest.mark.parametrize("fused", [False, True])
def test_no_token_depends_on_a_later_one(name, fused):
    attention, x = layer(name, fused), inputs(7, B=1).requires_grad_()
    y = attention(x)
    for t in range(7):
        (gradient,) = torch.autograd.grad(y[0, t].sum(), x, retain_graph=True)
        assert (gradient[0, t + 1 :] == 0).all()
        assert (gradient[0, : t + 1] != 0).any(-1).all()


@every
@pytest.mark.parametrize("fused", [False, True])
def test_map_times_values_is_mix(name, fused):
    attention, x = layer(name, fused), inputs()
    q, k, v = attention.project(x)
    A = attention.attention_map(x)
    assert A.shape == (2, attention.G, 11, 11)
    torch.testing.assert_close(A @ v, attention.mix(x, q, k, v))


def softmax_in_a_loop(scores, extra=0.0):
    exps = [math.exp(s) for s in scores]
    return [e / (extra + sum(exps)) for e in exps]


def loop_vanilla(attention, x, q, k, head):
    return softmax_in_a_loop([float(q[head] @ kj[head]) / math.sqrt(q.size(-1)) for kj in k])


def loop_softmax1(attention, x, q, k, head):
    return softmax_in_a_loop([float(q[head] @ kj[head]) / math.sqrt(q.size(-1)) for kj in k], extra=1.0)


def loop_temperature(attention, x, q, k, head):
    g = float(attention.g[head])
    return softmax_in_a_loop([g * float(q[head] @ kj[head] / q[head].norm() / kj[head].norm()) for kj in k])


def loop_lambda(attention):
    dot1 = sum(float(a * b) for a, b in zip(attention.lam_q1, attention.lam_k1, strict=True))
    dot2 = sum(float(a * b) for a, b in zip(attention.lam_q2, attention.lam_k2, strict=True))
    return math.exp(dot1) - math.exp(dot2) + 0.8 - 0.6 * math.exp(-0.3 * 1)  # layer() is at depth 1


def loop_differential(attention, x, q, k, head, sign=-1):
    first, second = (loop_vanilla(attention, x, q, k, 2 * head + i) for i in (0, 1))
    return [a1 + sign * loop_lambda(attention) * a2 for a1, a2 in zip(first, second, strict=True)]


DEFINITIONS = {
    "vanilla": loop_vanilla,
    "softmax1": loop_softmax1,
    "temperature": loop_temperature,
    "differential": loop_differential,
}


@every
def test_map_is_the_definition_in_plain_loops(name):
    attention, x, T = layer(name).requires_grad_(False), inputs(6, B=1), 6
    q, k, _ = (z[0].transpose(0, 1) for z in attention.project(x))  # THD
    A = attention.attention_map(x)[0]
    for head in range(len(A)):
        for t in range(T):
            row = DEFINITIONS[name](attention, x[0, t], q[t], k[: t + 1], head)
            torch.testing.assert_close(A[head, t].tolist(), row + [0.0] * (T - t - 1), rtol=1e-9, atol=1e-12)


def row_sum_one(attention, x):
    return torch.ones((), dtype=x.dtype)


def row_sum_softmax1(attention, x):
    return scores(*attention.project(x)[:2]).logsumexp(-1).sigmoid()


def row_sum_differential(attention, x):
    return 1 - attention.lam


ROW_SUMS = {
    "vanilla": row_sum_one,
    "softmax1": row_sum_softmax1,
    "temperature": row_sum_one,
    "differential": row_sum_differential,
}


@every
def test_row_sums(name):
    attention, x = layer(name), inputs()
    sums = attention.attention_map(x).sum(-1)
    torch.testing.assert_close(sums, ROW_SUMS[name](attention, x).expand_as(sums))


@every
def test_cache_gives_what_recomputing_gives(name):
    net, tokens = gpt(name), torch.randint(32, (2, 16))
    whole = net(tokens)
    for prefill in (1, 5, 16):
        cache = [Cache(16) for _ in net.blocks]
        logits = [net(tokens[:, :prefill], cache=cache)]
        logits += [net(tokens[:, t : t + 1], cache=cache) for t in range(prefill, 16)]
        torch.testing.assert_close(torch.cat(logits, 1), whole[:, prefill - 1 :])


@every
def test_several_tokens_after_a_cache_give_what_recomputing_gives(name):
    attention, x = layer(name, fused=True), inputs(9)
    cache = Cache(16)
    parts = [attention(part, cache) for part in x.split((4, 3, 2), dim=1)]
    torch.testing.assert_close(torch.cat(parts, 1), attention(x))


@every
def test_generate_is_greedy_recomputation_also_beyond_block_size(name):
    net, prompt = gpt(name), torch.randint(32, (2, 5))
    with torch.no_grad():
        for p in net.parameters():
            p.mul_(5)  # so that what is far away counts
    tokens, start = prompt, 0
    for _ in range(40):
        if tokens.size(1) - start > 16:  # the window is full: its newer half stays
            start = tokens.size(1) - 8
        tokens = torch.cat((tokens, net(tokens[:, start:])[:, -1].argmax(-1, keepdim=True)), 1)
    generated = torch.stack(list(net.generate(prompt, 40, temperature=0)), 1)
    assert generated.tolist() == tokens[:, 5:].tolist()


def test_generate_reads_a_long_prompt_s_last_block_size_tokens():
    net, prompt = gpt("vanilla"), torch.randint(32, (1, 50))
    (token,) = net.generate(prompt, 1, temperature=0)
    assert token == net(prompt[:, -16:])[:, -1].argmax(-1)


@every
def test_every_parameter_gets_gradient(name):
    net, tokens = gpt(name), torch.randint(32, (2, 16))
    net(tokens, tokens.roll(-1)).backward()
    assert [n for n, p in net.named_parameters() if p.grad is None or not p.grad.abs().sum() > 0] == []


@every
@pytest.mark.parametrize("n_embd", [24, 32, 512])  # D = 6, 8, 128: values of differential are up to 256 wide
def test_what_the_kernel_is_given_suits_flash_attention(name, n_embd, monkeypatch):
    """One dtype under autocast, one width that is a multiple of 8 and at most 256, no mask; unfused never calls it."""
    calls, kernel = [], F.scaled_dot_product_attention
    monkeypatch.setattr(F, "scaled_dot_product_attention", lambda *a, **kw: calls.append((a, kw)) or kernel(*a, **kw))
    for fused in (True, False):
        net = GPT(GPTConfig(attention=name, fused=fused, **SMALL | {"n_embd": n_embd}))
        with torch.autocast("cpu", torch.bfloat16):
            net(torch.zeros(2, 11, dtype=torch.long))
        assert bool(calls) is fused
        for qkv, options in calls:
            assert {z.dtype for z in qkv} == {torch.bfloat16}
            assert len({z.size(-1) for z in qkv}) == len({z.size(-2) for z in qkv}) == 1
            assert qkv[0].size(-1) % 8 == 0 and qkv[0].size(-1) <= 256
            assert options["is_causal"] and options.get("attn_mask") is None
        calls.clear()


@pytest.mark.parametrize("weights", [softmax, softmax1])
@pytest.mark.parametrize("fused", [False, True])
def test_dropout_drops_whole_weights(weights, fused):
    torch.manual_seed(0)
    q = k = torch.zeros(1, 1, 400, 4)
    v = torch.eye(400)[None, None]  # so that the output is A itself
    A = attend(q, k, v, weights, fused, dropout=0.25)[0, 0]
    kept = attend(q, k, v, weights, fused)[0, 0] / 0.75
    assert ((A == 0) | torch.isclose(A, kept)).all()
    lower = torch.ones_like(A).tril().bool()
    assert abs((A[lower] != 0).float().mean() - 0.75) < 0.01


@every
def test_evaluation_mode_has_no_dropout_and_training_has(name):
    attention, x = layer(name, dropout=0.5), inputs()
    assert not torch.equal(attention(x), attention(x))
    assert torch.equal(attention.eval()(x), attention(x))


def test_rotated_scores_know_distances_only():
    attention, (a, b) = layer("vanilla"), torch.randn(2, 1, 1, 1, 8, dtype=torch.float64)

    def score(i, j):
        return (attention.rotate(a, i) * attention.rotate(b, j)).sum()

    torch.testing.assert_close(score(3, 1), score(12, 10))
    assert not torch.isclose(score(3, 1), score(3, 2))
    torch.testing.assert_close(attention.rotate(a, 9).norm(), a.norm())


@every
def test_maps_know_distances_only(name):
    attention, x = layer(name), inputs(6)
    A, rotate = attention.attention_map(x), attention.rotate
    attention.rotate = lambda q, start: rotate(q, start + 5)
    torch.testing.assert_close(attention.attention_map(x), A, rtol=1e-5, atol=1e-6)  # its tables are float32


# ---------------------------------------------------------------------------- what each mechanism is


def test_differential_s_map_is_the_difference_of_two_that_sum_to_one():
    attention, x = layer("differential"), inputs()
    A, (A1, A2) = attention.attention_map(x), attention.both_maps(x)
    torch.testing.assert_close(A, A1 - attention.lam * A2)
    torch.testing.assert_close((A1.sum(-1), A2.sum(-1)), (torch.ones(2, 2, 11, dtype=x.dtype),) * 2)
    assert (A < 0).any()


def test_differential_is_the_authors_layer():
    """Numbers of the layer in github.com/microsoft/unilm, Diff-Transformer, run in float64 without rotary positions."""
    there = {k: torch.from_numpy(v) for k, v in np.load(Path(__file__).parent / "diff_attention_v1.npz").items()}
    config = GPTConfig(attention="differential", block_size=32, n_embd=64, n_head=8)
    here = ATTENTION["differential"](config, depth=int(there["depth_index"])).double()
    assert there["diff_heads"] == here.G
    here.cos.fill_(1), here.sin.fill_(0)
    state = {"qkv.weight": torch.cat([there[f"{z}_proj_weight"] for z in "qkv"])}
    state |= {"out.weight": there["out_proj_weight"], "head_norm.weight": there["subln_weight"]}
    state |= {f"lam_{x}": there[f"lambda_{x}"] for x in ("q1", "k1", "q2", "k2")}
    here.load_state_dict(state)
    for here.fused in (False, True):
        torch.testing.assert_close(here(there["x"]), there["y_without_rope"], rtol=0, atol=1e-6)


def test_lambda_init_is_the_paper_s_schedule_from_depth_0():
    config = GPTConfig(attention="differential")
    found = [ATTENTION["differential"](config, depth).lam_init for depth in range(12)]
    expected = [0.200, 0.356, 0.471, 0.556, 0.619, 0.666, 0.701, 0.727, 0.746, 0.760, 0.770, 0.778]
    assert found == pytest.approx(expected, abs=5e-4)
    assert [b.attention.lam_init for b in GPT(config).blocks] == pytest.approx(expected[:4], abs=5e-4)


def test_lambda_starts_near_lambda_init():
    torch.manual_seed(0)
    config = GPTConfig(attention="differential", n_layer=400, n_head=2, n_embd=64)
    alone = [ATTENTION["differential"](config, 0) for _ in range(400)]
    for layers in (alone, [block.attention for block in GPT(config).blocks]):
        off = torch.cat([a.lam - a.lam_init for a in layers]).detach()
        assert abs(off.std() - math.sqrt(2) * 0.01 * math.sqrt(32)) < 0.01 and abs(off.mean()) < 0.01


def test_differential_without_lambda_is_vanilla_with_wide_values(monkeypatch):
    attention, x = layer("differential"), inputs()
    monkeypatch.setattr(type(attention), "lam", 0.0)
    q, k, v = attention.project(x)
    torch.testing.assert_close(attention.mix(x, q, k, v), attend(q[:, 0::2], k[:, 0::2], v, fused=False))


def test_differential_norm_makes_heads_of_one_length():
    attention = layer("differential")
    nn.init.ones_(attention.head_norm.weight)
    y = attention.norm(100 * torch.randn(2, 2, 11, 16, dtype=torch.float64))
    torch.testing.assert_close(y.square().mean(-1).sqrt(), torch.full((2, 2, 11), 1 - attention.lam_init).double())


def test_softmax1_is_multihead_attention_with_a_zero_key():
    attention, x = layer("softmax1"), inputs()
    attention.cos.fill_(1), attention.sin.fill_(0)
    torch_s = nn.MultiheadAttention(32, 4, bias=False, add_zero_attn=True, batch_first=True).double()
    with torch.no_grad():
        torch_s.in_proj_weight.copy_(attention.qkv.weight)
        torch_s.out_proj.weight.copy_(attention.out.weight)
    y, _ = torch_s(x, x, x, attn_mask=torch.ones(11, 11, dtype=torch.bool).triu(1))
    for attention.fused in (False, True):
        torch.testing.assert_close(attention(x), y)


def test_softmax1_is_softmax_by_sigmoid_of_lse():
    S = 3 * torch.randn(5, 7, dtype=torch.float64)
    torch.testing.assert_close(softmax1(S), S.softmax(-1) * S.logsumexp(-1, keepdim=True).sigmoid())
    torch.testing.assert_close(softmax1(S), S.exp() / (1 + S.exp().sum(-1, keepdim=True)))


@pytest.mark.parametrize("fused", [False, True])
def test_softmax1_is_stable_for_scores_of_ten_thousand(fused):
    q = torch.tensor([[1e4], [1e4], [-1e4]]).view(1, 1, 3, 1).requires_grad_()
    k, v = torch.ones(1, 1, 3, 1), torch.tensor([1.0, 3.0, 5.0]).view(1, 1, 3, 1)
    y = attend(q, k, v, softmax1, fused)
    assert y.flatten().tolist() == pytest.approx([1, 2, 0])  # all of one, half of two, nothing at all
    y.sum().backward()
    assert q.grad.isfinite().all()


def test_temperature_starts_at_log2_of_L_squared_minus_L():
    for L, g in ((64, 11.98), (256, 15.99), (1024, 20.00)):
        attention = ATTENTION["temperature"](GPTConfig(attention="temperature", block_size=L), 0)
        assert attention.g.flatten().tolist() == pytest.approx([g] * 4, abs=0.01)


def test_temperature_zero_is_the_mean_and_length_of_queries_does_not_matter():
    attention, x = layer("temperature"), inputs()
    q, k, v = attention.project(x)
    torch.testing.assert_close(attention.mix(x, 7 * q, k / 3, v), attention.mix(x, q, k, v))
    nn.init.zeros_(attention.g)
    A = attention.attention_map(x)
    torch.testing.assert_close(A, torch.ones(11, 11).double().tril().div(torch.arange(1, 12)[:, None]).expand_as(A))


# ---------------------------------------------------------------------------- fair comparison


# Numbers that a layer learns more than vanilla's, of 4 maps of 8 channels: g; λ's four vectors and the norm's gain.
MORE_NUMBERS = {"vanilla": 0, "softmax1": 0, "temperature": 4, "differential": 4 * 8 + 16}


@every
def test_its_projections_are_vanilla_s_and_it_learns_these_more_numbers(name):
    vanilla, net = gpt("vanilla"), gpt(name)
    shapes = {n: p.shape for n, p in net.named_parameters()}
    assert {n: p.shape for n, p in vanilla.named_parameters()}.items() <= shapes.items()
    assert net.n_params() - vanilla.n_params() == 2 * MORE_NUMBERS[name]


@every
def test_its_initial_weights_are_vanilla_s(name):
    assert_shared("vanilla", name)


def assert_shared(base, name):
    """Every weight of the mechanism `base` has the same initial value with the mechanism `name`."""
    net = gpt(name)
    for path, p in gpt(base).named_parameters():
        assert torch.equal(net.get_parameter(path), p), path


class Greedy:
    """Learns and draws more than the mechanism that it is mixed into, before and after it."""

    def __init__(self, config, depth):
        torch.randn(1000 * depth + 7)
        super().__init__(config, depth)
        self.more = nn.Linear(config.n_embd, 3 * config.n_embd)
        self.most = nn.Parameter(torch.randn(5))


@every
def test_a_mechanism_that_learns_more_shares_all_other_initial_weights(name, monkeypatch):
    monkeypatch.setitem(ATTENTION, "greedy", type("GreedyOne", (Greedy, ATTENTION[name]), {}))
    assert_shared("vanilla", "greedy")
    assert_shared(name, "greedy")
    more = gpt("greedy").blocks[1].attention.more
    assert more.weight.std().item() == pytest.approx(0.02, rel=0.1) and not more.bias.any()


def test_a_number_of_a_mechanism_keeps_the_value_of_its_class(monkeypatch):
    """Also one whose name begins as those of λ's vectors do."""

    class Scaled(ATTENTION["differential"]):
        def __init__(self, config, depth):
            super().__init__(config, depth)
            self.lam_scale = nn.Parameter(torch.ones(1))

    monkeypatch.setitem(ATTENTION, "scaled", Scaled)
    assert gpt("scaled").blocks[0].attention.lam_scale.item() == 1


def test_no_two_initial_weights_are_drawn_alike():
    drawn = [p.flatten()[:8] for p in gpt("differential").parameters() if p.std() > 0]
    assert len(drawn) == 1 + 2 * (2 + 4 + 3)  # the embedding; projections, λ's vectors and the MLP of two blocks
    assert len({tuple((p / p.norm()).tolist()) for p in drawn}) == len(drawn)


def test_initial_weights_depend_on_the_seed():
    weights = gpt("vanilla").embedding.weight
    torch.manual_seed(1)
    assert not torch.equal(GPT(GPTConfig(**SMALL)).embedding.weight, weights.float())


@pytest.mark.parametrize("std", [0.02, 0.1])
def test_initial_weights_are_those_of_the_table(std):
    net = GPT(GPTConfig(n_layer=8, n_embd=256, init_std=std))
    for name, p in net.named_parameters():
        if p.dim() == 1:
            assert (p == 1).all()
        else:
            residual = name.endswith(("out.weight", "down.weight"))
            assert p.std().item() == pytest.approx(std / 4 if residual else std, rel=0.02)


@every
def test_counting_agrees_with_torch(name):
    net = gpt(name, fused=False)
    assert net.n_params() == sum(p.numel() for p in net.parameters())
    with FlopCounterMode(display=False) as counter:
        net(torch.zeros(1, 1, dtype=torch.long))  # a window of one token: where causal and full attention are the same
    forward, backward = net.flops_per_token(1)
    assert counter.get_total_flops() == forward
    assert backward == 2 * forward
    keys = (net.flops_per_token(15)[0] - forward) / 7  # a token in 15 sees 8 keys on average: 7 more
    assert keys == sum(block.attention.flops(2) - block.attention.flops(1) for block in net.blocks)


# ---------------------------------------------------------------------------- precision


@every
def test_bfloat16_keeps_scalars_norms_and_loss_in_float32(name, monkeypatch):
    torch.manual_seed(0)
    net, tokens = GPT(GPTConfig(attention=name, **SMALL)), torch.randint(32, (2, 16))
    seen, normed = {}, []
    monkeypatch.setattr(F, "rms_norm", lambda x, *args, f=F.rms_norm, **options: noted(f(x, *args, **options), x))

    def noted(y, x):
        normed.append((x.dtype, y.dtype))
        return y

    for path, module in net.named_modules():
        if isinstance(module, nn.Linear):
            module.register_forward_hook(lambda m, x, y, path=path: seen.update({path: (x[0].dtype, y.dtype)}))
    with torch.autocast("cpu", torch.bfloat16):
        loss = net(tokens, tokens)
        scalars = [getattr(b.attention, n) for b in net.blocks for n in b.attention.watch]
    assert loss.dtype == torch.float32 and all(s.dtype == torch.float32 for s in scalars)
    of_heads = sum(isinstance(module, nn.RMSNorm) for module in net.modules())
    assert len(normed) == 2 * 2 + 1 + of_heads  # two per block, one at the end
    assert set(normed) == {(torch.float32, torch.float32)}
    assert all(y == torch.bfloat16 for _, y in seen.values())  # else nothing was tested
    assert abs(loss - net(tokens, tokens)) < 0.02


@pytest.mark.gpu
@every
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_fused_is_as_near_to_float64_as_unfused_on_a_gpu(name, dtype):
    """Each path is compared with float64, since λ's gradients lose up to a third to cancellation in either."""
    torch.set_float32_matmul_precision("highest")
    tokens, results = torch.randint(256, (4, 128)).cuda(), {}
    for way, fused, number in (("exact", False, torch.float64), ("unfused", False, dtype), ("fused", True, dtype)):
        torch.manual_seed(0)
        net = GPT(GPTConfig(attention=name, fused=fused, block_size=128, n_layer=2, n_head=4, n_embd=256)).cuda()
        net = net.double() if number == torch.float64 else net
        with torch.autocast("cuda", torch.bfloat16, enabled=number == torch.bfloat16):
            loss = net(tokens, tokens.roll(-1))
        loss.backward()
        results[way] = {"loss": loss.detach(), **{n: p.grad for n, p in net.named_parameters()}}
    for key, exact in results["exact"].items():
        unfused, fused = ((results[way][key].double() - exact).norm() / exact.norm() for way in ("unfused", "fused"))
        assert fused < 2 * unfused + 1e-4, f"{key}: {fused} fused, {unfused} unfused"


@every
@pytest.mark.parametrize("device", ["cpu", pytest.param("cuda", marks=pytest.mark.gpu)])
def test_fused_runs_on_a_kernel_that_does_not_store_the_map(name, device):
    maps = SMALL["n_head"]
    net = GPT(GPTConfig(attention=name, block_size=128, n_layer=1, n_head=maps, n_embd=64 * maps)).to(device)
    tokens = torch.randint(256, (4, 128)).to(device)
    with profile() as trace, torch.autocast(device, torch.bfloat16, enabled=device == "cuda"):
        net(tokens, tokens).backward()
    kernels = {event.key for event in trace.key_averages() if event.key.startswith("aten::_scaled_dot_product")}
    assert any(word in kernel for kernel in kernels for word in ("flash", "efficient", "cudnn")), kernels
    assert not any("math" in kernel for kernel in kernels), kernels


@every
def test_a_gpt_can_be_built_without_memory(name):
    with torch.device("meta"):
        net, tokens = GPT(GPTConfig(attention=name)), torch.zeros(1, 8, dtype=torch.long)
        assert net(tokens).shape == (1, 8, 256) and net.n_params() > 800_000


# ---------------------------------------------------------------------------- drawing a token


def test_pick_is_greedy_at_temperature_zero_and_follows_the_logits_at_one():
    p = torch.tensor([0.1, 0.6, 0.3])
    logits = p.log().expand(20000, 3)
    assert (pick(logits, 0) == 1).all()
    drawn = pick(logits, 1.0, generator=torch.Generator().manual_seed(0)).flatten().bincount(minlength=3) / 20000
    torch.testing.assert_close(drawn, p, atol=0.01, rtol=0)
    sharp = pick(logits, 0.5, generator=torch.Generator().manual_seed(0)).flatten().bincount(minlength=3) / 20000
    torch.testing.assert_close(sharp, p**2 / (p**2).sum(), atol=0.01, rtol=0)


@pytest.mark.parametrize(
    ("top_k", "top_p", "kept"),
    [
        (1, None, {1}),
        (2, None, {1, 2}),
        (9, None, {0, 1, 2}),
        (None, 0.62, {1}),
        (None, 0.63, {1, 2}),
        (2, 0.95, {1, 2}),
    ],
)
def test_pick_keeps_top_k_and_top_p(top_k, top_p, kept):
    logits = torch.tensor([0.125, 0.625, 0.25]).log().expand(2000, 3)
    assert set(pick(logits, 1.0, top_k, top_p).flatten().tolist()) == kept


def test_pick_survives_extreme_temperatures_and_logits():
    logits = torch.tensor([[1e4, -1e4, 0.0]])
    assert pick(logits, 1e-36) == 0
    assert pick(logits, 1e30) in (0, 1, 2)


# ---------------------------------------------------------------------------- shapes that cannot be


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"n_embd": 130, "n_head": 4}, "n_embd=130: must be a multiple of 2 n_head = 8, since n_head=4"),
        ({"n_embd": 12, "n_head": 4}, "n_embd=12: must be a multiple of 2 n_head = 8"),
        (
            {"attention": "differential", "n_head": 3, "n_embd": 12},
            "n_head=3: must be a multiple of 2, the maps per differential head",
        ),
        ({"attention": "diferential"}, "attention=diferential: must be one of vanilla, softmax1, temperature, diff"),
        ({"attention": "diferential"}, "did you mean differential?"),
        ({"attention": "diff"}, "did you mean differential?"),
        ({"dropout": 1.0}, "dropout=1.0: must be at least 0 and less than 1"),
        ({"init_std": 0.0}, "init_std=0.0: must be more than 0 and finite"),
        ({"init_std": float("nan")}, "init_std=nan: must be more than 0 and finite"),
        ({"n_layer": 0}, "n_layer=0: must be at least 1"),
        ({"block_size": -1}, "block_size=-1: must be at least 1"),
    ],
)
def test_a_wrong_shape_is_refused_with_its_numbers(options, message):
    with pytest.raises(ValueError) as error:
        GPTConfig(**options)
    assert message in str(error.value)


def test_too_many_tokens_are_refused_with_the_numbers():
    with pytest.raises(AssertionError, match="17 tokens do not fit into block_size=16"):
        gpt("vanilla")(torch.zeros(1, 17, dtype=torch.long))


def test_model_stands_on_torch_and_the_standard_library_alone():
    lines = Path(model.__file__).read_text(encoding="utf-8").splitlines()
    imported = {line.split()[1].split(".")[0] for line in lines if line.startswith(("import ", "from "))}
    assert imported <= {*sys.stdlib_module_names, "torch"}
