"""The house stays one that is read in one sitting: which room imports which, and how long its functions are."""

import ast

import pytest

from conftest import ROOT

# A room may import those before it. Files of one folder may import each other.
FLOORS = ["configurable", "plumbing.files", "model", "ideas", "prepare", "plumbing", "train", "sample", "lab", "docs"]
FILES = sorted({*ROOT.glob("*.py"), *ROOT.glob("[a-z]*/*.py")} - {*ROOT.glob("tests/*.py")})
every_file = pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(ROOT)))


def tree(path):
    return ast.parse(path.read_text(encoding="utf-8"))


def room_of(module):
    """The room of a module; plumbing.files, on which others stand, is one of its own."""
    return module if module in FLOORS else module.partition(".")[0]


def imports(path):
    """(room, names) of every import of one of our files."""
    for node in ast.walk(tree(path)):
        if isinstance(node, ast.ImportFrom):
            yield room_of(node.module), [alias.name for alias in node.names]
        elif isinstance(node, ast.Import):
            yield from ((room_of(alias.name), []) for alias in node.names)


@every_file
def test_imports_run_one_way(path):
    room = room_of(".".join(path.relative_to(ROOT).with_suffix("").parts))
    ours = {name for name, _ in imports(path) if name in FLOORS} - {room}
    assert all(FLOORS.index(name) < FLOORS.index(room) for name in ours), ours
    assert room != "model" or not ours
    assert "sys.path" not in path.read_text(encoding="utf-8")


@every_file
def test_functions_are_short(path):
    for node in ast.walk(tree(path)):
        if isinstance(node, ast.FunctionDef) and (path.name, node.name) != ("train.py", "train"):
            assert node.end_lineno - node.lineno < 60, node.name


def test_the_lesson_is_short():
    def lines(name):
        return len((ROOT / name).read_text(encoding="utf-8").splitlines())

    assert lines("train.py") <= 260 and lines("model.py") <= 390
    (loop,) = (node for node in ast.walk(tree(ROOT / "train.py")) if isinstance(node, ast.While))
    assert loop.end_lineno - loop.lineno < 45
    assert not any(isinstance(node, ast.Attribute) and node.attr == "rank" for node in ast.walk(loop))
    assert all(lines(path.relative_to(ROOT)) <= 350 for path in ROOT.glob("lab/*.py"))


@every_file
def test_a_program_takes_at_most_five_names_from_train(path):
    assert sum(len(names) for room, names in imports(path) if room == "train") <= 5


@every_file
def test_matplotlib_is_imported_where_a_figure_is_drawn_and_figures_are_made_in_one_place(path):
    top = {name for node in tree(path).body if isinstance(node, ast.Import | ast.ImportFrom) for name in names_of(node)}
    assert "matplotlib" not in top
    if "from matplotlib.figure" in path.read_text(encoding="utf-8"):
        assert path == ROOT / "plumbing/figure.py"


def names_of(node):
    names = [node.module] if isinstance(node, ast.ImportFrom) else [alias.name for alias in node.names]
    return [name.partition(".")[0] for name in names]
