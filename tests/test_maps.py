"""Every number on maps worked out by hand, and what each mechanism's maps obey."""

import contextlib
import functools
import math
import statistics

import pytest
import torch

from conftest import build, text
from lab import maps
from lab.maps import activations, completes, losses, of_heads, outliers
from lab.show import THE_FOUR
from model import ATTENTION, GPT, GPTConfig
from plumbing.dataset import Split
from train import evaluate

SIGNED = torch.tensor([[[[0.5, 0.0, 0.0], [0.75, -0.25, 0.0], [-0.5, 0.0, 1.5]]]])  # BHTT, a map with negative weights


@pytest.mark.parametrize(
    ("number", "expected"),
    [
        (maps.row_sum, (0.5 + 0.5 + 1.0) / 3),
        (maps.negative_share, (0 + 1 / 2 + 1 / 3) / 3),
        (maps.negative_mass, (0 + 1 / 4 + 1 / 4) / 3),
        (maps.on_first, (3 / 4 + 1 / 4) / 2),
        (maps.on_itself, (1 + 1 / 4 + 3 / 4) / 3),
        (maps.on_previous, (3 / 4 + 0) / 2),
        (maps.entropy, 2 / 3 * (math.log(4) - 0.75 * math.log(3))),
        (maps.effective_tokens, (1 + 2 * 4 / 3**0.75) / 3),
        (functools.partial(maps.small_share, eps=0), (0 + 0 + 1 / 3) / 3),
        (functools.partial(maps.small_share, eps=0.25), (0 + 1 / 2 + 1 / 3) / 3),
        (maps.head_cosine, 1.0),
    ],
)
def test_a_number_of_a_signed_map(number, expected):
    assert number(SIGNED).shape == (1, 1)
    assert number(SIGNED).item() == pytest.approx(expected, abs=1e-6)


def test_shares_have_no_sign_and_sum_to_1():
    assert torch.equal(maps.shares(SIGNED)[0, 0, 2], torch.tensor([0.25, 0.0, 0.75]))
    assert torch.equal(maps.shares(torch.zeros(1, 1, 2, 2)), torch.zeros(1, 1, 2, 2))


def test_an_even_map_is_spread_over_all_that_is_visible():
    A = torch.ones(1, 1, 4, 4).tril() / torch.arange(1, 5)[:, None]
    assert maps.effective_tokens(A).item() == pytest.approx((1 + 2 + 3 + 4) / 4)
    assert maps.on_first(A).item() == pytest.approx((1 / 2 + 1 / 3 + 1 / 4) / 3)


def test_likeness_of_two_maps():
    A1 = torch.tensor([[[[1.0, 0.0], [1.0, 0.0]]]])
    A2 = torch.tensor([[[[1.0, 0.0], [0.0, 1.0]]]])
    assert maps.cosine(A1, A2).item() == pytest.approx((1 + 0) / 2)
    assert maps.correlation(A1, A2).item() == pytest.approx(-1)
    assert maps.correlation(A1, A1).item() == pytest.approx(1)
    assert maps.correlation(A1, torch.full((1, 1, 2, 2), 0.5)).item() == 0
    assert maps.head_cosine(torch.cat((A1, A2, A2), 1))[0].tolist() == pytest.approx([0.5, 0.75, 0.75])


def test_zeros_that_are_zero_before_anything_is_subtracted():
    A1 = torch.tensor([[[[1.0, 0.0, 0.0], [0.4, 0.6, 0.0], [0.0, 0.5, 0.5]]]])
    A = torch.tensor([[[[0.5, 0.0, 0.0], [0.0, 0.2, 0.0], [0.0005, 0.5, -0.0005]]]])
    assert maps.zero_by_itself(A1, A).item() == pytest.approx(1 / 3)  # of (1, 0), (2, 0) and (2, 2) only (2, 0)
    assert maps.zero_by_itself(A1, A, 0.5).item() == pytest.approx(4 / 6)  # A₁ is large in (0, 0) and (1, 1)
    assert maps.zero_by_itself(A1, A1).item() == 1
    assert maps.zero_by_itself(A1, torch.ones(1, 1, 3, 3)).item() == 0


