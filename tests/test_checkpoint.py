"""A checkpoint is complete or absent, sure of its content, and executes nothing."""

import hashlib
import json
import struct
import zipfile
from dataclasses import asdict
from pathlib import Path

import numpy as np
import pytest
import torch

from configurable import UsageError
from conftest import mistake, same, small
from model import ATTENTION
from plumbing.checkpoint import load, load_model, save, write_atomic
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


def test_a_file_appears_whole_or_not_at_all():
    path = Path("x")
    write_atomic(path, lambda file: file.write(b"old"))

    def fail(file):
        file.write(b"ne")
        raise OSError("disk full")

    with pytest.raises(OSError, match="disk full"):
        write_atomic(path, fail)
    assert path.read_bytes() == b"old" and list(Path().iterdir()) == [path]


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
