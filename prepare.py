"""Text to tokens and back: data/<name>/train.bin, val.bin and meta.json, from a corpus or from your own files.

python prepare.py stdlib                      the source of Python's standard library, found on this machine
python prepare.py shakespeare                 tiny Shakespeare, 1.1 MB, downloaded
python prepare.py book.txt notes/             your own text, files and folders
python prepare.py stdlib --tokenizer=gpt2     in GPT-2's tokens instead of bytes
python prepare.py needles --n_needles=6       a made-up task instead: find the needles in a haystack
"""

import base64
import codecs
import contextlib
import hashlib
import http.client
import json
import os
import random
import re
import shlex
import shutil
import sys
import sysconfig
import urllib.request
from collections import deque
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import NamedTuple

import numpy as np
import tiktoken
from tqdm import tqdm

from configurable import UsageError, nearest, run

SHAKESPEARE = "https://raw.githubusercontent.com/karpathy/char-rnn/master/data/tinyshakespeare/input.txt"
SHAKESPEARE_SHA256 = "86c4e6aa9db7c042ec79f339dcb96d42b0075e16b8fc2e86bf0ca57e2dc565ed"
PIECE = 1 << 18  # bytes encoded at a time, by each core
LONGEST_PIECE = 1 << 22  # bytes after which a piece is cut between any two characters


def prepare(
    *sources: str,  # stdlib, shakespeare, or text files and folders; needles has a --help of its own
    tokenizer: str = "bytes",  # bytes, or an encoding of tiktoken: gpt2, cl100k_base, o200k_base ...
    val_fraction: float = 0.1,  # of the text held out: the tail of a single one, whole files where there are many
    name: str | None = None,  # folder under data/; none: after the source, and the tokenizer if it is not bytes
):
    """Turn text into tokens: data/<name>/train.bin and val.bin, and meta.json that says what they are."""
    if not sources:
        raise UsageError("SOURCES is missing: stdlib, shakespeare, text files and folders, or needles")
    if not 0 < val_fraction < 1:
        raise UsageError(f"val_fraction={val_fraction}: must be more than 0 and less than 1")
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
    with whole_folder(folder, files) as building:
        text, size = hashlib.sha256(), sum(path.stat().st_size for path in files)
        with tqdm(total=size, unit="B", unit_scale=True, desc=folder.name, disable=not sys.stderr.isatty()) as bar:
            for part, segments in zip(("train", "val"), split(files, val_fraction), strict=True):
                meta[part] = write(building / f"{part}.bin", segments, coder, meta["dtype"], text, bar)
                if (n := meta[part]["tokens"]) < 2:
                    raise UsageError(f"the text is too short: it gives {part} {n} tokens, and 2 is the least")
        meta["sha256"] = text.hexdigest()
        if coder.encoding:
            (building / "tokenizer.json").write_text(json.dumps(coder.freeze()), encoding="utf-8")
        (building / "meta.json").write_text(json.dumps(meta, indent=1) + "\n", encoding="utf-8")
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