def test_context_is_as_long_as_its_values_or_shorter():
    v = torch.tensor([[[[3.0, 4.0], [-3.0, -4.0]]]])
    assert maps.context_rms(torch.eye(2)[None, None], v).item() == pytest.approx(1)
    assert maps.context_rms(torch.tensor([[[[1.0, 0.0], [0.5, 0.5]]]]), v).item() == pytest.approx(0.5**0.5)


def test_distance_from_the_box_of_values():
    v = torch.tensor([[[[1.0, 1.0], [-1.0, 1.0]]]])  # rms 1; the box of row 1 is [-1, 1] by {1}
    inside, beyond = (torch.tensor([[[[1.0, 0.0], row]]]) for row in ([0.25, 0.75], [2.0, -1.0]))
    assert maps.outside_box(inside, v).item() == 0
    assert maps.outside_box(beyond, v).item() == pytest.approx(math.sqrt((3 - 1) ** 2 / 2) / 2)  # y = (3, 1)
    later = torch.tensor([[[[1.0, 1.0], [-5.0, 5.0]]]])  # rms √13; row 0 sees (1, 1) alone
    for weight, off in ((2.0, 1.0), (-1.0, 2.0)):  # y = (2, 2) is above it, y = (-1, -1) below
        A = torch.tensor([[[[weight, 0.0], [0.5, 0.5]]]])
        assert maps.outside_box(A, later).item() == pytest.approx(off / 2 / math.sqrt(13))


@torch.no_grad()
def test_heads_that_write_into_other_channels_do_not_overlap():
    gpt = build("vanilla")  # four heads of width 8
    attention, x = gpt.blocks[0].attention, activations(gpt, text())[0][0]
    W = attention.out.weight
    W.copy_(torch.eye(32))
    assert maps.output_overlap(attention, x).tolist() == pytest.approx([0] * 4, abs=1e-6)
    W[:8, 8:16] = torch.eye(8)  # head 1 writes into the channels of head 0, too: it adds (y, y)
    y = attention.mix(x, *attention.project(x)).transpose(0, 1).flatten(1, 2)
    C0, C1 = (z.T.cov(correction=0) for z in y[:2])
    cosine = ((C0 * C1).sum() / C0.norm() / (2 * C1.norm())).item()  # the covariance of (y, y) is four times C1
    assert 0.1 < cosine < 0.9
    assert maps.output_overlap(attention, x).tolist() == pytest.approx([cosine / 3, cosine / 3, 0, 0], abs=1e-5)
    only = GPT(GPTConfig("vanilla", n_layer=1, n_head=1, n_embd=32, block_size=12)).blocks[0].attention
    assert maps.output_overlap(only, x).tolist() == [1]


def test_sink_rate_counts_heads_beyond_three_tenths():
    assert maps.sink_rate([0.1, 0.3, 0.31, 0.9]) == 0.5


def test_outliers_of_what_is_known():
    x = torch.arange(-5.0, 106.0)  # |x|: 0, 1, 1, ... 5, 5, 6, ... 105
    assert outliers(x) == {"top_1": 105, "top_2": 104, "top_3": 103, "top_10": 96, "top_100": 6, "median": 50}
    assert outliers(torch.tensor([-2.0, 1.0])) == {"top_1": 2, "top_2": 1, "median": 1}
    assert maps.kurtosis(torch.tensor([-1.0, 1.0])) == pytest.approx(1)
    assert maps.kurtosis(torch.tensor([0.0, 0.0, 0.0, 4.0])) == pytest.approx(7 / 3)
    assert maps.inf_norm(torch.tensor([1.0, -3.0, 5.0, 0.0]).view(2, 2, 1, 1)) == pytest.approx((5 + 3) / 2)


def test_a_token_completes_what_its_window_has_seen():
    x, y = torch.tensor([list(b"abcab"), list(b"aaaaa")]), torch.tensor([list(b"bcabc"), list(b"aaaab")])
    assert completes(x, y, 2).int().tolist() == [[0, 0, 0, 1, 1], [0, 1, 1, 1, 0]]
    assert completes(x, y, 3).int().tolist() == [[0, 0, 0, 0, 1], [0, 0, 1, 1, 0]]
    assert not completes(x, y, 6).any() and not completes(x, y, 9).any()


