"""What is measured is what was done: counts, bytes, kernels, ratios."""

import functools
import hashlib
import json
import os
import time
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F

import bench as bench_py
from bench import PEAKS, Plan, bench, in_turns, one_row_each, shown, spread, table, versus
from configurable import UsageError
from model import ATTENTION, GPT, GPTConfig

NANOGPT = '''
"""As little of nanoGPT's interface as is used."""
import torch
from dataclasses import dataclass

@dataclass
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
        assert config.bias is False
        print("number of parameters: few")
        self.table = torch.nn.Embedding(config.vocab_size, config.vocab_size)
        torch.nn.init.zeros_(self.table.weight)

    def forward(self, x, y=None):
        logits = self.table(x)
        if y is None:
            return logits, None
        return logits, torch.nn.functional.cross_entropy(logits.flatten(0, 1), y.flatten(), ignore_index=-1)

    def configure_optimizers(self, weight_decay, learning_rate, betas, device_type):
        print("using fused AdamW: no")
        return torch.optim.AdamW(self.parameters(), lr=learning_rate)

    def generate(self, x, n):
        for _ in range(n):
            x = torch.cat((x, self(x[:, -1:])[0][:, -1].argmax(-1, keepdim=True)), 1)
        return x
'''


@pytest.fixture
def nanogpt():
    """A folder laid out as nanoGPT's, its model the simplest: every token as likely as any other."""
    data = Path("nanogpt/data/shakespeare_char")
    data.mkdir(parents=True)
    Path("nanogpt/config").mkdir()
    Path("nanogpt/config/train_shakespeare_char.py").touch()
    Path("nanogpt/model.py").write_text(NANOGPT)
    Path("nanogpt/train.py").write_text(
        "import sys, time, torch, pathlib, model\n"
        "assert sys.argv[1] == 'config/train_shakespeare_char.py' and sys.argv[2] == '--short'\n"
        "arguments = dict(block_size=8, vocab_size=5, n_layer=1, n_head=1, n_embd=8, dropout=0.0, bias=False)\n"
        "weights = {'_orig_mod.' + k: v for k, v in model.GPT(model.GPTConfig(**arguments)).state_dict().items()}\n"
        "pathlib.Path('out-shakespeare-char').mkdir(exist_ok=True)\n"
        "torch.save({'model': weights, 'model_args': arguments}, 'out-shakespeare-char/ckpt.pt')\n"
    )
    (data / "prepare.py").write_text(
        "import numpy as np\n"
        "text = open('input.txt', 'rb').read()\n"
        "assert text == b'to be or not to be\\n' * 200\n"
        "(np.frombuffer(text[-200:], np.uint8) % 5).astype(np.uint16).tofile('val.bin')\n"
    )
    return "nanogpt"


@pytest.fixture
def preset():
    Path("small.toml").write_text("block_size = 16\nn_layer = 1\nn_head = 2\nn_embd = 16\nmax_iters = 2\n")
    return "small.toml"


def plan(**options):
    plain = torch.autocast("cpu", torch.bfloat16, enabled=False)
    defaults = {"attentions": ("vanilla",), "paths": ("fused",), "modes": ("eager",), "repetitions": 3, "seed": 0}
    return Plan(**defaults | {"device": torch.device("cpu"), "amp": plain, "peer": None} | options)


def mistake(*args, **options):
    with pytest.raises(UsageError) as error:
        bench(*args, **options)
    return str(error.value)


# ---------------------------------------------------------------------------- measuring


def test_everyone_has_a_turn_a_round_and_nobody_is_always_first():
    calls = []
    found = in_turns(plan(), {name: lambda name=name: calls.append(name) for name in "abc"})
    assert "".join(calls[-9:]) == "abcbcacab"
    assert calls[:-9] == [name for name in "abc" for _ in range(3)]  # two to warm up, one looked at
    assert all(len(measures["seconds"]) == 3 for measures in found.values())


def test_seconds_are_of_the_call():
    found = in_turns(plan(), {"slow": lambda: time.sleep(0.05), "quick": lambda: None})
    assert all(0.05 <= s < 0.2 for s in found["slow"]["seconds"]) and max(found["quick"]["seconds"]) < 0.02
    assert versus(found["quick"], found["slow"])[1] < 0.1


