"""What a command line does, and the one line that says what is wrong with it."""

import io
import re
import subprocess
import sys
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Annotated, Literal

import pytest
from hypothesis import given
from hypothesis import strategies as st

from configurable import PositiveInt, UsageError, check_ranges, comments, is_in, parse, run, signature, to_toml, usage
from conftest import ROOT
from lab.analyze import analyze
from lab.bench import bench
from lab.compare import compare
from lab.needles import needles
from model import GPTConfig
from plumbing.nanogpt import OPTIONS_OF_NANOGPT
from prepare import prepare
from sample import sample
from train import preset, train

PROGRAMS = [train, prepare, sample, needles, analyze, compare, bench]


@dataclass
class Shape:
    """A dataclass that lends its fields."""

    width: int = 4  # how wide
    kind: str = "flat"  # flat or round

    def __post_init__(self):
        if self.width < 1:
            raise ValueError(f"width={self.width}: must be at least 1")


def work(
    shape: Shape,
    *,
    learning_rate: float = 1e-3,  # the step's length, not # of steps
    max_iters: int = 10,  # how often
    grad_clip: float | None = 1.0,  # none: any
    compile: Literal["auto"] | bool = "auto",
    overwrite: bool = False,
    out_dir: str | None = None,
):
    """Do the work. And more."""
    other: int = 3  # not an option
    max_iters: int = max_iters  # not its help
    return shape, learning_rate, max_iters, grad_clip, compile, overwrite, out_dir, other


def words(
    one: str,  # the first
    *rest: str,  # the others
    count: int = 1,
):
    """Take words."""
    return one, rest, count


def several(
    *,
    seeds: tuple[int, ...] = (1, 2),  # which
    names: tuple[str, ...] | None = None,  # none: all
):
    """Take lists."""
    return seeds, names


def given_(*argv):
    args, options = parse(work, argv)
    return {**vars(args[0]), **options}


def mistake(function, *argv):
    with pytest.raises(UsageError) as error:
        parse(function, argv)
    return str(error.value)


@pytest.mark.parametrize(
    ("argv", "expected"),
    [
        (["--learning_rate=1"], {"learning_rate": 1.0}),
        (["--learning_rate=0"], {"learning_rate": 0.0}),
        (["--compile=TRUE"], {"compile": True}),
        (["--compile=False"], {"compile": False}),
        (["--compile=Auto"], {"compile": "auto"}),
        (["--max_iters=1e3"], {"max_iters": 1000}),
        (["--max_iters=-3"], {"max_iters": -3}),
        (["--max_iters", "7"], {"max_iters": 7}),
        (["--max_iters=9_007_199_254_740_993"], {"max_iters": 2**53 + 1}),
        (["--max_iters", "-7"], {"max_iters": -7}),
        (["--out_dir=123"], {"out_dir": "123"}),
        (["--out_dir=a=b"], {"out_dir": "a=b"}),
        (["--out_dir="], {"out_dir": ""}),
        (["--out_dir= a "], {"out_dir": " a "}),
        (["--max_iters= 3 "], {"max_iters": 3}),
        (["--out_dir=None"], {"out_dir": None}),
        (["--grad_clip=none"], {"grad_clip": None}),
        (["--grad_clip=2"], {"grad_clip": 2.0}),
        (["--overwrite"], {"overwrite": True}),
        (["--overwrite", "--max_iters=1"], {"overwrite": True, "max_iters": 1}),
        (["--overwrite", "false"], {"overwrite": False}),
        (["--width=8", "--kind=round"], {"width": 8, "kind": "round"}),
        (["--max_iters=1", "--max_iters=2"], {"max_iters": 2}),
    ],
)
def test_values(argv, expected):
    found = {**{"width": 4, "kind": "flat"}, **given_(*argv)}
    assert found == {"width": 4, "kind": "flat", **expected}
    assert all(type(found[k]) is type(v) for k, v in expected.items())


