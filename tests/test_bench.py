"""lab/bench.py: functions take turns, numbers are what they are called, and a row is written before it is shown."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F

import lab.bench
from conftest import mistake
from lab.bench import Plan, bench, footprint, in_turns, quartiles, speed_rows, speedup
from lab.show import THE_FOUR
from model import GPT, GPTConfig
from prepare import prepare

CPU = torch.device("cpu")
SMALL = {"n_layer": 1, "n_head": 2, "n_embd": 16, "block_size": 16}
NANOGPT = """
import dataclasses, sys, torch

@dataclasses.dataclass
class GPTConfig:
    block_size: int
    vocab_size: int
    n_layer: int
    n_head: int
    n_embd: int
    dropout: float
    bias: bool

class GPT(torch.nn.Module):
    def __init__(self, config):
        super().__init__()
        print("number of parameters: few")
        self.table = torch.nn.Embedding(config.vocab_size, config.vocab_size)
        torch.nn.init.zeros_(self.table.weight)

    def forward(self, x, y):
        return None, torch.nn.functional.cross_entropy(self.table(x).flatten(0, 1), y.flatten(), ignore_index=-1)

    def configure_optimizers(self, weight_decay, learning_rate, betas, device_type):
        return torch.optim.AdamW(self.parameters(), lr=learning_rate)

    def generate(self, x, n):
        return x

if __name__ == "__main__":  # as train.py
    shape = dict(block_size=8, vocab_size=5, n_layer=1, n_head=1, n_embd=8, dropout=0.0, bias=False)
    out = next(word for word in sys.argv if word.startswith("--out_dir=")).partition("=")[2]
    weights = {"_orig_mod." + name: w for name, w in GPT(GPTConfig(**shape)).state_dict().items()}
    __import__("os").mkdir(out)
    torch.save({"model": weights, "model_args": shape}, out + "/ckpt.pt")
"""


@pytest.fixture
def peer():
    """A folder laid out as nanoGPT's; its model finds every token as likely as any other."""
    for folder in ("config", "data/shakespeare_char"):
        Path("nanogpt", folder).mkdir(parents=True)
    Path("nanogpt/config/train_shakespeare_char.py").touch()
    for name in ("model.py", "train.py"):
        Path("nanogpt", name).write_text(NANOGPT)
    (np.arange(200) % 5).astype(np.uint16).tofile("nanogpt/data/shakespeare_char/val.bin")
    return "nanogpt"


# ---------------------------------------------------------------------------- time, memory, kernels


def test_everyone_has_a_turn_a_round_and_nobody_is_always_first(monkeypatch):
    clock, calls = iter(range(1000)), []
    monkeypatch.setattr(lab.bench.time, "perf_counter", lambda: next(clock) ** 2)
    seconds = in_turns({name: lambda name=name: calls.append(name) for name in "abc"}, 3, CPU)
    assert "".join(calls) == "aabbcc" + "abc" + "bca" + "cab"
    ticks = [(2 * i + 1) ** 2 - (2 * i) ** 2 for i in range(9)]  # call number i is timed between ticks 2i and 2i + 1
    assert seconds == {name: [ticks[i] for i, one in enumerate(calls[6:]) if one == name] for name in "abc"}


def test_what_runs_out_of_memory_is_left_out_and_other_errors_surface():
    def fail(error):
        raise error

    seconds = in_turns({"a": lambda: fail(torch.OutOfMemoryError("")), "b": int}, 2, CPU)
    assert seconds["a"] is None and len(seconds["b"]) == 2
    with pytest.raises(RuntimeError, match="mine"):
        in_turns({"a": lambda: fail(RuntimeError("mine"))}, 2, CPU)


def test_bytes_are_the_most_that_were_allocated_at_once():
    def two_then_one():
        a = torch.ones(1 << 20)  # 4 MiB of float32
        b = torch.ones(1 << 20)
        del a
        return b + 1

    assert footprint(two_then_one, CPU) == (pytest.approx(2 << 22, abs=100), "none")


def test_the_kernel_that_attends_is_named():
    q = torch.randn(1, 1, 8, 8)
    assert footprint(lambda: F.scaled_dot_product_attention(q, q, q, is_causal=True), CPU)[1] == "flash"


def test_a_ratio_is_of_rounds_not_of_medians():
    assert speedup([1.0, 10.0, 4.0], [2.0, 5.0, 4.0]) == quartiles([0.5, 2.0, 1.0]) == [0.75, 1.0, 1.5]


def test_a_row_is_arithmetic(monkeypatch):
    seconds = {("vanilla", "fused", "eager"): [1.0, 1.0], ("softmax1", "fused", "eager"): [2.0, 2.0]}
    monkeypatch.setattr(Plan, "in_turns", lambda plan, steps: {**seconds, ("temperature", "fused", "eager"): None})
    monkeypatch.setattr(lab.bench, "footprint", lambda step, device: (3_000_000, "flash"))
    monkeypatch.setattr(lab.bench, "device_name", lambda device: "NVIDIA H200")
    plan = Plan({}, (), (), 2, CPU, torch.autocast("cpu", torch.bfloat16), None)
    names = dict.fromkeys(seconds, 0)
    one, two, three = speed_rows(plan, 8, 1000, names, dict.fromkeys(names, 2_000_000), dict.fromkeys(names, 4e9))
    assert one["to_fused_vanilla"] == [1, 1, 1] and two["to_fused_vanilla"] == [0.5, 0.5, 0.5]
    assert two["tokens_per_second"] == [500, 500, 500] and two["MB"] == 5 and two["kernel"] == "flash"
    assert two["share_of_peak"] == pytest.approx(500 * 4e9 / 989e12) and three["failed"] == "out of memory"