def test_bytes_are_the_most_that_was_held_at_once():
    def two_then_one():
        a = torch.ones(1 << 20)  # 4 MiB of float32
        b = torch.ones(1 << 20)
        del a
        return b + 1

    assert in_turns(plan(), {"": two_then_one})[""]["bytes"] == pytest.approx(2 << 22, abs=100)


def test_the_kernel_that_attends_is_named():
    q = torch.randn(1, 1, 8, 8)
    found = in_turns(
        plan(),
        {
            "fused": lambda: F.scaled_dot_product_attention(q, q, q, is_causal=True),
            "explicit": lambda: (q @ q.mT).softmax(-1) @ q,
        },
    )
    assert (found["fused"]["kernel"], found["explicit"]["kernel"]) == ("flash", "none")


def test_what_cannot_run_is_named_and_the_others_go_on():
    def fails(error):
        raise error

    errors = torch.OutOfMemoryError("CUDA out of memory"), RuntimeError("backend='x' raised:\n\nno compiler\nat all")
    steps = {name: functools.partial(fails, error) for name, error in zip("ab", errors, strict=True)} | {"c": int}
    found = in_turns(plan(), steps)
    assert found["a"] == {"failed": "out of memory"} and found["b"] == {"failed": "no compiler"}
    assert len(found["c"]["seconds"]) == 3
    assert in_turns(plan(), {"a": steps["a"]}) == {"a": {"failed": "out of memory"}}


def test_quiet_profiling_leaves_stderr_as_it_was(capfd):
    calls = []
    in_turns(plan(), {"": lambda: calls.append(os.write(2, b"-"))})
    os.write(2, b"still here")
    assert capfd.readouterr().err == "-----still here"  # of six calls, all but the one that was profiled
    assert len(calls) == 6


def test_a_ratio_is_of_rounds_not_of_medians():
    base, other = {"seconds": [1.0, 10.0, 4.0]}, {"seconds": [2.0, 5.0, 4.0]}
    assert versus(base, other) == spread([0.5, 2.0, 1.0]) == [0.75, 1.0, 1.5]


def measured(seconds):
    return {"seconds": seconds, "bytes": 3_000_000, "kernel": "flash"}


def test_a_row_is_arithmetic():
    names = [("vanilla", "fused", "eager"), ("softmax1", "fused", "eager")]
    found = {names[0]: measured([1.0, 1.0, 1.0]), names[1]: measured([2.0, 2.0, 2.0])}
    first, second = one_row_each(plan(), 8, 1000, found, dict.fromkeys(names, 2_000_000), dict.fromkeys(names, 4e9))
    assert first["to_fused_vanilla"] == [1, 1, 1] and second["to_fused_vanilla"] == [0.5, 0.5, 0.5]
    assert second["tokens_per_second"] == [500, 500, 500] and second["milliseconds"] == [2000, 2000, 2000]
    assert second["MB"] == 5 and second["TFLOP_per_second"] == 2  # 500 tokens/s of 4 GFLOP
    assert "share_of_peak" not in second


@pytest.mark.parametrize(
    "name, share",
    [
        ("NVIDIA H100 80GB HBM3", 2 / 989),
        ("NVIDIA H200", 2 / 989),
        ("NVIDIA H100 PCIe", 2 / 756),
        ("NVIDIA A100-SXM4-80GB", 2 / 312),
        ("NVIDIA GeForce RTX 4090", 2 / 165),
        ("NVIDIA GeForce RTX 4090 D", None),
        ("NVIDIA H100 NVL", None),
        ("cpu, 2 threads", None),
    ],
)
def test_a_device_that_is_not_known_has_no_share_of_its_peak(monkeypatch, name, share):
    monkeypatch.setattr(bench_py, "name_of", lambda device: name)
    key = ("vanilla", "fused", "eager")
    bf16 = torch.autocast("cpu", torch.bfloat16, enabled=True)
    for amp, expected in ((bf16, share), (plan().amp, None)):
        (row,) = one_row_each(plan(amp=amp), 8, 1000, {key: measured([2.0])}, {key: 0}, {key: 4e9})
        assert row.get("share_of_peak") == (expected and pytest.approx(expected))


def test_peaks_are_told_apart():
    def matches(name):
        return sum(bool(bench_py.re.search(pattern, name)) for pattern in PEAKS)

    whole = ["NVIDIA H100 80GB HBM3", "NVIDIA H100 PCIe", "NVIDIA A100-PCIE-40GB", "NVIDIA L40S"]
    assert [matches(name) for name in whole] == [1] * len(whole)
    others = ["NVIDIA H200 NVL", "NVIDIA GeForce RTX 4090 Laptop GPU", "NVIDIA H100 80GB HBM3 MIG 1g.10gb"]
    assert [matches(name) for name in others] == [0] * len(others)


