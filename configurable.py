"""A function's signature as its command line: `run(train)` reads the options, calls train and explains every mistake.

    def train(config: GPTConfig, *, max_iters: NonNegativeInt = 2000, ...):  # the comment is its --help

Parameters behind the `*` are options, `--name=value` or `--name value`. A parameter annotated with a dataclass lends
its fields as options, and `**options: train` lends all options of the function train. Parameters before the `*`, and
`*names`, take words. Any further word is a TOML file, which is data and never executed: each of its lines counts as
`--name=value` at that place, and the later wins.
"""

import dataclasses
import difflib
import inspect
import json
import operator
import os
import re
import sys
import tomllib
import types
import typing
from pathlib import Path
from typing import Annotated

PositiveInt = Annotated[int, "at least 1"]  # the range is shown by --help, and enforced by check_ranges
NonNegativeInt = Annotated[int, "at least 0"]
PositiveFloat = Annotated[float, "more than 0"]
NonNegativeFloat = Annotated[float, "at least 0 and finite"]
Seed = Annotated[int, "at least 0 and less than 2^63"]

KINDS = {int: "int", float: "float", bool: "true|false", types.NoneType: "none", str: "text"}
KINDS |= {tuple[kind, ...]: f"{KINDS[kind]},{KINDS[kind]},..." for kind in (int, float, str)}


class UsageError(Exception):
    """A mistake that the user can put right. `run` shows it as one line and exits with 2."""


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


def run(function, argv=None, preset=None, program=None, hints=None):
    """Call `function` as the command line `argv` says; return what it returns. A UsageError is one line and exit 2.

    program: the command as --help shows it; none: `python FILE`. preset(values): the TOML file where argv names none,
    for the options `values` in argv. hints: {regular expression: what to do} for options that do not exist here.
    """
    argv = sys.argv[1:] if argv is None else argv
    program = program or f"python {Path(inspect.getsourcefile(function)).name}"
    name = program.removeprefix("python ").removeprefix("-m ")
    for stream in ("stdout", "stderr"):
        if getattr(sys, stream) is None:  # it was closed
            setattr(sys, stream, open(os.devnull, "w", encoding="utf-8"))  # noqa: SIM115
        if hasattr(getattr(sys, stream), "reconfigure"):
            getattr(sys, stream).reconfigure(errors="backslashreplace")  # an old terminal's encoding stops no run
    if sys.stdout.isatty():
        write = sys.stdout.write
        sys.stdout.write = lambda text: write(printable(text))
    try:
        if {"-h", "--help"} & {*argv}:
            return print(usage(function, program, preset))
        args, kwargs = parse(function, argv, preset, hints)
        return function(*args, **kwargs)
    except BrokenPipeError:  # whoever read our output has seen enough
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        sys.exit(141)
    except (UsageError, OSError) as error:
        print(f"{name}: {one_line(error)}\n", end="", file=sys.stderr)  # in one piece, whoever else prints
        sys.exit(2)
    except KeyboardInterrupt:
        sys.exit(130)
    except Exception as error:
        if not is_out_of_memory(error):
            raise
        print(f"{name}: out of memory: {one_line(error) or 'less must be asked for'}\n", end="", file=sys.stderr)
        sys.exit(2)


def one_line(error):
    """The text of an error in one line, without characters that control a terminal."""
    return printable(" ".join(str(error).split()))


def printable(text):
    """`text` without characters that control a terminal."""
    return "".join(c if c.isprintable() or c in "\n\t" else "\ufffd" for c in text)


NO_MEMORY = re.compile("allocate|out of memory|buffer size|[oO]verflow|too big|too large|allowed dim")


def is_out_of_memory(error):
    """Whether an error of Python, numpy or torch says that memory is too small."""
    kinds = (RuntimeError, ValueError, OverflowError, TypeError)
    return isinstance(error, MemoryError) or (isinstance(error, kinds) and bool(NO_MEMORY.search(str(error))))


# ---------------------------------------------------------------------------- from words to a call