def test_memory_counts_weights_gradients_and_adam():
    shape = {"n_layer": 1, "n_head": 2, "n_embd": 256}  # weights are nearly all there is to hold
    (row,) = bench(parts=("step",), attentions=("vanilla",), paths=("fused",), lengths=(8,), repetitions=1, **shape)
    n = GPT(GPTConfig(block_size=8, **shape)).n_params()
    assert 4 * 4 * n < row["MB"] * 1e6 < 4.5 * 4 * n  # and activations of one window


# ---------------------------------------------------------------------------- whole measurements


def test_every_mechanism_and_path_is_measured_beside_nanogpt(peer, capsys):
    rows = bench(parts=("step", "attention"), lengths=(8, 16), repetitions=1, peer=peer, **SMALL)
    assert "number of parameters" not in capsys.readouterr().out
    for part in ("step", "attention"):
        mine = [row for row in rows if (row["part"], row["T"]) == (part, 8)]
        found = {(row["attention"], row["path"]): row["kernel"] for row in mine}
        ours = {(name, way): "flash" if way == "fused" else "none" for name in THE_FOUR for way in ("fused", "unfused")}
        assert found == ours | ({("nanoGPT", "fused"): "none"} if part == "step" else {})
    report = json.loads(Path("out/bench/bench.json").read_text())
    assert report["rows"] == rows and report["shape"]["n_embd"] == 16
    assert Path("out/bench/step.png").stat().st_size > 10_000


def test_sampling_is_timed_with_a_cache(peer, monkeypatch):
    def seconds_of(step, device):  # a token takes as many seconds as its position, 256 take 2, nanoGPT 8
        return {"draw_one": step.args[-1], "draw_256": 2.0}.get(step.func.__name__, 8.0)

    monkeypatch.setattr(lab.bench, "seconds_of", seconds_of)
    rows = bench(parts=("sampling",), attentions=("vanilla",), repetitions=1, peer=peer, **SMALL)
    assert [(row["window"], row["attention"]) for row in rows] == [
        (L, name) for L in (16, 1024) for name in ("vanilla", "nanoGPT")
    ]
    assert rows[2]["tokens_per_second"] == [128] * 3 and rows[2]["to_nanogpt"] == [4] * 3
    assert rows[2]["seconds_at_1000_to_at_50"] == [20] * 3
    assert rows[2]["cache_MB"] == 2 * 16 * 1024 * 4 / 1e6  # keys and values of 16 channels, one layer


def test_a_mechanism_whose_sampling_runs_out_of_memory_is_said_to(monkeypatch):
    def draw_256(gpt, prompt):
        raise torch.OutOfMemoryError

    monkeypatch.setattr(lab.bench, "draw_256", draw_256)
    rows = bench(parts=("sampling",), attentions=("vanilla",), repetitions=1, **SMALL)
    assert [row["failed"] for row in rows] == ["out of memory"] * 2


@pytest.mark.slow
def test_a_race_is_run_by_both_from_start_to_exit(peer, monkeypatch):
    Path("tinyshakespeare.txt").write_text("to be or not to be\n" * 200)
    prepare("tinyshakespeare.txt")
    Path("small.toml").write_text("block_size = 16\nn_layer = 1\nn_head = 2\nn_embd = 16\n")
    monkeypatch.setitem(lab.bench.RACES, "cpu", (Path("small.toml").resolve(), "--max_iters=3", ""))
    ours, theirs = bench(parts=("race",), repetitions=1, peer=peer)
    assert (ours["who"], theirs["who"]) == ("nanodiff", "nanoGPT") and ours["seconds"][0] > 1
    assert theirs["seconds_to_nanogpt"] == [1, 1, 1]
    assert theirs["val_loss"] == pytest.approx([np.log(5)] * 3)  # five tokens, equally likely
    assert 3 < ours["val_loss"][0] <= ours["worst_val_loss"] < 5.7


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"parts": ("stepp",)}, "parts=stepp: must be one of step, attention, sampling, race (did you mean step?)"),
        ({"attentions": ("softmax",)}, "attention=softmax: must be one of vanilla,"),
        ({"lengths": (0, 64)}, "lengths=0,64: must be"),
        ({"lengths": (64, 128), "tokens": 192}, "tokens=192: must be a multiple of each of lengths, 64, 128"),
        ({"peer": "."}, "peer=.: must be the folder of a nanoGPT checkout"),
        ({"parts": ("race",)}, "parts=race: needs --peer=FOLDER"),
        ({"n_head": 3, "n_embd": 96}, "n_head=3: must be a multiple of 2, the maps per differential head"),
    ],
)
def test_mistakes_are_explained(options, message):
    assert mistake(bench, **options).startswith(message)
