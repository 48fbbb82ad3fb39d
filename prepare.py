"""Text to tokens and back: data/<name>/train.bin, val.bin and meta.json, from a corpus or from your own files.

python prepare.py stdlib                      the source of Python's standard library, found on this machine
python prepare.py shakespeare                 tiny Shakespeare, 1.1 MB, downloaded
python prepare.py book.txt notes/             your own text, files and folders
python prepare.py stdlib --tokenizer=gpt2     in GPT-2's tokens instead of bytes

A task with a known signal, needles in a haystack, is made by python -m lab.needles.
"""

import base64
import codecs
import hashlib
import http.client
import json
import os
import re
import shlex
import sys
import sysconfig
import urllib.request
from collections import deque
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Annotated

import numpy as np
import tiktoken
from tqdm import tqdm

from configurable import UsageError, check_ranges, nearest, one_line, run
from plumbing.files import at_once, atomic_folder, real, write_json

SHAKESPEARE = "https://raw.githubusercontent.com/karpathy/char-rnn/master/data/tinyshakespeare/input.txt"
SHAKESPEARE_SHA256 = "86c4e6aa9db7c042ec79f339dcb96d42b0075e16b8fc2e86bf0ca57e2dc565ed"
PIECE = 1 << 18  # bytes encoded at a time, by each core
LONGEST_PIECE = 1 << 22  # bytes after which a piece is cut between any two characters


def prepare(
    *sources: str,  # stdlib, shakespeare, or text files and folders
    tokenizer: str = "bytes",  # bytes, or an encoding of tiktoken: gpt2, cl100k_base, o200k_base ...
    val_fraction: Annotated[float, "more than 0 and less than 1"] = 0.1,  # share of the text kept for validation
    name: str | None = None,  # folder under data/; none: SOURCE, or SOURCE-TOKENIZER if not bytes
):
    """Turn text into tokens: data/<name>/train.bin and val.bin, and meta.json, which describes them."""
    check_ranges(prepare, locals())
    if not sources:
        raise UsageError("SOURCES is missing: stdlib, shakespeare, or text files and folders")
    if len(sources) > 1 and name is None:
        raise UsageError("several sources need a --name")
    coder = Tokenizer.named(tokenizer)
    files, corpus = find_files(sources)
    name = check_name(name if name is not None else corpus if tokenizer == "bytes" else f"{corpus}-{tokenizer}")
    folder = Path("data") / name
    options = [f"--tokenizer={tokenizer}", f"--val_fraction={val_fraction}", f"--name={folder.name}"]
    meta = {
        "tokenizer": tokenizer,
        "vocab_size": coder.vocab_size,
        "dtype": next(d for d in ("uint8", "uint16", "uint32") if coder.vocab_size - 1 <= np.iinfo(d).max),
        "source": " ".join(sources) + (f" (Python {sys.version.split()[0]})" if "stdlib" in sources else ""),
        "command": shlex.join(["python", "prepare.py", *sources, *options]),
    }
    check_target(folder, files)
    with atomic_folder(folder) as building:
        text, size = hashlib.sha256(), sum(path.stat().st_size for path in files)
        with tqdm(total=size, unit="B", unit_scale=True, desc=folder.name, disable=None) as bar:
            for part, segments in zip(("train", "val"), split(files, val_fraction), strict=True):
                meta[part] = write(building / f"{part}.bin", segments, coder, meta["dtype"], text, bar)
                if (n := meta[part]["tokens"]) < 2:
                    raise UsageError(f"the text is too short: {part} gets {n} tokens, and needs at least 2")
        meta["sha256"] = text.hexdigest()
        if coder.encoding:
            (building / "tokenizer.json").write_text(json.dumps(coder.freeze()), encoding="utf-8")
        write_json(building / "meta.json", meta)
    print(
        f"{folder}: {meta['train']['tokens']:,} tokens to train on, {meta['val']['tokens']:,} to validate ({tokenizer})"
    )
    print(f"next: python train.py --dataset={folder.name}")
    return folder


def check_name(name):
    """`name`. Raises UsageError where it is not the name of a folder."""
    if not re.fullmatch(r"[^./\\][^/\\]*", name) or not name.isprintable():
        raise UsageError(f"name={name}: must be the name of a folder, which goes under data/")
    return name


def check_target(folder, sources):
    """Raises UsageError where `folder` contains anything but a dataset, or one of the files `sources`."""
    there = {path.name for path in folder.iterdir()} if folder.is_dir() else set()
    if there - {"train.bin", "val.bin", "meta.json", "tokenizer.json"} or (
        folder.exists() and "meta.json" not in there
    ):
        raise UsageError(f"{folder} exists and is not only a dataset: choose another --name")
    if real(folder) in (parent for path in sources for parent in real(path).parents):
        raise UsageError(f"the text lies in {folder}, which would be replaced: choose another --name")


