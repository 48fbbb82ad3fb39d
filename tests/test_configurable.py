"""What a command line does, and the one line that says what is wrong with it."""

import enum
import errno
import math
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from configurable import PositiveInt, Range, UsageError, check, comments, parse, read_toml, run, signature, to_toml
from conftest import ROOT, mistake
from sample import sample
from train import OPTIONS_OF_NANOGPT, preset, train


@dataclass
class Shape:
    """A dataclass that lends its fields."""

    width: int = 4  # how wide
    kind: str = "flat"  # flat or round

    def __post_init__(self):
        if self.width < 1:
            raise ValueError(f"width={self.width}: must be at least 1")


class Word(str, enum.Enum):  # noqa: UP042  a text that no checkpoint could be read with
    AUTO = "auto"


def work(
    shape: Shape,
    *,
    rate: Annotated[float, Range(gt=0, lt=math.inf)] = 1e-3,  # the step's length, 50 % of it
    steps: PositiveInt = 10,  # how often
    clip: Annotated[float, Range(gt=0)] | None = 1.0,  # largest norm; none: any
    compile: Literal["auto"] | bool = "auto",
    overwrite: bool = False,
    out_dir: str | None = None,
    seeds: Annotated[tuple[int, ...], Range(ge=0)] = (1, 2),  # which
    rates: tuple[float, ...] = (),
    names: tuple[str, ...] = (),
):
    """Do the work. And more."""
    steps: int = steps  # not its help
    return shape, rate, steps, clip, compile, overwrite, out_dir, seeds, rates, names


def words(one: str, *rest: str, count: int = 1):
    """Take words."""


def options(*argv):
    (shape,), rest = parse(work, argv)
    return vars(shape) | rest


@pytest.mark.parametrize(
    ("argv", "expected"),
    [
        (["--steps=5"], {"steps": 5}),
        (["--steps", "5"], {"steps": 5}),
        (["--steps=1e3"], {"steps": 1000}),
        (["--rate=3"], {"rate": 3.0}),
        (["--clip=none", "--out_dir=none"], {"clip": None, "out_dir": None}),
        (["--overwrite"], {"overwrite": True}),
        (["--overwrite", "--steps=5"], {"overwrite": True, "steps": 5}),
        (["--overwrite", "a.toml"], {"overwrite": True, "steps": 5}),
        (["--overwrite", "false", "a.toml"], {"overwrite": False, "steps": 5}),
        (["--overwrite=False"], {"overwrite": False}),
        (["--compile=auto"], {"compile": "auto"}),
        (["--compile=true"], {"compile": True}),
        (["--seeds=3, 4"], {"seeds": (3, 4)}),
        (["--names=a, b"], {"names": ("a", "b")}),
        (["--width=7"], {"width": 7}),
        (["--out_dir=a=b"], {"out_dir": "a=b"}),
        (["--steps=5", "--steps=6"], {"steps": 6}),
    ],
)
def test_options(argv, expected):
    Path("a.toml").write_text("steps = 5\n")
    assert options(*argv) == {"width": 4, "kind": "flat"} | expected


@pytest.mark.parametrize(
    ("argv", "message"),
    [
        (["--stesp=5"], "--stesp=5: there is no option stesp (did you mean steps?)"),
        (["--step=5"], "--step=5: there is no option step (did you mean steps?)"),
        (["-steps=5"], "-steps=5: did you mean --steps=5?"),
        (["--steps"], "argument --steps: expected one argument"),
        (["--steps=x"], "steps=x: must be int, at least 1"),
        (["--steps=1.5"], "steps=1.5: must be int, at least 1"),
        (["--steps=inf"], "steps=inf: must be int, at least 1"),
        (["--steps=0", "--steps=1"], "steps=0: must be at least 1"),
        (["--rate=nan"], "rate=nan: must be float, more than 0 and finite"),
        (["--compile=atuo"], "compile=atuo: must be auto|true|false (did you mean auto?)"),
        (["--seeds=1,,2"], "seeds=1,,2: must be int,int,..., at least 0"),
        (["--overwrite=ture"], "overwrite=ture: must be true|false (did you mean true?)"),
        (["--width=0"], "width=0: must be at least 1"),
        (["steps=5"], "steps=5: did you mean --steps=5?"),
        (["-lr", "3"], "-lr: there is no option lr; an option is written --name=value"),
        (["stdlib"], "stdlib: no such file; an option is written --name=value"),
        (["gpt.py"], "gpt.py: a preset is a TOML file, never executed"),
    ],
)
def test_mistakes_of_words(argv, message):
    assert mistake(parse, work, argv) == message


def test_words_go_where_the_signature_takes_them():
    assert parse(words, ["a", "b", "--count=2", "c"]) == (["a", "b", "c"], {"count": 2})
    Path("x.toml").write_text("top_k = 3\n")
    assert parse(sample, ["out/run", "x.toml", "--seed=1"]) == (["out/run"], {"top_k": 3, "seed": 1})
    assert mistake(parse, words, ["--count=2"]) == "the following arguments are required: ONE"
    assert check(sample, {"checkpoint": Path("out")}) == {"checkpoint": "out"}
    assert check(words, {"one": "a", "rest": (Path("b"),)}) == {"one": "a", "rest": ("b",)}
    assert mistake(check, words, {"rest": (1,)}) == "rest=1: must be text,text,..."


