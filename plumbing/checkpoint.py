"""A checkpoint on disk: complete or absent, sure of its own content, loaded without executing anything.

It is a file of torch.save, which is a zip; the zip's comment holds the sha256 of all that comes before it.
"""

import hashlib
import io
import json
import os
import struct
from pathlib import Path

import torch

import ideas  # noqa: F401  so that a checkpoint of theirs can be loaded
from configurable import UsageError
from model import GPT, GPTConfig

CHECKSUM = b"nanodiff sha256 "  # begins the zip's comment


def save(path, checkpoint):
    """Write the dict `checkpoint` to the file `path`. Raises TypeError for what `load` would refuse."""
    check_plain(checkpoint, "checkpoint")
    content = io.BytesIO()
    torch.save(checkpoint, content)
    content.seek(-2, os.SEEK_END)  # where a zip says how long its comment is
    content.write(struct.pack("<H", len(CHECKSUM) + 64))
    digest = hashlib.sha256(content.getbuffer()).hexdigest()
    content.write(CHECKSUM + digest.encode())
    write_atomic(path, content.getbuffer())


def check_plain(value, name):
    """Raises TypeError where `value` holds more than tensors, numbers, text, None, lists and dicts of them."""
    if isinstance(value, dict | list | tuple):
        for key, part in value.items() if isinstance(value, dict) else enumerate(value):
            check_plain(part, f"{name}[{key!r}]")
    elif not isinstance(value, torch.Tensor) and type(value) not in (bool, int, float, str, type(None)):
        raise TypeError(f"{name} is a {type(value).__name__}: load would refuse it")


def load(path):
    """The checkpoint in a file, or in the best.pt of a folder, on the CPU. Raises UsageError where it is not whole."""
    path = Path(path, "best.pt") if os.path.isdir(path) else Path(path)
    try:
        content = path.read_bytes()
    except OSError as error:
        raise UsageError(f"no checkpoint {path}: {error.strerror}") from None
    if not is_whole(content):
        there = "".join(f"; {other} is intact" for other in path.parent.glob("*.pt") if is_intact(other))
        raise UsageError(f"{path} is damaged, or no checkpoint of train.py{there}")
    return torch.load(io.BytesIO(content), map_location="cpu", weights_only=True)


def is_whole(content):
    """Whether the bytes of a file end with the checksum of those before it."""
    end = max(0, len(content) - len(CHECKSUM) - 64)
    return content[end:] == CHECKSUM + hashlib.sha256(memoryview(content)[:end]).hexdigest().encode()


def is_intact(path):
    """Whether the file `path` is a whole checkpoint."""
    return path.exists() and is_whole(path.read_bytes())


def load_model(path, device="cpu"):
    """(model in eval mode on `device`, checkpoint) of a checkpoint file, or of a run's folder. Raises UsageError."""
    checkpoint = load(path)
    gpt = GPT(GPTConfig(**checkpoint["config"]))
    gpt.load_state_dict(checkpoint["model"])
    return gpt.to(device).eval(), checkpoint


def no_checkpoint_given(name):
    """The UsageError where the words `name` are missing: it lists the runs that there are."""
    there = ", ".join(sorted(path.parent.as_posix() for path in Path("out").glob("**/best.pt")))
    return UsageError(f"{name} is missing: {f'there is {there}' if there else 'train.py makes one'}")


# ---------------------------------------------------------------------------- files


def write_atomic(path, content):
    """Write bytes to a file: it is complete or absent, even after a power cut."""
    part = Path(path).with_name(f".{Path(path).name}.part")
    try:
        with open(part, "wb") as file:
            file.write(content)
            sync(file)
        os.replace(part, path)
    finally:
        part.unlink(missing_ok=True)


def write_text(path, text):
    """Write a text file in UTF-8, complete or absent."""
    write_atomic(path, text.encode())


def write_json(path, value):
    """Write `value` as JSON, complete or absent."""
    write_text(path, json.dumps(value, indent=1) + "\n")


def sync(file):
    """Have all that was written to an open file on the disk, where it survives a power cut."""
    file.flush()
    os.fsync(file.fileno())
