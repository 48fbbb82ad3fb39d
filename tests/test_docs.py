"""What the tutorial says is so: its Python prints what is shown, its commands work, its links lead somewhere."""

import contextlib
import inspect
import io
import json
import math
import re
import runpy
import shlex
import textwrap
from pathlib import Path

import pytest
import test_model
import torch

import lab.bench
import lab.runs
import model
import prepare as prepare_py
from configurable import run
from conftest import AUTHOR_KNOWS, ROOT, Done, author_knows, broken_laws
from docs import figures, numbers, of_text
from ideas.mistakes import MISTAKES
from lab.analyze import analyze
from lab.bench import bench
from lab.compare import compare
from lab.missing import missing
from lab.needles import needles
from lab.page import page as make_page
from prepare import prepare
from sample import sample
from train import train

PAGES = [ROOT / "docs/README.md", *sorted((ROOT / "docs").glob("[0-9]*.md"))]
GUIDES = [ROOT / "docs/fair.md", ROOT / "docs/own-model.md"]
chapters = pytest.mark.parametrize("page", PAGES, ids=lambda page: page.stem)

# ---------------------------------------------------------------------------- code, and what it prints


def blocks(page):
    """(language, text) of every fenced block, in order; those of an answer are indented."""
    fenced = re.findall(r"^( *)```(\w+)\n(.*?)^\1```$", page.read_text(encoding="utf-8"), re.MULTILINE | re.DOTALL)
    return [(language, textwrap.dedent(text)) for _, language, text in fenced]


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


SMALL = [
    "--n_layer=4",
    "--n_head=4",
    "--n_embd=16",
    "--batch_size=2",
    "--max_iters=4",
    "--warmup_iters=2",
    "--eval_tokens=512",
]
COMMANDS = {  # what a command of the tutorial calls, and what is put behind it so that it takes a second
    "train.py": (train, [*SMALL, "--eval_interval=2", "--overwrite=true"]),
    "-m lab.compare": (compare, [*SMALL, "--eval_interval=2", "--seeds=1,2"]),
    "-m lab.analyze": (analyze, ["--tokens=128", "--windows=1"]),
    "-m lab.page": (make_page, ["--tokens=128"]),
    "sample.py": (sample, ["--max_new_tokens=4"]),
    "-m lab.bench": (bench, ["--repetitions=1", "--lengths=8", "--tokens=16"]),
    "prepare.py": (prepare, []),
    "-m lab.missing": (missing, ["--n_contexts=40", "--n_val_contexts=20"]),
    "-m lab.needles": (needles, ["--n_contexts=40", "--n_val_contexts=20"]),
    "-m docs.figures": (figures.figures, []),
}


def execute(line):
    """A command of the tutorial, made smaller, in this process."""
    words = shlex.split(line, comments=True)
    if not words:
        return
    assert words[0] == "python", line
    name = " ".join(words[1:3]) if words[1] == "-m" else words[1]
    argv = words[1 + len(name.split()) :]
    if "--help" not in argv and name != "-m pytest":
        function, smaller = COMMANDS[name]
        run(function, [*argv, *smaller], program=f"python {name}")


@pytest.fixture
def desk(corpus, tmp_path, monkeypatch):
    """A folder as a reader has it: presets, docs, tiny Shakespeare (here another, shorter text)."""
    for name in ("config", "docs", "model.py", "tests"):
        (tmp_path / name).symlink_to(ROOT / name)
    text = corpus.parent.parent / "hamlet.txt"
    prepare(str(text), name="tinyshakespeare")
    monkeypatch.setattr(prepare_py, "download_shakespeare", lambda: text)
    for place in (prepare_py, lab.bench):
        monkeypatch.setattr(place, "stdlib_files", lambda: [text])
    monkeypatch.setattr(lab.runs, "begin", Done)
    before = dict(model.ATTENTION)
    yield tmp_path
    model.ATTENTION.clear()
    model.ATTENTION.update(before)