def test_of_presets_and_options_the_later_wins():
    Path("a.toml").write_text("steps = 5\nrate = 1\nclip = 'none'\nseeds = [7, 8]\n")
    Path("b.toml").write_text("\ufeffsteps = 6e0\noverwrite = true\n", encoding="utf-8")  # as Windows editors begin it
    expected = {"width": 4, "kind": "flat", "clip": None, "seeds": (7, 8), "overwrite": True}
    assert options("a.toml", "b.toml", "--rate=2") == expected | {"steps": 6, "rate": 2.0}
    assert options("--rate=2", "--steps=3", "a.toml", "--steps", "4", "b.toml") == expected | {"steps": 6, "rate": 1.0}
    assert options("b.toml", "--overwrite=false", "a.toml") == expected | {"steps": 5, "rate": 1.0, "overwrite": False}


def lender(*, n: int = 3, **more: work):  # lends
    """Take the options of work, too."""


def test_a_function_lends_its_options():
    assert parse(lender, ["--n=2", "--width=7", "--steps=5"]) == ([], {"n": 2, "width": 7, "steps": 5})
    assert mistake(check, lender, {"n": 1, "steps": 0}) == "steps=0: must be at least 1"
    assert comments(lender)["steps"] == "how often"


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"stesp = 5", "x.toml: there is no option stesp (did you mean steps?)"),
        (b"steps = 'x'", "x.toml: steps=x: must be int, at least 1"),
        (b"steps = 0", "x.toml: steps=0: must be at least 1"),
        (b"steps = [5]", "x.toml: steps=[5]: must be int, at least 1"),
        (b"steps.a = 5", "x.toml: steps={'a': 5}: must be int, at least 1"),
        (b"overwrite = 1", "x.toml: overwrite=1: must be true|false"),
        (b"steps = ", "x.toml: not a TOML file of lines `name = value` (Invalid value"),
        ("steps = 5".encode("utf-16"), "x.toml: UTF-16 text; save it as UTF-8"),
    ],
)
def test_mistakes_in_a_preset_name_it(content, message):
    Path("x.toml").write_bytes(content)
    assert mistake(parse, work, ["x.toml"]).startswith(message)


def test_without_a_preset_the_usual_one_is_taken_and_said(monkeypatch, capsys):
    monkeypatch.chdir(ROOT)
    assert parse(train, ["--device=cpu"], preset)[0][0].n_embd == 128
    assert parse(train, ["--device=cuda"], preset)[0][0].n_embd == 384
    assert parse(train, ["--device=cpu", "--n_embd=64"], preset)[0][0].n_embd == 64
    assert capsys.readouterr().out.split("\n")[:2] == [
        f"no preset named: taking config/{n}.toml" for n in ("cpu", "gpu")
    ]
    message = mistake(parse, train, ["config/cpux.toml"])
    assert (
        message == "config/cpux.toml: no such file (did you mean config/cpu.toml?); an option is written --name=value"
    )


def test_an_option_of_nanogpt_names_what_serves_instead():
    message = mistake(parse, train, ["--wandb_log=True"], hints=OPTIONS_OF_NANOGPT)
    assert message.startswith("--wandb_log=True: there is no option wandb_log: nothing is sent anywhere")


@pytest.mark.parametrize(
    ("values", "expected"),
    [
        ({"rate": np.float64(0.5)}, {"rate": 0.5}),
        ({"rate": torch.tensor(0.5)}, {"rate": 0.5}),
        ({"steps": np.int64(3)}, {"steps": 3}),
        ({"width": np.int64(3)}, {"width": 3}),
        ({"out_dir": Path("x")}, {"out_dir": "x"}),
        ({"rate": 1}, {"rate": 1}),
        ({"clip": None}, {"clip": None}),
        ({"seeds": [1, np.int64(2)]}, {"seeds": (1, 2)}),
        ({"shape": Shape(), "unknown": None}, {"shape": Shape(), "unknown": None}),
    ],
)
def test_values_of_other_libraries_become_python_s_own(values, expected):
    found = check(work, values)
    assert found == expected and [type(v) for v in found.values()] == [type(v) for v in expected.values()]


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"steps": 0}, "steps=0: must be at least 1"),
        ({"steps": np.ones(2)}, "steps=[1. 1.]: must be int"),
        ({"steps": torch.ones(2)}, "steps=tensor([1., 1.]): must be int"),
        ({"steps": True}, "steps=true: must be int"),
        ({"steps": "3"}, "steps=3: must be int"),
        ({"steps": 3.0}, "steps=3.0: must be int"),
        ({"rate": math.inf}, "rate=inf: must be more than 0 and finite"),
        ({"rate": math.nan}, "rate=nan: must be float"),
        ({"clip": 0.0}, "clip=0.0: must be more than 0, or none"),
        ({"compile": "atuo"}, "compile=atuo: must be auto|true|false (did you mean auto?)"),
        ({"compile": Word.AUTO}, "compile=Word.AUTO: must be auto|true|false"),
        ({"compile": torch.bfloat16}, "compile=torch.bfloat16: must be auto|true|false"),
        ({"seeds": (1, -1)}, "seeds=1,-1: must be at least 0"),
        ({"seeds": 1}, "seeds=1: must be int,int,..."),
        ({"seeds": ("1",)}, "seeds=1: must be int,int,..."),
        ({"out_dir": 5}, "out_dir=5: must be none|text"),
    ],
)
def test_values_that_no_option_may_have(values, message):
    assert mistake(check, work, values).startswith(message)


