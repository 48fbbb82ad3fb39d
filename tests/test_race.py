"""What is timed is what was done: turns, bytes, kernels, ratios; and a race is run by both from start to exit."""

import hashlib
import json
from pathlib import Path

import numpy as np
import pytest
import torch

import lab.race
from configurable import UsageError
from lab.bench import bench
from prepare import prepare

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


def make_nanogpt():
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
def nanogpt():
    return make_nanogpt()


@pytest.fixture
def preset():
    return make_preset()


def make_preset():
    Path("small.toml").write_text("block_size = 16\nn_layer = 1\nn_head = 2\nn_embd = 16\nmax_iters = 2\n")
    return "small.toml"


# ---------------------------------------------------------------------------- how long to the same loss


def test_a_race_is_run_by_both_from_start_to_exit(preset, nanogpt, monkeypatch):
    data = Path("data/tinyshakespeare.txt")
    data.parent.mkdir()
    data.write_text("to be or not to be\n" * 200)
    folder = prepare(str(data))
    meta = json.loads((folder / "meta.json").read_text()) | {"dtype": "uint16"}
    for part in ("train", "val"):  # a text prepared in wider numbers is the same text
        wide = np.fromfile(folder / f"{part}.bin", np.uint8).astype(np.uint16)
        wide.tofile(folder / f"{part}.bin")
        meta[part]["sha256"] = hashlib.sha256(wide).hexdigest()
    (folder / "meta.json").write_text(json.dumps(meta))
    monkeypatch.setitem(lab.race.RACES, "cpu", (Path(preset).resolve(), "--max_iters=3", "--short"))
    own, peer = bench(parts=("race",), repetitions=2, peer=nanogpt)
    assert (own["who"], peer["who"], own["runs"]) == ("nanodiff", "nanoGPT", 2)
    assert peer["seconds_to_nanogpt"] == [1, 1, 1] and own["seconds"][0] > 1
    assert peer["val_loss"] == pytest.approx([torch.tensor(5.0).log().item()] * 3)  # five tokens, equally likely
    assert 3 < own["val_loss"][0] <= own["worst_val_loss"] < 5.6


def test_a_race_that_one_cannot_run_says_why(preset, nanogpt, monkeypatch):
    Path("data").mkdir()
    Path("data/tinyshakespeare.txt").write_text("to be or not to be\n" * 200)
    prepare("data/tinyshakespeare.txt")
    monkeypatch.setitem(lab.race.RACES, "cpu", (Path(preset).resolve(), "--max_iters=3", "--long"))
    with pytest.raises(UsageError, match=r"train_shakespeare_char\.py --long: exit 1, AssertionError"):
        bench(parts=("race",), peer=nanogpt)