@pytest.mark.parametrize(
    ("argv", "message"),
    [
        (["learning_rate=3"], "learning_rate=3: did you mean --learning_rate=3?"),
        (["--learning_rat=3"], "--learning_rat=3: there is no option learning_rat (did you mean learning_rate?)"),
        (["-width=3"], "-width=3: did you mean --width=3?"),
        (["-q"], "-q: there is no option q"),
        (["--learning_rate=fast"], "--learning_rate=fast: learning_rate must be float"),
        (["--learning_rate=nan"], "--learning_rate=nan: learning_rate must be float"),
        (["--max_iters=1.5"], "--max_iters=1.5: max_iters must be int"),
        (["--max_iters=inf"], "--max_iters=inf: max_iters must be int"),
        (["--max_iters="], "--max_iters=: max_iters must be int"),
        (["--max_iters"], "--max_iters: a value is missing, --max_iters=int"),
        (["--max_iters", "--overwrite"], "--max_iters: a value is missing, --max_iters=int"),
        (["--compile=autp"], "--compile=autp: compile must be auto|true|false (did you mean auto?)"),
        (["--grad_clip=off"], "--grad_clip=off: grad_clip must be none|float"),
        (["--other=3"], "--other=3: there is no option other"),
        (["--width=0"], "width=0: must be at least 1"),
        (["nowhere.toml"], "nowhere.toml: no such file"),
        (["--"], "--: there is no option"),
    ],
)
def test_mistakes_are_explained(argv, message):
    assert mistake(work, *argv).startswith(message)


def test_a_toml_line_is_as_good_as_an_option_at_that_place(tmp_path):
    file = tmp_path / "a.toml"
    file.write_text('max_iters = 1e3\ngrad_clip = "none"\nout_dir = 123\ncompile = true\nkind = "round"\n# comment\n')
    expected = {"max_iters": 1000, "grad_clip": None, "out_dir": "123", "compile": True, "kind": "round", "width": 4}
    assert given_(str(file)) == expected
    assert given_("--max_iters=5", str(file)) == expected
    assert given_(str(file), "--max_iters=5") == expected | {"max_iters": 5}
    (tmp_path / "b.toml").write_text("width = 9\n")
    assert given_(str(file), str(tmp_path / "b.toml")) == expected | {"width": 9}


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("max_iter = 3", "max_iter = 3: there is no option max_iter (did you mean max_iters?)"),
        ("max_iters = 'x'", "max_iters = x: max_iters must be int"),
        ("max_iters = [1]", "max_iters = [1]: max_iters must be int"),
        ("[table]\nmax_iters = 1", "table is a table, and only"),
        ("import os", "not a TOML file of lines `name = value`"),
        ("width = -2", "width=-2: must be at least 1"),
    ],
)
def test_mistakes_in_a_file_name_the_file(tmp_path, text, message):
    file = tmp_path / "a.toml"
    file.write_text(text)
    found = mistake(work, str(file))
    assert message in found and (str(file) in found or "width" in found)


def test_a_file_that_is_no_text_is_explained(tmp_path):
    (tmp_path / "a.toml").write_bytes(b"\xff\xfe\x00")
    assert "not a TOML file" in mistake(work, str(tmp_path / "a.toml"))
    assert "not a TOML file" in mistake(work, str(tmp_path))


