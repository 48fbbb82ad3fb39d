"""A dataset on disk, data/<name>: train.bin and val.bin, arrays of tokens; meta.json, which says what they are.

A dataset may consist of records of one length (`record` in meta.json): then every window is a record, and only its
tokens at the positions `scored` count in the loss.
"""

import hashlib
import json
import math
import os
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F

from configurable import UsageError, nearest
from plumbing.files import put_back
from prepare import Tokenizer, prepare

META = {"tokenizer": "", "vocab_size": 0, "dtype": "", "train": {"tokens": 0, "bytes": 0, "sha256": ""}}
META["val"] = META["train"]
IN_MEMORY = 1 << 28  # tokens; a split larger than that stays on disk, memory-mapped


class Dataset:
    """data/<name>: its folder, meta, frozen tokenizer, and the splits `train` and `val`."""

    def __init__(self, folder, meta, tokenizer, splits):
        self.folder, self.name, self.meta, self.tokenizer = folder, folder.name, meta, tokenizer
        self.train, self.val = splits
        self.bits_per_nat = meta["val"]["tokens"] / meta["val"]["bytes"] / math.log(2)  # nats/token -> bits/byte


class Split:
    """The tokens of train.bin or val.bin, in windows: x and y, BT int64, where y is what follows each token of x."""

    def __init__(self, tokens, block_size, record=None, vocab_size=math.inf):
        self.tokens, self.block_size, self.record, self.vocab_size = tokens, block_size, record, vocab_size
        self.stride = block_size if record else 1  # tokens from the beginning of a window to that of the next

    @property
    def n_windows(self):
        return (len(self.tokens) - self.block_size - 1) // self.stride + 1  # y needs a token more

    def windows(self, numbers):
        """x and y of the windows with these numbers, each from 0 to n_windows − 1; y is −1 where nothing counts."""
        index = self.stride * numbers[:, None] + np.arange(self.block_size + 1)
        windows = self.gather(index)
        return windows[:, :-1].contiguous(), self.scored(windows[:, 1:])

    def in_order(self, batch_size, limit=None):
        """Batches x, y in which tokens 1 to `limit` are once in y, in order; the rest of y is −1."""
        size, end = batch_size * self.block_size, min(len(self.tokens) - 1, limit or len(self.tokens))
        for start in range(0, end, size):
            part = self.gather(np.arange(start, min(start + size, end) + 1))
            missing = size - len(part) + 1  # the last batch gets the shape of the others: nothing is compiled anew
            x, y = F.pad(part[:-1], (0, missing)), F.pad(part[1:], (0, missing), value=-1)
            yield x.view(batch_size, -1), self.scored(y.view(batch_size, -1))

    def gather(self, index):
        """The tokens at a numpy array of positions, int64. Raises UsageError for one that the vocabulary has not."""
        if isinstance(self.tokens, torch.Tensor):  # looked at when it was loaded
            return self.tokens[torch.from_numpy(index).to(self.tokens.device)].long()
        if (largest := (tokens := self.tokens[index]).max()) >= self.vocab_size:
            raise UsageError(f"the data have token {largest}, vocab_size is {self.vocab_size}: prepare them again")
        return torch.from_numpy(tokens.astype(np.int64))

    def scored(self, y):
        """y with −1 for every token of a record that does not count."""
        if self.record is None:
            return y.contiguous()
        left_out = torch.ones(self.block_size, dtype=torch.bool, device=y.device)
        left_out[[position - 1 for position in self.record["scored"]]] = False  # y begins with a record's second token
        return y.masked_fill(left_out, -1)


def load_dataset(name, device, block_size=None, eval_tokens=None):
    """The Dataset data/<name>; the standard library is prepared where it is missing. Raises UsageError.

    Without a block_size its tokens can be read, but no windows.
    """
    folder = find_folder(name)
    try:
        meta = json.loads((folder / "meta.json").read_text(encoding="utf-8"))
        check_meta(meta)
        Tokenizer.thaw(tokenizer := frozen_tokenizer(folder), folder / "tokenizer.json")
        if tokenizer["name"] != meta["tokenizer"]:
            raise ValueError(f"tokenizer.json is of {tokenizer['name']}, meta.json of {meta['tokenizer']}")
        tokens = {part: load_split(folder, part, meta, device) for part in ("train", "val")}
    except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise UsageError(f"{folder} is damaged ({type(error).__name__}: {error}); prepare it again") from None
    record = meta.get("record")
    if block_size is not None:
        check_record(folder, record, block_size, eval_tokens)
        if (n := len(tokens["train"])) <= block_size:
            raise UsageError(f"{folder} has {n} tokens to train on: too few for block_size={block_size}")
    splits = [Split(tokens[part], block_size, record, meta["vocab_size"]) for part in ("train", "val")]
    return Dataset(folder, meta, tokenizer, splits)


