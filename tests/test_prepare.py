"""Text in, tokens out, text back; and nothing left behind when that cannot be."""

import hashlib
import json
import os
import re
import sys
import urllib.error
import urllib.request
from pathlib import Path

import numpy as np
import pytest
import tiktoken
from hypothesis import example, given
from hypothesis import strategies as st

import prepare as prepare_py
from configurable import UsageError, parse, run
from conftest import tiny_encoding
from prepare import Tokenizer, narrow, pieces, prepare, split, stdlib_files

TEXT = "Héllo wörld, λ!\n" * 50


unix = pytest.mark.skipif(os.name == "nt", reason="links of Unix")


def read(folder):
    meta = json.loads((folder / "meta.json").read_text())
    return meta, {p: np.fromfile(folder / f"{p}.bin", meta["dtype"]) for p in ("train", "val")}


def mistake(*sources, **options):
    with pytest.raises(UsageError) as error:
        prepare(*sources, **options)
    assert not Path("data").exists()
    return str(error.value)


# ---------------------------------------------------------------------------- what is written


def test_bytes_of_one_text_are_split_at_its_tail_and_come_back():
    Path("a.txt").write_text(TEXT, encoding="utf-8")
    folder = prepare("a.txt")
    _, tokens = read(folder)
    assert folder == Path("data/a")
    whole = np.concatenate([tokens["train"], tokens["val"]])
    assert Tokenizer().decode(whole.tolist()) == TEXT
    assert len(tokens["train"]) == pytest.approx(0.9 * len(whole), abs=3)
    Tokenizer().decode(tokens["val"].tolist()).encode("utf-8")
    assert "\ufffd" not in Tokenizer().decode(tokens["val"].tolist())
    assert sorted(p.name for p in folder.iterdir()) == ["meta.json", "train.bin", "val.bin"]
    assert list(Path("data").iterdir()) == [folder]


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


def test_the_split_of_tiny_shakespeare_is_nanogpt_s(tmp_path):
    size = 1_115_394
    Path("s.txt").write_bytes(b"x" * size)
    (_, _, cut), (_, start, stop) = (segments[0] for segments in split([Path("s.txt")], 0.1))
    assert (cut, start, stop) == (1_003_854, 1_003_854, size)


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
    for name, n in (("a.txt", 300), ("b.txt", 700)):
        Path(name).write_bytes(b"x" * n)
    train, val = split([Path("a.txt"), Path("b.txt")], 0.1)
    assert train == [(Path("a.txt"), 0, 300), (Path("b.txt"), 0, 600)]
    assert val == [(Path("b.txt"), 600, 700)]


def test_a_folder_s_texts_are_taken_and_the_rest_is_named(capsys):
    Path("notes/sub").mkdir(parents=True)
    Path("notes/a.txt").write_text("alpha " * 30)
    Path("notes/sub/b.md").write_text("beta " * 30)
    Path("notes/picture.png").write_bytes(b"\x89PNG\0")
    Path("notes/.hidden").write_text("secret")
    meta, _ = read(prepare("notes"))
    assert meta["train"]["bytes"] + meta["val"]["bytes"] == 330
    assert "notes: 2 files taken, 1 without text left out" in capsys.readouterr().out


def test_preparing_again_replaces_a_dataset_but_nothing_else():
    Path("a.txt").write_text("one " * 100)
    prepare("a.txt")
    Path("a.txt").write_text("two " * 50)
    assert read(prepare("a.txt"))[0]["train"]["tokens"] == 180
    Path("data/photos").mkdir()
    Path("data/photos/me.jpg").write_text("")
    for name in ("photos", "a"):
        with pytest.raises(UsageError, match=f"data/{name} exists and is not only a dataset: choose another --name"):
            prepare("a.txt", name=name)
        assert Path("data/photos/me.jpg").exists() and Path("data/a/train.bin").exists()
        Path("data/a/mine.txt").write_text("keep")
    assert Path("data/a/mine.txt").exists()


def test_a_text_inside_the_folder_to_be_replaced_is_safe():
    Path("a.txt").write_text("one " * 100)
    prepare("a.txt")
    for source in ("data/a", "data/a/meta.json"):
        with pytest.raises(UsageError, match="the text lies in data/a, which would be replaced: choose another --name"):
            prepare(source, name="a")
    assert Path("data/a/meta.json").exists() and Path("data/a/train.bin").exists()