def parse(function, argv, preset=None, hints=None):
    """(args, kwargs) with which `argv` calls `function`. Raises UsageError."""
    options, places = signature(function)
    argv, words, values, files = list(argv), [], {}, []
    while argv:
        word = argv.pop(0)
        name, equals, value = word.removeprefix("-").removeprefix("-").partition("=")
        if name in options and not word.startswith("--") and (equals or word.startswith("-")):
            raise UsageError(f"{word}: did you mean --{word.lstrip('-')}?")
        if word.startswith("-"):
            if name in options and not equals:
                value = next_value(options[name], word, argv)
            assign(values, options, name, value, word, hints)
        elif len(words) < len(places) or (places and places[-1].repeated):
            words.append(word)
        else:
            read_toml(values, options, word, hints)
            files.append(word)
    if preset and not files:
        print(f"no preset named: taking {(path := preset(values))}")
        given, values = values, {}
        read_toml(values, options, path, hints)
        values |= given
    needed = [place for place in places if place.default is inspect.Parameter.empty and not place.repeated]
    if len(words) < len(needed):
        raise UsageError(f"{needed[len(words)].name.upper()} is missing: {needed[len(words)].comment}")
    return bind(function, words, values)


def next_value(option, word, argv):
    """The value of `--name value`, taken off argv; "true" for a switch alone. Raises UsageError where there is none."""
    if bool in option.kinds and not (argv and argv[0].lower() in ("true", "false", "none", *option.kinds)):
        return "true"
    if not argv or argv[0].startswith("--"):
        raise UsageError(f"{word}: a value is missing, {word}={option.form}")
    return argv.pop(0)


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


@dataclasses.dataclass
class Option:
    """An option, or a place for words: name, types, default, the comment beside it, the range of its numbers."""

    name: str
    kinds: tuple
    default: object
    comment: str
    range: str = ""
    repeated: bool = False

    @property
    def form(self):
        return "|".join(KINDS.get(kind, kind) for kind in self.kinds)


def signature(function):
    """({name: Option}, [Option for each word]) of a function."""
    options, places, beside = {}, [], comments(function)
    for p in inspect.signature(function).parameters.values():
        if p.kind is p.VAR_KEYWORD:
            lent = signature(p.annotation)[0]
            options |= {name: option for name, option in lent.items() if name not in options}
            continue
        if dataclasses.is_dataclass(p.annotation):
            notes = comments(p.annotation)
            for f in dataclasses.fields(p.annotation):
                options[f.name] = Option(f.name, kinds(f.type), f.default, notes.get(f.name, ""))
            continue
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


def comments(thing):
    """{name: comment} of the lines `name: type = default,  # comment` of a function or dataclass."""
    found = re.findall(r"^\s*\*?(\w+): .*?  # (.*)$", inspect.getsource(thing), re.MULTILINE)
    return dict(reversed(found))  # the first of a name counts: a signature comes before its function's body


# ---------------------------------------------------------------------------- ranges


COMPARISONS = {"at least": operator.ge, "more than": operator.gt, "at most": operator.le, "less than": operator.lt}


def range_of(annotation):
    """The range in Annotated[int, "at least 1 and at most 9"], also where `| None` stands behind it; '' for none."""
    parts = (annotation, *typing.get_args(annotation))
    return next((part.__metadata__[0] for part in parts if typing.get_origin(part) is Annotated), "")


def is_in(value, words):
    """Whether a number is in a range in words, such as "at least 0 and less than 1" or "more than 0 and finite"."""
    bounds = re.findall(r"(at least|more than|at most|less than) (\S+)", words.replace("finite", "less than inf"))
    return all(COMPARISONS[how](value, 2**63 if bound == "2^63" else float(bound)) for how, bound in bounds)


def check_ranges(function, values):
    """Raises UsageError for the first option of `function` whose number in {name: value} is out of its range."""
    for option in signature(function)[0].values():
        value = values.get(option.name)
        for number in value if isinstance(value, tuple) else (value,):
            if option.range and number is not None and not is_in(number, option.range):
                none = re.search(r"; none: [^;]+", option.comment)
                raise UsageError(f"{option.name}={show(number)}: must be {option.range}{none[0] if none else ''}")


# ---------------------------------------------------------------------------- values as text


def assign(values, options, name, value, place, hints=None):
    """values[name] = `value`, text or what TOML holds, as the option's type. Raises UsageError."""
    if name not in options:
        hint = next((what for pattern, what in (hints or {}).items() if re.fullmatch(pattern, name)), None)
        raise UsageError(f"{place}: there is no option {name}{f': {hint}' if hint else nearest(name, options)}")
    text, several = (show(value), True) if isinstance(value, list) else (str(value), False)
    if "\0" in text:  # which no name of a file has
        raise UsageError(f"{place}: {name} must be {options[name].form}, without a NUL")
    for kind in options[name].kinds:
        if several and typing.get_origin(kind) is not tuple:
            continue
        try:
            values[name] = text if kind is str else convert(text.strip(), kind)
            return
        except (ValueError, OverflowError):
            pass
    words = [kind for kind in options[name].kinds if isinstance(kind, str)]
    raise UsageError(f"{place}: {name} must be {options[name].form}{nearest(text, words)}")


