"""Text in, tokens out, text back; a dataset is complete or absent, and what is read of it is what was written."""

import contextlib
import hashlib
import json
import math
import shutil
import sys
import urllib.error
import urllib.request
from pathlib import Path

import numpy as np
import pytest
import tiktoken
import torch
from hypothesis import given
from hypothesis import strategies as st

import prepare as prepare_py
from conftest import mistake, small, tiny_encoding
from model import GPT
from prepare import Split, Tokenizer, blocks, load_dataset, prepare, same_data, split, stdlib_files, write_dataset
from train import evaluate

TEXT = "Héllo wörld, λ!\n" * 50
texts = st.text(st.characters(codec="utf-8"))


def read(folder):
    meta = json.loads((folder / "meta.json").read_text())
    return meta, {p: np.fromfile(folder / f"{p}.bin", meta["dtype"]) for p in ("train", "val")}


# ---------------------------------------------------------------------------- what is written


def test_bytes_of_a_text_are_split_at_its_tail_between_characters():
    Path("a.txt").write_text(TEXT, encoding="utf-8")
    folder = prepare("a.txt")
    _, tokens = read(folder)
    assert folder == Path("data/a") and [*Path("data").iterdir()] == [folder]
    assert sorted(p.name for p in folder.iterdir()) == ["meta.json", "train.bin", "val.bin"]
    assert bytes(tokens["train"]).decode() + bytes(tokens["val"]).decode() == TEXT
    assert len(tokens["train"]) == pytest.approx(0.9 * len(TEXT.encode()), abs=3)


def test_meta_says_what_the_files_are():
    Path("a.txt").write_text(TEXT, encoding="utf-8")
    folder = prepare("a.txt", val_fraction=0.25)
    meta, tokens = read(folder)
    assert meta["sha256"] == hashlib.sha256(TEXT.encode()).hexdigest()
    assert (meta["tokenizer"], meta["vocab_size"], meta["dtype"]) == ("bytes", 256, "uint8")
    for part in ("train", "val"):
        digest = hashlib.sha256((folder / f"{part}.bin").read_bytes()).hexdigest()
        assert meta[part] == {"tokens": len(tokens[part]), "bytes": len(tokens[part]), "sha256": digest}
    assert meta["source"] == "a.txt"
    assert meta["command"] == "python prepare.py a.txt --tokenizer=bytes --val_fraction=0.25 --name=a"


def test_the_dataset_of_an_encoding_carries_it(tiny, monkeypatch):
    Path("a.txt").write_text(TEXT, encoding="utf-8")
    folder = prepare("a.txt", tokenizer="gpt2")
    meta, tokens = read(folder)
    assert folder.name == "a-gpt2" and meta["dtype"] == "uint16"
    thawed = Tokenizer.thaw(load_dataset("a-gpt2").tokenizer)
    assert thawed.decode([*tokens["train"], *tokens["val"]]) == TEXT
    assert meta["train"]["bytes"] + meta["val"]["bytes"] == len(TEXT.encode())
    monkeypatch.setattr(type(tiny), "n_vocab", property(lambda self: 100_277))  # as cl100k_base's
    assert read(prepare("a.txt", tokenizer="gpt2", name="b"))[0]["dtype"] == "uint32"


def test_many_files_are_held_out_whole():
    for i in range(40):
        Path(f"{i}.txt").write_text(f"file {i}\n" * 10)
    files = sorted(Path().glob("*.txt"))
    train, val = split(files, 0.1)
    assert sorted(s[0] for s in train + val) == files and len(val) in (3, 4)
    assert all(start == 0 and stop == path.stat().st_size for path, start, stop in train + val)
    fewer = [p for p in files if p != train[0][0]]
    assert len({*split(fewer, 0.1)[1]} & {*val}) >= len(val) - 1


def test_few_files_are_split_at_the_tail_of_the_last():
    Path("s.txt").write_bytes(b"x" * 1_115_394)  # tiny Shakespeare's size, split as nanoGPT splits it
    assert split([Path("s.txt")], 0.1) == ([(Path("s.txt"), 0, 1_003_854)], [(Path("s.txt"), 1_003_854, 1_115_394)])
    a, b = Path("a.txt"), Path("b.txt")
    a.write_bytes(b"x" * 300)
    b.write_bytes(b"x" * 700)
    assert split([a, b], 0.1) == ([(a, 0, 300), (b, 0, 600)], [(b, 600, 700)])


