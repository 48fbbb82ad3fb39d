"""A checkpoint on disk: complete or absent, sure of its own content, loaded without executing anything.

It is a file of torch.save, which is a zip; the zip's comment holds the sha256 of all that comes before it.
"""

import hashlib
import io
import os
import pickle
import struct
import zipfile
from pathlib import Path

import torch

from configurable import UsageError, is_out_of_memory
from model import GPT, GPTConfig
from plumbing.dataset import check_meta, mismatch
from plumbing.files import at_once, write_atomic

CHECKSUM = b"nanodiff sha256 "  # begins the zip's comment
EXAMPLE = {"options": {"seed": 0, "dataset": ""}, "tokenizer": {"name": ""}, "model": {}, "step": 0, "data": {}}
EXAMPLE["config"] = {"attention": ""} | dict.fromkeys(("block_size", "vocab_size", "n_layer", "n_head", "n_embd"), 0)


def save(path, checkpoint):
    """Write the dict `checkpoint` to the file `path`."""
    content = io.BytesIO()  # torch's own writing hides why a disk refused
    torch.save(checkpoint, content)
    content.seek(-2, os.SEEK_END)  # where a zip says how long its comment is
    content.write(struct.pack("<H", len(CHECKSUM) + 64))
    digest = hashlib.sha256(content.getbuffer()).hexdigest()
    content.write(CHECKSUM + digest.encode())
    write_atomic(path, lambda file: file.write(content.getbuffer()))


def load(path, device="cpu"):
    """The checkpoint in the file `path`, or in the best.pt of a folder.

    Raises UsageError where there is none or it is damaged, and names an intact one beside it.
    """
    path = Path(path, "best.pt") if os.path.isdir(path) else Path(path)
    try:
        return load_file(path, device)
    except UsageError as error:
        for other in sorted(path.parent.glob("*.pt")):
            if other != path and is_intact(other):
                raise UsageError(f"{error}; {other} is intact") from None
        raise


def no_checkpoint_given(name):
    """The UsageError where the words `name` are missing: it lists the runs that there are."""
    there = ", ".join(sorted(path.parent.as_posix() for path in Path("out").glob("**/best.pt")))
    return UsageError(f"{name} is missing: {f'there is {there}' if there else 'train.py makes one'}")


def is_intact(path):
    """Whether the file `path` is a checkpoint that can be loaded."""
    try:
        return bool(load_file(path))
    except UsageError:
        return False


def load_file(path, device="cpu"):
    """The checkpoint in the file `path`. Raises UsageError."""
    try:
        with open(path, "rb", opener=at_once) as file:
            end = max(0, os.fstat(file.fileno()).st_size - len(CHECKSUM) - 64)
            file.seek(end)
            if file.read(len(CHECKSUM)) != CHECKSUM:  # before all of what may be very large is read
                raise UsageError(f"{path} is no checkpoint of train.py, or its end is missing")
            file.seek(0)
            content = file.read()
    except (OSError, ValueError) as error:
        raise UsageError(f"no checkpoint {path}: {getattr(error, 'strerror', error)}") from None
    if hashlib.sha256(memoryview(content)[:end]).hexdigest().encode() != content[-64:]:
        raise UsageError(f"{path} is damaged: its checksum is not the one it was saved with")
    try:
        with zipfile.ZipFile(io.BytesIO(content)) as entries:
            if any(entry.compress_type for entry in entries.infolist()):  # which may unpack to any size
                raise ValueError
        checkpoint = torch.load(io.BytesIO(content), map_location=device, weights_only=True)
    except Exception as error:  # a file from elsewhere may raise anything
        if is_out_of_memory(error):
            raise
        unsafe = isinstance(error, pickle.UnpicklingError)
        reason = "it holds more than tensors, numbers and text" if unsafe else type(error).__name__
        raise UsageError(f"{path} is no checkpoint of train.py: {reason}") from None
    try:
        wrong = mismatch(checkpoint, EXAMPLE, "it") or check_meta(checkpoint["data"])
    except (ValueError, KeyError, TypeError) as error:
        wrong = f"its data: {error}"
    if wrong or checkpoint["step"] < 0:
        raise UsageError(f"{path} is no checkpoint of train.py: {wrong or 'its step is below 0'}")
    return checkpoint


def fill(gpt, checkpoint, path):
    """Give gpt the weights of the checkpoint from `path`. Raises UsageError where they do not fit or are not finite."""
    try:
        gpt.load_state_dict(checkpoint["model"])
    except (RuntimeError, AttributeError) as error:
        raise UsageError(f"{path} is of another model.py: {' '.join(str(error).split())}") from None
    if not is_finite(gpt):
        raise UsageError(f"{path} has weights that are nan or inf: its run diverged")


def is_finite(gpt):
    """Whether no weight is nan or inf."""
    return all(p.isfinite().all() for p in gpt.parameters())


def load_model(path, device="cpu"):
    """(model in eval mode, checkpoint) of a checkpoint file, or of a run's folder. Raises UsageError."""
    checkpoint = load(path, device)
    config, weights = checkpoint["config"], checkpoint["model"]
    table = weights.get("embedding.weight")  # its shape is looked at before memory is taken for what `config` says
    if config["n_layer"] > len(weights) or getattr(table, "shape", ()) != (config["vocab_size"], config["n_embd"]):
        raise UsageError(f"{path} is of another model.py: its weights are not those of its config")
    try:
        gpt = GPT(GPTConfig(**config)).to(device).eval()
    except (RuntimeError, TypeError, ValueError) as error:
        raise UsageError(f"{path} is of another model.py: {' '.join(str(error).split())}") from None
    fill(gpt, checkpoint, path)
    return gpt, checkpoint
