"""A small corpus, prepared once; a working folder of its own for every test; short runs on that corpus."""

import json
import os
import random
import signal
import subprocess
import sys
from pathlib import Path

import pytest
import tiktoken
import torch
from tiktoken_ext import openai_public

import prepare
import train as train_py
from configurable import UsageError, bind, read_toml, signature
from model import ATTENTION, GPT, GPTConfig
from plumbing.checkpoint import load
from plumbing.run import Run
from train import train

ROOT = Path(train_py.__file__).parent
# Bounded scores change `project` alone, so of their words the laws take two, and one with twice as many queries.
BOUNDED_TESTED = {"bounded-2", "bounded-2-differential", "bounded-2-v2"}
WORDS = [name for name in ATTENTION if not name.startswith("bounded-") or name in BOUNDED_TESTED]
every = pytest.mark.parametrize("name", [name for name, c in ATTENTION.items() if c.__module__ == "model"])

torch.set_num_threads(1)  # models this small lose by sharing their work
signal.signal(signal.SIGINT, signal.default_int_handler)  # which a shell's background job would ignore
if hasattr(signal, "SIGHUP"):
    signal.signal(signal.SIGHUP, signal.SIG_DFL)  # which nohup would


@pytest.fixture(autouse=True)
def elsewhere(request, tmp_path, monkeypatch):
    """Each test works in an empty folder and, unless it is marked `gpu`, on the CPU."""
    monkeypatch.chdir(tmp_path)
    if request.node.get_closest_marker("gpu"):
        if not torch.cuda.is_available():
            pytest.skip("needs a GPU")
    else:
        monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
        monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")  # for the processes that a test starts


@pytest.fixture(autouse=True)
def own_mechanisms():
    """What a test adds to ATTENTION is gone after it."""
    before = dict(ATTENTION)
    yield
    ATTENTION.clear()
    ATTENTION.update(before)


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


# ---------------------------------------------------------------------------- runs


def options_of(preset, **options):
    """(GPTConfig, other options) of a preset and the options after it."""
    shapes, options = bind(train, [], read_toml(preset, signature(train)[0]) | options)
    return shapes[0], options


def small(**options):
    return GPTConfig(**{"n_layer": 2, "n_embd": 16, "n_head": 2, "block_size": 8} | options)


@pytest.fixture
def go(corpus):
    """train() of a small model for a few steps, in out/NAME; gives the rows of metrics.jsonl without their speed.

    Without its figure, which takes as long as the steps.
    """

    def go(out="run", attention="vanilla", dropout=0.0, figure=False, **options):
        options = {"dataset": str(corpus), "out_dir": f"out/{out}", "eval_tokens": 200} | options
        short = {"max_iters": 6, "warmup_iters": 2, "eval_interval": 3, "batch_size": 4, "checkpoint_interval": 2}
        with pytest.MonkeyPatch.context() as patch:
            if not figure:
                patch.setattr(Run, "plot", lambda run, title: None)
            train(small(attention=attention, dropout=dropout), **short | options)
        return metrics(out)

    return go


def metrics(out):
    rows = [json.loads(line) for line in Path(f"out/{out}/metrics.jsonl").read_text().splitlines()]
    return [{k: v for k, v in row.items() if k != "tokens_per_second"} for row in rows]


def weights(out, file="ckpt.pt"):
    return load(f"out/{out}/{file}")["model"]


def same(a, b):
    return a.keys() == b.keys() and all(torch.equal(a[k], b[k]) for k in a)


def mistake(function, *args, **options):
    with pytest.raises(UsageError) as error:
        function(*args, **options)
    return str(error.value)


@pytest.fixture
def signal_at(monkeypatch):
    """signal_at(step, signum): the process gets that signal while it computes that step's gradient, once."""
    original, plan = train_py.forward_backward, {}

    def gradient(*args):
        plan["step"] -= 1
        if plan["step"] == -1:
            os.kill(os.getpid(), plan["signum"])
        return original(*args)

    def at(step, signum=signal.SIGINT):
        plan.update(step=step, signum=signum)
        monkeypatch.setattr(train_py, "forward_backward", gradient)

    return at


@pytest.fixture
def torchrun(corpus):
    """torchrun(option, ...): two processes that train on the CPU, into out/run."""

    def torchrun(*options):
        command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node=2"]
        shape = ["--n_layer=2", "--n_embd=16", "--n_head=2", "--block_size=8", "--init_std=0.02"]
        steps = ["--gradient_accumulation_steps=4", "--batch_size=2", "--warmup_iters=2", "--checkpoint_interval=10"]
        where = [f"--dataset={corpus}", "--out_dir=out/run", "--device=cpu"]
        command += [str(ROOT / "train.py"), str(ROOT / "config/cpu.toml"), *shape, *steps, *where, *options]
        environment = os.environ | {"OMP_NUM_THREADS": "1"}
        return subprocess.Popen(
            command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, start_new_session=True
        )

    return torchrun


# ---------------------------------------------------------------------------- models with maps


def build(attention, **shape):
    """A model whose weights are large enough for its maps to differ from uniform ones."""
    torch.manual_seed(0)
    shape = {"n_layer": 2, "n_head": 4, "n_embd": 32, "block_size": 12} | shape
    gpt = GPT(GPTConfig(attention, **shape)).eval()
    with torch.no_grad():
        for block in gpt.blocks:
            block.attention.qkv.weight *= 30
    return gpt


def text(B=3, T=12):
    return torch.randint(256, (B, T), generator=torch.Generator().manual_seed(1))
