"""lab.gpu: which parts are done, what failed or found no time is done again, and which kernel a GPU would take."""

import json
from pathlib import Path

import pytest
import torch

import lab.gpu
from configurable import parse
from conftest import mistake
from lab.bench import bench, footprint
from lab.gpu import expected_kernels, gpu, kernel, widths
from model import GPT, GPTConfig
from sample import sample
from train import train

SLEEP = "-c __import__('time').sleep(60)"


@pytest.fixture
def parts(monkeypatch):
    """Four parts, of which one fails as long as there is no file `works`, and one takes too long."""
    Path("ok.py").write_text("import sys; print('well done'); open(sys.argv[1] + '/seen', 'a').write('x')")
    Path("fails.py").write_text("import os, sys; sys.exit(3 * (not os.path.exists('works')))")
    monkeypatch.setattr(lab.gpu, "ROOT", Path.cwd())
    known = {
        "fine": (30, ["ok.py {out}", "ok.py {out}"]),
        "broken": (30, ["fails.py", "ok.py {out}"]),
        "slow": (1, [SLEEP]),
        "peer": (30, ["ok.py {peer}"]),
    }
    monkeypatch.setattr(lab.gpu, "PARTS", known)
    return lambda **options: gpu(parts=tuple(known), device="cpu", **options)


def test_what_is_done_stays_and_what_is_not_is_done_again(parts, capsys):
    results = [(row["part"], row["exit"]) for row in parts()]
    assert results == [("fine", 0), ("broken", 3), ("slow", None), ("peer", None)]
    said = capsys.readouterr().out
    assert "cpu, " in said and "failed, exit 3" in said and "not done in 1 s" in said and "needs --peer" in said
    assert Path("out/gpu/fine.txt").read_text().count("well done") == 2
    assert Path("out/gpu/broken/seen").read_text() == "x"  # a command that fails does not stop the next
    Path("works").touch()
    results = [row["exit"] for row in parts(peer=str(Path("out/gpu/fine").resolve()))]
    assert results == [0, 0, None, 0]
    assert Path("out/gpu/fine/seen").read_text() == "xxx"  # two of its own, one of `peer`
    assert json.loads(Path("out/gpu/device.json").read_text())["device"].startswith("cpu")


def test_no_part_begins_when_the_time_is_over(parts):
    assert {row["why"] for row in parts(seconds=1e-9)} == {"no time left"}
    assert not Path("out/gpu/fine/seen").exists()


def test_without_that_gpu_it_says_so():
    assert mistake(gpu, device="cuda:99").startswith("device=cuda:99: must be auto, cpu, cuda, cuda:1, mps ...; ")


def test_every_command_of_it_is_understood():
    """Presets and options of lab.bench, train.py and sample.py."""
    programs = {"train.py": train, "sample.py": sample, "lab.bench": bench}
    for _, commands in lab.gpu.PARTS.values():
        for command in commands:
            words = command.format(out="out/x", peer="out/y").split()
            words = words[1:] if words[0] == "-m" else words
            if words[0] != "pytest":
                words = [str(lab.gpu.ROOT / word) if word.startswith("config/") else word for word in words]
                words = [word for word in words if word != "out/x/run/config.toml"]
                parse(programs[words[0]], words[1:])


def test_the_kernels_of_a_gpu():
    assert expected_kernels((8, 0))["vanilla"] == "flash" and expected_kernels((9, 0))["differential"] == "cudnn"
    assert expected_kernels((7, 5))["differential"] == "efficient" and expected_kernels((8, 0))["sigmoid"] == "none"
    assert widths("sink", 64) == {72} and widths("differential", 64) == {128} and widths("temperature", 6) == {8}
    assert [kernel(w, (9, 0)) for w in (128, 136, 256, 264)] == ["cudnn", "flash", "flash", "efficient"]
    assert [kernel(w, (8, 6)) for w in (192, 200, 224, 256)] == ["flash", "efficient", "efficient", "flash"]
    assert kernel(64, (9, 0), half=False) == "efficient"


@pytest.mark.gpu
@pytest.mark.parametrize("name", ["vanilla", "softmax1", "temperature", "differential", "sink"])
@pytest.mark.parametrize("D", [64, 128, 256])
def test_the_kernel_that_is_expected_runs(name, D):
    net = GPT(GPTConfig(name, n_layer=1, n_head=2, n_embd=2 * D, block_size=256)).cuda()
    tokens = torch.zeros(4, 256, dtype=torch.long, device="cuda")

    def step():
        with torch.autocast("cuda", torch.float16):
            loss = net(tokens, tokens)
        loss.backward()

    step()
    capability = torch.cuda.get_device_capability()
    assert footprint(step, torch.device("cuda"))[1] == expected_kernels(capability, D)[name]
