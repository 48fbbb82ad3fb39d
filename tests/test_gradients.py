"""Gradients at scores are those of the formula, and of both maps of a difference."""

import runpy

import pytest
import torch
import torch.nn.functional as F

from conftest import ROOT, build, text
from lab.gradients import KEY, gradients_of_heads, score_gradients
from lab.interventions import replaced
from lab.maps import activations, visible
from lab.show import THE_FOUR
from model import ATTENTION, scores


def by_formula(gpt, x, y):
    """|λ aⱼ (gⱼ − Σ aᵢgᵢ)| of every map of every layer, BHTT, g the gradient of the loss at the weights of its head."""
    maps = []

    def attend(attention, original, q, k, v, combine=None):
        A = scores(q, k).softmax(-1)
        A.retain_grad()
        maps.append(A)
        return (combine(A) if combine else A) @ v

    with replaced([block.attention for block in gpt.blocks], attend=attend):
        F.cross_entropy(gpt(x).flatten(0, 1), y.flatten(), ignore_index=-1).backward()
    return [(A * (A.grad - (A * A.grad).sum(-1, keepdim=True))).abs() for A in maps]


@pytest.mark.parametrize("attention", ["vanilla", "differential", "three-maps"])
def test_gradients_are_those_of_the_formula(attention, monkeypatch):
    monkeypatch.setitem(ATTENTION, "three-maps", runpy.run_path(str(ROOT / "docs/solutions/three_maps.py"))["SOLUTION"])
    shape = {"n_head": 6, "n_embd": 48} if attention == "three-maps" else {}
    gpt, (x, y) = build(attention, **shape), (text()[:, :-1], text()[:, 1:].clone())
    y[0, :5] = -1
    expected, found = by_formula(gpt, x, y), score_gradients(gpt, x, y)
    maps = gpt.blocks[0].attention.maps_per_head
    expected = [sum(sizes[:, i::maps] for i in range(maps)) for sizes in expected]
    assert len(found) == len(gpt.blocks)
    for one, other in zip(found, expected, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-4, atol=1e-9)
        assert one.sum() > 0


@pytest.mark.parametrize("attention", [*THE_FOUR, "rectified", "talking-heads"])
@torch.no_grad()
def test_shares_are_of_what_small_weights_get(attention):
    gpt, x, y = build(attention), text()[:, :-1], text()[:, 1:]
    rows, inputs = gradients_of_heads(gpt, x, y), activations(gpt, x)[0]
    assert len(rows) == sum(block.attention.n_heads for block in gpt.blocks)
    sizes = score_gradients(gpt, x, y)[1][:, 0]
    A = gpt.blocks[1].attention.map(inputs[1])[:, 0]
    small = sizes[(A.abs() <= 0.01) & visible(x.size(1))].sum() / sizes.sum()
    row = rows[gpt.blocks[0].attention.n_heads]
    assert row["gradient_at_most_0.01"] == pytest.approx(small.item(), abs=1e-6)
    assert 0 <= row["gradient_at_most_0.001"] <= row["gradient_at_most_0.01"] <= 1
    assert row.keys() == KEY.keys() and all(p.grad is None for p in gpt.parameters())