# ---------------------------------------------------------------------------- which text


def find_files(sources):
    """(files in a fixed order, name of the corpus). Raises UsageError."""
    files, names = [], []
    for source in sources:
        path = Path(source)
        if source == "stdlib":
            files += stdlib_files()
        elif source == "shakespeare":
            files.append(path := download_shakespeare())
        elif path.is_dir():
            inside = sorted(files_below(path))
            texts = [p for p in inside if p.is_file() and is_text(p)]
            if not texts:
                raise UsageError(f"no text in folder {source} ({len(inside)} files looked at)")
            if len(texts) < len(inside):
                print(f"{source}: {len(texts)} files taken, {len(inside) - len(texts)} without text left out")
            files += texts
        elif source == "needles" and not path.exists():
            raise UsageError("no file or folder needles: python -m lab.needles makes them")
        elif not path.exists():
            raise UsageError(f"no file or folder {source}{nearest(source, ['stdlib', 'shakespeare', 'needles'])}")
        elif not path.is_file():
            raise UsageError(f"{source} is neither a file nor a folder")
        elif not is_text(path):
            raise UsageError(f"{source} is not text: it {'holds a NUL byte' if path.stat().st_size else 'is empty'}")
        else:
            files.append(path)
        names.append(real(path).name if path.is_dir() else path.stem)
    once = {}  # a text that is there twice would put some of val into train
    for path in files:
        once.setdefault(real(path), path)
    return [*once.values()], names[0]


def files_below(folder):
    """What lies in a folder and in its subfolders, linked ones too, without what is hidden. Raises UsageError."""

    def refuse(error):
        raise UsageError(f"cannot read {error.filename}: {error.strerror}")

    seen = {real(folder)}  # a link may lead back up
    for where, folders, files in os.walk(folder, onerror=refuse, followlinks=True):
        below = {name: real(Path(where, name)) for name in folders if name[0] != "."}
        folders[:] = [name for name, path in below.items() if path not in seen]
        seen |= {*below.values()}
        yield from (Path(where, name) for name in files if name[0] != ".")


def is_text(path):
    """Whether a file is text, by git's rule: it is not empty, and has no NUL byte near its beginning."""
    try:
        with open(path, "rb", opener=at_once) as file:
            head = file.read(8192)
    except OSError as error:
        raise UsageError(f"cannot read {path}: {error.strerror}") from None
    return bool(head) and b"\0" not in head


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
    there = path.exists()
    try:
        text = path.read_bytes() if there else urllib.request.urlopen(SHAKESPEARE, timeout=20).read()
    except (OSError, http.client.HTTPException) as error:
        reason = getattr(error, "reason", error)
        ways = "python prepare.py stdlib and python prepare.py your.txt work without one"
        raise UsageError(f"tiny Shakespeare needs a network ({reason}): {ways}") from None
    if (digest := hashlib.sha256(text).hexdigest()) != SHAKESPEARE_SHA256:
        way = f"remove {path}" if there else "try again"
        raise UsageError(f"tiny Shakespeare has sha256 {digest}, not {SHAKESPEARE_SHA256}: {way}")
    if not there:
        path.parent.mkdir(exist_ok=True)
        part = path.with_suffix(f".{os.getpid()}")
        part.write_bytes(text)
        part.replace(path)
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


# ---------------------------------------------------------------------------- text to tokens


def write(target, segments, coder, dtype, text, bar):
    """Encode `segments` into the file `target`; returns its counts and sha256, and feeds the bytes read to `text`."""
    ids_written, bytes_read, digest = 0, 0, hashlib.sha256()
    with open(target, "wb") as out, ThreadPoolExecutor(os.cpu_count()) as cores:
        for piece, ids in encoded(segments, coder, cores):
            raw = narrow(ids, dtype, coder.vocab_size).tobytes()
            out.write(raw)
            digest.update(raw)
            text.update(piece)
            ids_written, bytes_read = ids_written + len(ids), bytes_read + len(piece)
            bar.update(len(piece))
    return {"tokens": ids_written, "bytes": bytes_read, "sha256": digest.hexdigest()}


def encoded(segments, coder, cores):
    """(bytes, ids) of each piece of `segments`, in order; some pieces are encoded ahead, so that no core waits."""
    ahead = deque()
    for path, piece in pieces(segments, coder):
        ahead.append((piece, cores.submit(coder.encode, piece, path)))
        if len(ahead) == 4 * os.cpu_count():  # without a limit an executor would read the entire corpus
            piece, ids = ahead.popleft()
            yield piece, ids.result()
    for piece, ids in ahead:
        yield piece, ids.result()


def narrow(ids, dtype, vocab_size):
    """ids as `dtype`, never wrapped around. Raises UsageError where one does not fit."""
    if len(ids) and (largest := int(ids.max())) > min(vocab_size - 1, np.iinfo(dtype).max):
        raise UsageError(f"token {largest} does not fit into {dtype} or a vocabulary of {vocab_size}")
    return ids.astype(dtype)


