"""The table "predicted and measured" of scaling.md: python docs/scaling.py"""

import functools
import itertools
import sys
from pathlib import Path

import torch

sys.path.insert(0, str(Path(__file__).parent.parent))

from bench import Plan, in_turns, spread, table, training_step
from model import GPT, GPTConfig
from train import make_optimizer

N_TOKENS = 1024
GROWS = {"C": (64, 128, 256, 512), "L": (2, 4, 8), "T": (64, 256, 1024)}


def shape(C=128, L=4, T=256):
    return GPTConfig(block_size=T, n_layer=L, n_head=4, n_embd=C)


def predicted(gpt):
    """FLOPs and bytes of a step, as scaling.md has them."""
    c = gpt.config
    numbers = 21 * c.n_layer * c.n_embd + 3 * c.vocab_size
    return N_TOKENS * sum(gpt.flops_per_token()), 16 * gpt.n_params() + 4 * N_TOKENS * numbers


def main():
    plain = torch.autocast("cpu", torch.bfloat16, enabled=False)
    plan = Plan((), (), (), 15, 0, torch.device("cpu"), plain, None)
    gpts = {(letter, value): GPT(shape(**{letter: value})) for letter, values in GROWS.items() for value in values}
    steps = {}
    for name, gpt in gpts.items():
        x = torch.randint(256, (N_TOKENS // gpt.config.block_size, gpt.config.block_size))
        steps[name] = functools.partial(training_step, gpt, gpt, make_optimizer(gpt, 0.1, (0.9, 0.95)), x, x, plain)
    found = in_turns(plan, steps)
    rows = []
    for letter, values in GROWS.items():
        for small, large in itertools.pairwise(values):
            a, b = (letter, small), (letter, large)
            (flops_a, bytes_a), (flops_b, bytes_b) = predicted(gpts[a]), predicted(gpts[b])
            held = [12 * gpts[z].n_params() + found[z]["bytes"] for z in (a, b)]
            times = [t / s for s, t in zip(found[a]["seconds"], found[b]["seconds"], strict=True)]
            row = {"grows": letter, "from": small, "to": large, "FLOPs, predicted": flops_b / flops_a}
            row |= {"time, measured": spread(times), "bytes, predicted": bytes_b / bytes_a}
            rows.append(
                row | {"bytes, measured": held[1] / held[0], "MB": held[1] / 1e6, "predicted MB": bytes_b / 1e6}
            )
    print(table(rows))


if __name__ == "__main__":
    main()
