"""Text to tokens and back: data/<name>/train.bin, val.bin and meta.json, from a corpus or from your own files.

python prepare.py stdlib                      the source of Python's standard library, found on this machine
python prepare.py shakespeare                 tiny Shakespeare, 1.1 MB, downloaded
python prepare.py book.txt notes/             your own text, files and folders
python prepare.py stdlib --tokenizer=gpt2     in GPT-2's tokens instead of bytes
"""

import base64
import codecs
import hashlib
import itertools
import json
import math
import os
import shlex
import sys
import sysconfig
import tempfile
import urllib.request
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import numpy as np
import tiktoken
import torch
import torch.nn.functional as F
from tqdm import tqdm

from configurable import Range, UsageError, check, nearest, run

SHAKESPEARE = "https://raw.githubusercontent.com/karpathy/char-rnn/master/data/tinyshakespeare/input.txt"
SHAKESPEARE_SHA256 = "86c4e6aa9db7c042ec79f339dcb96d42b0075e16b8fc2e86bf0ca57e2dc565ed"
PARTS = ("train", "val")
BLOCK = 4 << 20  # bytes of a file that are encoded at a time
IN_MEMORY = 1 << 28  # tokens; a split larger than that stays on disk, memory-mapped


def prepare(
    *sources: str,  # stdlib, shakespeare, or text files and folders
    tokenizer: str = "bytes",  # bytes, or an encoding of tiktoken: gpt2, cl100k_base, o200k_base ...
    val_fraction: Annotated[float, Range(gt=0, lt=1)] = 0.1,  # share of the text kept for validation
    name: str | None = None,  # folder under data/; none: SOURCE, or SOURCE-TOKENIZER if not bytes
    overwrite: bool = False,  # replace a dataset of that name that holds another text
):
    """Turn text into tokens: data/<name>/train.bin and val.bin, and meta.json, which describes them."""
    check(prepare, {"val_fraction": val_fraction})
    coder = Tokenizer.named(tokenizer)
    files, corpus = find_files(sources)
    if len(sources) > 1 and name is None:
        raise UsageError("several sources need a --name")
    name = name or (corpus if tokenizer == "bytes" else f"{corpus}-{tokenizer}")
    parts = {
        part: blocks(some, bool(coder.encoding)) for part, some in zip(PARTS, split(files, val_fraction), strict=True)
    }
    options = [f"--tokenizer={tokenizer}", f"--val_fraction={val_fraction}", f"--name={name}"]
    meta = {
        "source": " ".join(sources) + (f" (Python {sys.version.split()[0]})" if "stdlib" in sources else ""),
        "command": shlex.join(["python", "prepare.py", *sources, *options]),
    }
    folder = write_dataset(name, meta, parts, coder, overwrite)
    meta = json.loads((folder / "meta.json").read_text(encoding="utf-8"))
    counts = f"{meta['train']['tokens']:,} tokens to train on, {meta['val']['tokens']:,} to validate"
    print(f"{folder}: {counts} ({tokenizer})\nnext: python train.py --dataset={folder.name}")
    return folder


def write_dataset(name, meta, parts, coder=None, overwrite=False):
    """Write data/<name> and return that folder: {part}.bin of each of `parts`, meta.json, and the frozen tokenizer.

    parts: {"train": an iterable of pieces of text, in bytes, "val": the same}. Raises UsageError where another text is
    there and `overwrite` is false, or something else than a dataset.
    """
    coder, folder = coder or Tokenizer(), Path("data") / name
    if Path(name).name != name or name.startswith("."):
        raise UsageError(f"name={name}: must be the name of a folder, which goes under data/")
    there = {path.name for path in folder.iterdir()} if folder.exists() else set()
    if there and not {"meta.json"} <= there <= {"train.bin", "val.bin", "meta.json", "tokenizer.json"}:
        raise UsageError(f"{folder} exists and is not only a dataset: choose another --name")
    dtype = next(d for d in ("uint8", "uint16", "uint32") if coder.vocab_size - 1 <= np.iinfo(d).max)
    meta = {"tokenizer": coder.name, "vocab_size": coder.vocab_size, "dtype": dtype, **meta}
    folder.parent.mkdir(exist_ok=True)
    with tempfile.TemporaryDirectory(dir=folder.parent, prefix=".") as beside:  # the dataset is complete or absent
        building = Path(beside) / "new"
        building.mkdir()
        text = hashlib.sha256()
        with tqdm(unit="B", unit_scale=True, desc=name, disable=None) as bar:
            for part, pieces in parts.items():
                meta[part] = write_part(building / f"{part}.bin", pieces, coder, dtype, text, bar)
        meta["sha256"] = text.hexdigest()
        if coder.encoding:
            (building / "tokenizer.json").write_text(json.dumps(coder.freeze()), encoding="utf-8")
        (building / "meta.json").write_text(json.dumps(meta, indent=1) + "\n", encoding="utf-8")
        if there and not overwrite:
            try:
                other = same_data(json.loads((folder / "meta.json").read_text(encoding="utf-8")), meta)
            except (ValueError, KeyError):
                other = "its meta.json is damaged"
            if other:
                ways = "choose another --name, or replace it with --overwrite"
                raise UsageError(f"{folder} holds another dataset ({other}): {ways}")
        if there:
            folder.rename(Path(beside) / "old")
        building.rename(folder)
    return folder


