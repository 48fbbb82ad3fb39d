"""A checkpoint carries what it needs, and can be checked by hand. What harms it is in test_faults.py."""

import hashlib
import json
import struct
import zipfile
from dataclasses import asdict
from pathlib import Path

import numpy as np
import pytest
import torch

from conftest import same, small
from plumbing.checkpoint import load_model, save
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
