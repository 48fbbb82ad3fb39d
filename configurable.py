"""A function's signature as its command line: `run(train)` reads the options, calls train and explains every mistake.

    def train(config: GPTConfig, *, max_iters: NonNegativeInt = 2000, ...):  # the comment is its --help

Parameters behind the `*` are options, `--name=value` or `--name value`. A parameter annotated with a dataclass lends
its fields as options, and `**options: train` lends all options of the function train. Parameters before the `*`, and
`*names`, take words. Any further word is a preset, a TOML file of lines `name = value`: of several presets the later
wins, and an option of the command line wins over all of them.
"""

import argparse
import dataclasses
import difflib
import errno
import inspect
import json
import math
import operator
import os
import re
import sys
import tomllib
import types
import typing
from pathlib import Path
from typing import Annotated

KINDS = {int: "int", float: "float", bool: "true|false", types.NoneType: "none", str: "text"}
KINDS |= {tuple[kind, ...]: f"{KINDS[kind]},{KINDS[kind]},..." for kind in (int, float, str)}
FULL = (errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EACCES, errno.EPERM)  # a disk that takes nothing


class UsageError(Exception):
    """A mistake that the user can put right. `run` shows it as one line and exits with 2."""


@dataclasses.dataclass(frozen=True)
class Range:
    """Bounds of a number, for Annotated[int, Range(ge=1)]: at least ge, more than gt, at most le, less than lt."""

    ge: float | None = None
    gt: float | None = None
    le: float | None = None
    lt: float | None = None

    def __contains__(self, number):
        bounds = ((getattr(operator, name), bound) for name, bound in vars(self).items() if bound is not None)
        return all(compare(number, bound) for compare, bound in bounds)

    def __str__(self):
        words = {"ge": "at least {}", "gt": "more than {}", "le": "at most {}", "lt": "less than {}"}
        known = {math.inf: "finite", 2**63: "less than 2^63"}
        bounds = [(name, bound) for name, bound in vars(self).items() if bound is not None]
        return " and ".join(known.get(bound, words[name].format(bound)) for name, bound in bounds)


PositiveInt = Annotated[int, Range(ge=1)]
NonNegativeInt = Annotated[int, Range(ge=0)]
PositiveFloat = Annotated[float, Range(gt=0)]
NonNegativeFloat = Annotated[float, Range(ge=0, lt=math.inf)]
Seed = Annotated[int, Range(ge=0, lt=2**63)]


def run(function, argv=None, preset=None, program=None, hints=None):
    """Call `function` as the command line `argv` says; return what it returns. A UsageError is one line and exit 2.

    program: the command as --help shows it; none: `python FILE`. preset(values): the TOML file where argv names none,
    for the options `values` in argv. hints: {regular expression: what to do} for options that do not exist here.
    """
    program = program or f"python {Path(inspect.getsourcefile(function)).name}"
    for stream in (sys.stdout, sys.stderr):
        if hasattr(stream, "reconfigure"):
            stream.reconfigure(errors="backslashreplace")  # an old terminal's encoding stops no run
    try:
        args, kwargs = parse(function, sys.argv[1:] if argv is None else argv, preset, program, hints)
        return function(*args, **kwargs)
    except KeyboardInterrupt:
        sys.exit(130)
    except BrokenPipeError:  # whoever read our output has seen enough
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        sys.exit(141)
    except Exception as error:
        no_memory = isinstance(error, MemoryError) or type(error).__name__ == "OutOfMemoryError"
        no_disk = isinstance(error, OSError) and error.errno in FULL
        if not (no_memory or no_disk or isinstance(error, UsageError)):
            raise
        name = program.removeprefix("python ").removeprefix("-m ")
        print(f"{name}: {'out of memory: ' * no_memory}{' '.join(str(error).split())}", file=sys.stderr)
        sys.exit(2)


# ---------------------------------------------------------------------------- from words to a call


class Parser(argparse.ArgumentParser):
    """argparse's parser of a signature; what it refuses is a UsageError. `usual` are the defaults that --help shows."""

    def __init__(self, function, program, usual):
        options, places = signature(function)
        words = "".join(f" {place.name.upper()}{' ...' if place.repeated else ''}" for place in places)
        files = "" if places and places[-1].repeated else " [FILE.toml ...]"
        about = (inspect.getdoc(function) or "").split("\n")[0]
        super().__init__(program, f"{program}{words}{files} [--name=value ...]", about, allow_abbrev=False)
        about_words = "; ".join(f"{place.name.upper()}: {place.comment}" for place in places) or argparse.SUPPRESS
        self.add_argument("words", nargs="*", help=about_words, metavar="WORDS")
        for option in options.values():
            default = show(usual.get(option.name, option.default))
            more = f", {option.range}" if option.range else ""
            text = f"{option.comment} [{option.form}{more}; default {default}]".replace("%", "%%")
            alone = {"nargs": "?", "const": True} if bool in option.kinds else {}
            form = {"metavar": "VALUE", "default": argparse.SUPPRESS, "type": option.convert}
            self.add_argument(f"--{option.name}", help=text, **form, **alone)

    def error(self, message):
        raise UsageError(message)


