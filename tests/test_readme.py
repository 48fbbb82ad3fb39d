"""What the README says is so."""

import dataclasses
import re
import shlex
import subprocess

import pytest
import test_model
import torch

import model
from configurable import parse
from conftest import AUTHOR_KNOWS, ROOT, author_knows, broken_laws
from lab.analyze import analyze
from lab.bench import bench
from lab.compare import compare
from lab.missing import missing
from lab.needles import needles
from lab.page import page
from lab.show import THE_FOUR
from lab.tune import tune
from prepare import prepare
from sample import sample
from train import preset, train, watched

README = (ROOT / "README.md").read_text(encoding="utf-8")
RECORDS = sorted((ROOT / "docs").glob("[a-z]*.md"))  # chapters are for test_docs.py
PAGES = README + "".join(page.read_text(encoding="utf-8") for page in RECORDS)


def test_its_mechanism_works(monkeypatch):
    (code,) = re.findall(r"```python\n(.*?)```", README, re.DOTALL)
    monkeypatch.setattr(model, "ATTENTION", dict(model.ATTENTION))
    exec(code, vars(model) | {"ATTENTION": model.ATTENTION})
    gpt, tokens = model.GPT(model.GPTConfig(attention="sum")), torch.randint(256, (2, 9))
    gpt(tokens, tokens).backward()
    attention = gpt.blocks[0].attention
    sums = attention.map(torch.randn(2, 9, 128)).sum(-1)
    torch.testing.assert_close(sums, (1 + attention.lam).expand_as(sums))
    assert watched(gpt).keys() == {"lam"}
    assert "It passes all of them but three" in README
    monkeypatch.setattr(test_model, "ATTENTION", model.ATTENTION)
    assert broken_laws("sum") == {*AUTHOR_KNOWS}

    def definition(*args):
        return test_model.loop_differential(*args, sign=1)

    author_knows(monkeypatch, "sum", definition, lambda attention, x: 1 + attention.lam, 4 * 8 + 16)
    assert broken_laws("sum") == set()


def test_its_commands_are_understood(monkeypatch):
    monkeypatch.chdir(ROOT)
    programs = {"train.py": train, "prepare.py": prepare, "sample.py": sample}
    programs |= {f"-m lab.{f.__name__}": f for f in (needles, missing, compare, tune, analyze, page, bench)}
    names = "|".join(map(re.escape, programs))
    found = re.findall(rf"(?:python|nproc_per_node=\d) ({names})(?= |`|\n)([^`&#\n;|]*)", PAGES)
    assert len(found) >= 15 and {name for name, _ in found} == set(programs)
    for program, words in found:
        words = words.replace("$attention", "softmax1").replace("$seed", "1")
        if not {"<", "sum", "mine", "$OPTIONS"} & {*re.findall(r"<|sum|mine|\$OPTIONS", words)}:
            parse(programs[program], shlex.split(words))


def test_its_file_table_is_complete():
    listed = set(re.findall(r"^\| \[`([^`]+)`\]", README, re.MULTILINE))
    assert all((ROOT / name).exists() for name in listed)
    listing = subprocess.run(["git", "ls-files"], cwd=ROOT, capture_output=True, text=True)
    if listing.returncode:
        pytest.skip("not a clone of the repository")
    tracked = listing.stdout.split()
    tops = {name.partition("/")[0] + "/" * ("/" in name) for name in tracked} - {"README.md", "LICENSE", ".gitignore"}
    assert {name.replace(".ci/run", ".ci/") for name in listed} == tops
    linked = set(re.findall(r"\]\(((?:plumbing|config|ideas|lab)/\w+\.\w+)\)", README))
    assert {p for p in tracked if re.fullmatch(r"(plumbing|ideas|lab)/[a-z]+\.py", p)} <= linked
    assert all(f"`{p.name}`" in README for p in (ROOT / "config").glob("*.toml"))


def test_its_shares_of_parameters_are_those_of_the_presets():
    tiny = dict(re.findall(r"`(\w+)\.toml` ([\d.]+) %", README))
    assert tiny.keys() == {"missing", "needles", "smoke"}
    for path in (ROOT / "config").glob("*.toml"):
        (shape,), _ = parse(train, [str(path)])
        n = {a: model.GPT(dataclasses.replace(shape, attention=a)).n_params() for a in THE_FOUR}
        for name in THE_FOUR:
            assert 100 * (n[name] / n["vanilla"] - 1) < float(tiny.get(path.stem, 0.1)) + 0.005, (path.stem, name)
        if path.stem in tiny:
            assert 100 * (n["differential"] / n["vanilla"] - 1) == pytest.approx(float(tiny[path.stem]), abs=0.005)


def test_no_two_of_its_commands_train_into_one_folder(monkeypatch):
    monkeypatch.chdir(ROOT)
    folders = []
    for block in re.findall(r"```sh\n(.*?)```", README, re.DOTALL):
        for program, words in re.findall(
            r"(?:&& python|^python|nproc_per_node=\d) (train\.py|-m lab\.compare)(.*)$", block, re.M
        ):
            function = train if program == "train.py" else compare
            args, options = parse(function, shlex.split(words, comments=True), preset)
            attention = args[0].attention if args else ""
            dataset = options.get("dataset", "stdlib")
            folders.append(options.get("out_dir") or f"{function.__name__} {dataset} {attention}")
    assert len(folders) >= 5 and len({*folders}) == len(folders), folders
