"""lab/one_layer.py: the tasks are what they are said to be, the closed form is the least error, runs are kept."""

import json
from pathlib import Path

import pytest
import torch

import lab.one_layer
from conftest import mistake
from lab.one_layer import C, best_lam, contexts, last_row, least_error, one_layer, reordered, trained
from model import GPT, GPTConfig

FEW = {"n_items": (4,), "widths": (3,), "sigmas": (0.5, 1.0), "seeds": (1, 2), "steps": 3}
ONE = {"task": "noise", "width": 4, "n_items": 4, "sigma": 1.0, "attention": "no-norm", "n_head": 2, "seed": 3}
ONE |= {"positions": False}


def draw(seed=1):
    return torch.Generator().manual_seed(seed)


def test_the_answer_is_the_value_of_the_token_asked_for():
    x, y = contexts("noise", 500, 6, 5, 0.0, draw())
    keys, values, query = x[..., :8], x[..., 8:13], x[:, -1, -8:]
    torch.testing.assert_close(keys.norm(dim=-1), torch.full((500, 6), 8**0.5))
    asked = (keys @ query[:, :, None])[..., 0].argmax(1)
    torch.testing.assert_close(keys[range(500), asked], query)
    torch.testing.assert_close(values[range(500), asked], y)
    assert not x[:, :-1, 13:].any() and set(asked.tolist()) == set(range(6))


def test_its_noise_is_shared_by_the_tokens_of_a_context():
    x, y = contexts("noise", 20_000, 3, 1, 2.0, draw())
    values = x[..., 8]
    torch.testing.assert_close(values.T.cov(), 4.0 + torch.eye(3), atol=0.15, rtol=0)
    assert torch.stack((values.mean(1), y[:, 0])).corrcoef()[0, 1] < 0.2 and y.var() == pytest.approx(1, abs=0.05)


def test_regression_can_be_solved_from_the_context():
    x, y = contexts("regression", 50, 9, 7, 0.0, draw())
    points, values, query = x[..., :5], x[..., 5:12], x[:, -1, -5:]
    W = torch.linalg.lstsq(points, values).solution
    torch.testing.assert_close((query[:, None] @ W)[:, 0], y, atol=1e-3, rtol=1e-3)
    noisy, _ = contexts("regression", 5000, 9, 1, 0.1, draw(2))
    left = noisy[..., 5:6] - noisy[..., :5] @ torch.linalg.lstsq(noisy[..., :5], noisy[..., 5:6]).solution
    assert left.pow(2).sum(1).mean() / (9 - 5) == pytest.approx(0.01, rel=0.1)


@pytest.mark.parametrize(("sigma", "n"), [(0.25, 16), (1.0, 16), (1.0, 4), (3.0, 9)])
def test_the_closed_form_is_the_least_error_of_an_even_second_map(sigma, n):
    own, shared = torch.randn(40_000, n, generator=draw()), sigma * torch.randn(40_000, 1, generator=draw(2))
    values = own + shared

    def error(lam):
        return (values[:, 0] - lam * values.mean(1) - own[:, 0]).pow(2).mean().item()

    lam = best_lam(sigma, n)
    assert error(lam) == pytest.approx(least_error(sigma, n), rel=0.03)
    assert error(lam - 0.05) > error(lam) < error(lam + 0.05)


@pytest.mark.parametrize(
    ("attention", "n_head"), [("vanilla", 2), ("softmax1", 1), ("differential", 4), ("no-norm", 2)]
)
def test_its_row_is_the_last_of_the_layer_s(attention, n_head):
    torch.manual_seed(1)
    shape = {"n_layer": 1, "n_head": n_head, "n_embd": C, "block_size": 9, "vocab_size": 1, "fused": False}
    layer = GPT(GPTConfig(attention, **shape)).blocks[0].attention
    x = torch.randn(3, 9, C)
    torch.testing.assert_close(last_row(layer, x), layer(x)[:, -1])


