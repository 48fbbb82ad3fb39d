"""Text from a checkpoint: `python sample.py out/NAME --prompt="def "`. The checkpoint is all it needs."""

from itertools import chain, tee
from pathlib import Path
from typing import Annotated

import torch

from configurable import NonNegativeFloat, PositiveInt, Range, Seed, UsageError, check, only_one, run
from plumbing.checkpoint import load_model, no_checkpoint_given
from plumbing.machine import find_device
from prepare import Tokenizer


def sample(
    checkpoint: str | None = None,  # folder of a run (its best.pt is taken), or a checkpoint file
    *,
    out_dir: str | None = None,  # nanoGPT's name for CHECKPOINT
    prompt: str = "",  # text to continue; without: a new line
    start: str = "",  # nanoGPT's name for --prompt; FILE:name reads a file
    prompt_file: str | None = None,  # file that holds the text to continue
    num_samples: PositiveInt = 1,  # number of continuations, which are computed together
    max_new_tokens: PositiveInt = 500,  # tokens per continuation
    temperature: NonNegativeFloat = 0.8,  # 0 takes the likeliest token; 1 draws as the model says; more is more random
    top_k: PositiveInt | None = None,  # draw only from the k likeliest tokens; none: from all
    top_p: Annotated[float, Range(gt=0, le=1)] | None = None,  # draw only from the likeliest tokens that sum to p
    seed: Seed = 1337,  # seed of what is drawn
    device: str = "auto",  # cpu, cuda ...; auto: cuda where there is one, else cpu
):
    """Print text with which a trained model continues a prompt, the first one as it comes. Returns the texts."""
    check(sample, locals())
    path = only_one(CHECKPOINT=checkpoint, out_dir=out_dir)
    if path is None:
        raise no_checkpoint_given("CHECKPOINT")
    if start.startswith("FILE:"):
        prompt_file, start = only_one(start=start.removeprefix("FILE:"), prompt_file=prompt_file), ""
    text = only_one(prompt=prompt, start=start, prompt_file=prompt_file)
    if prompt_file is not None:
        text = read(prompt_file)
    device = find_device(device)
    gpt, saved = load_model(path, device)
    tokenizer = Tokenizer.thaw(saved["tokenizer"])
    ids = torch.from_numpy(tokenizer.encode(text or "\n").astype("int64"))
    prompts = ids.expand(num_samples, -1).to(device)
    generator = torch.Generator(device).manual_seed(seed)
    steps = gpt.generate(prompts, max_new_tokens, temperature, top_k, top_p, generator)

    texts = []
    for i, mine in enumerate(tee(steps, num_samples)):  # each step has a token for every text
        texts.append("")
        tokens = (step[i].item() for step in mine)
        for piece in tokenizer.stream(chain(ids.tolist(), tokens)):
            texts[-1] += piece
            print(piece, end="", flush=True)
        print("\n---------------" if i + 1 < num_samples else "")
    return texts


def read(path):
    """The bytes of a file. Raises UsageError."""
    try:
        return Path(path).read_bytes()
    except OSError as error:
        raise UsageError(f"cannot read {path}: {error.strerror}") from None


if __name__ == "__main__":
    run(sample)
