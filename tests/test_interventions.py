"""Interventions: against what they should leave unchanged, and against maps edited by hand."""

import contextlib
import functools

import pytest
import torch

import lab.interventions
from conftest import build, text
from lab import maps
from lab.interventions import (
    DIFFERENTIAL_EDITS,
    EDITS,
    SIGNED_EDITS,
    change,
    edited,
    interventions,
    logits,
    mean_maps,
    quantised,
    replaced,
    visible_logits,
)
from lab.maps import activations, losses
from lab.show import THE_FOUR
from model import ATTENTION, Attention, Differential, softmax, softmax1


@pytest.mark.parametrize("fused", [True, False])
@pytest.mark.parametrize("attention", THE_FOUR)
@torch.no_grad()
def test_what_changes_no_map_changes_no_output(attention, fused):
    gpt = build(attention, fused=fused)
    attentions, before = [block.attention for block in gpt.blocks], gpt(text())

    def changed(mix):
        with replaced(attentions, mix=mix):
            return gpt(text())

    def same(attention, A, A2):
        return A

    torch.testing.assert_close(changed(edited(same)), before, atol=1e-5, rtol=1e-4)
    torch.testing.assert_close(changed(quantised(23)), before, atol=1e-3, rtol=1e-3)
    assert not torch.allclose(changed(quantised(2)), before, atol=1e-3)
    negative = functools.partial(SIGNED_EDITS["negative by 0"], None)
    assert torch.allclose(changed(edited(negative)), before, atol=1e-5) == (attention != "differential")
    assert not torch.allclose(changed(edited(functools.partial(EDITS["first token by 0"], None))), before, atol=1e-3)
    assert torch.equal(gpt(text()), before)  # nothing stays replaced
    assert not any({"mix", "attend"} & {*vars(attention)} for attention in attentions)


def test_a_replacement_ends_with_an_error():
    attention = build("vanilla").blocks[0].attention
    with contextlib.suppress(ZeroDivisionError), replaced([attention], mix=print):
        raise ZeroDivisionError
    assert "mix" not in vars(attention)


@torch.no_grad()
def test_edits_give_the_maps_that_they_say():
    """On one layer, whose input an edit cannot have changed."""
    attention = build("differential").blocks[0].attention
    x = torch.randn(3, 12, 32, generator=torch.Generator().manual_seed(2))
    (A1, A2), A, lam = attention.maps(x), attention.map(x), attention.lam

    even = torch.ones(12, 12).tril() / torch.arange(1, 13)[:, None]
    means = {attention: mean_maps(attention, x)}
    all_edits = EDITS | SIGNED_EDITS | DIFFERENTIAL_EDITS

    def edit(name):
        with replaced([attention], mix=edited(functools.partial(all_edits[name], means))):
            return attention.map(x)

    for name, expected in (
        ("weights within ±0.001 by 0", A * (A.abs() >= 1e-3)),
        ("weights within ±0.01 by 0", A * (A.abs() >= 1e-2)),
        ("A by its mean", A.mean(0).expand_as(A)),
        ("negative by 0", A.relu()),
        ("λ by 0", A1),
        ("A₂ by its row's mean", A1 - lam * even),
        ("A₂ by its mean", A1 - lam * A2.mean(0)),
    ):
        torch.testing.assert_close(edit(name), expected, atol=1e-6, rtol=1e-5)
    first = edit("first token by 0")
    assert not first[:, :, 1:, 0].any() and torch.equal(first[..., 1:], A[..., 1:])
    torch.testing.assert_close(first[:, :, 0], A[:, :, 0])


@torch.no_grad()
def test_as_much_positive_weight_is_taken_as_there_is_negative_weight():
    attention = build("differential").blocks[0].attention
    x = torch.randn(3, 12, 32, generator=torch.Generator().manual_seed(2))
    A = 3 * attention.map(x)  # of all sizes
    edit = SIGNED_EDITS["as much positive by 0"](None, attention, A, None)
    for before, after in zip(A.flatten(0, 2).tolist(), edit.flatten(0, 2).tolist(), strict=True):
        left, budget = list(before), sum(-a for a in before if a < 0)
        for j in sorted(range(12), key=before.__getitem__):
            if 0 < before[j] <= budget + 1e-7:
                left[j], budget = 0.0, budget - before[j]
            elif before[j] > 0:
                break
        assert after == pytest.approx(left, abs=1e-6)
    assert (edit != A).any() and torch.equal(edit.clamp(max=0), A.clamp(max=0))