def test_a_run_is_a_function_of_its_setting_and_it_learns():
    first = trained(**ONE, learning_rate=5e-3, steps=300)
    assert first == trained(**ONE, learning_rate=5e-3, steps=300)
    assert first["error"] < 0.5 and first["lam"] == pytest.approx(best_lam(1.0, 4), abs=0.1)  # 0.8, from 0.2
    assert "lam" not in trained(**ONE | {"attention": "vanilla"}, learning_rate=5e-3, steps=1)


def test_the_order_of_a_context_matters_only_with_positions():
    x, y = contexts("regression", 50, 9, 7, 0.0, draw())
    other = reordered(x, draw(2))
    assert not torch.equal(other, x) and torch.equal(other[:, -1], x[:, -1])
    W = torch.linalg.lstsq(other[..., :5], other[..., 5:12]).solution  # a token is moved as a whole
    torch.testing.assert_close((other[:, -1:, -5:] @ W)[:, 0], y, atol=1e-3, rtol=1e-3)
    without, rotated = (trained(**ONE | {"positions": on}, learning_rate=5e-3, steps=30) for on in (False, True))
    assert without["order"] < 1e-10 < 1e-6 < rotated["order"]


def test_runs_are_kept_and_the_same_command_goes_on(monkeypatch, capsys):
    runs = one_layer(**FEW)
    assert len(runs) == 2 * 2 * 3 and json.loads(Path("out/one-layer-noise/results.json").read_text())["runs"] == runs
    assert Path("out/one-layer-noise/noise.png").stat().st_size > 10_000
    said = capsys.readouterr().out
    assert "| 0.941" not in said and f"{best_lam(0.5, 4):.3f}" in said and f"{least_error(1.0, 4):.4f}" in said
    kept = json.loads(Path("out/one-layer-noise/results.json").read_text())
    Path("out/one-layer-noise/results.json").write_text(json.dumps(kept | {"runs": runs[:5] + runs[6:]}))
    again = []
    monkeypatch.setattr(lab.one_layer, "trained", lambda **setting: again.append(setting) or runs[5])
    assert len(one_layer(**FEW)) == 12 and len(again) == 1
    assert again[0].items() <= runs[5].items()


def test_other_options_are_refused_in_its_folder():
    runs = one_layer(**FEW)
    assert mistake(one_layer, **FEW | {"steps": 4}).endswith(
        "has runs of other options or code: choose another --out_dir"
    )
    path = Path("out/one-layer-noise/results.json")
    path.write_text(json.dumps({"runs": [runs[0] | {"code": "of yesterday"}, *runs[1:]]}))
    assert "has runs of other options or code" in mistake(one_layer, **FEW)
    for damaged in ("{", "[]", '{"runs": 3}', '{"runs": [3]}'):
        path.write_text(damaged)
        assert "results.json is damaged: remove it" in mistake(one_layer, **FEW)


def test_a_mechanism_is_left_out_where_it_cannot_have_so_many_maps():
    runs = one_layer(
        **FEW | {"sigmas": None}, task="regression", n_heads=(1, 2), attentions=("vanilla", "differential")
    )
    assert {(run["attention"], run["n_head"]) for run in runs} == {("vanilla", 1), ("vanilla", 2), ("differential", 2)}
    assert {run["sigma"] for run in runs} == {0.1} and Path("out/one-layer-regression/regression.png").exists()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"attentions": ("vanila",)}, "attentions=vanila: must be one of"),
        ({"widths": (49,)}, "widths=49: must be at least 1 and at most 48"),
        ({"n_heads": (0,)}, "n_heads=0: must be at least 1"),
        ({"sigmas": (0.0,)}, "sigmas=0.0: must be more than 0"),
        ({"task": "regression"}, "sigmas: are those of --task=noise; leave them out"),
        ({"attentions": ("differential",), "n_heads": (1,)}, "n_heads=1: differential needs a multiple of 2"),
        ({"n_heads": (3,), "attentions": ("vanilla",)}, "n_embd=64: must be a multiple of"),
    ],
)
def test_mistakes_are_explained(options, message):
    assert mistake(one_layer, **FEW | options).startswith(message)
