"""Six ways to get it wrong (chapter 6), each a small class, and what each does to the loss.

python docs/wrong.py [--seeds=1,2,3,4 ...] trains them, those that are not there yet, and writes the table.
"""

import json
import math
import sys
from pathlib import Path

import torch
import torch.nn as nn
import torch.nn.functional as F

sys.path.insert(0, str(Path(__file__).parent.parent))

from compare import result, student
from configurable import run
from model import ATTENTION, Attention, Differential, GPTConfig, Softmax1
from train import load, train, write_whole


class Halved(Differential):
    """halved: half the heads, and half the width too. Every projection shrinks to half."""

    def __init__(self, config, depth):
        Attention.__init__(self, config, depth)
        C, self.D, self.E = config.n_embd, self.D // 2, self.D
        self.widths = self.widths[0] // 2, self.widths[1] // 2
        self.qkv, self.out = nn.Linear(C, sum(self.widths), bias=False), nn.Linear(C // 2, C, bias=False)
        self.cos, self.sin = self.cos[:, ::2], self.sin[:, ::2]
        self.lam_init = 0.8 - 0.6 * math.exp(-0.3 * depth)
        self.lam_q1, self.lam_k1, self.lam_q2, self.lam_k2 = (nn.Parameter(0.1 * torch.randn(self.D)) for _ in range(4))
        self.head_norm = nn.RMSNorm(self.E, eps=1e-5)


class SplitAfterRotation(Differential):
    """split-late: heads of width 2D are rotated, then split: the two halves of each turning pair part."""

    def __init__(self, config, depth):
        super().__init__(config, depth)
        angles = torch.outer(torch.arange(config.block_size), 10000 ** -(torch.arange(self.D) / self.D))
        self.cos, self.sin = torch.cat((angles.cos(),) * 2, -1), torch.cat((-angles.sin(), angles.sin()), -1)

    def rotate(self, q, start):
        wide = q.unflatten(1, (-1, 2)).transpose(2, 3).flatten(3)  # B 2h T D -> B h T 2D
        cos, sin = (z[start : start + q.size(2)] for z in (self.cos, self.sin))
        wide = wide * cos + wide.roll(self.D, -1) * sin
        return wide.unflatten(3, (2, -1)).transpose(2, 3).flatten(1, 2)


class ScoresSubtracted(Differential):
    """scores: A = softmax(S₁ − λS₂), one softmax of a difference."""

    def mix(self, x, q, k, v):
        q1, q2 = q[:, 0::2], self.lam * q[:, 1::2]
        return self.attend(torch.cat((q1, -q2), -1), torch.cat((k[:, 0::2], k[:, 1::2]), -1), v, scale=self.D**-0.5)


class NoNorm(Differential):
    """no-norm: the heads are joined as they are."""

    def norm(self, y):
        return y


class NoScale(Differential):
    """no-scale: heads are normed, without (1 − λ_init)."""

    def norm(self, y):
        return self.head_norm(y)


class OneBased(Differential):
    """one-based: the paper's l put where the code has depth."""

    def __init__(self, config, depth):
        super().__init__(config, depth + 1)


class ZeroTokenTrap(Softmax1):
    """zero-token: the null key in front of k and v, none in front of q: is_causal now hides each token from itself."""

    def mix(self, x, q, k, v):
        if q.size(2) < k.size(2):
            return super().mix(x, q, k, v)
        k, v = F.pad(k, (0, 0, 1, 0)), F.pad(v, (0, 0, 1, 0))
        return F.scaled_dot_product_attention(q, k, v, is_causal=True)


WRONG = {
    c.__doc__.partition(":")[0]: c for c in (Halved, SplitAfterRotation, ScoresSubtracted, NoNorm, NoScale, OneBased)
}
WRONG["zero-token"] = ZeroTokenTrap
RIGHT = {"zero-token": "softmax1"}  # what it should have been; the others: differential


def is_done(folder, max_iters, dataset):
    """Whether the run in `folder` is finished, and is of these steps and data."""
    if not (folder / "loss.png").exists():
        return False
    options = load(folder / "ckpt.pt")["options"]
    return (options["max_iters"], options["dataset"]) == (max_iters, dataset)


def wrong(
    *,
    seeds: str = "1,2,3,4",  # of every one
    max_iters: int = 600,  # steps of a run
    dataset: str = "tinyshakespeare",  # a folder under data/
    out_dir: str = "out/wrong",  # folder of the runs and of results.json
):
    """Train them, what they should have been, and vanilla, on config/cpu.toml's shape; write how they differ."""
    ATTENTION.update(WRONG)
    out, found = Path(out_dir), {}
    for seed in map(int, seeds.split(",")):
        for name in ("vanilla", "softmax1", "differential", *WRONG):
            folder = out / f"{name}-{seed}"
            if not is_done(folder, max_iters, dataset):
                train(
                    GPTConfig(name),
                    dataset=dataset,
                    max_iters=max_iters,
                    warmup_iters=max_iters // 8,
                    learning_rate=3e-3,
                    beta1=0.8,
                    eval_interval=max(1, max_iters // 4),
                    eval_tokens=131072,
                    checkpoint_interval=max_iters,
                    overwrite=True,
                    seed=seed,
                    out_dir=str(folder),
                )
            found.setdefault(name, {})[seed] = result(folder)["val_loss"]
    rows = []
    for name, losses in found.items():
        row = {"attention": name, "val_loss": losses}
        if name in WRONG:
            row["instead_of"] = RIGHT.get(name, "differential")
            right = found[row["instead_of"]]
            differences = torch.tensor([losses[seed] - right[seed] for seed in losses], dtype=torch.float64)
            row |= {"pairs": differences.tolist(), "difference": differences.mean().item()}
            n = len(losses)
            if n > 1:
                row["half"] = student(n - 1) * differences.std().item() / math.sqrt(n)
        rows.append(row)
        print(name, row)
    report = {"max_iters": max_iters, "dataset": dataset, "rows": rows}
    write_whole(out / "results.json", lambda file: file.write(json.dumps(report, indent=1).encode()))
    return rows


if __name__ == "__main__":
    run(wrong)