def test_memory_does_not_grow_with_the_file(monkeypatch):
    monkeypatch.setattr(prepare_py, "PIECE", 1000)
    taken, encoded, ahead = [], [], []
    encode, stream = Tokenizer.encode, pieces

    def count_taken(*args):
        for piece in stream(*args):
            taken.append(len(piece[1]))
            ahead.append(len(taken) - len(encoded))
            yield piece

    def count_encoded(self, text, where):
        encoded.append(len(text))
        return encode(self, text, where)

    monkeypatch.setattr(Tokenizer, "encode", count_encoded)
    monkeypatch.setattr(prepare_py, "pieces", count_taken)
    Path("a.txt").write_text("some words here\n" * 50_000)
    prepare("a.txt")
    assert sum(taken) == sum(encoded) == 800_000
    assert max(taken) == 1000 and max(ahead) <= 4 * os.cpu_count()


def test_several_sources_need_a_name():
    for i in "ab":
        Path(f"{i}.txt").write_text(i * 100)
    assert mistake("a.txt", "b.txt") == "several sources need a --name"
    assert mistake().startswith("SOURCES is missing: stdlib, shakespeare, or text files")
    assert read(prepare("a.txt", "b.txt", name="ab"))[0]["train"]["tokens"] == 180


# ---------------------------------------------------------------------------- the standard library


def test_the_standard_library_is_found_in_order_without_tests_and_packages():
    files = stdlib_files()
    assert files == sorted(files) == stdlib_files() and len(files) > 300
    names = {p.name for p in files}
    assert {"argparse.py", "heapq.py"} <= names
    parts = {part for p in files for part in p.parts}
    assert not parts & {"site-packages", "test", "tests", "idle_test"}
    assert sum(p.stat().st_size for p in files) > 5e6


def test_a_python_without_sources_says_what_to_do(monkeypatch):
    monkeypatch.setattr(prepare_py.sysconfig, "get_paths", lambda: {"stdlib": "nowhere"})
    assert "give your own, python prepare.py your.txt" in mistake("stdlib")


def test_the_standard_library_s_version_is_its_source(monkeypatch):
    monkeypatch.setattr(prepare_py, "stdlib_files", lambda: [Path("a.py")])
    Path("a.py").write_text("import this\n" * 99)
    meta, _ = read(prepare("stdlib"))
    assert meta["source"] == f"stdlib (Python {sys.version.split()[0]})"


# ---------------------------------------------------------------------------- downloads


def test_shakespeare_without_a_network_names_both_ways_out(monkeypatch):
    def refuse(url, timeout):
        assert url.startswith("https://") and timeout <= 60
        raise urllib.error.URLError("no route to host")

    monkeypatch.setattr(urllib.request, "urlopen", refuse)
    message = mistake("shakespeare")
    assert "no route to host" in message and "\n" not in message
    assert "python prepare.py stdlib" in message and "python prepare.py your.txt" in message


class Page:
    def __init__(self, content):
        self.content = content

    def read(self):
        return self.content


def test_shakespeare_is_checked_against_its_sha256(monkeypatch):
    monkeypatch.setattr(urllib.request, "urlopen", lambda url, timeout: Page(b"not Shakespeare"))
    assert f"not {prepare_py.SHAKESPEARE_SHA256}" in mistake("shakespeare")
    monkeypatch.setattr(prepare_py, "SHAKESPEARE_SHA256", hashlib.sha256(TEXT.encode()).hexdigest())
    monkeypatch.setattr(urllib.request, "urlopen", lambda url, timeout: Page(TEXT.encode()))
    assert prepare("shakespeare") == Path("data/tinyshakespeare")
    monkeypatch.setattr(urllib.request, "urlopen", None)  # the second time it is there
    prepare("shakespeare")
    Path("data/tinyshakespeare.txt").write_text("not Shakespeare")
    with pytest.raises(UsageError, match=r"remove data.tinyshakespeare.txt"):
        prepare("shakespeare")


def test_an_encoding_that_cannot_be_loaded_is_explained(monkeypatch):
    def refuse(name):
        raise ConnectionError("no network")

    monkeypatch.setattr(tiktoken, "get_encoding", refuse)
    Path("a.txt").write_text(TEXT)
    message = mistake("a.txt", tokenizer="gpt2")
    assert "could not load tokenizer gpt2 (ConnectionError" in message and "--tokenizer=bytes" in message


# ---------------------------------------------------------------------------- mistakes


def test_what_cannot_be_prepared_is_one_line_and_leaves_nothing():
    Path("empty.txt").write_text("")
    Path("picture.png").write_bytes(b"\x89PNG\0\0")
    Path("short.txt").write_text("abc")
    Path("dark").mkdir()
    Path("dark/x.png").write_bytes(b"\0")
    Path("latin.txt").write_bytes("café ".encode("latin-1") * 100)
    assert mistake("gone.txt") == "no file or folder gone.txt"
    assert mistake("stdlb") == "no file or folder stdlb (did you mean stdlib?)"
    assert mistake("needles") == "no file or folder needles: python -m lab.needles makes them"
    assert mistake("empty.txt") == "empty.txt is not text: it is empty"
    assert mistake("picture.png") == "picture.png is not text: it holds a NUL byte"
    assert mistake("dark") == "no text in folder dark (1 files looked at)"
    assert mistake("short.txt") == "the text is too short: val gets 1 tokens, and needs at least 2"
    message = mistake("short.txt", val_fraction=0.9)
    assert message == "the text is too short: train gets 0 tokens, and needs at least 2"
    assert mistake("short.txt", val_fraction=1.0) == "val_fraction=1.0: must be more than 0 and less than 1"
    assert mistake("short.txt", tokenizer="gtp2").endswith("(did you mean gpt2?)")
    for name in ("../x", "a/b", "", ".", ".hidden"):
        assert mistake("short.txt", name=name) == f"name={name}: must be the name of a folder, which goes under data/"