def parse(function, argv, preset=None, program="program", hints=None):
    """(args, kwargs) with which `argv` calls `function`. Raises UsageError."""
    options, places = signature(function)
    usual = read_toml(preset({}), options) if preset and {"-h", "--help"} & {*argv} else {}
    given, unknown = Parser(function, program, usual).parse_known_intermixed_args(argv)
    for word in unknown:
        name = word.lstrip("-").partition("=")[0]
        if name in options:
            raise UsageError(f"{word}: did you mean --{word.lstrip('-')}?")
        check_name(name, options, word, hints)
    given = vars(given)
    words = given.pop("words")
    n = len(words) if places and places[-1].repeated else len(places)
    files, values = words[n:], {}
    if preset and not files:
        files = [preset(given)]
        print(f"no preset named: taking {files[0]}")
    for path in files:
        values |= read_toml(path, options, hints)
    return bind(function, words[:n], values | given)


def check_name(name, options, place, hints=None):
    """Raises UsageError where there is no option of that name."""
    if name not in options:
        hint = next((what for pattern, what in (hints or {}).items() if re.fullmatch(pattern, name)), None)
        raise UsageError(f"{place}: there is no option {name}{f': {hint}' if hint else nearest(name, options)}")


def bind(function, words, values):
    """(args, kwargs): `values` sorted into dataclasses and keywords. Raises UsageError for what a dataclass refuses."""
    args, kwargs = [], dict(values)
    for p in inspect.signature(function).parameters.values():
        if dataclasses.is_dataclass(p.annotation):
            fields = {f.name: kwargs.pop(f.name) for f in dataclasses.fields(p.annotation) if f.name in kwargs}
            try:
                args.append(p.annotation(**fields))
            except ValueError as error:
                raise UsageError(error) from None
    return args + words, kwargs


# ---------------------------------------------------------------------------- signatures


@dataclasses.dataclass
class Option:
    """An option, or a place for words: name, types, default, the comment beside it, the range of its numbers."""

    name: str
    kinds: tuple
    default: object
    comment: str
    range: Range | None = None
    repeated: bool = False

    @property
    def form(self):
        return "|".join(KINDS.get(kind, kind) for kind in self.kinds)

    def convert(self, text):
        """The value that a text means. Raises UsageError."""
        for kind in self.kinds:
            try:
                return convert(text.strip(), kind) if kind is not str else text
            except (ValueError, OverflowError):
                pass
        raise self.mistake(text, self.form)

    def accept(self, value):
        """`value` as Python's own number or text. Raises UsageError for another type, word or range."""
        value = os.fspath(value) if isinstance(value, os.PathLike) else value
        value = value.item() if hasattr(value, "item") else value  # a number of numpy or torch
        if not any(is_of(value, kind) for kind in self.kinds):
            raise self.mistake(value, self.form)
        numbers = value if isinstance(value, tuple | list) else (value,)
        if self.range and any(isinstance(x, int | float) and x not in self.range for x in numbers):
            none = re.search(r"; none: [^;]+", self.comment)
            raise self.mistake(value, f"{self.range}{none[0] if none else ''}")
        return value

    def mistake(self, value, allowed):
        words = [kind for kind in self.kinds if isinstance(kind, str)]
        return UsageError(f"{self.name}={show(value)}: must be {allowed}{nearest(str(value), words)}")


def check(function, values):
    """{name: value} with numbers of other libraries as Python's own. Raises UsageError for what no option may be."""
    options = signature(function)[0]
    return {name: options[name].accept(value) if name in options else value for name, value in values.items()}


def signature(function):
    """({name: Option}, [Option for each word]) of a function."""
    options, places, beside = {}, [], comments(function)
    for p in inspect.signature(function).parameters.values():
        if p.kind is p.VAR_KEYWORD:
            options |= {name: o for name, o in signature(p.annotation)[0].items() if name not in options}
        elif dataclasses.is_dataclass(p.annotation):
            notes = comments(p.annotation)
            for f in dataclasses.fields(p.annotation):
                options[f.name] = Option(f.name, kinds(f.type), f.default, notes.get(f.name, ""))
        else:
            option = Option(p.name, kinds(p.annotation), p.default, beside.get(p.name, ""), range_of(p.annotation))
            option.repeated = p.kind is p.VAR_POSITIONAL
            if p.kind is p.KEYWORD_ONLY:
                options[p.name] = option
            else:
                places.append(option)
    return options, places


