"""What the README says is so."""

import re
import shlex
from pathlib import Path

import torch

import analyze
import bench
import compare
import model
import prepare
import sample
import train
from configurable import parse

ROOT = Path(model.__file__).parent
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
    assert train.watched(gpt).keys() == {"lam"}


def test_its_commands_are_understood(monkeypatch):
    monkeypatch.chdir(ROOT)
    programs = {"train": train.train, "prepare": prepare.prepare, "sample": sample.sample, "bench": bench.bench}
    programs |= {"compare": compare.compare, "analyze": analyze.analyze, "prepare.py needles": prepare.needles}
    names = "train|prepare(?:\\.py needles)?|sample|bench|compare|analyze"
    found = re.findall(rf"(?:python|nproc_per_node=\d) ({names})(?:\.py)?(?= |`|\n)([^`&#\n;|]*)", PAGES)
    assert len(found) >= 15 and {name for name, _ in found} == set(programs)
    for program, words in found:
        words = words.replace("$attention", "softmax1").replace("$seed", "1")
        if not {"<", "sum", "mine", "$OPTIONS"} & {*re.findall(r"<|sum|mine|\$OPTIONS", words)}:
            parse(programs[program], shlex.split(words))


def test_its_file_table_is_complete():
    listed = set(re.findall(r"^\| \[`([^`]+)`\]", README, re.MULTILINE))
    assert all((ROOT / name).exists() for name in listed)
    assert {p.name for pattern in ("*.py", "*.txt", "*.toml") for p in ROOT.glob(pattern)} <= listed
    assert {"config/", "tests/"} <= listed