@pytest.mark.parametrize("page", [*PAGES, *GUIDES], ids=lambda page: page.stem)
def test_its_code_runs_and_prints_what_is_shown(page, desk):
    names, printed, before = {"__name__": "chapter"}, "", None
    for language, text in [*blocks(page), ("", "")]:
        said = io.StringIO()
        assert not (before == "python" and printed.strip()) or language == "text"  # what is printed is shown
        if language == "python":
            with contextlib.redirect_stdout(said):
                exec(compile(text, page.name, "exec"), names)
            printed = said.getvalue()
        elif language == "sh":
            with contextlib.redirect_stdout(said):
                for line in text.splitlines():
                    execute(line)
            printed = said.getvalue()
        elif language == "text" and before == "python":
            assert_alike(text, printed)
        elif language == "text":  # of a command that was made smaller here: other numbers, the same words
            kinds = {re.sub(r"\d[\d,.]*", "0", line).strip() for line in printed.splitlines()}
            for line in filter(str.strip, text.splitlines()):
                assert re.sub(r"\d[\d,.]*", "0", line).strip() in kinds, (line, printed)
        before = language


def test_records_name_no_path_of_a_machine():
    for path in (ROOT / "docs/results").glob("*/*.json"):
        words = json.loads(path.read_text(encoding="utf-8"))["command"]
        assert not [word for word in words if Path(word.partition("=")[2] or word).is_absolute()], path


# ---------------------------------------------------------------------------- form


