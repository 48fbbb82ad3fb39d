"""What is timed is what was done: turns, bytes, kernels, ratios; and a race is run by both from start to exit."""

import hashlib
import json
from pathlib import Path

import numpy as np
import pytest
import torch

import lab.race
from configurable import UsageError
from lab.bench import bench
from prepare import prepare

# ---------------------------------------------------------------------------- how long to the same loss


def test_a_race_is_run_by_both_from_start_to_exit(preset, nanogpt, monkeypatch):
    data = Path("data/tinyshakespeare.txt")
    data.parent.mkdir()
    data.write_text("to be or not to be\n" * 200)
    folder = prepare(str(data))
    meta = json.loads((folder / "meta.json").read_text()) | {"dtype": "uint16"}
    for part in ("train", "val"):  # a text prepared in wider numbers is the same text
        wide = np.fromfile(folder / f"{part}.bin", np.uint8).astype(np.uint16)
        wide.tofile(folder / f"{part}.bin")
        meta[part]["sha256"] = hashlib.sha256(wide).hexdigest()
    (folder / "meta.json").write_text(json.dumps(meta))
    monkeypatch.setitem(lab.race.RACES, "cpu", (Path(preset).resolve(), "--max_iters=3", "--short"))
    own, peer = bench(parts=("race",), repetitions=2, peer=nanogpt)
    assert (own["who"], peer["who"], own["runs"]) == ("nanodiff", "nanoGPT", 2)
    assert peer["seconds_to_nanogpt"] == [1, 1, 1] and own["seconds"][0] > 1
    assert peer["val_loss"] == pytest.approx([torch.tensor(5.0).log().item()] * 3)  # five tokens, equally likely
    assert 3 < own["val_loss"][0] <= own["worst_val_loss"] < 5.6


def test_a_race_that_one_cannot_run_says_why(preset, nanogpt, monkeypatch):
    Path("data").mkdir()
    Path("data/tinyshakespeare.txt").write_text("to be or not to be\n" * 200)
    prepare("data/tinyshakespeare.txt")
    monkeypatch.setitem(lab.race.RACES, "cpu", (Path(preset).resolve(), "--max_iters=3", "--long"))
    with pytest.raises(UsageError, match=r"train_shakespeare_char\.py --long: exit 1, AssertionError"):
        bench(parts=("race",), peer=nanogpt)
