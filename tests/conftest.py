"""A small corpus, prepared once, and a working folder of its own for every test."""

import random

import pytest
import torch

import prepare

torch.set_num_threads(1)  # models this small lose by sharing their work


@pytest.fixture(autouse=True)
def elsewhere(tmp_path, monkeypatch):
    """Each test works in an empty folder: data/ and out/ of the project stay as they are."""
    monkeypatch.chdir(tmp_path)


@pytest.fixture(scope="session")
def corpus(tmp_path_factory):
    """The folder of a prepared dataset whose next letter can be learnt: words in a fixed order, endlessly."""
    folder = tmp_path_factory.mktemp("corpus")
    line = "to be or not to be that is the question whether tis nobler in the mind to suffer"
    words = line.split()
    draw = random.Random(0)
    text = "\n".join(" ".join(words[(i := draw.randrange(17)) :] + words[:i]) for _ in range(200))
    (folder / "hamlet.txt").write_text(text)
    return prepare.prepare(str(folder / "hamlet.txt"), name=str(folder / "hamlet"))