def heading_ids(page):
    """The anchors that GitHub makes of a page's headings; of an HTML page its ids."""
    if page.suffix == ".html":
        return {*re.findall(r'id="([^"]+)"', page.read_text(encoding="utf-8"))}
    headings = re.findall(r"^#+ (.*)$", page.read_text(encoding="utf-8"), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", re.sub(r"[`*]|\]\(.*?\)", "", h).lower()).replace(" ", "-") for h in headings}


@pytest.mark.parametrize("page", [*PAGES, ROOT / "README.md", *(ROOT / "docs").glob("[a-z]*.md")], ids=lambda p: p.stem)
def test_its_links_lead_somewhere(page):
    text = re.sub(r"```.*?```", "", page.read_text(encoding="utf-8"), flags=re.DOTALL)
    for link in re.findall(r"\]\(([^)\s]+)\)", text):
        if not link.startswith("http"):
            path, _, anchor = link.partition("#")
            target = (page.parent / path) if path else page
            assert target.exists(), link
            assert not anchor or anchor in heading_ids(target), link


@chapters
def test_it_is_short_and_says_where_one_is(page):
    text = page.read_text(encoding="utf-8")
    assert len(re.sub(r"<details>.*?</details>", "", text, flags=re.DOTALL).splitlines()) < 200
    for alt, command in re.findall(r"!\[(.*?)\]\([^)]*\)\n?(.*)", text):
        assert len(alt) > 30  # what one sees there, for those who cannot
        assert re.search(r"`(python|bash) ", command)  # what draws it
    prose = re.sub(r"```.*?```|`[^`]*`", "", text, flags=re.DOTALL)
    assert not re.search(r"\\[,;:!{}]", prose)  # GitHub's markdown takes these from its math
    assert all(len(re.findall(r"(?<!\\)\$", line)) % 2 == 0 for line in prose.splitlines())
    i, pages = PAGES.index(page), [p.name for p in PAGES]
    if i:
        assert {pages[0], *pages[max(1, i - 1) : i], *pages[i + 1 : i + 2]} <= {
            *re.findall(r"\]\(([\w.-]+)\)", text[:600])
        }
        assert "## Try it" in text
        exercises = re.findall(r"^\d\. ", text.partition("## Try it")[2], re.MULTILINE)
        assert 2 <= len(exercises) <= 4
    else:
        assert all(f"]({name})" in text for name in pages[1:])


@chapters
def test_the_names_it_mentions_exist(page):
    """`Differential.mix`, `attend`, `tests/test_model.py`: names in code marks are those of our files."""
    sources = [*ROOT.glob("*.py"), *ROOT.glob("[a-z]*/*.py"), *ROOT.glob("config/*.toml")]
    known = {w for path in sources for w in re.findall(r"\w+", path.read_text(encoding="utf-8"))} | THEIRS
    text = re.sub(r"```.*?```", "", page.read_text(encoding="utf-8"), flags=re.DOTALL)
    marked = re.findall(r"`([^`\n]+)`", text)
    assert marked
    for mark in marked:
        if re.fullmatch(r"[\w./-]+\.(py|md|toml|json|jsonl|html|sh|txt)", mark) and "out/" not in mark:
            assert (
                any((folder / mark).exists() for folder in (ROOT, ROOT / "docs", ROOT / "config")) or mark in RUN_FILES
            ), mark
        elif re.fullmatch(r"\w+(\.\w+)?(\(.*\))?", mark):
            head, *tail = re.match(r"(\w+)(?:\.(\w+))?", mark).groups()
            assert {head, *filter(None, tail)} <= known, mark
            if head[0].isupper() and tail[0]:
                assert hasattr(getattr(model, head), tail[0]) or tail[0] == "head_norm", mark
        if mark.startswith("test_"):
            assert any(f"def {mark}(" in path.read_text(encoding="utf-8") for path in sources), mark


THEIRS = {"q_proj", "k_proj", "view", "subln", "attn_weights", "lambda_full", "attn", "loop_sink", "Sink"}
RUN_FILES = {"metrics.jsonl", "results.json", "analysis.json"}


def test_no_number_has_drifted():
    assert numbers.drifted() == []


def test_a_number_that_drifts_is_found(monkeypatch, capsys):
    real = of_text.results
    monkeypatch.setattr(of_text, "results", lambda name: json.loads(json.dumps(real(name)).replace("1.7", "1.6")))
    assert any("1.6368 ± 0.0141" in text for _, text in numbers.drifted())
    with pytest.raises(SystemExit) as ended:
        run(figures.figures, ["--check=true"])
    assert ended.value.code == 2 and "08-measured.md lacks" in capsys.readouterr().err


def test_every_figure_is_one_that_is_drawn(tmp_path):
    figures.figures(out_dir=str(tmp_path))
    drawn = {path.name for path in tmp_path.iterdir()}
    assert drawn == {path.name for path in (ROOT / "docs/figures").iterdir()}
    texts = [page.read_text(encoding="utf-8") for page in (ROOT / "README.md", *(ROOT / "docs").glob("*.md"))]
    used = {name for text in texts for name in re.findall(r"\]\((?:docs/)?((?:figures|results)/[^)]+\.png)\)", text)}
    kept = {
        path.relative_to(ROOT / "docs").as_posix()
        for kind in ("figures", "results")
        for path in (ROOT / "docs" / kind).rglob("*.png")
    }
    assert used == kept


# ---------------------------------------------------------------------------- mistakes and solutions

CAUGHT_BY = {
    "halved": "test_its_projections_are_vanilla_s_and_it_learns_these_more_numbers",
    "split-late": "test_maps_know_distances_only",
    "scores": "test_row_sums",
    "no-norm": "test_differential_norm_makes_heads_of_one_length",
    "no-scale": "test_differential_norm_makes_heads_of_one_length",
    "one-based": "test_lambda_init_is_the_paper_s_schedule_from_depth_0",
    "zero-token": "test_map_is_the_definition_in_plain_loops",
}


def test_every_mistake_is_in_the_chapter_s_table_and_figure():
    page = (ROOT / "docs/06-wrong.md").read_text(encoding="utf-8")
    assert MISTAKES.keys() == numbers.MISTAKES.keys() == CAUGHT_BY.keys()
    assert all(f"`{name}`" in page for name in MISTAKES)


@pytest.mark.parametrize("name", MISTAKES)
def test_a_mistake_is_caught_by_the_test_that_the_chapter_names(name, monkeypatch):
    test, right = getattr(test_model, CAUGHT_BY[name]), numbers.MISTAKES[name]
    assert f"`{CAUGHT_BY[name]}`" in (ROOT / "docs/06-wrong.md").read_text(encoding="utf-8")
    arguments = {"name": right} if "name" in inspect.signature(test).parameters else {}
    test(**arguments)
    monkeypatch.setitem(model.ATTENTION, right, MISTAKES[name])
    with pytest.raises(AssertionError):
        test(**arguments)


def loop_plain_lambda(attention, x, q, k, head):
    first, second = (test_model.loop_vanilla(attention, x, q, k, 2 * head + i) for i in (0, 1))
    return [a1 - float(attention.plain) * a2 for a1, a2 in zip(first, second, strict=True)]


def loop_row_sum_one(attention, x, q, k, head):
    difference, n = test_model.loop_differential(attention, x, q, k, head), len(k)
    return [a + test_model.loop_lambda(attention) / n for a in difference]


def loop_three_maps(attention, x, q, k, head):
    first, second, third = (test_model.loop_vanilla(attention, x, q, k, 3 * head + i) for i in range(3))
    lam = test_model.loop_lambda(attention)
    return [a1 - lam * (a2 + a3) / 2 for a1, a2, a3 in zip(first, second, third, strict=True)]


SOLUTIONS = {  # what the three laws ask that only the author knows; 6 maps of 8 channels
    "plain_lambda": (loop_plain_lambda, test_model.row_sum_differential, 1 + 16),
    "row_sum_one": (loop_row_sum_one, test_model.row_sum_one, 4 * 8 + 16),
    "three_maps": (loop_three_maps, test_model.row_sum_differential, 4 * 8 + 24),
}


def test_every_solution_is_tested():
    assert {path.stem for path in (ROOT / "docs/solutions").glob("*.py")} == SOLUTIONS.keys()


@pytest.mark.parametrize("name", SOLUTIONS)
def test_a_solution_passes_every_law(name, monkeypatch):
    monkeypatch.setitem(model.ATTENTION, name, runpy.run_path(str(ROOT / f"docs/solutions/{name}.py"))["SOLUTION"])
    monkeypatch.setattr(test_model, "SMALL", test_model.SMALL | {"n_head": 6, "n_embd": 48})  # heads in twos, in threes
    assert broken_laws(name) == {*AUTHOR_KNOWS}
    author_knows(monkeypatch, name, *SOLUTIONS[name])
    assert broken_laws(name) == set()
    assert any(f"](solutions/{name}.py)" in page.read_text(encoding="utf-8") for page in PAGES)


def test_the_sink_of_chapter_10_passes_every_law_but_those_that_the_chapter_names(monkeypatch):
    page = ROOT / "docs/10-change-it.md"
    monkeypatch.setattr(model, "ATTENTION", model.ATTENTION)
    monkeypatch.setitem(model.ATTENTION, "sink", None)
    exec(next(text for language, text in blocks(page) if language == "python"), {})
    assert broken_laws("sink") == {*AUTHOR_KNOWS}
    assert all(f"`{law}`" in page.read_text(encoding="utf-8") for law in AUTHOR_KNOWS)


def test_the_solutions_are_what_they_say():
    solved = {path.stem: runpy.run_path(str(path))["SOLUTION"] for path in (ROOT / "docs/solutions").glob("*.py")}
    config, x = model.GPTConfig("differential", n_head=6, n_embd=48), torch.randn(2, 9, 48)
    layers = {name: solution(config, 1) for name, solution in solved.items()}
    A = {name: layer.map(x) for name, layer in layers.items()}
    first, second = layers["row_sum_one"].maps(x)
    even = torch.ones(9, 9).tril() / torch.arange(1, 10)[:, None]
    lam = layers["row_sum_one"].lam
    torch.testing.assert_close(A["row_sum_one"], first - lam * second + lam * even)
    assert layers["plain_lambda"].lam.item() == pytest.approx(0.8 - 0.6 * math.exp(-0.3))
    torch.testing.assert_close(A["plain_lambda"].sum(-1), 1 - layers["plain_lambda"].lam.expand(2, 3, 9))
    q, k, _ = layers["three_maps"].project(x)
    S = (q @ k.mT / 8**0.5).masked_fill(torch.ones(9, 9).triu(1).bool(), -math.inf).softmax(-1)  # six maps, two heads
    lam = layers["three_maps"].lam
    torch.testing.assert_close(A["three_maps"], S[:, [0, 3]] - lam * (S[:, [1, 4]] + S[:, [2, 5]]) / 2)
    first, others = layers["three_maps"].maps(x)
    torch.testing.assert_close(A["three_maps"], first - lam * others)


def test_records_hold_no_path_of_a_machine():
    for path in (ROOT / "docs/results").glob("*/*.json"):
        assert not re.search(r'[" ]/\w+/', path.read_text(encoding="utf-8")), path
