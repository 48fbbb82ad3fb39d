"""A function's signature as its command line: `run(train)` reads the options, calls train and explains every mistake.

    def train(config: GPTConfig, *, max_iters: NonNegativeInt = 2000, ...):  # the comment is its --help

Parameters behind the `*` are options, `--name=value` or `--name value`. A dataclass lends its fields as options, and
`**options: train` lends the options of the function train. Parameters before the `*`, and `*names`, take words. Any
further word is a preset, a TOML file: each of its lines counts as `--name=value` at that place, and the later wins.
"""

import argparse
import contextlib
import dataclasses
import difflib
import errno
import functools
import inspect
import json
import math
import operator
import os
import re
import sys
import tomllib
from pathlib import Path
from types import NoneType
from typing import Annotated, Literal, get_args, get_origin

FORMS = {int: "int", float: "float", bool: "true|false", NoneType: "none", str: "text"}
WORDS = {"true": True, "false": False, "none": None}
BOUNDS = {"ge": "at least", "gt": "more than", "le": "at most", "lt": "less than"}
CANNOT_WRITE = (errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EACCES, errno.EPERM)


class UsageError(Exception):
    """A mistake that the user can put right. `run` shows it as one line and exits with 2."""


@dataclasses.dataclass(frozen=True)
class Range:
    """The numbers that an option takes: Annotated[int, Range(ge=1)]. Of a tuple, it holds for each element."""

    ge: float | None = None
    gt: float | None = None
    le: float | None = None
    lt: float | None = None

    def __contains__(self, number):
        return all(bound is None or getattr(operator, name)(number, bound) for name, bound in vars(self).items())

    def __str__(self):
        short = {math.inf: "finite", 2**63: "less than 2^63"}
        bounds = [(name, bound) for name, bound in vars(self).items() if bound is not None]
        return " and ".join(short.get(bound, f"{BOUNDS[name]} {bound}") for name, bound in bounds)


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
    program = program or f"python {Path(inspect.getsourcefile(inspect.unwrap(function))).name}"
    for stream in (sys.stdout, sys.stderr):
        if hasattr(stream, "reconfigure"):
            stream.reconfigure(errors="backslashreplace")  # an old terminal's encoding stops no run
    try:
        args, kwargs = parse(function, sys.argv[1:] if argv is None else argv, preset, program, hints)
        result = function(*args, **kwargs)
        sys.stdout.flush()
        return result
    except KeyboardInterrupt:
        sys.exit(130)
    except BrokenPipeError:  # whoever read our output has seen enough
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        sys.exit(141)
    except Exception as error:
        no_memory = isinstance(error, MemoryError) or type(error).__name__ == "OutOfMemoryError"
        no_disk = isinstance(error, OSError) and error.errno in CANNOT_WRITE
        if not (no_memory or no_disk or isinstance(error, UsageError)):
            raise
        name = program.removeprefix("python ").removeprefix("-m ")
        print(f"{name}: {'out of memory: ' * no_memory}{' '.join(str(error).split())}", file=sys.stderr)
        sys.exit(2)


# ---------------------------------------------------------------------------- from words to a call


def parse(function, argv, preset=None, program="program", hints=None):
    """(args, kwargs) with which `argv` calls `function`. Raises UsageError; prints --help and exits."""
    options, places = signature(function)
    parser = parser_of(function, argv, preset, program)
    switches = {f"--{p.name}": form(p.annotation).split("|") for p in options.values() if is_switch(p)}
    pairs = zip(argv, [*argv, ""][1:], strict=True)
    argv = [f"{word}=true" if word in switches and then.lower() not in switches[word] else word for word, then in pairs]
    found, unknown = parser.parse_known_args(argv)
    if unknown:
        raise UsageError(f"{unknown[0]}: {no_option(unknown[0], options, hints)}")
    words, values, files = [], {}, []
    for name, text in found.given or ():
        if name:
            values[name] = checked(options[name], text, text=True)
        elif text.partition("=")[0] in options:
            raise UsageError(f"{text}: {no_option(text, options)}")
        elif len(words) < len(places) or any(p.kind is p.VAR_POSITIONAL for p in places):
            words.append(text)
        else:
            values |= read_toml(text, options, hints)
            files.append(text)
    if preset and not files:
        print(f"no preset named: taking {(path := preset(values))}")
        values = read_toml(path, options, hints) | values
    return bind(function, words, values)


class Parser(argparse.ArgumentParser):
    def error(self, message):
        raise UsageError(message)


