"""Text from a checkpoint: `python sample.py out/NAME --prompt="def "`. The checkpoint is all it needs."""

import sys
from itertools import chain
from pathlib import Path

import torch

from configurable import UsageError, run
from prepare import Tokenizer
from train import find_device, load_model


def sample(
    checkpoint: str,  # a run's folder (its best.pt), or a checkpoint file
    *,
    prompt: str = "\n",  # the text to go on from
    prompt_file: str | None = None,  # a file with that text, instead
    num_samples: int = 1,  # how many continuations
    max_new_tokens: int = 500,  # how long each is
    temperature: float = 0.8,  # 0: the likeliest token; 1: as the model says; higher: bolder
    top_k: int | None = None,  # draw from the k likeliest tokens only; none: from all
    top_p: float | None = None,  # draw from the likeliest tokens that together reach p only; none: from all
    seed: int = 1337,  # of what is drawn
    device: str = "auto",  # cpu, cuda ...; auto: cuda where there is one, else cpu
):
    """Print text that a trained model goes on with, as it comes. Returns the texts."""
    check(num_samples, max_new_tokens, temperature, top_k, top_p, seed)
    device = find_device(device)
    gpt, saved = load_model(checkpoint, device)
    tokenizer = Tokenizer.thaw(saved["tokenizer"], checkpoint)
    if prompt_file is not None:
        if prompt != "\n":
            raise UsageError("give a prompt or a prompt_file, not both")
        try:
            prompt = Path(prompt_file).read_bytes()
        except (OSError, ValueError) as error:
            raise UsageError(f"cannot read prompt_file={prompt_file}: {getattr(error, 'strerror', error)}") from None
    ids = tokenizer.encode(prompt or "\n", prompt_file or "the prompt").astype("int64")
    start = torch.from_numpy(ids)[None].to(device)

    texts = []
    for i in range(num_samples):
        generator = torch.Generator(device).manual_seed(seed + i)
        tokens = gpt.generate(start, max_new_tokens, temperature, top_k, top_p, generator)
        texts.append("")
        for piece in tokenizer.stream(chain(ids.tolist(), (token.item() for token in tokens))):
            texts[-1] += piece
            print(printable(piece) if sys.stdout.isatty() else piece, end="", flush=True)
        print("\n---------------" if i + 1 < num_samples else "")
    return texts


def check(num_samples, max_new_tokens, temperature, top_k, top_p, seed):
    """Raises UsageError for a number out of range."""
    for name, value, fine, rule in (
        ("num_samples", num_samples, num_samples >= 1, "at least 1"),
        ("max_new_tokens", max_new_tokens, max_new_tokens >= 1, "at least 1"),
        ("temperature", temperature, 0 <= temperature < float("inf"), "at least 0 and finite"),
        ("top_k", top_k, top_k is None or top_k >= 1, "at least 1"),
        ("top_p", top_p, top_p is None or 0 < top_p <= 1, "more than 0 and at most 1"),
        ("seed", seed, 0 <= seed < 2**63, "at least 0 and less than 2^63"),
    ):
        if not fine:
            raise UsageError(f"{name}={value}: must be {rule}")


def printable(text):
    """`text` without what would drive a terminal."""
    return "".join(c if c.isprintable() or c in "\n\t" else "\ufffd" for c in text)


if __name__ == "__main__":
    run(sample)