def write_part(path, pieces, coder, dtype, text, bar):
    """Encode pieces of text into a file of tokens. Returns its counts and sha256; feeds the text to the hash `text`."""
    counts, digest, pieces = {"tokens": 0, "bytes": 0}, hashlib.sha256(), iter(pieces)
    with open(path, "wb") as file:
        while batch := list(itertools.islice(pieces, 8)):  # tiktoken encodes the pieces of a batch side by side
            for piece, ids in zip(batch, coder.encode_batch(batch), strict=True):
                raw = ids.astype(dtype).tobytes()
                file.write(raw)
                digest.update(raw)
                text.update(piece)
                counts = {"tokens": counts["tokens"] + len(ids), "bytes": counts["bytes"] + len(piece)}
                bar.update(len(piece))
    if counts["tokens"] < 2:
        raise UsageError(f"the text is too short: {path.stem} gets {counts['tokens']} tokens, and needs at least 2")
    return counts | {"sha256": digest.hexdigest()}


def same_data(there, here):
    """'' where two meta.json describe the same tokens; else what differs."""
    if there["tokenizer"] != here["tokenizer"]:
        return f"tokenizer was {there['tokenizer']}, is {here['tokenizer']}"
    digests = {part: (there[part]["sha256"][:12], here[part]["sha256"][:12]) for part in PARTS}
    return "; ".join(f"{part}.bin was {was}, is {now}" for part, (was, now) in digests.items() if was != now)


# ---------------------------------------------------------------------------- tokenizers


class Tokenizer:
    """Text to ids and back: the bytes of UTF-8 as they are, or an `encoding` of tiktoken."""

    def __init__(self, encoding=None):
        self.encoding = encoding
        self.name, self.vocab_size = (encoding.name, encoding.n_vocab) if encoding else ("bytes", 256)

    @classmethod
    def named(cls, name):
        """The tokenizer of that name. Raises UsageError."""
        if name == "bytes":
            return cls()
        names = tiktoken.list_encoding_names()
        if name not in names:
            raise UsageError(f"no tokenizer {name}: bytes or {', '.join(names)}{nearest(name, ['bytes', *names])}")
        try:
            return cls(tiktoken.get_encoding(name))
        except Exception as error:  # whatever tiktoken's download raises
            reason = f"{type(error).__name__}; tiktoken downloads it once, into TIKTOKEN_CACHE_DIR"
            raise UsageError(
                f"could not load tokenizer {name} ({reason}). Without a network: --tokenizer=bytes"
            ) from None

    def freeze(self):
        """A dict from which `thaw` makes this tokenizer again, without a network."""
        if not self.encoding:
            return {"name": "bytes"}
        e = self.encoding
        ranks = sorted(e._mergeable_ranks.items(), key=lambda pair: pair[1])
        ranks = " ".join(f"{base64.b64encode(token).decode()}:{rank}" for token, rank in ranks)
        special = dict(e._special_tokens)
        return {"name": e.name, "pat_str": e._pat_str, "special_tokens": special, "mergeable_ranks": ranks}

    @classmethod
    def thaw(cls, frozen):
        """The tokenizer from which `freeze` made the dict."""
        if frozen["name"] == "bytes":
            return cls()
        pairs = (pair.split(":") for pair in frozen["mergeable_ranks"].split(" "))
        ranks = {base64.b64decode(token): int(rank) for token, rank in pairs}
        return cls(tiktoken.Encoding(**{**frozen, "mergeable_ranks": ranks}))

    def encode(self, text):
        """Ids of a text or of its bytes, as an array; "<|endoftext|>" in a text is text. Raises UsageError."""
        return self.encode_batch([text.encode("utf-8", "surrogateescape") if isinstance(text, str) else text])[0]

    def encode_batch(self, texts):
        """Arrays of the ids of several texts, in bytes. Raises UsageError where tiktoken's are not UTF-8."""
        if not self.encoding:
            return [np.frombuffer(text, np.uint8) for text in texts]
        texts = [check_utf8(text, "the text") for text in texts]
        return [np.array(ids, np.uint32) for ids in self.encoding.encode_ordinary_batch(texts)]

    def bytes_of(self, i):
        """The bytes of a token; none of a row that only pads the embedding."""
        try:
            return self.encoding.decode_single_token_bytes(i) if self.encoding else bytes([i])
        except (KeyError, ValueError):
            return b""

    def stream(self, ids):
        """The text of `ids` as they come, in complete characters; U+FFFD for bytes that are no character."""
        decoder = codecs.getincrementaldecoder("utf-8")("replace")
        for i in ids:
            yield decoder.decode(self.bytes_of(i))
        yield decoder.decode(b"", final=True)

    def decode(self, ids):
        """The text of `ids`."""
        return "".join(self.stream(ids))