def test_a_text_in_another_encoding_is_named_unless_it_is_taken_as_bytes(tiny):
    Path("latin.txt").write_bytes("café ".encode("latin-1") * 100)
    message = mistake("latin.txt", tokenizer="gpt2")
    assert message.startswith("latin.txt is not UTF-8 (a byte 0xe9 is out of place)") and "iconv" in message
    _, tokens = read(prepare("latin.txt"))
    assert tokens["train"][:5].tolist() == list(b"caf\xe9 ")


def test_an_id_that_does_not_fit_is_refused_and_never_wrapped():
    assert narrow(np.array([65535], np.uint32), "uint16", 70000).tolist() == [65535]
    with pytest.raises(UsageError, match="token 65536 does not fit into uint16"):
        narrow(np.array([65536], np.uint32), "uint16", 70000)
    with pytest.raises(UsageError, match="token 300 does not fit into uint16 or a vocabulary of 256"):
        narrow(np.array([300], np.uint32), "uint16", 256)


def test_a_large_vocabulary_is_uint32(monkeypatch, tiny):
    monkeypatch.setattr(type(tiny), "n_vocab", property(lambda self: 100_277))
    Path("a.txt").write_text(TEXT, encoding="utf-8")
    folder = prepare("a.txt", tokenizer="cl100k_base")
    assert folder.name == "a-cl100k_base" and read(folder)[0]["dtype"] == "uint32"


# ---------------------------------------------------------------------------- tokenizers


@given(st.text())
def test_bytes_come_back(text):
    tokenizer = Tokenizer()
    text = text.encode("utf-8", "replace").decode()
    assert tokenizer.decode(tokenizer.encode(text).tolist()) == text


@given(st.text())
def test_an_encoding_comes_back_also_when_frozen_and_thawed(text):
    tokenizer = Tokenizer(tiny_encoding())
    text = text.encode("utf-8", "replace").decode()
    ids = tokenizer.encode(text)
    assert tokenizer.decode(ids.tolist()) == text
    frozen = json.loads(json.dumps(tokenizer.freeze()))
    assert Tokenizer.thaw(frozen).encode(text).tolist() == ids.tolist()
    assert Tokenizer.thaw(frozen).vocab_size == tokenizer.vocab_size


fragments = ["a", "the", " ", "\n", "\r\n", "\t", "λ", "42", ";", "();", "//", "'s", "hello", "\xa0"]


@pytest.mark.parametrize("name", ["gpt2", "cl100k_base", "o200k_base"])
@given(text=st.lists(st.sampled_from(fragments), max_size=200).map("".join), size=st.integers(1, 40))
@example(text="a\n\nb", size=2)
@example(text="a\n b", size=2)
@example(text="a();\n//b", size=5)
def test_pieces_encode_to_the_same_tokens_apart_as_together(name, text, size):
    text, coder = text.encode(), Tokenizer(tiny_encoding(name))
    Path("t.txt").write_bytes(text)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(prepare_py, "PIECE", size)
        parts = [piece for _, piece in pieces([(Path("t.txt"), 0, len(text))], coder)]
    assert b"".join(parts) == text
    assert [i for part in parts for i in coder.encode(part).tolist()] == coder.encode(text).tolist()


def test_lines_are_where_a_text_is_cut(monkeypatch):
    monkeypatch.setattr(prepare_py, "PIECE", 100)
    Path("t.txt").write_text("some words here\n" * 50)
    parts = [piece for _, piece in pieces([(Path("t.txt"), 0, 800)], Tokenizer(tiny_encoding()))]
    assert len(parts) >= 8 and all(part.endswith(b"\n") and len(part) % 16 == 0 for part in parts)


def test_a_line_without_an_end_is_cut_between_characters(monkeypatch):
    monkeypatch.setattr(prepare_py, "PIECE", 10)
    monkeypatch.setattr(prepare_py, "LONGEST_PIECE", 30)
    Path("t.txt").write_text("λ" * 100, encoding="utf-8")
    parts = [piece.decode() for _, piece in pieces([(Path("t.txt"), 0, 200)], Tokenizer(tiny_encoding()))]
    assert "".join(parts) == "λ" * 100 and len(parts) > 5