def parser_of(function, argv, preset, program):
    """A parser that leaves in `given`, in the order of argv, (name, text) of an option and (None, text) of a word."""
    (options, places), notes = signature(function), comments(function)
    words = [(p.name.upper(), notes.get(p.name, ""), p.default is p.empty) for p in places]
    usage = [program, *(name for name, *_ in words)]
    if places and places[-1].kind is inspect.Parameter.VAR_POSITIONAL:
        usage, words[-1] = [*usage, "..."], (*words[-1][:2], False)
    else:
        usage.append("[FILE.toml ...]")
        words.append(("FILE.toml", "preset, lines of `name = value`; of presets and options the later wins", False))
    about, taken = (inspect.getdoc(function) or "").split("\n")[0], {}
    if preset and {"-h", "--help"} & {*argv}:
        taken = read_toml(path := preset({}), options)
        about += f" Where no FILE.toml is named, {path} is taken: the defaults below are then in use."
    parser = Parser(usage=" ".join([*usage, "[--name=value ...]"]), description=about, allow_abbrev=False)
    parser.color = False  # Python 3.14 would color the help
    words += [("WORD", argparse.SUPPRESS, False)] * len(argv)  # argparse takes a `*` once, but words stand anywhere
    for name, comment, required in words:
        word = parser.add_argument("given", metavar=name, help=comment, action="append", type=lambda t: (None, t))
        word.required = required
    for name, p in options.items():
        metavar, _, range = form(p.annotation).partition(", ")
        default = f"default: {show(taken.get(name, p.default))}{f'; {range}' if range else ''}"
        more = {"metavar": metavar, "help": f"{notes.get(name, '')} ({default})".replace("%", "%%")}
        parser.add_argument(f"--{name}", dest="given", action="append", type=lambda t, name=name: (name, t), **more)
    return parser


def no_option(word, options, hints=None):
    """What is wrong with the name in `word`: --nmae=value, -name, or the name itself."""
    name = word.lstrip("-").partition("=")[0]
    if name in options:
        return f"did you mean --{word.lstrip('-')}?"
    hint = next((f": {what}" for pattern, what in (hints or {}).items() if re.fullmatch(pattern, name)), "")
    dashes = "; an option is written --name=value" if re.match("-[^-]", word) else ""
    return f"there is no option {name}{hint or nearest(name, options)}{dashes}"


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


@functools.cache
def signature(function):
    """({name: inspect.Parameter} of the options, also of those that are lent, [Parameter that takes words])."""
    options, places = {}, []
    for p in inspect.signature(function).parameters.values():
        if p.kind is p.VAR_KEYWORD:
            options |= {name: o for name, o in signature(p.annotation)[0].items() if name not in options}
        elif dataclasses.is_dataclass(p.annotation):
            options |= {field.name: field for field in signature(p.annotation)[1]}
        elif p.kind is p.KEYWORD_ONLY:
            options[p.name] = p
        else:
            places.append(p.replace(annotation=tuple[p.annotation, ...]) if p.kind is p.VAR_POSITIONAL else p)
    return options, places


def is_switch(p):
    return bool in (p.annotation, *get_args(p.annotation))


@functools.cache
def comments(thing):
    """{name: comment} of the lines `name: type = default,  # comment` of a function or dataclass, also of lent ones."""
    found = re.findall(r"^\s*\*?(\w+): .*?  # (.*)$", inspect.getsource(thing), re.MULTILINE)
    notes = dict(reversed(found))  # the first of a name counts: a signature comes before its function's body
    for p in inspect.signature(thing).parameters.values():
        if p.kind is p.VAR_KEYWORD or dataclasses.is_dataclass(p.annotation):
            notes = comments(p.annotation) | notes
    return notes


def alternatives(kind):
    """float | None -> [NoneType, float]; str is last, since it takes any text."""
    return sorted(get_args(kind), key=lambda part: (part is str, part is not NoneType))


def form(kind):
    """What may be given for a type: "none|float, at least 0"."""
    origin, parts = get_origin(kind), get_args(kind)
    if origin is Annotated:
        return f"{form(parts[0])}, {parts[1]}"
    if origin is tuple:
        return f"{form(parts[0])},{form(parts[0])},..."
    return FORMS.get(kind) or "|".join(parts if origin is Literal else map(form, alternatives(kind)))


# ---------------------------------------------------------------------------- values


def check(function, values):
    """{name: value}, checked, with numpy's scalars and paths as plain int, float, str. Raises UsageError.

    A name that is no option or word of `function` keeps its value.
    """
    options, places = signature(function)
    known = options | {p.name: p for p in places}
    return {name: checked(known[name], value) if name in known else value for name, value in values.items()}