# ---------------------------------------------------------------------------- reading a dataset


class Split:
    """The tokens of train.bin or val.bin, in windows: x and y, BT int64, where y is what follows each token of x.

    record: None, or {"length": bytes of a record, "after": a character}: windows are records then, and only what comes
    after that character counts in the loss.
    """

    def __init__(self, tokens, block_size, record=None):
        self.tokens, self.block_size, self.record = tokens, block_size, record
        self.stride = block_size if record else 1  # tokens from the beginning of a window to that of the next

    @property
    def n_windows(self):
        return (len(self.tokens) - self.block_size - 1) // self.stride + 1  # y needs a token more

    def windows(self, numbers):
        """x and y of the windows with these numbers, each from 0 to n_windows − 1; y is −1 where nothing counts."""
        index = self.stride * numbers[:, None] + np.arange(self.block_size + 1)
        windows = self.gather(index)
        return windows[:, :-1].contiguous(), self.scored(windows[:, :-1], windows[:, 1:])

    def in_order(self, batch_size, limit=None):
        """Batches x, y in which tokens 1 to `limit` are once in y, in order; the rest of y is −1."""
        size, end = batch_size * self.block_size, n_targets(self.tokens, limit)
        for start in range(0, end, size):
            part = self.gather(np.arange(start, min(start + size, end) + 1))
            missing = size - len(part) + 1  # the last batch gets the shape of the others: nothing is compiled anew
            x, y = F.pad(part[:-1], (0, missing)), F.pad(part[1:], (0, missing), value=-1)
            yield x.view(batch_size, -1), self.scored(x, y).view(batch_size, -1)

    def gather(self, index):
        """The tokens at a numpy array of positions, int64."""
        if isinstance(self.tokens, torch.Tensor):
            return self.tokens[to_device(torch.from_numpy(index), self.tokens.device)].long()
        return torch.from_numpy(self.tokens[index].astype(np.int64))

    def scored(self, x, y):
        """y with −1 for every token of a record that does not count."""
        return y.contiguous() if self.record is None else y.masked_fill(x != ord(self.record["after"]), -1)


@dataclass
class Dataset:
    """data/<name>, read."""

    folder: Path
    meta: dict  # meta.json
    tokenizer: dict  # frozen: Tokenizer.thaw makes it again
    train: Split
    val: Split
    bits_per_nat: float  # turns nats per token into bits per byte, for the tokens of val that are evaluated

    @property
    def name(self):
        return self.folder.name


def to_device(tensor, device):
    """A tensor on a device. Pinned memory goes to CUDA while CUDA works; a copy of other memory would wait for it."""
    if device.type == "cuda" and tensor.device.type == "cpu":
        return tensor.pin_memory().to(device, non_blocking=True)
    return tensor.to(device)


def n_targets(tokens, limit=None):
    """How many tokens are predicted when the first `limit` of a split are evaluated; none: all."""
    return min(len(tokens) - 1, limit or len(tokens))