def test_stream_gives_whole_characters_and_marks_what_is_none():
    tokenizer = Tokenizer()
    assert list(tokenizer.stream("λa".encode())) == ["", "λ", "a", ""]
    assert tokenizer.decode([0xFF, 65, 300]) == "\ufffdA\ufffd"
    assert Tokenizer(tiny_encoding()).decode([65, 10_000]) == "A\ufffd"


def test_end_of_text_in_a_text_is_text():
    tokenizer = Tokenizer(tiny_encoding())
    ids = tokenizer.encode("<|endoftext|>").tolist()
    assert len(ids) > 1 and tokenizer.decode(ids) == "<|endoftext|>"


def test_the_dataset_of_an_encoding_carries_it(tiny):
    Path("a.txt").write_text(TEXT, encoding="utf-8")
    folder = prepare("a.txt", tokenizer="gpt2")
    assert folder.name == "a-gpt2"
    _, tokens = read(folder)
    thawed = Tokenizer.thaw(json.loads((folder / "tokenizer.json").read_text()))
    assert thawed.decode(np.concatenate([tokens["train"], tokens["val"]]).tolist()) == TEXT


def test_the_command_line_takes_sources_and_options():
    assert parse(prepare, ["a.txt", "b/", "--tokenizer=gpt2"]) == (["a.txt", "b/"], {"tokenizer": "gpt2"})


def test_bytes_that_are_no_characters_are_cut_where_a_piece_is_longest(monkeypatch, tiny):
    monkeypatch.setattr(prepare_py, "PIECE", 8)
    monkeypatch.setattr(prepare_py, "LONGEST_PIECE", 32)
    text = b"a" + b"\x80" * 100
    Path("odd.txt").write_bytes(text)
    coder = Tokenizer.named("gpt2")
    assert b"".join(piece for _, piece in pieces([(Path("odd.txt"), 0, len(text))], coder)) == text
    with pytest.raises(UsageError, match=r"odd\.txt is not UTF-8"):
        prepare("odd.txt", tokenizer="gpt2")


@unix
def test_no_text_is_left_out_without_a_word(capsys):
    for folder in ("notes/sub", "elsewhere/.git"):
        Path(folder).mkdir(parents=True)
    Path("notes/a.txt").write_text("alpha " * 30)
    Path("elsewhere/b.txt").write_text("beta " * 30)
    Path("elsewhere/.git/c.txt").write_text("gamma " * 30)
    Path("notes/sub/linked").symlink_to(Path("elsewhere").resolve(), target_is_directory=True)
    Path("notes/sub/up").symlink_to(Path("notes").resolve(), target_is_directory=True)
    Path("notes/broken").symlink_to("nowhere")
    meta, _ = read(prepare("notes"))
    assert meta["train"]["bytes"] + meta["val"]["bytes"] == 330
    assert "notes: 2 files taken, 1 without text left out" in capsys.readouterr().out


@unix
def test_a_link_that_leads_back_to_itself_is_a_mistake_in_one_line(capsys):
    Path("data").mkdir()
    Path("data/round").symlink_to("round")
    Path("a.txt").write_text("alpha " * 30)
    for words in (["a.txt", "--name=round"], ["data/round"]):
        with pytest.raises(SystemExit):
            run(prepare, words)
        assert re.fullmatch(r"prepare.py: .*\bround\b.*\n", capsys.readouterr().err)


def test_a_folder_that_cannot_be_read_is_named(monkeypatch):
    Path("notes/sub").mkdir(parents=True)
    Path("notes/a.txt").write_text("alpha " * 30)
    original = os.scandir

    def scandir(path):
        if str(path).endswith("sub"):
            raise PermissionError(13, "Permission denied", str(path))
        return original(path)

    monkeypatch.setattr(os, "scandir", scandir)
    assert mistake("notes") == "cannot read notes/sub: Permission denied"


def test_a_tokenizer_that_would_panic_is_refused(tiny):
    frozen = Tokenizer(tiny).freeze()
    few = " ".join(frozen["mergeable_ranks"].split(" ")[:100])
    twice = frozen["mergeable_ranks"] + " " + "AAAA:5"
    for wrong in ({"mergeable_ranks": few}, {"mergeable_ranks": twice}, {"pat_str": "("}):
        with pytest.raises(UsageError, match="has a tokenizer that prepare"):
            Tokenizer.thaw(frozen | wrong, "a.pt")
    for pattern in ("a*?", r"(?:(?:a?)*)*b(?=c)\\1|(a+)+(?!x)\\1"):  # the first panics, the second gives up
        with pytest.raises(UsageError, match="the tokenizer cannot encode the text"):
            Tokenizer.thaw(frozen | {"pat_str": pattern}).encode("a" * 5000)