def with_plain_values(function):
    """`function`, called with values that `check` has converted or refused, also those of a dataclass."""

    def plain(value):
        return type(value)(**check(function, vars(value))) if dataclasses.is_dataclass(value) else value

    @functools.wraps(function)
    def call(*args, **kwargs):
        kwargs = {name: plain(value) for name, value in check(function, kwargs).items()}
        return function(*map(plain, args), **kwargs)

    call.__kwdefaults__ = function.__kwdefaults__
    return call


def checked(parameter, value, text=False):
    """`value` as the type of a parameter; with `text` it may be text that is to be read. Raises UsageError."""
    kind = parameter.annotation
    try:
        return fit(value, kind, text)
    except UsageError as error:  # out of range
        allowed = f"{error}, or none" if NoneType in get_args(kind) else error
    except ValueError:
        allowed = form(kind) + nearest(show(value), {*form(kind).split("|")} - {*FORMS.values()})
    raise UsageError(f"{parameter.name}={show(value)}: must be {allowed}")


def fit(value, kind, text=False):
    """`value` as a plain `kind`; with `text` it may be text to read. Raises ValueError; out of range UsageError."""
    origin, parts = get_origin(kind), get_args(kind)
    if isinstance(value, os.PathLike):
        value = os.fspath(value)
    elif type(value).__name__ == "device":  # torch's
        value = str(value)
    elif hasattr(value, "item"):
        with contextlib.suppress(RuntimeError):  # torch's, for several numbers; numpy's is a ValueError
            value = value.item()
    if origin is Annotated:
        value = fit(value, parts[0], text)
        if all(number in parts[1] for number in (value if isinstance(value, tuple) else [value])):
            return value
        raise UsageError(parts[1])
    elif origin is tuple:
        if text and isinstance(value, str):
            value = [item.strip() for item in value.split(",")]
        if isinstance(value, list | tuple):
            return tuple(fit(item, parts[0], text) for item in value)
    elif parts and origin is not Literal:  # a union
        for part in alternatives(kind):
            with contextlib.suppress(ValueError):
                return fit(value, part, text)
    else:
        if text and kind is not str:
            value = read(show(value).strip().lower(), kind)
        known = type(value) is kind or (kind is float and type(value) is int) or (type(value) is str and value in parts)
        if known and value == value:  # nan does not equal itself
            return value
    raise ValueError


def read(text, kind):
    if kind is int and {"e", "."} & {*text} and float(text).is_integer():
        return int(float(text))  # 1e3
    return kind(text) if kind in (int, float) else WORDS.get(text, text)


def read_toml(path, options, hints=None):
    """{name: value} of the lines of the TOML file `path`. Raises UsageError, which names the file."""
    presets = {p.stem: p.as_posix() for p in sorted(Path("config").glob("*.toml"))}
    try:
        if Path(path).suffix == ".py":
            there = f"; there is {', '.join(presets.values())}" if presets else ""
            raise UsageError(f"a preset is a TOML file, never executed{there}")
        content = Path(path).read_bytes()
        if content[:2] in (b"\xff\xfe", b"\xfe\xff"):
            raise UsageError("UTF-16 text; save it as UTF-8")
        lines = tomllib.loads(content.decode("utf-8-sig"))
        for name in lines:
            if name not in options:
                raise UsageError(no_option(name, options, hints))
        return {name: checked(options[name], value, text=True) for name, value in lines.items()}
    except FileNotFoundError:
        near = difflib.get_close_matches(Path(path).stem, presets, 1)
        hint = f" (did you mean {presets[near[0]]}?)" if near else ""
        raise UsageError(f"{path}: no such file{hint}; an option is written --name=value") from None
    except (OSError, ValueError) as error:
        raise UsageError(f"{path}: not a TOML file of lines `name = value` ({error})") from None
    except UsageError as error:
        raise UsageError(f"{path}: {error}") from None


def show(value):
    """`value` as one writes it after `--name=`."""
    if isinstance(value, tuple):
        return ",".join(map(show, value))
    return str(value).lower() if value is None or isinstance(value, bool) else str(value)


def to_toml(values):
    """The text of a TOML file from which read_toml reads `values`."""
    return "".join(f"{name} = {toml(value)}\n" for name, value in values.items())


def toml(value):
    if isinstance(value, list | tuple):
        return f"[{', '.join(map(toml, value))}]"
    if value is None or isinstance(value, str):
        text = json.dumps("none" if value is None else value, ensure_ascii=False)
        return text.replace("\x7f", r"\u007f")  # JSON allows it, TOML does not
    return show(value)


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
    """The value that is given, not None and not '', of options that mean the same; or None. UsageError for two."""
    given = {name: value for name, value in options.items() if value not in (None, "")}
    if len(given) > 1:
        raise UsageError(f"{' and '.join(given)} are given: give only one of them")
    return next(iter(given.values()), None)
