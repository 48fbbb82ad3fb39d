"""What the README and the tutorial say is so: Python prints what is shown, commands are understood, links lead on."""

import contextlib
import functools
import inspect
import io
import re
import runpy
import shlex
import sys
import textwrap

import pytest
import test_model

import configurable
import model
from conftest import ROOT
from ideas.mistakes import MISTAKES

README = ROOT / "README.md"
PAGES = sorted((ROOT / "docs").glob("*.md"))
RECORDS = sorted((ROOT / "lab").glob("**/*.md"))


def each(pages):
    return pytest.mark.parametrize("page", pages, ids=lambda page: page.relative_to(ROOT).as_posix())


def read(page):
    return page.read_text(encoding="utf-8")


def blocks(page):
    """(language, text) of every fenced block, in order; those of an answer are indented."""
    fenced = re.findall(r"^( *)```(\w+)\n(.*?)^\1```$", read(page), re.MULTILINE | re.DOTALL)
    return [(language, textwrap.dedent(text)) for _, language, text in fenced]


# ---------------------------------------------------------------------------- code, and what it prints


NUMBER = re.compile(r"[+−-]?\d[\d,]*(?:\.\d+)?(?:e[+-]\d+)?")


def assert_alike(shown, printed):
    """The same words and whole numbers, and others that differ by no more than one in their last digit."""
    assert NUMBER.split(shown.strip()) == NUMBER.split(printed.strip()), printed
    for a, b in zip(NUMBER.findall(shown), NUMBER.findall(printed), strict=True):
        digits, _, exponent = a.partition("e")
        last = 10.0 ** (int(exponent or 0) - len(digits.partition(".")[2]))
        assert abs(value(a) - value(b)) <= (1.001 * last if {".", "e"} & {*a} else 0), printed


def value(number):
    return float(number.replace("−", "-").replace(",", ""))


@each([page for page in PAGES + RECORDS if "```python" in read(page)])
def test_its_code_runs_and_prints_what_is_shown(page):
    names, printed = {"__name__": "chapter"}, ""
    for language, text in [*blocks(page), ("", "")]:
        if printed:
            assert language == "text"  # what is printed is shown
            assert_alike(text, printed)
        said = io.StringIO()
        if language == "python":
            with contextlib.redirect_stdout(said):
                exec(compile(text, page.name, "exec"), names)
        printed = said.getvalue().strip()


# ---------------------------------------------------------------------------- commands


PROGRAM = r"(?:python|torchrun --nproc_per_node=\d+) ((?:train|prepare|sample|docs/figures)\.py|-m lab\.[\w.]+)"
COMMAND = re.compile(PROGRAM + r"(?![\w/])((?:'[^'\n]*'|[^\n`;&|#'])*)")
EXAMPLE = re.compile(r"mine\.toml|out/\S*\.toml|<|--help|\$OPTIONS|row-sum-one")  # cannot be parsed here


def commands(page):
    """(program, words) of every command of a page, also within its sentences."""
    for program, words in COMMAND.findall(read(page)):
        if not EXAMPLE.search(words):
            yield program, shlex.split(words.replace("$attention", "softmax1"))


@each([README, *PAGES, *RECORDS])
def test_its_commands_are_understood(page, monkeypatch):
    understood, run = [], configurable.run

    def only_parse(function, *args, **options):
        @functools.wraps(function)
        def do_nothing(*words, **values):
            understood.append(function)

        run(do_nothing, *args, **options)

    monkeypatch.setattr(configurable, "run", only_parse)
    monkeypatch.chdir(ROOT)  # where the presets are
    found = [*commands(page)]
    for program, words in found:
        path = program.removeprefix("-m ").replace(".", "/") + ".py" if program.startswith("-m") else program
        monkeypatch.setattr(sys, "argv", [path, *words])
        runpy.run_path(str(ROOT / path), run_name="__main__")
    assert len(understood) == len(found)


def test_the_readme_names_the_command_of_the_tests():
    assert re.search(r"python -m pytest$", read(README), re.MULTILINE)  # .ci/run looks for that line


# ---------------------------------------------------------------------------- links


def anchors(page):
    """The anchors that GitHub makes of a page's headings; of an HTML page its ids."""
    if page.suffix == ".html":
        return {*re.findall(r'id="([^"]+)"', read(page))}
    headings = re.findall(r"^#+ (.*)$", read(page), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", re.sub(r"[`*]|\]\(.*?\)", "", h).lower()).replace(" ", "-") for h in headings}


@each([README, *PAGES, *RECORDS])
def test_its_links_lead_somewhere(page):
    text = re.sub(r"```.*?```", "", read(page), flags=re.DOTALL)
    for link in re.findall(r"\]\(([^)\s]+)\)", text):
        if not link.startswith("http"):
            path, _, anchor = link.partition("#")
            target = page.parent / path if path else page
            assert target.exists(), link
            assert not anchor or anchor in anchors(target), link


# ---------------------------------------------------------------------------- chapter 6


CAUGHT_BY = {  # the mistake, the mechanism that it should have been, and the law that catches it
    "halved": ("differential", "test_its_projections_are_vanilla_s_and_it_learns_these_more_numbers"),
    "split-late": ("differential", "test_maps_know_distances_only"),
    "scores": ("differential", "test_row_sums"),
    "no-norm": ("differential", "test_differential_norm_makes_heads_of_one_length"),
    "no-scale": ("differential", "test_differential_norm_makes_heads_of_one_length"),
    "one-based": ("differential", "test_lambda_init_is_the_paper_s_schedule_from_depth_0"),
    "zero-token": ("softmax1", "test_map_is_the_definition_in_plain_loops"),
}


@pytest.mark.parametrize("name", MISTAKES)
def test_a_mistake_is_caught_by_the_test_that_chapter_6_names(name, monkeypatch):
    right, title = CAUGHT_BY[name]
    assert f"`{title}`" in read(ROOT / "docs/06-wrong.md")
    law = getattr(test_model, title)
    arguments = {"name": right} if "name" in inspect.signature(law).parameters else {}
    law(**arguments)
    monkeypatch.setitem(model.ATTENTION, right, MISTAKES[name])
    with pytest.raises(AssertionError):
        law(**arguments)