def find_folder(name):
    """The folder of the dataset `name`. Raises UsageError."""
    folders = [Path("data") / name] + [Path(name)] * ("/" in name or os.sep in name)  # as a shell completes it
    for folder in folders:
        put_back(folder)
        if (folder / "meta.json").exists():
            return folder
    corpus, _, tokenizer = name.partition("-")
    if corpus == "stdlib":
        return prepare("stdlib", tokenizer=tokenizer or "bytes", name=name)
    there = sorted(p.parent.name for p in Path("data").glob("*/meta.json"))
    have = f"there is {', '.join(there)}" if there else "there is none yet"
    raise UsageError(f"no dataset {folders[-1]}{nearest(name, there)}: {have}; python prepare.py makes one")


def frozen_tokenizer(folder):
    """What Tokenizer.freeze made of the dataset's tokenizer."""
    path = folder / "tokenizer.json"
    return json.loads(path.read_text(encoding="utf-8")) if path.exists() else {"name": "bytes"}


def load_split(folder, part, meta, device):
    """The tokens of train.bin or val.bin, as a tensor on `device`, or memory-mapped where they are many."""
    path = folder / f"{part}.bin"
    tokens = np.memmap(path, meta["dtype"], "r")
    if len(tokens) != meta[part]["tokens"]:
        raise ValueError(f"{path.name} has {len(tokens)} tokens, meta.json says {meta[part]['tokens']}")
    if len(tokens) > IN_MEMORY:
        return tokens
    if hashlib.sha256(tokens).hexdigest() != meta[part]["sha256"]:
        raise ValueError(f"{path.name} has changed since meta.json was written")
    if (largest := tokens.max()) >= meta["vocab_size"]:
        raise ValueError(f"{path.name} has token {largest}, vocab_size is {meta['vocab_size']}")
    return torch.from_numpy(tokens.astype(np.int32)).to(device)


# ---------------------------------------------------------------------------- meta.json


def check_record(folder, record, block_size, eval_tokens=None):
    """Raises UsageError where the windows of a model are not the dataset's records, or none would be evaluated."""
    if record and record["length"] != block_size:
        length = record["length"]
        raise UsageError(f"{folder} consists of records of {length} tokens: block_size={block_size} must be {length}")
    if record and (eval_tokens or block_size) < block_size:
        raise UsageError(
            f"eval_tokens={eval_tokens}: must be at least {block_size}, the length of a record of {folder}"
        )


def check_meta(meta):
    """Raises ValueError, KeyError or TypeError for a meta.json that prepare.py did not write."""
    if wrong := mismatch(meta, META, "meta.json"):
        raise ValueError(wrong)
    for number in (meta["vocab_size"], *(meta[part][of] for part in ("train", "val") for of in ("tokens", "bytes"))):
        if not 0 < number < 2**48:
            raise ValueError(f"{number} is no number of tokens or bytes")
    record = meta.get("record")
    for part in ("train", "val"):
        if meta[part]["tokens"] < (least := record["length"] if record else 2):
            raise ValueError(f"{part} has {meta[part]['tokens']} tokens, {least} are the least")
    if meta["dtype"] not in ("uint8", "uint16", "uint32"):
        raise ValueError(f"dtype {meta['dtype']} is none of uint8, uint16, uint32")
    if record is not None and not (record["scored"] and all(0 < i < record["length"] for i in record["scored"])):
        raise ValueError("record: the positions `scored` are none, or not within a record")


def mismatch(value, example, name):
    """What `value` lacks, or has of another type, compared with the nested dict `example`; '' where nothing."""
    if not isinstance(value, type(example)):
        return f"{name} is of type {type(value).__name__}"
    parts = example if isinstance(example, dict) else {}
    if missing := parts.keys() - value.keys() if parts else ():
        return f"{name} has no {', '.join(sorted(missing))}"
    return next(filter(None, (mismatch(value[key], part, key) for key, part in parts.items())), "")