def convert(text, kind):
    """`text` as a value of `kind`, a type or a word that is itself the value. Raises ValueError."""
    if typing.get_origin(kind) is tuple:
        (kind, _), parts = typing.get_args(kind), [part.strip() for part in text.split(",")]
        if not all(parts):
            raise ValueError
        return tuple(part if kind is str else convert(part, kind) for part in parts)
    if kind is int:
        number = int(text) if text.lstrip("+-").replace("_", "").isdecimal() else float(text)
        if number != int(number) or abs(number) >= 2**63:
            raise ValueError
        return int(number)
    if kind is float:
        if (number := float(text)) != number:
            raise ValueError
        return number
    named = {bool: {"true": True, "false": False}, types.NoneType: {"none": None}}.get(kind, {kind: kind})
    if text.lower() not in named:
        raise ValueError
    return named[text.lower()]


def read_toml(values, options, path, hints=None):
    """Assign each line of the TOML file `path`. Raises UsageError."""
    if Path(path).suffix == ".py":
        presets = ", ".join(sorted(p.as_posix() for p in Path("config").glob("*.toml")))
        raise UsageError(f"{path}: a preset is a TOML file of lines `name = value`, never executed; there is {presets}")
    try:
        lines = tomllib.loads(Path(path).read_text(encoding="utf-8"))
    except FileNotFoundError:
        presets = {p.stem: p.as_posix() for p in Path("config").glob("*.toml")}
        near = difflib.get_close_matches(Path(path).stem, presets, 1)
        hint = f" (did you mean {presets[near[0]]}?)" if near else ""
        raise UsageError(f"{path}: no such file{hint}; an option is written --name=value") from None
    except (OSError, ValueError, RecursionError) as error:
        raise UsageError(f"{path}: not a TOML file of lines `name = value` ({error})") from None
    for name, value in lines.items():
        if isinstance(value, dict):
            raise UsageError(f"{path}: {name} is a table, and only lines `name = value` are options")
        try:
            place = f"{path}: {name} = {value}"
        except ValueError:
            raise UsageError(f"{path}: {name} has more digits than Python writes") from None
        assign(values, options, name, value, place, hints)


def show(value):
    """`value` as one writes it after `--name=`."""
    if isinstance(value, str):
        return value if value.isprintable() else json.dumps(value)
    if isinstance(value, list | tuple):
        return ",".join(map(show, value))
    return str(value).lower() if value is None or isinstance(value, bool) else repr(value)


def to_toml(values):
    """The text of a TOML file from which read_toml reads `values`."""
    lines = []
    for name, value in values.items():
        value = "none" if value is None else value
        quoted = isinstance(value, str | tuple)
        text = json.dumps(value, ensure_ascii=False) if quoted else show(value)
        lines.append(f"{name} = {text}\n".replace("\x7f", r"\u007f"))  # JSON allows it, TOML does not
    return "".join(lines)


def usage(function, program, preset=None):
    """The text of --help, with the values that are used where nothing is given: those of the preset before our own."""
    options, places = signature(function)
    words = "".join(f" {p.name.upper()}{' ...' if p.repeated else ''}" for p in places)
    files = "" if places and places[-1].repeated else " [FILE.toml ...]"
    lines, taken = [f"{program}{words}{files} [--name=value ...]", (inspect.getdoc(function) or "").split("\n")[0]], {}
    if preset:
        read_toml(taken, options, preset({}))
        lines.append(f"Where no FILE.toml is named, {preset({})} is taken: the values below are then in use.")
    rows = [(f"  {p.name.upper()}", p.comment) for p in places]
    for o in options.values():
        allowed = f"{o.form}, {o.range}" if o.range else o.form
        rows.append((f"  --{o.name}={show(taken.get(o.name, o.default))}", f"{o.comment} [{allowed}]"))
    width = max(len(left) for left, _ in rows)
    return "\n".join(lines + [f"{left:{width}}  {right}" for left, right in rows])