def test_a_preset_near_the_given_name_is_offered(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    Path("config").mkdir()
    Path("config/cpu.toml").write_text("")
    assert "did you mean config/cpu.toml?" in mistake(work, "config/cup.toml")
    assert "did you mean config/cpu.toml?" in mistake(work, "cpu")
    assert mistake(work, "stdlib") == "stdlib: no such file; an option is written --name=value"


def test_words_fill_places_then_the_rest():
    assert parse(words, ["a", "--count=2", "b", "c.toml"]) == (["a", "b", "c.toml"], {"count": 2})
    assert mistake(words, "--count=2") == "ONE is missing: the first"
    assert mistake(words, "count=2") == "count=2: did you mean --count=2?"
    assert parse(words, ["a"]) == (["a"], {}) and parse(prepare, []) == ([], {})


def test_a_place_with_a_default_may_be_left_empty():
    def place(
        one: str,  # the first
        two: str | None = None,  # the second
    ):
        """Take words."""

    assert parse(place, ["a"]) == (["a"], {}) and parse(place, ["a", "b"]) == (["a", "b"], {})
    assert mistake(place) == "ONE is missing: the first"


def test_run_begins_with_the_preset_unless_one_is_named(tmp_path, capsys):
    preset, own = tmp_path / "preset.toml", tmp_path / "own.toml"
    preset.write_text("max_iters = 77\nlearning_rate = 7\n")
    own.write_text("width = 5\n")
    seen = []
    options = ["--learning_rate=2", "--out_dir=x.toml"]
    assert run(work, options, preset=lambda values: seen.append(values) or preset)[1:3] == (2.0, 77)
    assert seen == [{"learning_rate": 2.0, "out_dir": "x.toml"}]
    assert capsys.readouterr().out == f"no preset named: taking {preset}\n"
    assert run(work, [str(own)], preset=lambda values: preset)[2] == 10
    assert capsys.readouterr().out == ""
    with pytest.raises(SystemExit):
        run(work, ["--nonsense=1"], preset=lambda values: preset)
    assert capsys.readouterr().out == ""


def test_a_file_that_cannot_be_opened_is_one_line(capsys):
    def stumble(*, name: str = "x"):  # a name
        """Open nothing."""
        Path("nowhere/at/all").read_text()

    with pytest.raises(SystemExit) as stopped:
        run(stumble, [])
    assert stopped.value.code == 2
    assert capsys.readouterr().err.endswith("[Errno 2] No such file or directory: 'nowhere/at/all'\n")


def test_a_mistake_is_one_line_and_exit_code_2(capsys):
    with pytest.raises(SystemExit) as stopped:
        run(work, ["--max_iters=a\nb"])
    out, err = capsys.readouterr()
    assert (stopped.value.code, out) == (2, "")
    assert err == "test_configurable.py: --max_iters=a b: max_iters must be int\n"


def test_help_says_everything_and_runs_nothing(capsys):
    assert run(work, ["--help", "--nonsense"]) is None
    lines = capsys.readouterr().out.splitlines()
    assert lines[:2] == ["python test_configurable.py [FILE.toml ...] [--name=value ...]", "Do the work. And more."]
    assert "  --learning_rate=0.001  the step's length, not # of steps [float]" in lines
    assert "  --max_iters=10         how often [int]" in lines
    assert any(line.split() == ["--grad_clip=1.0", "none:", "any", "[none|float]"] for line in lines)


@pytest.mark.parametrize("function", PROGRAMS)
def test_every_option_of_every_program_has_a_help_that_stands_alone(function):
    lines = usage(function, "x.py").splitlines()[2:]
    assert len(lines) > 3
    for line in lines:
        option, _, comment = line.strip().partition("  ")
        assert len(comment.split("[")[0].split()) > 1, option
        assert not re.match(r"(its|their|of|the same)\b(?! as)", comment.strip()), line


def test_help_shows_what_is_used_where_nothing_is_given(monkeypatch, capsys):
    monkeypatch.chdir(ROOT)
    run(train, ["--help"], preset=preset)
    text = capsys.readouterr().out
    taken = preset({})
    assert f"Where no FILE.toml is named, {taken} is taken: the values below are then in use." in text
    _, options = parse(train, [taken])
    assert all(
        re.search(rf"^  --{name}={re.escape(str(value))} ", text, re.MULTILINE) for name, value in options.items()
    )
    assert "--max_iters=2000" not in text


# ---------------------------------------------------------------------------- ranges


def ranged(
    *,
    n: PositiveInt = 1,  # how many
    share: Annotated[float, "more than 0 and at most 1"] | None = None,  # how much; none: all
    lengths: Annotated[tuple[int, ...], "at least 2"] = (2, 3),  # how long
):
    """Check ranges."""
    check_ranges(ranged, locals())
    return n, share, lengths


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"n": 0}, "n=0: must be at least 1"),
        ({"share": 0.0}, "share=0.0: must be more than 0 and at most 1; none: all"),
        ({"share": 1.5}, "share=1.5: must be more than 0 and at most 1; none: all"),
        ({"lengths": (2, 1)}, "lengths=1: must be at least 2"),
    ],
)
def test_a_number_out_of_range_is_refused_with_the_range(options, message):
    assert ranged() and ranged(share=1.0, lengths=(2,))
    with pytest.raises(UsageError) as error:
        ranged(**options)
    assert str(error.value) == message


def test_help_shows_ranges():
    assert "  --n=1          how many [int, at least 1]" in usage(ranged, "x").splitlines()
    assert "[none|float, more than 0 and at most 1]" in usage(ranged, "x")
    assert "[int,int,..., at least 2]" in usage(ranged, "x")


