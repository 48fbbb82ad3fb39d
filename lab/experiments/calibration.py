"""Is a model sure where it is right, and do its samples repeat themselves?

python -m lab.experiments.calibration out/compare/vanilla-1 out/compare/differential-1 …

*Calibration error*: tokens are sorted by the probability of the likeliest next token, into 15 groups of equal size; the
mean over groups of |mean of that probability − share of tokens where it was right| (https://arxiv.org/abs/1706.04599).
*Distinct*: of all pieces of four tokens in the samples, the share that occurs once or for the first time.
"""

import json
from pathlib import Path

import torch

from configurable import PositiveInt, Seed, check, run
from lab.show import mean_and_sd, spread, table
from plumbing.checkpoint import load_model, no_checkpoint_given
from plumbing.run import provenance
from prepare import load_dataset

GROUPS = 15


def calibration(
    *checkpoints: str,  # runs' folders (their best.pt is read) or checkpoint files
    tokens: PositiveInt = 65536,  # tokens of the validation split, from its start
    samples: PositiveInt = 64,  # texts of block_size tokens, drawn at temperature 1
    seed: Seed = 1,  # seed of the samples
    out: str = "out/calibration.jsonl",  # file to add a line per checkpoint to
):
    """Measure each model on the text that it was validated on, and its samples. Returns the lines."""
    check(calibration, {"tokens": tokens, "samples": samples, "seed": seed})
    if not checkpoints:
        raise no_checkpoint_given("CHECKPOINTS")
    lines = []
    Path(out).parent.mkdir(parents=True, exist_ok=True)
    for path in checkpoints:
        gpt, checkpoint = load_model(path)
        L = gpt.config.block_size
        split = load_dataset(checkpoint["options"]["dataset"], block_size=L).val
        batches = split.in_order(64, tokens)
        line = {"checkpoint": path, "attention": gpt.config.attention, "seed": checkpoint["options"]["seed"]}
        line |= on_text(gpt, batches) | of_samples(gpt, split.tokens[:1], samples, seed)
        lines.append(line | {"commit": provenance()["commit"]})
        with open(out, "a", encoding="utf-8") as file:
            file.write(json.dumps(lines[-1]) + "\n")
    rows = []
    for attention in dict.fromkeys(line["attention"] for line in lines):
        group = [line for line in lines if line["attention"] == attention]
        names = [name for name in group[0] if isinstance(group[0][name], float)]
        rows.append({"": attention} | {n: mean_and_sd(spread([line[n] for line in group]), 4) for n in names})
    print(table(rows))
    return lines


@torch.no_grad()
def on_text(gpt, batches):
    """Calibration error, accuracy and mean entropy (nats) of the predictions for (x, y) of `batches`."""
    sure, right, entropies = [], [], []
    for x, y in batches:
        p, y = gpt(x).softmax(-1)[y >= 0], y[y >= 0]
        probability, guess = p.max(-1)
        sure.append(probability)
        right.append((guess == y).float())
        entropies.append(torch.special.entr(p).sum(-1))
    sure, right = torch.cat(sure), torch.cat(right)
    return {
        "calibration_error": calibration_error(sure, right),
        "accuracy": right.mean().item(),
        "entropy": torch.cat(entropies).mean().item(),
    }


def calibration_error(sure, right):
    """The mean over GROUPS of |mean(sure) − mean(right)|; both one number per token."""
    order = sure.argsort()
    groups = zip(sure[order].tensor_split(GROUPS), right[order].tensor_split(GROUPS), strict=True)
    return sum((s.mean() - r.mean()).abs().item() for s, r in groups) / GROUPS


def of_samples(gpt, start, samples, seed):
    """The share of distinct pieces of four tokens in texts that begin with `start`."""
    generator = torch.Generator().manual_seed(seed)
    tokens = torch.as_tensor(start).long().expand(samples, -1)
    texts = torch.stack([*gpt.generate(tokens, gpt.config.block_size, generator=generator)], 1)
    return {"distinct": distinct(texts)}


def distinct(texts):
    """Of all pieces of four tokens in texts BT, the share of different ones."""
    pieces = texts.unfold(1, 4, 1).flatten(0, 1)
    return len(pieces.unique(dim=0)) / len(pieces)


if __name__ == "__main__":
    run(calibration, program="python -m lab.experiments.calibration")
