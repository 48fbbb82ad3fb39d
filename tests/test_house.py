"""Imports run one way: a room may import those before it, and files of one room may import each other."""

import ast

import pytest

from conftest import ROOT

ROOMS = [("configurable", "model"), ("ideas", "prepare"), ("plumbing",), ("train", "sample"), ("lab",), ("docs",)]
FLOOR = {room: floor for floor, rooms in enumerate(ROOMS) for room in rooms}
FILES = [path for path in sorted(ROOT.rglob("*.py")) if path.relative_to(ROOT).with_suffix("").parts[0] in FLOOR]


def room(module):
    return module.partition(".")[0]


def imported(path):
    """The modules of ours that a file imports from."""
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        names = [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
        names += [node.module] if isinstance(node, ast.ImportFrom) else []
        yield from (name for name in names if room(name) in FLOOR)


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.relative_to(ROOT).as_posix())
def test_imports_run_one_way(path):
    mine = path.relative_to(ROOT).with_suffix("").parts[0]
    others = [module for module in imported(path) if room(module) != mine]
    assert all(FLOOR[room(module)] < FLOOR[mine] for module in others), others
    if "experiments" in path.parts:  # each of them stands alone
        assert not [module for module in imported(path) if module.startswith("lab.experiments")]