def kinds(annotation):
    """float | None -> (NoneType, float); Literal["a"] | bool -> ("a", bool); str is last, since it takes anything."""
    if typing.get_origin(annotation) is typing.Literal:
        return typing.get_args(annotation)
    if typing.get_origin(annotation) is Annotated:
        return kinds(annotation.__origin__)
    parts = () if annotation in KINDS else typing.get_args(annotation)
    found = [kind for part in parts for kind in kinds(part)] if parts else [annotation]
    return tuple(sorted(found, key=lambda kind: (kind is str, kind is not types.NoneType)))


def range_of(annotation):
    """The Range in Annotated[int, Range(ge=1)], also where `| None` stands behind it; None for none."""
    parts = (annotation, *typing.get_args(annotation))
    return next((part.__metadata__[0] for part in parts if typing.get_origin(part) is Annotated), None)


def comments(thing):
    """{name: comment} of the lines `name: type = default,  # comment` of a function or dataclass."""
    found = re.findall(r"^\s*\*?(\w+): .*?  # (.*)$", inspect.getsource(thing), re.MULTILINE)
    return dict(reversed(found))  # the first of a name counts: a signature comes before its function's body


# ---------------------------------------------------------------------------- values and text


def is_of(value, kind):
    """Whether a value is of a type, or is the word `kind`."""
    if typing.get_origin(kind) is tuple:
        return isinstance(value, tuple | list) and all(is_of(part, typing.get_args(kind)[0]) for part in value)
    if isinstance(kind, str):
        return isinstance(value, str) and value == kind
    if kind in (int, float):
        return isinstance(value, int | kind) and not isinstance(value, bool) and value == value
    return isinstance(value, kind)


def convert(text, kind):
    """`text` as a value of `kind`, a type or a word that is itself the value. Raises ValueError."""
    if typing.get_origin(kind) is tuple:
        kind, parts = typing.get_args(kind)[0], [part.strip() for part in text.split(",")]
        if not all(parts):
            raise ValueError
        return tuple(part if kind is str else convert(part, kind) for part in parts)
    if kind is int:
        number = int(text) if text.lstrip("+-").replace("_", "").isdecimal() else float(text)
        if number != int(number):
            raise ValueError
        return int(number)
    if kind is float:
        return float(text) if float(text) == float(text) else float("no number")
    named = {bool: {"true": True, "false": False}, types.NoneType: {"none": None}}.get(kind, {kind: kind})
    if text.lower() not in named:
        raise ValueError
    return named[text.lower()]


def read_toml(path, options, hints=None):
    """{name: value} of the lines of the TOML file `path`. Raises UsageError, which names the file."""
    try:
        lines = tomllib.loads(Path(path).read_text(encoding="utf-8-sig"))
    except FileNotFoundError:
        presets = {p.stem: p.as_posix() for p in Path("config").glob("*.toml")}
        near = difflib.get_close_matches(Path(path).stem, presets, 1)
        hint = f" (did you mean {presets[near[0]]}?)" if near else ""
        raise UsageError(f"{path}: no such file{hint}; an option is written --name=value") from None
    except (OSError, ValueError) as error:
        raise UsageError(f"{path}: not a TOML file of lines `name = value`, in UTF-8 ({error})") from None
    values = {}
    for name, value in lines.items():
        check_name(name, options, path, hints)
        try:
            values[name] = options[name].convert(show(value))
        except UsageError as error:
            raise UsageError(f"{path}: {error}") from None
    return values


def show(value):
    """`value` as one writes it after `--name=`."""
    if isinstance(value, list | tuple):
        return ",".join(map(show, value))
    return str(value).lower() if value is None or isinstance(value, bool) else str(value)


def to_toml(values):
    """The text of a TOML file from which read_toml reads `values`."""
    lines = []
    for name, value in values.items():
        value = "none" if value is None else value
        text = json.dumps(value, ensure_ascii=False) if isinstance(value, str | tuple | list) else show(value)
        lines.append(f"{name} = {text}\n".replace("\x7f", r"\u007f"))  # JSON allows it, TOML does not
    return "".join(lines)


def nearest(name, names):
    """' (did you mean X?)', where X of `names` is the nearest to `name`; '' where none is near."""
    near = difflib.get_close_matches(name, list(names), 1)
    return f" (did you mean {near[0]}?)" if near else ""


def one_of(name, value, allowed):
    """Raises UsageError where `value` of the option `name` is not among the words `allowed`; lists eight of them."""
    if value not in allowed:
        words = [*allowed][:8] + ["…"] * (len(allowed) > 8)
        raise UsageError(f"{name}={value}: must be one of {', '.join(words)}{nearest(value, allowed)}")


def only_one(**options):
    """The value that is given of several options that mean the same, or None. Raises UsageError for two."""
    given = {name: value for name, value in options.items() if value is not None}
    if len(given) > 1:
        raise UsageError(f"{' and '.join(given)} are given: give only one of them")
    return next(iter(given.values()), None)