@contextlib.contextmanager
def whole_folder(folder, sources):
    """A folder to fill that takes the place of the dataset `folder` if all goes well, and is gone if not.

    Raises UsageError where `folder` holds anything but a dataset, or one of the files `sources`.
    """
    there = {path.name for path in folder.iterdir()} if folder.is_dir() else set()
    if there - {"train.bin", "val.bin", "meta.json", "tokenizer.json"} or (
        folder.exists() and "meta.json" not in there
    ):
        raise UsageError(f"{folder} is there and is not only a dataset: choose another --name")
    if folder.resolve() in (parent for path in sources for parent in path.resolve().parents):
        raise UsageError(f"the text lies in {folder}, which is to be replaced: choose another --name")
    building, old = (folder.with_name(f".{folder.name}.{os.getpid()}{end}") for end in ("", ".old"))
    building.mkdir(parents=True)
    try:
        yield building
        while True:  # until no other process came in between
            with contextlib.suppress(FileNotFoundError):
                folder.rename(old)
            shutil.rmtree(old, ignore_errors=True)
            try:
                building.rename(folder)
                break
            except OSError:
                if not folder.exists():
                    raise
    finally:
        shutil.rmtree(building, ignore_errors=True)
        with contextlib.suppress(OSError):
            building.parent.rmdir()  # data/, if it was made for nothing


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
            visible = (p for p in sorted(path.rglob("*")) if not any(n[0] == "." for n in p.relative_to(path).parts))
            inside = [p for p in visible if p.is_file()]
            texts = [p for p in inside if is_text(p)]
            if not texts:
                raise UsageError(f"no text in folder {source} ({len(inside)} files looked at)")
            if len(texts) < len(inside):
                print(f"{source}: {len(texts)} files taken, {len(inside) - len(texts)} without text left out")
            files += texts
        elif source == "needles":
            raise UsageError("needles comes first: python prepare.py needles [--name=value ...]")
        elif not path.exists():
            raise UsageError(f"no file or folder {source}{nearest(source, ['stdlib', 'shakespeare', 'needles'])}")
        elif not path.is_file():
            raise UsageError(f"{source} is neither a file nor a folder")
        elif not is_text(path):
            raise UsageError(f"{source} is not text: it {'holds a NUL byte' if path.stat().st_size else 'is empty'}")
        else:
            files.append(path)
        names.append(path.resolve().name if path.is_dir() else path.stem)
    once = {}  # a text that is there twice would put some of val into train
    for path in files:
        once.setdefault(path.resolve(), path)
    return [*once.values()], names[0]


def is_text(path):
    """As git tells: something is in it, and no NUL byte near its beginning."""
    try:
        with open(path, "rb") as file:
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
    """data/tinyshakespeare.txt, fetched where it is not there yet. Raises UsageError, also where its sha256 is off."""
    path = Path("data/tinyshakespeare.txt")
    there = path.exists()
    try:
        text = path.read_bytes() if there else urllib.request.urlopen(SHAKESPEARE, timeout=20).read()
    except (OSError, http.client.HTTPException) as error:
        reason = getattr(error, "reason", error)
        ways = "python prepare.py stdlib needs none, nor does python prepare.py your.txt"
        raise UsageError(f"tiny Shakespeare needs a network ({reason}): {ways}") from None
    if (found := hashlib.sha256(text).hexdigest()) != SHAKESPEARE_SHA256:
        way = f"remove {path}" if there else "try again"
        raise UsageError(f"tiny Shakespeare has sha256 {found}, not {SHAKESPEARE_SHA256}: {way}")
    if not there:
        path.parent.mkdir(exist_ok=True)
        part = path.with_suffix(f".{os.getpid()}")
        part.write_bytes(text)
        part.replace(path)
    return path