@pytest.mark.parametrize("attention", THE_FOUR)
@torch.no_grad()
def test_logits_are_what_softmax_is_given(attention):
    gpt = build(attention)
    attention, x = gpt.blocks[0].attention, torch.randn(2, 12, 32)
    S = logits(attention, attention.mix, x, *attention.project(x))
    weights = softmax1(S) if gpt.config.attention == "softmax1" else softmax(S)
    of_pairs = isinstance(attention, Differential)
    A = torch.stack(attention.maps(x), 2).flatten(1, 2) if of_pairs else attention.map(x)
    torch.testing.assert_close(weights, A, atol=1e-5, rtol=1e-4)


def test_quantised_logits_take_few_values():
    attention = build("vanilla").blocks[0].attention
    x = torch.randn(1, 12, 32, generator=torch.Generator().manual_seed(2))
    with torch.no_grad(), replaced([attention], mix=quantised(3)):
        A = attention.map(x)
    with torch.no_grad():
        S = logits(attention, attention.mix, x, *attention.project(x))
    rows = A[:, :, -1].log()
    seen = (rows - rows.max(-1, keepdim=True).values).flatten().unique()
    steps = (seen[:, None] - seen).abs()
    step = S[..., torch.ones(12, 12).tril().bool()].abs().max() / 3  # three steps up to the largest, three down
    assert steps[steps > 1e-3].min() == pytest.approx(step.item(), rel=1e-3)
    assert torch.allclose(seen / step, (seen / step).round(), atol=1e-2) and len((seen / step).round().unique()) <= 7


@torch.no_grad()
def test_an_intervention_does_not_depend_on_the_batch(monkeypatch):
    gpt, x = build("differential"), text(5)
    attentions, results = [block.attention for block in gpt.blocks], []
    for n in (1, 3, 5):
        monkeypatch.setattr(maps, "batch_size", lambda tokens, n=n: n)
        with replaced(attentions, mix=quantised(4)):
            results.append(losses(gpt, x, x))
    torch.testing.assert_close(results[0], results[1])
    torch.testing.assert_close(results[0], results[2])


@torch.no_grad()
def test_means_of_maps_do_not_depend_on_the_parts(monkeypatch):
    gpt = build("differential")
    attention, x = gpt.blocks[1].attention, activations(gpt, text())[0][1]
    means = mean_maps(attention, x)
    monkeypatch.setattr(maps, "BIG", 1)
    for mean, other in zip(means, mean_maps(attention, x), strict=True):
        torch.testing.assert_close(mean, other)


def test_a_change_is_a_mean_over_windows():
    nats = torch.tensor([[1.0, 2.0], [3.0, 6.0]])
    after = nats + torch.tensor([[1.0], [2.0]])
    assert change(nats, after) == {"loss_change": 1.5, "standard_error": pytest.approx(0.5)}
    assert change(nats[:1], nats[:1])["standard_error"] is None


# ---------------------------------------------------------------------------- all of them


class Even(Attention):
    """even: every token that a row sees has one weight; it attends without `attend`."""

    def mix(self, x, q, k, v):
        return v.cumsum(2) / torch.arange(1, v.size(2) + 1)[:, None]


@torch.no_grad()
def rows_of(attention):
    gpt, x, steps = build(attention), text(), []
    rows = interventions(gpt, activations(gpt, x)[0], x, x, losses(gpt, x, x), lambda: steps.append(1))
    assert len(steps) == len(rows)
    return {row["what"]: row["loss_change"] for row in rows}


@pytest.mark.parametrize("attention", [name for name, c in ATTENTION.items() if c.map is not None])
def test_every_mechanism_has_interventions_and_each_is_explained(attention):
    names = set(rows_of(attention))
    assert names | {"what", "loss_change", "standard_error"} <= lab.interventions.KEY.keys()
    bits = {f"logits in {bits} bits" for bits in (8, 6, 4)}
    if attention in THE_FOUR:
        edits = {*EDITS, *SIGNED_EDITS, *DIFFERENTIAL_EDITS} if attention == "differential" else {*EDITS}
        assert names == edits | bits


def test_a_part_that_a_mechanism_lacks_has_no_intervention(monkeypatch):
    monkeypatch.setitem(ATTENTION, "even", Even)
    assert rows_of("even").keys() == EDITS.keys()  # no logits, no negative weights, one map
    assert visible_logits(build("even"), [torch.zeros(1, 12, 32)] * 2) == []
    assert not DIFFERENTIAL_EDITS.keys() & rows_of("scores").keys()  # a softmax of a difference: there is no A₁ − λA₂