def load_dataset(name, device="cpu", block_size=None, eval_tokens=None):
    """The Dataset data/<name>; the standard library is prepared where it is missing. Raises UsageError.

    Without a block_size its tokens can be read, but no windows.
    """
    folder = find_folder(name)
    try:
        meta = json.loads((folder / "meta.json").read_text(encoding="utf-8"))
        path = folder / "tokenizer.json"
        frozen = json.loads(path.read_text(encoding="utf-8")) if path.exists() else {"name": "bytes"}
        coder = Tokenizer.thaw(frozen)
        train, val = (read_part(folder, part, meta) for part in PARTS)
        record = meta.get("record")
        record = record and {name: record[name] for name in ("length", "after", "example")}  # earlier ones had others
    except (OSError, ValueError, KeyError) as error:
        why = f"{type(error).__name__}: {error}"
        raise UsageError(f"{folder} is damaged ({why}); prepare it again with --overwrite") from None
    if record and block_size and (block_size != record["length"] or (eval_tokens or block_size) < block_size):
        rule = f"block_size must be {record['length']}, and eval_tokens no less"
        raise UsageError(f"{folder} consists of records of {record['length']} tokens: {rule}")
    if block_size and len(train) <= block_size:
        raise UsageError(f"{folder} has {len(train)} tokens to train on: too few for block_size={block_size}")
    n = n_targets(val, eval_tokens)
    lengths = np.array([len(coder.bytes_of(i)) for i in range(coder.vocab_size)])
    n_bytes = sum(int(lengths[some].sum()) for some in np.array_split(val[1 : n + 1], n // 2**20 + 1))
    splits = [Split(in_memory(tokens, device), block_size, record) for tokens in (train, val)]
    return Dataset(folder, meta, frozen, *splits, bits_per_nat=n / n_bytes / math.log(2))


def find_folder(name):
    """The folder of the dataset `name`. Raises UsageError."""
    for folder in (Path("data") / name, Path(name)):  # the second as a shell completes it
        if (folder / "meta.json").exists():
            return folder
    corpus, _, tokenizer = name.partition("-")
    if corpus == "stdlib":
        return prepare("stdlib", tokenizer=tokenizer or "bytes", name=name)
    there = sorted(p.parent.name for p in Path("data").glob("*/meta.json"))
    have = f"there is {', '.join(there)}" if there else "there is none yet"
    raise UsageError(f"no dataset data/{name}{nearest(name, there)}: {have}; python prepare.py makes one")


def read_part(folder, part, meta):
    """The tokens of train.bin or val.bin, memory-mapped. Raises ValueError where they are not those of meta.json."""
    tokens = np.memmap(folder / f"{part}.bin", meta["dtype"], "r")
    same = len(tokens) == meta[part]["tokens"]
    if not same or (len(tokens) <= IN_MEMORY and hashlib.sha256(tokens).hexdigest() != meta[part]["sha256"]):
        raise ValueError(f"{part}.bin has changed since meta.json was written")
    return tokens


def in_memory(tokens, device):
    """Memory-mapped tokens as a tensor on the device, unless they are too many."""
    return tokens if len(tokens) > IN_MEMORY else torch.from_numpy(tokens.astype(np.int32)).to(device)


# ---------------------------------------------------------------------------- which text


def find_files(sources):
    """(files in a fixed order, name of the corpus). Raises UsageError."""
    if not sources:
        raise UsageError("SOURCES is missing: stdlib, shakespeare, or text files and folders")
    files = []
    for source in sources:
        path = Path(source)
        if source == "stdlib":
            files += stdlib_files()
        elif source == "shakespeare":
            files.append(download_shakespeare())
        elif path.is_dir():
            inside = [
                p for p in sorted(path.rglob("*")) if p.is_file() and "/." not in f"/{p.relative_to(path).as_posix()}"
            ]
            texts = [p for p in inside if not no_text(p)]
            if not texts:
                raise UsageError(f"no text in folder {source} ({len(inside)} files looked at)")
            print(f"{source}: {len(texts)} files taken, {len(inside) - len(texts)} without text left out")
            files += texts
        elif not path.exists():
            raise UsageError(f"no file or folder {source}{nearest(source, ['stdlib', 'shakespeare'])}")
        elif why := no_text(path):
            raise UsageError(f"{source} {why}")
        else:
            files.append(path)
    first = Path(sources[0])
    name = "tinyshakespeare" if sources[0] == "shakespeare" else first.resolve().name if first.is_dir() else first.stem
    return [*{path.resolve(): path for path in files}.values()], name  # a text that is there twice counts once


def no_text(path):
    """Why a file is not text, '' where it is: git's rule, it is not empty and has no NUL byte near its beginning."""
    with open(path, "rb") as file:
        head = file.read(8192)
    if head.startswith((b"\xff\xfe", b"\xfe\xff")):
        return "is UTF-16: convert it (iconv -f utf-16 -t utf-8)"
    return "is empty" if not head else "is not text: it holds a NUL byte" if b"\0" in head else ""


def stdlib_files():
    """The .py sources of the running Python's standard library, in order, without tests and installed packages."""
    root = Path(sysconfig.get_paths()["stdlib"])
    left_out = {"test", "tests", "idle_test", "site-packages", "dist-packages", "__pycache__"}
    files = [p for p in sorted(root.rglob("*.py")) if not left_out & {*p.relative_to(root).parts} and p.stat().st_size]
    if not files:
        raise UsageError(f"no sources of the standard library in {root}: give your own, python prepare.py your.txt")
    return files


def download_shakespeare():
    """data/tinyshakespeare.txt, downloaded where it is missing. Raises UsageError, also where its sha256 is wrong."""
    path = Path("data/tinyshakespeare.txt")
    try:
        text = path.read_bytes() if path.exists() else urllib.request.urlopen(SHAKESPEARE, timeout=20).read()
    except OSError as error:
        way = f"put the text into {path} by hand, or take another: python prepare.py your.txt"
        raise UsageError(f"tiny Shakespeare needs a network ({getattr(error, 'reason', error)}): {way}") from None
    if (digest := hashlib.sha256(text).hexdigest()) != SHAKESPEARE_SHA256:
        raise UsageError(
            f"tiny Shakespeare has sha256 {digest}, not {SHAKESPEARE_SHA256}: remove {path}, and try again"
        )
    if not path.exists():
        path.parent.mkdir(exist_ok=True)
        path.write_bytes(text)
    return path


def split(files, val_fraction):
    """(train, val), each a list of (file, first byte, byte after the last).

    Of many files complete ones are held out: all that fit into val_fraction of the bytes, taken in the order of a hash
    of their names, so that few files change sides when others are added or removed. Where they fill less than half of
    val_fraction, as with a single file, the tail of the text is held out.
    """
    segments = [(path, 0, path.stat().st_size) for path in files]
    total = sum(size for _, _, size in segments)
    held_out, room = set(), val_fraction * total
    for segment in sorted(segments, key=lambda s: hashlib.sha256(os.fsencode("/".join(s[0].parts[-2:]))).digest()):
        if segment[2] <= room:
            held_out.add(segment)
            room -= segment[2]
    if room <= val_fraction * total / 2:
        return [s for s in segments if s not in held_out], [s for s in segments if s in held_out]

    train, cut = [], int((1 - val_fraction) * total)
    while cut > segments[0][2]:
        train.append(segments.pop(0))
        cut -= train[-1][2]
    path, _, size = segments.pop(0)
    with open(path, "rb") as file:  # between two characters: inside one, a byte of UTF-8 is 10xxxxxx
        file.seek(cut)
        cut += next((i for i, byte in enumerate(file.read(4)) if byte & 0xC0 != 0x80), 0)
    return [*train, (path, 0, cut)], [(path, cut, size), *segments]


def blocks(segments, utf8):
    """The text of `segments`, in bytes: file by file, a file of more than BLOCK bytes in blocks of whole lines.

    Raises UsageError where it has to be UTF-8 and is not.
    """
    for path, start, stop in segments:
        with open(path, "rb") as file:
            file.seek(start)
            while text := file.read(min(BLOCK, stop - file.tell())):
                text += file.readline(stop - file.tell())
                if utf8:
                    check_utf8(text, path)
                yield text


def check_utf8(text, where):
    """The text of bytes in UTF-8. Raises UsageError, which names `where`, for others."""
    try:
        return text.decode("utf-8")
    except UnicodeDecodeError:
        ways = "convert it (iconv -f latin1 -t utf-8), or take --tokenizer=bytes"
        raise UsageError(f"{where} is not UTF-8: {ways}") from None


if __name__ == "__main__":
    run(prepare)
