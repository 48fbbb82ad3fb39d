"""A checkpoint carries what it needs, and can be checked by hand. What harms it is in test_faults.py."""

import hashlib
import json
import os
import pickle
import struct
import subprocess
import sys
import zipfile
from dataclasses import asdict
from pathlib import Path

import numpy as np
import pytest
import torch

import plumbing.checkpoint
from conftest import ROOT, mistake, same, small
from plumbing.checkpoint import load, load_model, save
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


@pytest.mark.parametrize("value", [np.float64(1), np.int64(1), Path("x"), torch.device("cpu"), torch.float32, {1}])
def test_saving_refuses_what_loading_would(value):
    with pytest.raises(TypeError, match=r"checkpoint\['best'\]\[0\] is a "):
        save(Path("x.pt"), {"model": {}, "best": [value]})
    assert not Path("x.pt").exists()


class Harmful:
    def __reduce__(self):
        return Path.touch, (Path("executed"),)


def test_loading_executes_nothing(monkeypatch):
    monkeypatch.setattr(plumbing.checkpoint, "check_plain", lambda value, name: None)
    save(Path("x.pt"), {"model": Harmful()})
    with pytest.raises(pickle.UnpicklingError):
        load("x.pt")
    assert not Path("executed").exists()


def test_a_damaged_byte_is_noticed():
    save(Path("x.pt"), {"model": torch.zeros(100)})
    content = bytearray(Path("x.pt").read_bytes())
    content[len(content) // 2] ^= 1
    Path("x.pt").write_bytes(content)
    assert mistake(load, "x.pt") == "x.pt is damaged, or no checkpoint of train.py"


def test_every_program_that_loads_a_checkpoint_knows_the_ideas():
    code = "import plumbing.checkpoint, model; print('sink' in model.ATTENTION)"
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    assert done.stdout == "True\n"


def test_a_file_is_on_the_disk_before_it_has_its_name(monkeypatch):
    order = []
    for name in ("fsync", "replace"):
        original = getattr(os, name)
        monkeypatch.setattr(os, name, lambda *args, name=name, f=original: order.append(name) or f(*args))
    save(Path("x.pt"), {"model": {}})
    assert order == ["fsync", "replace"]
