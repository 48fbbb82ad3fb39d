"""Text from a checkpoint: `python sample.py out/NAME --prompt="def "`. The checkpoint is all it needs."""

from itertools import chain, tee
from typing import Annotated

import torch

import ideas  # noqa: F401  so that a checkpoint of theirs can be loaded
from configurable import NonNegativeFloat, PositiveInt, Seed, UsageError, check_ranges, only_one, run
from plumbing.checkpoint import load_model, no_checkpoint_given
from plumbing.files import read_bytes
from plumbing.machine import find_device
from prepare import Tokenizer


def sample(
    checkpoint: str | None = None,  # folder of a run (its best.pt is taken), or a checkpoint file
    *,
    out_dir: str | None = None,  # nanoGPT's name for CHECKPOINT
    prompt: str | None = None,  # text to continue; none: a new line
    start: str | None = None,  # nanoGPT's name for --prompt; FILE:name reads a file
    prompt_file: str | None = None,  # file that holds the text to continue
    num_samples: PositiveInt = 1,  # number of continuations, which are computed together
    max_new_tokens: PositiveInt = 500,  # tokens per continuation
    temperature: NonNegativeFloat = 0.8,  # 0 takes the likeliest token; 1 draws as the model says; more is more random
    top_k: PositiveInt | None = None,  # draw only from the k likeliest tokens; none: from all
    top_p: Annotated[float, "more than 0 and at most 1"] | None = None,  # only from the likeliest that sum to p
    seed: Seed = 1337,  # seed of what is drawn
    device: str = "auto",  # cpu, cuda ...; auto: cuda where there is one, else cpu
):
    """Print text with which a trained model continues a prompt, the first one as it comes. Returns the texts."""
    check_ranges(sample, locals())
    path = only_one(CHECKPOINT=checkpoint, out_dir=out_dir)
    if path is None:
        raise no_checkpoint_given("CHECKPOINT")
    text = read_prompt(prompt, start, prompt_file)
    device = find_device(device)
    gpt, saved = load_model(path, device)
    tokenizer = Tokenizer.thaw(saved["tokenizer"], path)
    ids = tokenizer.encode(text or "\n", prompt_file or "the prompt").astype("int64")
    prompts = torch.from_numpy(ids).expand(num_samples, -1).to(device)
    generator = torch.Generator(device).manual_seed(seed)
    steps = gpt.generate(prompts, max_new_tokens, temperature, top_k, top_p, generator)

    texts = []
    for i, mine in enumerate(tee(steps, num_samples)):  # each step has a token for every text
        texts.append("")
        try:
            tokens = (step[i].item() for step in mine)
            for piece in tokenizer.stream(chain(ids.tolist(), tokens)):
                texts[-1] += piece
                print(piece, end="", flush=True)
        except RuntimeError as error:
            if "nan" not in str(error):
                raise
            raise UsageError(f"{path} has weights so large that its logits are nan or inf: its run diverged") from None
        print("\n---------------" if i + 1 < num_samples else "")
    return texts


def read_prompt(prompt, start, prompt_file):
    """The text, or the bytes of a file, to continue; None where none is given. Raises UsageError."""
    if start is not None and start.startswith("FILE:"):
        prompt_file, start = only_one(start=start[5:], prompt_file=prompt_file), None
    given = only_one(prompt=prompt, start=start, prompt_file=prompt_file)
    return given if prompt_file is None else read_bytes(prompt_file)


if __name__ == "__main__":
    run(sample)