def test_a_large_file_is_encoded_in_blocks_of_whole_lines(monkeypatch):
    monkeypatch.setattr(prepare_py, "BLOCK", 100)
    Path("t.txt").write_text("λ some words here\n" * 50, encoding="utf-8")
    size = Path("t.txt").stat().st_size
    for stop in (size, size - 5):
        parts = [*blocks([(Path("t.txt"), 19, stop)], True)]
        assert b"".join(parts) == Path("t.txt").read_bytes()[19:stop]
        assert len(parts) > 5 and all(part.endswith(b"\n") and len(part) < 120 for part in parts[:-1])


def test_a_folder_s_texts_are_taken_and_the_rest_is_named(capsys):
    Path("notes/sub").mkdir(parents=True)
    Path("notes/a.txt").write_text("alpha " * 30)
    Path("notes/sub/b.md").write_text("beta " * 30)
    Path("notes/picture.png").write_bytes(b"\x89PNG\0")
    Path("notes/.hidden").write_text("secret")
    meta, _ = read(prepare("notes", "notes/a.txt", name="x"))  # a text counts once
    assert meta["train"]["bytes"] + meta["val"]["bytes"] == 330
    assert "notes: 2 files taken, 1 without text left out" in capsys.readouterr().out


def test_a_dataset_of_another_text_is_replaced_only_with_overwrite(tiny):
    Path("a.txt").write_text("one " * 100)
    old = read(prepare("a.txt"))[0]
    assert read(prepare("a.txt"))[0] == old  # the same text is fine
    assert mistake(prepare, "a.txt", tokenizer="gpt2", name="a").startswith(
        "data/a holds another dataset (tokenizer was bytes, is gpt2): choose another --name, or replace it"
    )
    Path("a.txt").write_text("two " * 50)
    assert "data/a holds another dataset (train.bin was " in mistake(prepare, "a.txt")
    assert read(Path("data/a"))[0] == old and [p.name for p in Path("data").iterdir()] == ["a"]
    Path("data/a/meta.json").write_text("{bad")
    assert "data/a holds another dataset (its meta.json is damaged): " in mistake(prepare, "a.txt")
    assert read(prepare("a.txt", overwrite=True))[0]["train"]["tokens"] == 180
    assert prepare("a.txt", tokenizer="gpt2", name="a", overwrite=True)
    prepare("a.txt", overwrite=True)
    assert load_dataset("a").tokenizer == {"name": "bytes"} and [p.name for p in Path("data").iterdir()] == ["a"]


def test_nothing_but_a_dataset_is_replaced():
    Path("a.txt").write_text("one " * 100)
    prepare("a.txt")
    Path("data/photos").mkdir()
    for file in (Path("data/photos/me.jpg"), Path("data/a/mine.txt")):
        file.write_text("keep")
        message = mistake(prepare, "a.txt", name=file.parent.name, overwrite=True)
        assert message == f"{file.parent} exists and is not only a dataset: choose another --name"
        assert file.exists()


def test_the_same_data_are_so_by_tokenizer_and_sha256():
    meta = {"tokenizer": "bytes", "train": {"sha256": "a" * 64}, "val": {"sha256": "b" * 64}}
    assert same_data(meta, meta | {"source": "elsewhere"}) == ""
    assert same_data(meta, meta | {"tokenizer": "gpt2"}) == "tokenizer was bytes, is gpt2"
    assert same_data(meta, meta | {"val": {"sha256": "c" * 64}}) == f"val.bin was {'b' * 12}, is {'c' * 12}"


# ---------------------------------------------------------------------------- which text


def test_the_standard_library_is_found_in_order_without_tests_and_packages():
    files = stdlib_files()
    assert files == sorted(files) == stdlib_files() and len(files) > 300
    assert {"argparse.py", "heapq.py"} <= {p.name for p in files}
    assert not {part for p in files for part in p.parts} & {"site-packages", "test", "tests", "idle_test"}
    assert sum(p.stat().st_size for p in files) > 5e6


