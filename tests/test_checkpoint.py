"""A checkpoint is complete or absent, sure of its content, and executes nothing."""

import hashlib
import json
import os
import struct
import zipfile
from dataclasses import asdict
from pathlib import Path

import numpy as np
import pytest
import torch

from configurable import UsageError
from conftest import mistake, same, small
from model import ATTENTION, GPT
from plumbing.checkpoint import CHECKSUM, load, load_model, save
from prepare import Tokenizer


def test_a_checkpoint_is_read_without_executing_and_carries_what_it_needs(go, corpus):
    go()
    plain = torch.load("out/run/ckpt.pt", weights_only=True)
    assert plain["config"] == asdict(small()) and plain["options"]["batch_size"] == 4
    assert plain["data"] == json.loads((corpus / "meta.json").read_text())
    assert set(plain["versions"]) == {"python", "torch", "numpy"} and "commit" in plain
    assert Tokenizer.thaw(plain["tokenizer"]).decode([72, 105]) == "Hi"
    gpt, _ = load_model("out/run/ckpt.pt")
    assert not gpt.training and same(gpt.state_dict(), plain["model"])


def test_its_checksum_can_be_checked_by_hand(go):
    go()
    content = Path("out/run/ckpt.pt").read_bytes()
    comment = zipfile.ZipFile("out/run/ckpt.pt").comment
    assert comment.split()[-1].decode() == hashlib.sha256(content[: -len(comment)]).hexdigest()
    assert struct.unpack("<H", content[-len(comment) - 2 : -len(comment)]) == (len(comment),)


def test_damaged_and_foreign_files_are_one_line_that_names_them(go):
    go()
    content = Path("out/run/best.pt").read_bytes()
    bad = Path("bad.pt")
    for cut in (0, 1, 79, 80, 81, 1000, len(content) // 2, len(content) - 1):
        bad.write_bytes(content[:cut])
        assert mistake(load, bad) == "bad.pt is no checkpoint of train.py, or its end is missing"
    draw = np.random.default_rng(0)
    for position in draw.integers(len(content) - 80, size=50):
        flipped = bytearray(content)
        flipped[position] ^= 1 << draw.integers(8)
        bad.write_bytes(flipped)
        assert mistake(load, bad) == "bad.pt is damaged: its checksum is not the one it was saved with"
    torch.save({"model": {}}, bad)
    assert mistake(load, bad) == "bad.pt is no checkpoint of train.py, or its end is missing"
    assert mistake(load, "out") == "no checkpoint out/best.pt: No such file or directory"


class Bomb:
    def __reduce__(self):
        return open, ("exploded", "w")


def test_a_checkpoint_that_would_execute_code_does_not(go):
    save(Path("bomb.pt"), {"model": Bomb()})
    assert mistake(load, "bomb.pt").startswith("bomb.pt is no checkpoint of train.py")
    assert not Path("exploded").exists()
    torch.load("bomb.pt", weights_only=False)["model"].close()
    assert Path("exploded").exists()  # it was a bomb


def test_a_checkpoint_of_another_model_py_is_explained(go, monkeypatch):
    monkeypatch.setitem(ATTENTION, "mine", type("Mine", (ATTENTION["temperature"],), {}))
    go(attention="mine")
    monkeypatch.delitem(ATTENTION, "mine")
    assert "best.pt is of another model.py: attention=mine: must be one of" in mistake(
        load_model, Path("out/run/best.pt")
    )
    go("vanilla")
    monkeypatch.setitem(ATTENTION, "vanilla", ATTENTION["temperature"])
    with pytest.raises(UsageError, match=r"(?s)is of another model.py: .*Missing key"):
        load_model("out/vanilla/best.pt")


@pytest.mark.skipif(os.name == "nt", reason="pipes and sparse files of Unix")
def test_of_what_lies_beside_a_damaged_one_only_the_end_is_read(go, monkeypatch):
    go()
    Path("out/run/ckpt.pt").write_bytes(b"damaged")
    os.mkfifo("out/run/a.pt")
    Path("out/run/b.pt").touch()
    os.truncate("out/run/b.pt", 2**38)  # 256 GB, of which nothing is on the disk
    assert mistake(load, "out/run/ckpt.pt").endswith("; out/run/best.pt is intact")
    assert "is no checkpoint of train.py" in mistake(load, "out/run/b.pt")


def with_checksum(path, change):
    """Rewrite the zip that is a checkpoint, with change(name, content, entry) for each entry, and sign it."""
    with zipfile.ZipFile(path) as old, zipfile.ZipFile("changed.pt", "w") as new:
        for entry in old.infolist():
            change(new, entry.filename, old.read(entry))
        new.comment = b"x" * (len(CHECKSUM) + 64)
    content = Path("changed.pt").read_bytes()[: -len(CHECKSUM) - 64]
    Path("changed.pt").write_bytes(content + CHECKSUM + hashlib.sha256(content).hexdigest().encode())


def test_what_could_unpack_to_any_size_is_refused_unread(go, monkeypatch):
    go()
    with_checksum("out/run/best.pt", lambda new, name, content: new.writestr(name, content))
    assert load("changed.pt")["step"] == load("out/run/best.pt")["step"]
    packed = {"compress_type": zipfile.ZIP_DEFLATED}
    with_checksum("out/run/best.pt", lambda new, name, content: new.writestr(name, content, **packed))
    called = []
    monkeypatch.setattr(torch, "load", lambda *args, **options: called.append(args))
    assert "is no checkpoint of train.py" in mistake(load, "changed.pt") and not called


@pytest.mark.parametrize(
    ("name", "value"), [("block_size", 10**9), ("n_layer", 9999), ("vocab_size", 10**9), ("n_embd", 10**9)]
)
def test_no_memory_is_taken_for_a_shape_that_the_weights_do_not_have(name, value, go, monkeypatch):
    go()
    checkpoint = load("out/run/best.pt")
    save(Path("large.pt"), checkpoint | {"config": checkpoint["config"] | {name: value}})
    called = []
    monkeypatch.setattr(GPT, "__init__", lambda *args: called.append(args))
    assert "large.pt is of another model.py" in mistake(load_model, "large.pt") and not called


def test_memory_that_is_too_small_is_not_taken_for_damage(go, monkeypatch):
    go()

    def load_nothing(*args, **options):
        raise RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried to allocate 9 bytes")

    monkeypatch.setattr(torch, "load", load_nothing)
    with pytest.raises(RuntimeError, match="allocate"):
        load("out/run/best.pt")