def split(files, val_fraction):
    """(train, val), each a list of (file, first byte, byte after the last).

    Of many files whole ones are held out: all that fit into val_fraction of the bytes, taken in the order of a hash of
    their names, so that few change sides when others come and go. Where that fills less than half of it, as with a
    single file, the tail of the text is held out.
    """
    whole = [(path, 0, path.stat().st_size) for path in files]
    total = sum(size for _, _, size in whole)
    held_out, room = set(), val_fraction * total
    for segment in sorted(whole, key=lambda s: hashlib.sha256(os.fsencode("/".join(s[0].parts[-2:]))).digest()):
        if segment[2] <= room:
            held_out.add(segment)
            room -= segment[2]
    if room <= val_fraction * total / 2:
        return [s for s in whole if s not in held_out], [s for s in whole if s in held_out]

    train, cut = [], int((1 - val_fraction) * total)
    while cut > whole[0][2]:
        train.append(whole.pop(0))
        cut -= train[-1][2]
    path, _, size = whole.pop(0)
    with open(path, "rb") as file:  # between two characters: inside one, a byte of UTF-8 is 10xxxxxx
        file.seek(cut)
        cut += next((i for i, byte in enumerate(file.read(4)) if byte & 0xC0 != 0x80), 0)
    return [*train, (path, 0, cut)], [(path, cut, size), *whole]


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
    """(bytes, ids) of each piece of `segments`, in order; some are encoded ahead, so that no core waits for another."""
    ahead = deque()
    for path, piece in pieces(segments, coder):
        ahead.append((piece, cores.submit(coder.encode, piece, path)))
        if len(ahead) == 4 * os.cpu_count():  # left alone, an executor would read the whole corpus
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
    """(file, bytes) again and again: the text of `segments`, PIECE bytes or a little more at a time.

    Pieces encode to the same tokens as the whole text does, but where a file has no SAFE_CUT for LONGEST_PIECE bytes.
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
                    end = next(i for i in range(len(rest) - 1, 0, -1) if rest[i] & 0xC0 != 0x80)
                else:
                    continue
                yield path, rest[:end]
                rest = rest[end:]
            if rest:
                yield path, rest


class Tokenizer:
    """Text to ids and back: UTF-8's bytes as they are, or an `encoding` of tiktoken."""

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
        """A dict that `thaw` makes this tokenizer of, without a network."""
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
        """The tokenizer that `freeze` made that dict of. Raises UsageError that names `where` if it did not."""
        try:
            return cls(None if frozen["name"] == "bytes" else cls.encoding_of(frozen))
        except Exception as error:  # also what tiktoken's Rust raises
            raise UsageError(f"{where} has a tokenizer that no prepare.py made ({type(error).__name__})") from None

    @staticmethod
    def encoding_of(frozen):
        pairs = (pair.split(":") for pair in frozen["mergeable_ranks"].split(" "))
        ranks = {base64.b64decode(token): int(rank) for token, rank in pairs}
        return tiktoken.Encoding(**{**frozen, "mergeable_ranks": ranks})

    def encode(self, text, where="the text"):
        """Ids of a text or of its bytes, as an array; "<|endoftext|>" in a text is text.

        Raises UsageError that names `where` if an encoding of tiktoken meets what is not UTF-8.
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

    def stream(self, ids):
        """The text of `ids` as they come, whole characters at a time; U+FFFD for what is none."""
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


# ---------------------------------------------------------------------------- needles


WORDS = tuple("ash bay brook cloud dew elm fern fog grass hill ice lake leaf mist moss oak rain reed sand sky".split())  # noqa: SIM905
CAPITALS = "ABCDEFGHIJKLMNOPQRSTUVWXYZ"


def needles(
    *,
    n_needles: int = 4,  # the most that a context hides: it hides 1, 2, ... or so many, each as often
    n_queries: int = 4,  # how many of them it asks for at its end
    length: int = 64,  # characters of a context, which are its tokens
    n_contexts: int = 100000,  # to train on
    n_val_contexts: int = 2000,  # to validate on, with cities and numbers of their own
    seed: int = 1,  # of what is drawn
    name: str = "needles",  # folder under data/
):
    """Make the multi-needle task: contexts of filler with needles in it, and queries for some of them at the end.

    A needle is `KQ472 ` (the number of city KQ is 472), a query `?KQ472`, of which only the number counts in the
    loss. A quarter of the cities and a twentieth of the numbers are in val alone. Of 1000 guesses one is right; who
    copies any of the N numbers in a context is right once in N. After https://arxiv.org/abs/2410.05258, table 2.
    """
    least = shortest(n_needles, n_queries)
    for option, value, fine, rule in (
        ("n_needles", n_needles, 1 <= n_needles <= len(NUMBERS[True]), f"from 1 to {len(NUMBERS[True])}"),
        ("n_queries", n_queries, n_queries >= 1, "at least 1"),
        ("length", length, length >= least, f"at least {least} for {n_needles} needles and {n_queries} queries"),
        ("n_contexts", n_contexts, n_contexts >= 2, "at least 2"),
        ("n_val_contexts", n_val_contexts, n_val_contexts >= 2, "at least 2"),
        ("seed", seed, 0 <= seed < 2**63, "at least 0 and less than 2^63"),
    ):
        if not fine:
            raise UsageError(f"{option}={value}: must be {rule}")
    options = {name: value for name, value in locals().items() if name in needles.__kwdefaults__}
    folder = Path("data") / check_name(name)
    meta = {"tokenizer": "bytes", "vocab_size": 256, "dtype": "uint8", "source": "needles"}
    meta["command"] = shlex.join(["python", "prepare.py", "needles", *(f"--{k}={v}" for k, v in options.items())])
    meta["needles"] = {"n_needles": n_needles, "n_queries": n_queries, "length": length}
    meta["record"] = {
        "length": length,
        "scored": sorted(length - QUERY * r - i for r in range(n_queries) for i in (1, 2, 3)),
    }
    with whole_folder(folder, []) as building:
        for part, n in (("train", n_contexts), ("val", n_val_contexts)):
            draw = random.Random(f"{seed} {part}")
            sizes = (draw.randint(1, n_needles) for _ in range(n))
            contexts = (hide(draw, size, n_queries, length, held_out=part == "val").text for size in sizes)
            text = "".join(tqdm(contexts, part, n, unit=" contexts", disable=not sys.stderr.isatty())).encode()
            (building / f"{part}.bin").write_bytes(text)
            meta[part] = {"tokens": len(text), "bytes": len(text), "sha256": hashlib.sha256(text).hexdigest()}
        (building / "meta.json").write_text(json.dumps(meta, indent=1) + "\n", encoding="utf-8")
    print(f"{folder}: {n_contexts:,} contexts to train on, {n_val_contexts:,} to validate, of {length} tokens (bytes)")
    print(f"next: python train.py config/needles.toml --dataset={name} --block_size={length}")
    return folder


def apart(words, share):
    """{True: a `share` of `words`, held out for val, False: the others}. A hash chooses: there is no rule to learn."""
    words = sorted(words, key=lambda word: hashlib.sha256(word.encode()).digest())
    return {True: words[: int(share * len(words))], False: words[int(share * len(words)) :]}


CITIES = apart([a + b for a in CAPITALS for b in CAPITALS], 0.25)
NUMBERS = apart([f"{n:03}" for n in range(1000)], 0.05)
NEEDLE, QUERY = len("KQ472 "), len("?KQ472")


def shortest(n_needles, n_queries):
    """Characters of the shortest context with so many needles and queries: two words of filler are left."""
    return NEEDLE * n_needles + QUERY * n_queries + 10


class Context(NamedTuple):
    """A context of the needles task."""

    text: str
    starts: list  # where each needle begins in it
    asked: list  # which needle each query asks for


def hide(draw, n_needles, n_queries, length, held_out=False, depth=None):
    """A Context of `length` characters, drawn by the random.Random `draw`; no city and no number is in it twice.

    depth: where between the filler's beginning (0) and end (1) the needle is that is asked first; none: anywhere, as
    the others are. Any query may ask for any needle: were none asked twice, the last answers could be told by what is
    left.
    """
    found = zip(draw.sample(CITIES[held_out], n_needles), draw.sample(NUMBERS[held_out], n_needles), strict=True)
    found = ["".join(pair) for pair in found]
    asked = [draw.randrange(n_needles) for _ in range(n_queries)]
    queries = "".join(f"?{found[i]}" for i in asked)
    room = length - len(queries) - NEEDLE * n_needles
    filler = "".join(f"{draw.choice(WORDS)} " for _ in range(room // 3))  # no word is shorter than that
    filler = filler[len(filler) - room :]
    gaps = [0, *(i + 1 for i, letter in enumerate(filler) if letter == " ")]
    places = [draw.choice(gaps) for _ in found]
    if depth is not None:
        places[asked[0]] = min(gaps, key=lambda gap: abs(gap - depth * room))
    text, starts, done = "", [0] * n_needles, 0
    for i in sorted(range(n_needles), key=places.__getitem__):
        text += filler[done : places[i]]
        starts[i], done = len(text), places[i]
        text += f"{found[i]} "
    return Context(text + filler[done:] + queries, starts, asked)


if __name__ == "__main__":
    if sys.argv[1:2] == ["needles"]:
        run(needles, sys.argv[2:], program="prepare.py needles")
    else:
        run(prepare)
