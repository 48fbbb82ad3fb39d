"""A small corpus, prepared once, and a working folder of its own for every test."""

import random
import signal

import pytest
import tiktoken
import torch
from tiktoken_ext import openai_public

import prepare

torch.set_num_threads(1)  # models this small lose by sharing their work
signal.signal(signal.SIGINT, signal.default_int_handler)  # which a shell's background job would ignore
if hasattr(signal, "SIGHUP"):
    signal.signal(signal.SIGHUP, signal.SIG_DFL)  # which nohup would


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
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        return prepare.prepare("hamlet.txt").resolve()


def tiny_encoding(name="gpt2"):
    """The pattern of an encoding of tiktoken's, but bytes and a few merges, so that nothing needs to be downloaded."""
    merges = [b"he", b"th", b"  ", b"\n\n", b"\n ", b"\n/", b";\n", b"\n\xc2", b" t", b"llo", b"ll", b"or"]
    ranks = {bytes([i]): i for i in range(256)} | {m: 256 + i for i, m in enumerate([b"ll", *merges[:-2], b"or"])}
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(openai_public, "load_tiktoken_bpe", lambda *args, **options: ranks)
        patch.setattr(openai_public, "data_gym_to_mergeable_bpe_ranks", lambda *args, **options: ranks)
        pattern = getattr(openai_public, name)()["pat_str"]
    special = {"<|endoftext|>": max(ranks.values()) + 1}
    return tiktoken.Encoding(name, pat_str=pattern, mergeable_ranks=ranks, special_tokens=special)


@pytest.fixture
def tiny(monkeypatch):
    monkeypatch.setattr(tiktoken, "get_encoding", lambda name: tiny_encoding())
    return tiny_encoding()
