"""What is reported is what was measured: rows, files, figures; and mistakes are explained."""

import json
import re
from pathlib import Path

import pytest
import torch

import lab.bench
import lab.timing
from configurable import UsageError
from lab.bench import PEAKS, Plan, bench, speed_rows
from lab.show import THE_FOUR
from model import GPT, GPTConfig


def plan(**options):
    plain = torch.autocast("cpu", torch.bfloat16, enabled=False)
    defaults = {"attentions": ("vanilla",), "paths": ("fused",), "modes": ("eager",), "repetitions": 3, "seed": 0}
    return Plan(**defaults | {"device": torch.device("cpu"), "autocast": plain, "peer": None} | options)


def mistake(*args, **options):
    with pytest.raises(UsageError) as error:
        bench(*args, **options)
    return str(error.value)


def measured(seconds):
    return {"seconds": seconds, "peak_bytes": 3_000_000, "kernel": "flash"}


def test_a_row_is_arithmetic():
    names = [("vanilla", "fused", "eager"), ("softmax1", "fused", "eager")]
    rows = {names[0]: measured([1.0, 1.0, 1.0]), names[1]: measured([2.0, 2.0, 2.0])}
    first, second = speed_rows(plan(), 8, 1000, rows, dict.fromkeys(names, 2_000_000), dict.fromkeys(names, 4e9))
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
    monkeypatch.setattr(lab.bench, "device_name", lambda device: name)
    key = ("vanilla", "fused", "eager")
    bf16 = torch.autocast("cpu", torch.bfloat16, enabled=True)
    for autocast, expected in ((bf16, share), (plan().autocast, None)):
        (row,) = speed_rows(plan(autocast=autocast), 8, 1000, {key: measured([2.0])}, {key: 0}, {key: 4e9})
        assert row.get("share_of_peak") == (expected and pytest.approx(expected))


def test_peaks_are_told_apart():
    def matches(name):
        return sum(bool(re.search(pattern, name)) for pattern in PEAKS)

    known = ["NVIDIA H100 80GB HBM3", "NVIDIA H100 PCIe", "NVIDIA A100-PCIE-40GB", "NVIDIA L40S"]
    assert [matches(name) for name in known] == [1] * len(known)
    others = ["NVIDIA H200 NVL", "NVIDIA GeForce RTX 4090 Laptop GPU", "NVIDIA H100 80GB HBM3 MIG 1g.10gb"]
    assert [matches(name) for name in others] == [0] * len(others)


def test_every_mechanism_and_path_is_measured_beside_nanogpt(preset, nanogpt, capsys):
    rows = bench(preset, parts=("step", "attention"), lengths=(8, 16), tokens=32, repetitions=2, peer=nanogpt)
    out = capsys.readouterr().out
    assert "number of parameters" not in out and "fused AdamW" not in out
    for part in ("step", "attention"):
        for T in (8, 16):
            part_rows = [row for row in rows if (row["part"], row["T"]) == (part, T)]
            own = [(row["attention"], row["path"]) for row in part_rows if row["attention"] != "nanoGPT"]
            assert own == [(name, path) for name in THE_FOUR for path in ("fused", "explicit")]
            assert (len(part_rows) > len(own)) == (part == "step")
            fused = [row for row in part_rows if row["path"] == "fused" and row["attention"] != "nanoGPT"]
            kernels = {row["attention"]: row["kernel"] for row in fused}  # short windows: differential stores its maps
            assert kernels == dict.fromkeys(THE_FOUR, "flash") | {"differential": "none"}
            assert {row["kernel"] for row in part_rows if row["path"] == "explicit"} == {"none"}
    report = json.loads(Path("out/bench/bench.json").read_text())
    assert report["rows"] == json.loads(json.dumps(rows)) and report["repetitions"] == 2
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
    monkeypatch.setattr(lab.bench, "stdlib_files", lambda: [text])
    measured, seconds = [], {"draw_one": lambda step: step.args[-1], "draw_256": lambda step: 2.0}

    def seconds_of(step, device):  # a token takes as many seconds as its position, 256 take 2, all else 1
        measured.append(getattr(getattr(step, "func", step), "__name__", ""))
        return seconds.get(measured[-1], lambda step: 1.0)(step)

    monkeypatch.setattr(lab.timing, "seconds_of", seconds_of)
    rows = bench(preset, parts=("sampling", "prepare"), attentions=("vanilla",), repetitions=1, peer=nanogpt)
    own, peer = (
        next(r for r in rows if (r.get("attention"), r.get("window")) == (n, 1024)) for n in ("vanilla", "nanoGPT")
    )
    assert peer["to_nanogpt"] == [1, 1, 1] and own["to_nanogpt"] == [0.5, 0.5, 0.5]
    assert own["tokens_per_second_of_256"] == [128, 128, 128] and own["tokens_per_second_of_prompt"][1] == 512
    assert own["seconds_at_1000_to_at_50"] == [20, 20, 20]
    assert own["cache_MB"] == 2 * 16 * 1024 * 4 / 1e6  # keys and values of 16 channels, one layer
    assert [row["tokens"] for row in rows if row["part"] == "prepare"] == ["bytes", "gpt2", "tiktoken's own"]
    gpt2 = next(row for row in rows if row.get("tokens") == "gpt2")
    assert gpt2["to_tiktoken"] == [1, 1, 1] and gpt2["MB_per_second"][1] == gpt2["MB"] == text.stat().st_size / 1e6
    assert not Path("data").exists()


@pytest.mark.parametrize(
    "options, message",
    [
        (
            {"parts": ("stepp",)},
            "parts=stepp: must be one of step, attention, sampling, prepare, race (did you mean step?)",
        ),
        ({"attentions": ("softmax",)}, "attentions=softmax: must be one of vanilla,"),
        ({"paths": ("slow",)}, "paths=slow: must be one of fused, explicit"),
        ({"modes": ("fast",)}, "modes=fast: must be one of eager, compiled"),
        ({"lengths": (0, 64)}, "lengths=0: must be at least 1"),
        ({"repetitions": 0}, "repetitions=0: must be at least 1"),
        ({"lengths": (64, 128), "tokens": 192}, "tokens=192: must be a multiple of each of lengths, 64, 128"),
        ({"tokens": 0}, "tokens=0: must be at least 1"),
        ({"seed": 1 << 70}, "seed=1180591620717411303424: must be at least 0"),
        ({"peer": "."}, "peer=.: must be the folder of a nanoGPT checkout"),
        ({"parts": ("race",)}, "parts=race: needs --peer=FOLDER"),
    ],
)
def test_mistakes_are_explained(options, message):
    assert mistake(device="cpu", **options).startswith(message)


def test_a_shape_that_one_mechanism_cannot_have_is_explained():
    Path("odd.toml").write_text("n_head = 3\nn_embd = 96\n")
    assert mistake("odd.toml", device="cpu").startswith(
        "n_head=3: must be a multiple of 2, the maps per differential head"
    )