# Between two lines that end and begin so, no pattern of tiktoken's encodings joins anything. (White space joins white
# space, and o200k_base takes slashes to the line before.)
SAFE_CUT = re.compile(rb"[!-~]\n(?=[!-.0-~])")


def pieces(segments, coder):
    """Pairs (file, bytes): the text of `segments`, PIECE bytes or a little more at a time.

    Pieces encode to the same tokens as the entire text, except where a file has no SAFE_CUT for LONGEST_PIECE bytes.
    """
    for path, start, stop in segments:
        with open(path, "rb") as file:
            file.seek(start)
            rest = b""
            while block := file.read(min(PIECE, stop - file.tell())):
                searched = max(0, len(rest) - 2)
                rest += block
                if not coder.encoding:
                    end = len(rest)
                elif cuts := [match.end() for match in SAFE_CUT.finditer(rest, searched)]:
                    end = cuts[-1]
                elif len(rest) >= LONGEST_PIECE:
                    end = next((i for i in range(len(rest) - 1, 0, -1) if rest[i] & 0xC0 != 0x80), len(rest))
                else:
                    continue
                yield path, rest[:end]
                rest = rest[end:]
            if rest:
                yield path, rest


class Tokenizer:
    """Text to ids and back: the bytes of UTF-8 as they are, or an `encoding` of tiktoken."""

    def __init__(self, encoding=None):
        self.encoding = encoding
        self.vocab_size = encoding.n_vocab if encoding else 256

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
            reason = f"{type(error).__name__}; tiktoken downloads it once, TIKTOKEN_CACHE_DIR says where to"
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
        return {
            "name": e.name,
            "pat_str": e._pat_str,
            "special_tokens": dict(e._special_tokens),
            "mergeable_ranks": ranks,
        }

    @classmethod
    def thaw(cls, frozen, where="the tokenizer"):
        """The tokenizer from which `freeze` made the dict. Raises UsageError, which names `where`, if it did not."""
        try:
            return cls(None if frozen["name"] == "bytes" else cls.encoding_of(frozen))
        except BaseException as error:  # a panic of tiktoken's Rust is no Exception
            if isinstance(error, KeyboardInterrupt | SystemExit | MemoryError):
                raise
            raise UsageError(f"{where} has a tokenizer that prepare.py did not make ({type(error).__name__})") from None

    @staticmethod
    def encoding_of(frozen):
        pairs = (pair.split(":") for pair in frozen["mergeable_ranks"].split(" "))
        ranks = {base64.b64decode(token): int(rank) for token, rank in pairs}
        if len({*ranks.values()}) < len(ranks) or not {bytes([i]) for i in range(256)} <= ranks.keys():
            raise ValueError  # tiktoken would panic at a text that it cannot encode
        return tiktoken.Encoding(**{**frozen, "mergeable_ranks": ranks})

    def encode(self, text, where="the text"):
        """Ids of a text or of its bytes, as an array; "<|endoftext|>" in a text is text.

        Raises UsageError, which names `where`, if an encoding of tiktoken meets bytes that are not UTF-8.
        """
        if isinstance(text, str):
            how = "surrogatepass" if re.search("[\ud800-\udc7f]", text) else "surrogateescape"  # escapes are bytes
            text = text.encode("utf-8", how)
        if not self.encoding:
            return np.frombuffer(text, np.uint8)
        try:
            return self.encoding.encode_to_numpy(text.decode("utf-8"), disallowed_special=())
        except UnicodeDecodeError as error:
            byte = f"0x{text[error.start]:02x}"
            ways = "convert it (iconv -f latin1 -t utf-8), or take --tokenizer=bytes"
            raise UsageError(f"{where} is not UTF-8 (a byte {byte} is out of place): {ways}") from None
        except BaseException as error:
            if not isinstance(error, ValueError) and type(error).__name__ != "PanicException":  # of tiktoken's Rust
                raise  # the others are about the pattern of a stranger's tokenizer
            raise UsageError(f"the tokenizer cannot encode {where} ({one_line(error)})") from None

    def stream(self, ids):
        """The text of `ids` as they come, in complete characters; U+FFFD for bytes that are no character."""
        decoder = codecs.getincrementaldecoder("utf-8")("replace")
        for i in ids:
            try:
                yield decoder.decode(self.encoding.decode_single_token_bytes(i) if self.encoding else bytes([i]))
            except (KeyError, ValueError):  # a row that pads the embedding
                yield "\ufffd"
        yield decoder.decode(b"", final=True)

    def decode(self, ids):
        """The text of `ids`."""
        return "".join(self.stream(ids))


if __name__ == "__main__":
    run(prepare)
