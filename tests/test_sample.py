"""From a checkpoint to text."""

import io
import itertools
import shutil
import sys
from pathlib import Path

import pytest
import tiktoken

from configurable import UsageError, run
from model import GPT, GPTConfig
from prepare import prepare
from sample import sample
from train import train


@pytest.fixture(scope="module")
def trained(corpus, tmp_path_factory):
    """A run that has learnt its text by heart."""
    out = tmp_path_factory.mktemp("sample") / "run"
    shape = GPTConfig(n_layer=2, n_embd=64, n_head=2, block_size=32)
    train(
        shape,
        dataset=str(corpus),
        max_iters=150,
        warmup_iters=10,
        learning_rate=5e-3,
        beta2=0.99,
        batch_size=16,
        out_dir=str(out),
    )
    return out


def test_a_trained_model_goes_on_as_its_text_does(trained, capsys):
    (text,) = sample(str(trained), prompt="that is the ", temperature=0, max_new_tokens=25)
    assert text == "that is the question whether tis nobl"
    assert capsys.readouterr().out == text + "\n"


def test_a_checkpoint_alone_is_enough(trained, capsys):
    shutil.copy(trained / "best.pt", "alone.pt")
    assert sample("alone.pt", max_new_tokens=5, seed=3) == sample(str(trained), max_new_tokens=5, seed=3)


def test_a_checkpoint_alone_is_enough_with_tokens_of_tiktoken_too(tiny, monkeypatch, capsys):
    Path("a.txt").write_text("to be or not to be\n" * 100)
    prepare("a.txt", tokenizer="gpt2")
    train(GPTConfig(n_layer=1, n_embd=16, n_head=2, block_size=8), dataset="a-gpt2", max_iters=1)
    shutil.rmtree("data")
    monkeypatch.setattr(tiktoken, "get_encoding", None)
    assert sample("out/a-gpt2-vanilla", prompt="to be", max_new_tokens=4)[0].startswith("to be")


def test_the_seed_decides(trained, capsys):
    texts = [sample(str(trained), seed=seed, temperature=2.0, num_samples=2, max_new_tokens=60) for seed in (1, 1, 2)]
    assert texts[0] == texts[1] != texts[2]
    assert texts[0][0] != texts[0][1]


def test_several_samples_are_one_batch(trained, monkeypatch, capsys):
    """As many calls of the model as for one sample; and each is what the model says of its own text."""
    calls = []
    original = GPT.forward

    def forward(self, tokens, *args, **options):
        calls.append(tokens.shape)
        return original(self, tokens, *args, **options)

    monkeypatch.setattr(GPT, "forward", forward)
    one = sample(str(trained), prompt="to be", temperature=0, max_new_tokens=40)
    n, _ = len(calls), calls.clear()
    three = sample(str(trained), prompt="to be", temperature=0, max_new_tokens=40, num_samples=3)
    assert len(calls) == n and {shape[0] for shape in calls} == {3}
    assert three == one * 3


def test_samples_are_separated(trained, capsys):
    texts = sample(str(trained), num_samples=3, max_new_tokens=4)
    assert capsys.readouterr().out == "\n---------------\n".join(texts) + "\n"


def test_a_prompt_may_come_from_a_file_be_empty_or_hold_anything(trained, capsys):
    Path("p.txt").write_text("to be λ", encoding="utf-8")
    (text,) = sample(str(trained), prompt_file="p.txt", max_new_tokens=3)
    assert text.startswith("to be λ")
    assert run(sample, [str(trained), "--prompt=none", "--max_new_tokens=3"])[0].startswith("none")
    with pytest.raises(UsageError, match="prompt and prompt_file are given: give only one of them"):
        sample(str(trained), prompt="a", prompt_file="p.txt")
    assert sample(str(trained), prompt="", max_new_tokens=3)[0].startswith("\n")
    assert sample(str(trained), prompt="\udce9", max_new_tokens=1)[0].startswith("\ufffd")
    long = "to be " * 50
    assert sample(str(trained), prompt=long, max_new_tokens=2)[0].startswith(long)


def test_text_comes_as_it_is_made(trained, monkeypatch):
    events = []
    monkeypatch.setattr(sys, "stdout", io.StringIO())
    original = GPT.generate

    def generate(self, *args):
        for token in original(self, *args):
            events.append(sys.stdout.getvalue())
            yield token

    monkeypatch.setattr(GPT, "generate", generate)
    sample(str(trained), prompt="to", max_new_tokens=6)
    assert all(later.startswith(earlier) and len(later) > len(earlier) for earlier, later in itertools.pairwise(events))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"temperature": -1.0}, "temperature=-1.0: must be at least 0 and finite"),
        ({"seed": 2**63}, "seed=9223372036854775808: must be at least 0 and less than 2^63"),
        ({"top_k": 0}, "top_k=0: must be at least 1"),
        ({"top_p": 0.0}, "top_p=0.0: must be more than 0 and at most 1"),
        ({"num_samples": 0}, "num_samples=0: must be at least 1"),
        ({"prompt_file": "gone.txt"}, "cannot read gone.txt: No such file"),
        ({"device": "gpu"}, "device=gpu (did you mean cuda?): "),
    ],
)
def test_mistakes(trained, options, message):
    with pytest.raises(UsageError) as error:
        sample(str(trained), **options)
    assert str(error.value).startswith(message)


def test_nanogpt_s_names_mean_the_same(trained, capsys):
    Path("p.txt").write_text("to be")
    expected = sample(str(trained), prompt="to be", max_new_tokens=5)
    assert sample(out_dir=str(trained), start="to be", max_new_tokens=5) == expected
    assert sample(out_dir=str(trained), start="FILE:p.txt", max_new_tokens=5) == expected
    assert run(sample, [f"--out_dir={trained}", "--start", "to be", "--max_new_tokens=5"]) == expected
    with pytest.raises(UsageError, match="prompt and start are given: give only one of them"):
        sample(str(trained), prompt="a", start="b")
    with pytest.raises(UsageError, match="CHECKPOINT and out_dir are given: give only one of them"):
        sample(str(trained), out_dir=str(trained))


def test_without_a_checkpoint_those_that_there_are_are_named(trained):
    with pytest.raises(UsageError, match=r"^CHECKPOINT is missing: train.py makes one$"):
        sample()
    shutil.copytree(trained, "out/mine")
    with pytest.raises(UsageError, match=r"^CHECKPOINT is missing: there is out/mine$"):
        sample()


def test_no_checkpoint_is_explained():
    with pytest.raises(UsageError, match=r"no checkpoint out.gone"):
        sample("out/gone")


@pytest.mark.parametrize("top_p", [1e-46, 1e-300])
def test_the_likeliest_token_is_always_left(top_p, trained):
    assert sample(str(trained), top_p=top_p, max_new_tokens=3) == sample(str(trained), top_k=1, max_new_tokens=3)
