"""The mechanisms of ideas/ keep the laws of the four, and are what their docstrings say."""

import pytest
import test_model as laws
import torch
import torch.nn.functional as F

import ideas  # noqa: F401  adds their words
from ideas.ablations import ABLATIONS
from ideas.difference import DIFFERENCES
from model import ATTENTION, Differential, pairs, softmax

IDEAS = {**ABLATIONS, **DIFFERENCES}
C = laws.SMALL["n_embd"]
MORE_NUMBERS = {"init-0.8": 4 * 8 + 16, "init-0.5": 4 * 8 + 16, "fixed-lambda": 16, "lambda-zero": 16, "tied": 0}
MORE_NUMBERS |= {"tied-0.9": 0}
MORE_NUMBERS |= {"normed-vanilla": 8, "wide-values": 2 * C * C, "sum": 4 * 8 + 16, "add-only": 4 * 8 + 16}
MORE_NUMBERS |= {"v2": C * C + 4 * C}
every_idea = pytest.mark.parametrize("name", IDEAS)


@every_idea
@pytest.mark.parametrize("T", [1, 2, 16])
def test_fused_is_explicit_in_output_and_every_gradient(name, T):
    laws.test_fused_is_explicit_in_output_and_every_gradient(name, T)


@every_idea
@pytest.mark.parametrize("fused", [False, True])
@pytest.mark.parametrize("law", [laws.test_no_token_depends_on_a_later_one, laws.test_map_times_values_is_mix])
def test_laws_of_both_branches(law, name, fused):
    law(name, fused)


@every_idea
@pytest.mark.parametrize(
    "law",
    [
        laws.test_cache_gives_what_recomputing_gives,
        laws.test_several_tokens_after_a_cache_give_what_recomputing_gives,
        laws.test_generate_is_greedy_recomputation_also_beyond_block_size,
        laws.test_every_parameter_gets_gradient,
        laws.test_evaluation_mode_has_no_dropout_and_training_has,
        laws.test_maps_know_distances_only,
        laws.test_counting_agrees_with_torch,
    ],
)
def test_laws(law, name):
    law(name)


@every_idea
@pytest.mark.parametrize(
    "law",
    [
        laws.test_fused_passes_no_mask_and_is_causal,
        laws.test_a_mechanism_that_learns_more_shares_all_other_first_weights,
        laws.test_bfloat16_keeps_scalars_norms_and_loss_in_float32,
    ],
)
def test_laws_that_patch(law, name, monkeypatch):
    if name == "wide-values" and law is laws.test_a_mechanism_that_learns_more_shares_all_other_first_weights:
        pytest.skip("its projections have other shapes than those of vanilla")
    law(name, monkeypatch)


@every_idea
def test_its_docstring_begins_with_its_word(name):
    assert IDEAS[name].__doc__.startswith(f"{name}: ")
    assert ATTENTION[name] is IDEAS[name]


@every_idea
def test_it_has_as_many_more_numbers_than_vanilla_as_its_docstring_says(name):
    n = {word: sum(p.numel() for p in laws.layer(word).parameters()) for word in (name, "vanilla")}
    assert n[name] - n["vanilla"] == MORE_NUMBERS[name]


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
    "sum": lambda layer: -Differential.lam.fget(layer),
    "add-only": lambda layer: -abs(Differential.lam.fget(layer)),
}


@pytest.mark.parametrize("name", LAM)
def test_each_of_those_with_lambda_is_a_difference_of_the_two_maps(name):
    layer, x = laws.layer(name), laws.inputs()
    A1, A2 = both_maps(layer, x)
    torch.testing.assert_close(layer.map(x), A1 - LAM[name](layer) * A2)


@pytest.mark.parametrize("name, start", [("init-0.8", 0.8), ("init-0.5", 0.5)])
@pytest.mark.parametrize("depth", [0, 3])
def test_lambda_starts_where_the_name_says_also_in_the_factor(name, start, depth):
    layer, y = laws.layer(name, depth=depth), torch.randn(2, 2, 5, 16, dtype=torch.float64)
    with torch.no_grad():
        for p in (layer.lam_q1, layer.lam_k1, layer.lam_q2, layer.lam_k2):
            p.zero_()
        assert layer.lam.item() == pytest.approx(start)
        torch.testing.assert_close(layer.norm(y), (1 - start) * layer.head_norm(y))


def test_add_only_never_subtracts_and_sum_may():
    for name, negative in (("add-only", False), ("sum", True)):
        layer, x = laws.layer(name), laws.inputs()
        with torch.no_grad():
            for p in (layer.lam_q2, layer.lam_k2):
                p.fill_(1.0)  # λ = exp(·) − exp(8) + λ_init: far below zero
            for p in (layer.lam_q1, layer.lam_k1):
                p.zero_()
            assert bool((layer.map(x) < 0).any()) is negative


def test_v2_subtracts_a_map_of_second_queries_on_the_same_keys():
    layer, x = laws.layer("v2"), laws.inputs()
    q, k, v = layer.project(x)
    q2 = layer.rotate(layer.q2(x).unflatten(2, (4, 8)).transpose(1, 2), 0)
    future = torch.ones(11, 11).triu(1).bool()
    A1, A2 = (softmax((z @ k.mT / 8**0.5).masked_fill(future, -torch.inf)) for z in (q, q2))
    lam = torch.stack([torch.sigmoid(x @ w) for w in layer.lam.weight], 1)[..., None]  # BHT1
    torch.testing.assert_close(layer.map(x), A1 - lam * A2)
    torch.testing.assert_close(layer(x), layer.out(((A1 - lam * A2) @ v).transpose(1, 2).flatten(2)))


def test_normed_vanilla_is_vanilla_with_normed_heads():
    layer, x = laws.layer("normed-vanilla"), laws.inputs()
    v = layer.project(x)[2]
    y = F.rms_norm(layer.map(x) @ v, (8,), layer.head_norm.weight, 1e-5)
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