def beyond(range):
    """Numbers just outside of a range in words."""
    for words, bound in re.findall(r"(at least|more than|at most|less than|finite) ?([^\s;]*)", range):
        number = float("inf") if words == "finite" else 2**63 if bound == "2^63" else float(bound)
        yield {"at least": number - 1, "more than": number, "at most": number + 1}.get(words, number)


@pytest.mark.parametrize("function", PROGRAMS)
def test_every_range_that_help_shows_is_enforced(function, capsys):
    options = [option for option in signature(function)[0].values() if option.range]
    if function is compare:
        options = [option for option in options if option.name != "seed"]  # it is chosen for every run
    assert options
    for option in options:
        for number in beyond(option.range):
            assert not is_in(number, option.range)
            if int in option.kinds or tuple[int, ...] in option.kinds:
                number = int(number)
                if abs(number) >= 2**63:
                    continue  # no such int is taken from a command line
            with pytest.raises(SystemExit) as ended:
                run(function, [f"--{option.name}={number}"])
            assert ended.value.code == 2
            assert f"{option.name}={number}: must be {option.range}" in capsys.readouterr().err


def test_every_range_that_help_shows_of_a_model_is_enforced():
    notes = comments(GPTConfig)
    bounds = {f.name: [*beyond(notes[f.name])] for f in fields(GPTConfig)}
    assert sum(map(len, bounds.values())) >= 8
    for name, numbers in bounds.items():
        for number in numbers:
            with pytest.raises(ValueError, match=f"^{name}="):
                GPTConfig(**{name: type(getattr(GPTConfig, name))(number)})


# ---------------------------------------------------------------------------- coming from nanoGPT

NANOGPT = (
    "eval_iters eval_only log_interval always_save_checkpoint wandb_log wandb_project wandb_run_name decay_lr bias"
)


@pytest.mark.parametrize("name", [*NANOGPT.split(), "backend"])
def test_an_option_of_nanogpt_that_does_not_exist_is_answered_by_what_serves_instead(name):
    with pytest.raises(UsageError) as error:
        parse(train, [f"--{name}=1"], hints=OPTIONS_OF_NANOGPT)
    head, _, hint = str(error.value).partition(f"there is no option {name}: ")
    assert head == f"--{name}=1: " and len(hint.split()) > 4
    for option in re.findall(r"--(\w+)", hint):
        assert option in signature(train)[0]


def test_options_of_nanogpt_that_exist_are_taken_as_they_are():
    words = ["--compile=False", "--dtype=float32", "--out_dir=out", "--init_from=resume", "--wandb_log=True"]
    _, options = parse(train, words[:-1])
    assert options["compile"] is False
    Path("wandb.toml").write_text("wandb_log = true")
    with pytest.raises(
        UsageError, match=r"wandb.toml: wandb_log = True: there is no option wandb_log: nothing is sent"
    ):
        parse(train, ["wandb.toml"], hints=OPTIONS_OF_NANOGPT)


def test_a_config_of_nanogpt_is_answered_by_the_presets(monkeypatch):
    monkeypatch.chdir(ROOT)
    message = mistake(train, "config/train_shakespeare_char.py")
    assert "a preset is a TOML file" in message and "never executed" in message and "config/cpu.toml" in message


@given(
    st.fixed_dictionaries(
        {
            "learning_rate": st.floats(allow_nan=False),
            "max_iters": st.integers(-(10**15), 10**15),
            "grad_clip": st.none() | st.floats(allow_nan=False),
            "compile": st.just("auto") | st.booleans(),
            "out_dir": st.none() | st.text(st.characters(codec="utf-8", exclude_categories=["Cc"])),
        }
    )
)
def test_to_toml_is_read_back(tmp_path_factory, values):
    if str(values["out_dir"]).strip().lower() == "none":
        values["out_dir"] = None
    file = tmp_path_factory.mktemp("toml") / "x.toml"
    file.write_text(to_toml(values), encoding="utf-8")
    assert parse(work, [str(file)])[1] == values


@given(
    st.lists(
        st.text(max_size=20) | st.sampled_from(["--max_iters", "--width=", "--overwrite", "=", "-", "1"]), max_size=4
    )
)
def test_any_command_line_is_parsed_or_explained(argv):
    try:
        parse(work, argv)
    except UsageError as error:
        assert str(error)


