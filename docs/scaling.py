"""The table "predicted and measured" of scaling.md: python -m docs.scaling"""

import functools
import itertools

import torch

from lab.bench import training_step
from lab.show import table
from lab.timing import in_turns, quartiles
from model import GPT, GPTConfig
from train import make_optimizer

N_TOKENS = 1024
GROWS = {"C": (64, 128, 256, 512), "L": (2, 4, 8), "T": (64, 256, 1024)}


def shape(C=128, L=4, T=256):
    return GPTConfig(block_size=T, n_layer=L, n_head=4, n_embd=C)


def predicted(gpt):
    """FLOPs and bytes of a step, by the formulas of scaling.md."""
    c = gpt.config
    numbers = 21 * c.n_layer * c.n_embd + 3 * c.vocab_size
    return N_TOKENS * sum(gpt.flops_per_token()), 16 * gpt.n_params() + 4 * N_TOKENS * numbers


def main():
    float32 = torch.autocast("cpu", torch.bfloat16, enabled=False)
    gpts = {(letter, value): GPT(shape(**{letter: value})) for letter, values in GROWS.items() for value in values}
    steps = {}
    for name, gpt in gpts.items():
        x = torch.randint(256, (N_TOKENS // gpt.config.block_size, gpt.config.block_size))
        steps[name] = functools.partial(training_step, gpt, gpt, make_optimizer(gpt, 0.1, (0.9, 0.95)), x, x, float32)
    measures = in_turns(steps, 15, torch.device("cpu"))
    rows = []
    for letter, values in GROWS.items():
        for small, large in itertools.pairwise(values):
            a, b = (letter, small), (letter, large)
            (flops_a, bytes_a), (flops_b, bytes_b) = predicted(gpts[a]), predicted(gpts[b])
            peak_a, peak_b = (12 * gpts[z].n_params() + measures[z]["peak_bytes"] for z in (a, b))
            times = [t / s for s, t in zip(measures[a]["seconds"], measures[b]["seconds"], strict=True)]
            row = {"grows": letter, "from": small, "to": large, "FLOPs, predicted": flops_b / flops_a}
            row |= {"time, measured": quartiles(times), "bytes, predicted": bytes_b / bytes_a}
            row |= {"bytes, measured": peak_b / peak_a, "MB": peak_b / 1e6, "predicted MB": bytes_b / 1e6}
            rows.append(row)
    print(table(rows))


if __name__ == "__main__":
    main()