# ---------------------------------------------------------------------------- the whole


def test_every_mechanism_and_path_is_measured_beside_nanogpt(preset, nanogpt, capsys):
    found = bench(preset, parts=("step", "attention"), lengths=(8, 16), tokens=32, repetitions=2, peer=nanogpt)
    out = capsys.readouterr().out
    assert "number of parameters" not in out and "fused AdamW" not in out
    for part in ("step", "attention"):
        for T in (8, 16):
            mine = [row for row in found if (row["part"], row["T"]) == (part, T)]
            ours = [(row["attention"], row["path"]) for row in mine if row["attention"] != "nanoGPT"]
            assert ours == [(name, path) for name in ATTENTION for path in ("fused", "explicit")]
            assert (len(mine) > len(ours)) == (part == "step")
            fused = [row for row in mine if row["path"] == "fused" and row["attention"] != "nanoGPT"]
            assert {row["kernel"] for row in fused} == {"flash"}
            assert {row["kernel"] for row in mine if row["path"] == "explicit"} == {"none"}
    report = json.loads(Path("out/bench/bench.json").read_text())
    assert report["rows"] == json.loads(json.dumps(found)) and report["repetitions"] == 2
    assert report["device"].startswith("cpu") and report["versions"]["torch"] == str(torch.__version__)
    assert Path("out/bench/small.png").stat().st_size > 10_000


def test_memory_counts_weights_gradients_and_adam():
    Path("wide.toml").write_text("n_layer = 1\nn_head = 2\nn_embd = 256\n")  # weights are nearly all there is to hold
    (row,) = bench("wide.toml", parts=("step",), attentions=("vanilla",), paths=("fused",), lengths=(8,), repetitions=1)
    n = GPT(GPTConfig(block_size=8, n_layer=1, n_head=2, n_embd=256)).n_params()
    assert 4 * 4 * n < row["MB"] * 1e6 < 4.5 * 4 * n  # and activations of one window


def test_sampling_and_preparing_are_measured(preset, nanogpt, tiny, monkeypatch, capsys):
    Path("text.txt").write_text("to be or not to be\n" * 500)
    text = Path("text.txt").resolve()
    monkeypatch.setattr(bench_py, "stdlib_files", lambda: [text])
    measured, seconds = [], {"one_more": lambda step: step.args[-1], "continue_": lambda step: 2.0}

    def timed(device, step):  # a token takes as many seconds as its position, 256 take 2, all else 1
        measured.append(getattr(getattr(step, "func", step), "__name__", ""))
        return seconds.get(measured[-1], lambda step: 1.0)(step)

    monkeypatch.setattr(bench_py, "timed", timed)
    found = bench(preset, parts=("sampling", "prepare"), attentions=("vanilla",), repetitions=1, peer=nanogpt)
    ours, theirs = (
        next(r for r in found if (r.get("attention"), r.get("window")) == (n, 1024)) for n in ("vanilla", "nanoGPT")
    )
    assert theirs["to_nanogpt"] == [1, 1, 1] and ours["to_nanogpt"] == [0.5, 0.5, 0.5]
    assert ours["tokens_per_second_of_256"] == [128, 128, 128] and ours["tokens_per_second_of_prompt"][1] == 512
    assert ours["seconds_at_1000_to_at_50"] == [20, 20, 20]
    assert ours["cache_MB"] == 2 * 16 * 1024 * 4 / 1e6  # keys and values of 16 channels, one layer
    assert [row["tokens"] for row in found if row["part"] == "prepare"] == ["bytes", "gpt2", "tiktoken's own"]
    gpt2 = next(row for row in found if row.get("tokens") == "gpt2")
    assert gpt2["to_tiktoken"] == [1, 1, 1] and gpt2["MB_per_second"][1] == gpt2["MB"] == text.stat().st_size / 1e6
    assert not Path("data").exists()


