"""Datasets of a task: records of one length, of which only the answers count in the loss."""

import hashlib
import random
import shlex
from pathlib import Path

from tqdm import tqdm

from plumbing.files import atomic_folder, write_json
from prepare import check_name, check_target


def write_records(task, options, about, length, scored, n_records, record):
    """Make data/<options["name"]> of records that are `length` bytes long, and return the folder.

    task: the module of lab/ that makes them; options: those of its command. about: what meta.json says of the task.
    scored: positions in a record that count. n_records: {"train": n, "val": n}. record(draw, part): the text of the
    next record, drawn by the random.Random `draw` of that part. Raises UsageError where something else is there.
    """
    folder = Path("data") / check_name(options["name"])
    meta = {"tokenizer": "bytes", "vocab_size": 256, "dtype": "uint8", "source": task, task: about}
    meta["command"] = shlex.join(["python", "-m", f"lab.{task}", *(f"--{k}={v}" for k, v in options.items())])
    meta["record"] = {"length": length, "scored": scored}
    check_target(folder, [])
    with atomic_folder(folder) as building:
        for part, n in n_records.items():
            draw = random.Random(f"{options['seed']} {part}")
            records = (record(draw, part) for _ in range(n))
            text = "".join(tqdm(records, part, n, unit=" records", disable=None)).encode()
            (building / f"{part}.bin").write_bytes(text)
            meta[part] = {"tokens": len(text), "bytes": len(text), "sha256": hashlib.sha256(text).hexdigest()}
        write_json(building / "meta.json", meta)
    train, val = n_records.values()
    print(f"{folder}: {train:,} contexts to train on, {val:,} to validate, of {length} tokens (bytes)")
    print(f"next: python train.py config/{task}.toml --dataset={options['name']} --block_size={length}")
    return folder