def test_losses_are_split_by_ngrams_and_by_position():
    nats = torch.tensor([[1.0, 2.0], [3.0, 6.0]])
    hit = torch.tensor([[False, True], [False, False]])
    split = maps.split_losses(nats, hit)
    errors = {"hit_error": None, "rest_error": pytest.approx(statistics.stdev([1, 3, 6]) / 3**0.5)}
    means = {"all": 3, "hit_share": 0.25, "hit": 2, "rest": pytest.approx(10 / 3), "by_position": [2, 4]}
    assert split == means | errors
    assert maps.split_losses(nats, hit & False)["hit"] is None


def test_losses_are_those_of_training():
    gpt, tokens = build("vanilla"), text(1, 61)[0]
    x, y = maps.cut(Split(tokens, None), 10_000, gpt)
    assert x.shape == (5, 12) and torch.equal(x.flatten()[1:], y.flatten()[:-1])
    with torch.no_grad():
        of_training = evaluate(gpt, gpt, Split(tokens, 12), 2, None, contextlib.nullcontext())
        assert losses(gpt, x, y).mean().item() == pytest.approx(of_training, rel=1e-5)
    assert maps.cut(Split(tokens[:7], None), 10_000, gpt)[0].shape == (1, 6)
    assert maps.cut(Split(tokens, None), 5, gpt)[0].shape == (1, 12)


@pytest.mark.parametrize("attention", THE_FOUR)
@torch.no_grad()
def test_maps_obey_the_laws_of_their_mechanism(attention):
    gpt = build(attention)
    inputs, outputs = activations(gpt, text())
    assert [x.shape for x in inputs + outputs] == [(3, 12, 32)] * 4
    for block, x in zip(gpt.blocks, inputs, strict=True):
        rows = of_heads(block.attention, x)
        assert len(rows) == block.attention.n_heads
        for row in rows:
            if attention == "differential":
                assert row["row_sum"] == pytest.approx(1 - block.attention.lam.item(), abs=1e-5)
                assert row["negative_mass"] > 0 and row["outside_box"] > 0
            elif attention == "softmax1":
                assert 0 < row["row_sum"] < 1
            else:
                assert row["row_sum"] == pytest.approx(1, abs=1e-5)
                assert row["outside_box"] < 1e-6
            if attention != "differential":
                assert row["negative_share"] == row["negative_mass"] == 0
        counts = maps.histogram(block.attention, x)
        assert counts.sum() == 3 * len(rows) * 12 * 13 / 2
        assert (counts[: len(counts) // 2].sum() > 0) == (attention == "differential")


@torch.no_grad()
def test_numbers_do_not_depend_on_the_parts_that_maps_are_looked_at_in(monkeypatch):
    gpt = build("differential")
    inputs, _ = activations(gpt, text())
    attention, x = gpt.blocks[1].attention, inputs[1]
    rows, counts = of_heads(attention, x), maps.histogram(attention, x)
    monkeypatch.setattr(maps, "BIG", 1)
    assert len(maps.parts(attention, x)) == 3
    for row, other in zip(rows, of_heads(attention, x), strict=True):
        assert other == pytest.approx(row, rel=1e-5, abs=1e-7)
    assert torch.equal(maps.histogram(attention, x), counts)


@pytest.mark.parametrize("attention", [name for name, c in ATTENTION.items() if c.map is not None])
@torch.no_grad()
def test_every_number_is_explained(attention):
    gpt = build(attention)
    inputs, outputs = activations(gpt, text())
    rows = of_heads(gpt.blocks[0].attention, inputs[0]) + maps.all_outliers({"logits": [], "hidden": outputs})
    x, y = text()[:, :-1], text()[:, 1:]
    rows.append(maps.split_losses(losses(gpt, x, y), completes(x, y, 2)))
    names = {name for row in rows for name in row} - {"of"}
    assert names <= maps.KEY.keys()
    assert all(sentence[0].isupper() and sentence[-1] == "." and "\n" not in sentence for sentence in maps.KEY.values())