def test_the_standard_library_is_prepared_where_it_is_missing(monkeypatch, tiny):
    Path("a.py").write_text("import this\n" * 99)
    monkeypatch.setattr(prepare_py, "stdlib_files", lambda: [Path("a.py")])
    assert load_dataset("stdlib").meta["source"] == f"stdlib (Python {sys.version.split()[0]})"
    assert load_dataset("stdlib-gpt2").meta["tokenizer"] == "gpt2"


class Page:
    def __init__(self, content):
        self.read = lambda: content


def test_shakespeare_is_downloaded_once_and_checked(monkeypatch):
    monkeypatch.setattr(urllib.request, "urlopen", lambda url, timeout: Page(b"not Shakespeare"))
    assert f"not {prepare_py.SHAKESPEARE_SHA256}" in mistake(prepare, "shakespeare")
    monkeypatch.setattr(prepare_py, "SHAKESPEARE_SHA256", hashlib.sha256(TEXT.encode()).hexdigest())
    monkeypatch.setattr(urllib.request, "urlopen", lambda url, timeout: Page(TEXT.encode()))
    assert prepare("shakespeare") == Path("data/tinyshakespeare")
    monkeypatch.setattr(urllib.request, "urlopen", None)  # the second time it is there, as if put there by hand
    prepare("shakespeare")
    Path("data/tinyshakespeare.txt").write_text("not Shakespeare")
    assert "remove data/tinyshakespeare.txt" in mistake(prepare, "shakespeare")


def test_what_needs_a_network_says_how_to_do_without(monkeypatch):
    def refuse(url, timeout=0):
        raise urllib.error.URLError("no route to host")

    monkeypatch.setattr(urllib.request, "urlopen", refuse)
    message = mistake(prepare, "shakespeare")
    assert "no route to host" in message and "data/tinyshakespeare.txt" in message
    monkeypatch.setattr(tiktoken, "get_encoding", refuse)
    message = mistake(prepare, "a.txt", tokenizer="gpt2")
    assert "URLError" in message and "TIKTOKEN_CACHE_DIR" in message and "--tokenizer=bytes" in message


# ---------------------------------------------------------------------------- mistakes

LATIN = "latin.txt is not UTF-8: convert it (iconv -f latin1 -t utf-8), or take --tokenizer=bytes"
RANGE = "val_fraction=1.0: must be more than 0 and less than 1"


@pytest.mark.parametrize(
    "sources, options, message",
    [
        ("", {}, "SOURCES is missing: stdlib, shakespeare, or text files and folders"),
        ("a.txt short.txt", {}, "several sources need a --name"),
        ("gone.txt", {}, "no file or folder gone.txt"),
        ("stdlb", {}, "no file or folder stdlb (did you mean stdlib?)"),
        ("empty.txt", {}, "empty.txt is empty"),
        ("picture.png", {}, "picture.png is not text: it holds a NUL byte"),
        ("utf16.txt", {"tokenizer": "gpt2"}, "utf16.txt is UTF-16: convert it (iconv -f utf-16 -t utf-8)"),
        ("latin.txt", {"tokenizer": "gpt2"}, LATIN),
        ("dark", {}, "no text in folder dark (1 files looked at)"),
        ("short.txt", {}, "the text is too short: val gets 1 tokens, and needs at least 2"),
        ("short.txt", {"val_fraction": 0.9}, "the text is too short: train gets 0 tokens, and needs at least 2"),
        ("a.txt", {"val_fraction": 1.0}, RANGE),
        ("a.txt", {"name": "../x"}, "name=../x: must be the name of a folder, which goes under data/"),
        ("a.txt", {"name": ".x"}, "name=.x: must be the name of a folder, which goes under data/"),
        ("a.txt", {"tokenizer": "gtp2"}, "no tokenizer gtp2: bytes or gpt2, "),
    ],
)
def test_what_cannot_be_prepared_is_one_line_and_leaves_nothing(tiny, sources, options, message):
    Path("a.txt").write_text(TEXT, encoding="utf-8")
    Path("empty.txt").touch()
    Path("short.txt").write_text("abc")
    Path("latin.txt").write_bytes("café ".encode("latin-1") * 100)
    Path("utf16.txt").write_text(TEXT, encoding="utf-16")
    Path("dark").mkdir()
    for path in ("picture.png", "dark/x.png"):
        Path(path).write_bytes(b"\x89PNG\0\0")
    found = mistake(prepare, *sources.split(), **options)
    assert found == message or (message.endswith(" ") and found.startswith(message) and "did you mean gpt2?" in found)
    assert not [*Path().glob("data/*")]