VALUES = {
    "names": st.lists(st.text(st.characters(codec="utf-8"))).map(tuple),
    "rates": st.lists(st.floats(allow_nan=False)).map(tuple),
    "rate": st.floats(min_value=1e-300, max_value=1e300),
    "steps": st.integers(1, 2**70),
    "clip": st.none() | st.floats(min_value=1e-9, allow_infinity=False),
    "compile": st.sampled_from(["auto", True, False]),
    "out_dir": st.text(st.characters(codec="utf-8")).filter(lambda text: text.lower().strip() != "none"),
    "seeds": st.lists(st.integers(0, 2**63), min_size=1).map(tuple),
}


@given(st.fixed_dictionaries({}, optional=VALUES))
def test_what_is_written_is_read_again(values):
    Path("x.toml").write_text(to_toml(values), encoding="utf-8", newline="")
    assert read_toml("x.toml", signature(work)[0]) == values


# ---------------------------------------------------------------------------- how a program ends


@pytest.mark.parametrize(
    ("error", "code", "said"),
    [
        (UsageError("a=1: must be\nb"), 2, "work: a=1: must be b\n"),
        (MemoryError(), 2, "work: out of memory"),
        (torch.OutOfMemoryError("CUDA"), 2, "work: out of memory: CUDA\n"),
        (OSError(errno.ENOSPC, "No space left on device", "x"), 2, "work: [Errno 28] No space left on device: 'x'\n"),
        (KeyboardInterrupt(), 130, ""),
    ],
)
def test_what_a_user_can_mend_is_one_line(error, code, said, capsys):
    def fails():
        raise error

    with pytest.raises(SystemExit) as stopped:
        run(fails, [], program="python -m work")
    assert stopped.value.code == code
    err = capsys.readouterr().err
    assert err.startswith(said) and err.count("\n") <= 1


@pytest.mark.parametrize("error", [ValueError("too large"), RuntimeError("out of memory"), FileNotFoundError("x")])
def test_errors_of_code_surface(error):
    def fails():
        raise error

    with pytest.raises(type(error)):
        run(fails, [])


def test_a_reader_that_goes_away_ends_a_program_quietly(monkeypatch):
    monkeypatch.setenv("PYTHONPATH", str(ROOT))
    text = "from configurable import run\ndef many():\n    while True:\n        print('x' * 99)\nrun(many, [])"
    Path("many.py").write_text(text)
    with subprocess.Popen([sys.executable, "many.py"], stdout=subprocess.PIPE, stderr=subprocess.PIPE) as process:
        process.stdout.readline()
        process.stdout.close()
        assert process.wait(60) == 141 and process.stderr.read() == b""


def test_help_shows_the_defaults_of_the_preset_that_would_be_taken(capsys):
    Path("a.toml").write_text("steps = 7\n")
    with pytest.raises(SystemExit):
        run(work, ["--help"], preset=lambda values: "a.toml")
    text = " ".join(capsys.readouterr().out.split())
    assert "Where no FILE.toml is named, a.toml is taken" in text and "how often (default: 7; at least 1)" in text


@pytest.mark.parametrize(
    "bounds, said",
    [({"ge": 0, "lt": 2**63}, "at least 0 and less than 2^63"), ({"gt": 0, "le": 1}, "more than 0 and at most 1")],
)
def test_a_range_says_itself_and_tests_numbers(bounds, said):
    inside = Range(**bounds)
    assert str(inside) == said and 1 in inside and -1 not in inside and math.nan not in inside
    assert (0 in inside) == ("ge" in bounds) and 2**63 not in inside


def test_help_has_a_line_for_every_option_with_its_range_and_default(capsys):
    with pytest.raises(SystemExit) as stopped:
        run(work, ["--help"], program="python work.py")
    text = " ".join(capsys.readouterr().out.split())
    assert stopped.value.code == 0 and text.startswith(
        "usage: python work.py [FILE.toml ...] [--name=value ...] Do the"
    )
    assert "--steps int how often (default: 10; at least 1)" in text
    assert "the step's length, 50 % of it (default: 0.001; more than 0 and finite)" in text
    assert all(f"--{name}" in text for name in signature(work)[0])


def test_a_program_is_named_by_its_file(capsys):
    with pytest.raises(SystemExit):
        run(train, ["--lerning_rate=1"])
    assert capsys.readouterr().err.startswith("train.py: ")