def test_programs_explain_and_exit_2_from_the_shell():
    command = [sys.executable, ROOT / "train.py", "--learning_rat=1"]
    done = subprocess.run(command, capture_output=True, text=True, cwd=ROOT, timeout=120)
    assert done.returncode == 2
    assert done.stderr == "train.py: --learning_rat=1: there is no option learning_rat (did you mean learning_rate?)\n"


@pytest.mark.parametrize(
    "argv, seeds, names",
    [
        ([], None, None),
        (["--seeds=3", "--names=a, b"], (3,), ("a", "b")),
        (["--seeds=1e3,-2", "--names=none"], (1000, -2), None),
    ],
)
def test_a_list_is_written_with_commas(argv, seeds, names):
    expected = {"seeds": seeds, "names": names} if argv else {}
    assert parse(several, argv)[1] == expected


def test_a_list_comes_from_a_file_as_from_the_command_line():
    Path("a.toml").write_text('seeds = [3, 4]\nnames = "a,b"')
    assert parse(several, ["a.toml"])[1] == {"seeds": (3, 4), "names": ("a", "b")}
    Path("b.toml").write_text(to_toml({"seeds": (5,), "names": ("c", "d")}))
    assert parse(several, ["b.toml"])[1] == {"seeds": (5,), "names": ("c", "d")}


@pytest.mark.parametrize("value", ["1,", "", "1,a", "1.5", "none", "[1]"])
def test_a_list_that_is_none_is_refused(value):
    with pytest.raises(UsageError, match=r"seeds must be int,int,\.\.\."):
        parse(several, [f"--seeds={value}"])


@pytest.mark.parametrize("value", ["a,", "", ",a", "a,,b"])
def test_a_list_of_words_has_no_empty_one(value):
    with pytest.raises(UsageError, match="names must be none"):
        parse(several, [f"--names={value}"])


def test_help_shows_a_list_as_it_is_written():
    assert "--seeds=1,2  " in usage(several, "several.py") and "[int,int,...]" in usage(several, "several.py")
    assert "[none|text,text,...]" in usage(several, "several.py")


@pytest.mark.parametrize(
    "error",
    [
        MemoryError(),
        RuntimeError("[enforce fail at alloc_cpu.cpp] DefaultCPUAllocator: can't allocate memory"),
        ValueError("array is too big; `arr.size * arr.dtype.itemsize` is larger than the maximum possible size"),
    ],
)
def test_memory_that_is_too_small_is_one_line_in_every_program(error, capsys):
    def work():
        raise error

    with pytest.raises(SystemExit) as ended:
        run(work, [], program="python work.py")
    said = capsys.readouterr().err
    assert ended.value.code == 2 and said.startswith("work.py: out of memory: ") and said.count("\n") == 1


def test_other_errors_keep_their_traceback():
    def work():
        raise RuntimeError("a bug")

    with pytest.raises(RuntimeError, match="a bug"):
        run(work, [], program="python work.py")


def test_a_terminal_is_driven_by_no_text(monkeypatch):
    def work():
        print("a\x1b[31m\x07\n\tλ\r")

    out = io.StringIO()
    monkeypatch.setattr(sys, "stdout", out)
    run(work, [], program="work.py")
    assert out.getvalue() == "a\x1b[31m\x07\n\tλ\r\n"  # into a file as it is
    out = io.StringIO()
    out.isatty = lambda: True
    monkeypatch.setattr(sys, "stdout", out)
    run(work, [], program="work.py")
    assert out.getvalue() == "a\ufffd[31m\ufffd\n\tλ\ufffd\n"


@pytest.mark.skipif(sys.platform == "win32", reason="the shell of Unix")
@pytest.mark.parametrize("program", ["train.py", "prepare.py", "-m lab.compare", "-m lab.analyze", "-m lab.bench"])
@pytest.mark.parametrize("how", ["2>&-", "PYTHONOPTIMIZE=2"])
def test_help_needs_neither_stderr_nor_docstrings(program, how):
    command = f"{sys.executable} {program} --help"
    command = f"{command} {how}" if ">" in how else f"{how} {command}"
    shown = subprocess.run(["sh", "-c", command], cwd=ROOT, capture_output=True, text=True)
    assert shown.returncode == 0 and "--" in shown.stdout and shown.stderr == ""