def test_any_text_may_be_taken_as_bytes():
    Path("latin.txt").write_bytes("café ".encode("latin-1") * 100)
    assert bytes(read(prepare("latin.txt"))[1]["train"][:5]) == b"caf\xe9 "


# ---------------------------------------------------------------------------- tokenizers


@pytest.mark.parametrize("encoding", [None, *(tiny_encoding(name) for name in ("gpt2", "cl100k_base", "o200k_base"))])
@given(text=texts)
def test_every_text_comes_back_also_when_frozen_and_thawed(encoding, text):
    tokenizer = Tokenizer(encoding)
    ids = tokenizer.encode(text).tolist()
    assert tokenizer.decode(ids) == text and tokenizer.encode(text.encode()).tolist() == ids
    assert b"".join(map(tokenizer.bytes_of, ids)) == text.encode()
    thawed = Tokenizer.thaw(json.loads(json.dumps(tokenizer.freeze())))
    assert thawed.encode(text).tolist() == ids and thawed.vocab_size == tokenizer.vocab_size


def test_stream_gives_whole_characters_and_marks_what_is_none():
    tokenizer = Tokenizer()
    assert list(tokenizer.stream("λa".encode())) == ["", "λ", "a", ""]
    assert tokenizer.decode([0xFF, 65]) == "\ufffdA"
    assert Tokenizer(tiny_encoding()).decode([65, 10_000]) == "A"  # a row that pads the embedding


def test_end_of_text_in_a_text_is_text():
    tokenizer = Tokenizer(tiny_encoding())
    ids = tokenizer.encode("<|endoftext|>").tolist()
    assert len(ids) > 1 and tokenizer.decode(ids) == "<|endoftext|>"


# ---------------------------------------------------------------------------- what is read


@given(st.integers(2, 80), st.integers(1, 9), st.integers(1, 4), st.integers(1, 90) | st.none())
def test_evaluation_in_order_predicts_each_token_once(n, block_size, batch_size, limit):
    for tokens in (torch.arange(n, dtype=torch.int32), np.arange(n, dtype=np.uint16)):  # in memory, on disk
        found = []
        for x, y in Split(tokens, block_size).in_order(batch_size, limit):
            assert x.shape == y.shape == (batch_size, block_size) and x.dtype == y.dtype == torch.int64
            assert (y == x + 1)[y >= 0].all()
            found += y[y >= 0].tolist()
        assert found == [*range(1, min(n - 1, limit or n) + 1)]


@given(n=st.integers(2, 80), block_size=st.integers(1, 9), length=st.none() | st.integers(2, 9))
def test_windows_lie_within_the_split_and_reach_its_ends(n, block_size, length):
    block_size, record = (length, {"length": length, "after": "\3"}) if length else (block_size, None)
    split = Split(np.arange(max(n, block_size + 1)), block_size, record)
    x, y = split.windows(np.arange(split.n_windows))
    assert x[:, 0].tolist() == [*range(0, split.n_windows * split.stride, split.stride)]
    assert (x == x[:, :1] + torch.arange(block_size)).all() and (y == x + 1)[y >= 0].all()
    assert len(split.tokens) - split.stride <= x.max() + 1 < len(split.tokens)


@pytest.fixture
def records():
    """Records of 6 bytes, in which what follows a + counts, as data/records."""
    texts = {
        part: [f"{i % 9}+{i % 7}{i % 8}+{i % 5}".encode() for i in range(n)] for part, n in (("train", 40), ("val", 11))
    }
    return write_dataset("records", {"record": {"length": 6, "after": "+", "example": "1+"}}, texts), texts


def test_of_a_record_only_its_answers_count(records):
    data = load_dataset("records", block_size=6)
    x, y = data.train.windows(np.arange(data.train.n_windows))
    assert [bytes(row.tolist()) for row in x] == records[1]["train"][:-1]  # the last one's y would need a token more
    assert (y[:, [0, 2, 3, 5]] == -1).all() and torch.equal(y[:, [1, 4]], x[:, [2, 5]])