def test_a_race_is_run_by_both_from_start_to_exit(preset, nanogpt, monkeypatch):
    data = Path("data/tinyshakespeare.txt")
    data.parent.mkdir()
    data.write_text("to be or not to be\n" * 200)
    folder = bench_py.prepare(str(data))
    meta = json.loads((folder / "meta.json").read_text()) | {"dtype": "uint16"}
    for part in ("train", "val"):  # a text prepared in wider numbers is the same text
        wide = np.fromfile(folder / f"{part}.bin", np.uint8).astype(np.uint16)
        wide.tofile(folder / f"{part}.bin")
        meta[part]["sha256"] = hashlib.sha256(wide).hexdigest()
    (folder / "meta.json").write_text(json.dumps(meta))
    monkeypatch.setitem(bench_py.RACES, "cpu", (Path(preset).resolve(), "--max_iters=3", "--short"))
    ours, theirs = bench(parts=("race",), repetitions=2, peer=nanogpt)
    assert (ours["who"], theirs["who"], ours["runs"]) == ("nanodiff", "nanoGPT", 2)
    assert theirs["seconds_to_nanogpt"] == [1, 1, 1] and ours["seconds"][0] > 1
    assert theirs["val_loss"] == pytest.approx([torch.tensor(5.0).log().item()] * 3)  # five tokens, equally likely
    assert 3 < ours["val_loss"][0] <= ours["worst_val_loss"] < 5.6


@pytest.mark.parametrize(
    "options, message",
    [
        (
            {"parts": ("stepp",)},
            "parts=stepp: must be of step, attention, sampling, prepare, race (did",
        ),
        ({"attentions": ("softmax",)}, "attentions=softmax: must be of vanilla,"),
        ({"modes": ("fast",)}, "modes=fast: must be of eager, compiled"),
        ({"lengths": (0, 64)}, "lengths=0, repetitions=10: must be at least 1"),
        ({"repetitions": 0}, "lengths=64, repetitions=0: must be at least 1"),
        ({"lengths": (64, 128), "tokens": 192}, "tokens=192: must be a multiple of each of lengths, 64, 128"),
        ({"tokens": 0}, "tokens=0: must be a multiple"),
        ({"seed": 1 << 70}, "seed=1180591620717411303424: must be at least 0"),
        ({"peer": "."}, "peer=.: is not the folder of a nanoGPT checkout"),
        ({"parts": ("race",)}, "a race needs whom to race"),
    ],
)
def test_mistakes_are_explained(options, message):
    assert mistake(device="cpu", **options).startswith(message)


# ---------------------------------------------------------------------------- what is shown


def test_a_table_has_a_column_for_every_key():
    text = table([{"T": 64, "ms": [1.0, 2.0, 3.0]}, {"T": 128, "failed": "out of memory"}])
    assert text.split("\n") == [
        "| T   | ms      | failed        |",
        "| --- | ------- | ------------- |",
        "| 64  | 2 (1-3) |               |",
        "| 128 |         | out of memory |",
    ]


@pytest.mark.parametrize(
    "value, text", [(0.12345, "0.123"), (12.345, "12.3"), (123456.7, "123,457"), (7, "7"), ("", "")]
)
def test_numbers_have_three_digits(value, text):
    assert shown(value) == text


def test_a_race_that_one_cannot_run_says_why(preset, nanogpt, monkeypatch):
    Path("data").mkdir()
    Path("data/tinyshakespeare.txt").write_text("to be or not to be\n" * 200)
    bench_py.prepare("data/tinyshakespeare.txt")
    monkeypatch.setitem(bench_py.RACES, "cpu", (Path(preset).resolve(), "--max_iters=3", "--long"))
    message = mistake(parts=("race",), peer=nanogpt)
    assert "train_shakespeare_char.py --long: exit 1, AssertionError" in message


def test_a_shape_that_one_mechanism_cannot_have_is_explained():
    Path("odd.toml").write_text("n_head = 3\nn_embd = 96\n")
    assert mistake("odd.toml", device="cpu").startswith("n_head=3: a differential head is two maps")


@pytest.mark.parametrize("kernel", ["flash", "efficient", "cudnn", "math"])
def test_kernels_are_told_apart(monkeypatch, kernel):
    q = torch.randn(1, 1, 8, 8)
    backends = {"flash": "FLASH_ATTENTION", "math": "MATH"}
    if kernel not in backends:
        pytest.skip("needs a CUDA device")
    with torch.nn.attention.sdpa_kernel(getattr(torch.nn.attention.SDPBackend, backends[kernel])):
        found = in_turns(plan(), {"": lambda: F.scaled_dot_product_attention(q, q, q, is_causal=True)})
    assert found[""]["kernel"] == kernel