def test_records_as_they_were_before_are_refused(records):
    path = records[0] / "meta.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"record": {"length": 6, "scored": [2, 5]}}))
    message = mistake(load_dataset, "records", "cpu", 6)
    assert message == "data/records is damaged (KeyError: 'after'); prepare it again with --overwrite"


def test_the_loss_of_records_is_the_mean_over_all_answers(records):
    val = load_dataset("records", block_size=6).val
    torch.manual_seed(0)
    gpt = GPT(small(block_size=6, vocab_size=256)).eval()
    with torch.no_grad():
        p = gpt(val.tokens.view(-1, 6).long()).log_softmax(-1)
    answers = [-p[r, i - 1, val.tokens[6 * r + i]].item() for r in range(11) for i in (2, 5)]
    for batch_size in (1, 4, 11, 16):
        found = evaluate(gpt, gpt, val, batch_size, None, contextlib.nullcontext())
        assert found["val_loss"] == pytest.approx(np.mean(answers), rel=1e-5)


@pytest.mark.parametrize("eval_tokens", [1, 7, 20, None])
def test_bits_per_byte_are_over_the_bytes_of_the_tokens_that_are_evaluated(tiny, eval_tokens):
    Path("a.txt").write_text("the hello λ\n" * 60, encoding="utf-8")
    folder = prepare("a.txt", tokenizer="gpt2")
    val = read(folder)[1]["val"]
    targets = val[1:][:eval_tokens]
    size = sum(len(tiny.decode_single_token_bytes(i)) for i in targets)
    assert len(targets) < size
    found = load_dataset("a-gpt2", block_size=8, eval_tokens=eval_tokens).bits_per_nat
    assert type(found) is float and found == pytest.approx(len(targets) / size / math.log(2))
    prepare("a.txt")
    assert load_dataset("a", eval_tokens=eval_tokens).bits_per_nat == pytest.approx(1 / math.log(2))  # a byte a token


def test_a_large_split_stays_on_disk(corpus, monkeypatch):
    memory = load_dataset(corpus, block_size=8)
    monkeypatch.setattr(prepare_py, "IN_MEMORY", 10)
    disk = load_dataset(corpus, block_size=8)
    assert isinstance(disk.val.tokens, np.memmap) and disk.bits_per_nat == memory.bits_per_nat
    assert torch.equal(disk.val.windows(np.arange(9))[1], memory.val.windows(np.arange(9))[1])


def test_a_dataset_is_found_by_its_name_and_as_a_shell_completes_it(corpus):
    shutil.copytree(corpus, "data/hamlet")
    shutil.copytree(corpus, "mine")
    for name in ("hamlet", "data/hamlet", "data/hamlet/", "./mine"):
        assert load_dataset(name).meta == load_dataset(corpus).meta


def test_a_dataset_that_cannot_be_used_is_explained(corpus, records):
    message = "no dataset data/recrds (did you mean records?): there is records; python prepare.py makes one"
    assert mistake(load_dataset, "recrds") == message
    message = "data/records consists of records of 6 tokens: block_size must be 6, and eval_tokens no less"
    for block_size, eval_tokens in ((5, None), (6, 5)):
        assert mistake(load_dataset, "records", "cpu", block_size, eval_tokens) == message
    assert "tokens to train on: too few for block_size=100000" in mistake(load_dataset, corpus, block_size=100_000)


@pytest.mark.parametrize("file, content", [("val.bin", b"shorter"), ("meta.json", b"{"), ("tokenizer.json", b"{}")])
def test_a_damaged_dataset_is_explained_and_can_be_made_again(tiny, file, content):
    Path("a.txt").write_text(TEXT, encoding="utf-8")
    folder = prepare("a.txt", tokenizer="gpt2")
    whole = bytearray((folder / file).read_bytes())
    whole[0] ^= 1
    for damaged in (content, whole):
        (folder / file).write_bytes(damaged)
        message = mistake(load_dataset, "a-gpt2")
        assert message.startswith("data/a-gpt2 is damaged (") and "prepare it again with --overwrite" in message
    prepare("a.txt", tokenizer="gpt2", overwrite=True)
    assert load_dataset("a-gpt2")
