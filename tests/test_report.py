"""The tables of lab/records/results.md are those of the records, and the course quotes them."""

import re
import runpy

import pytest

from conftest import ROOT
from lab.report import RECORDS, TABLE, filled, load
from model import ATTENTION

RESULTS = (RECORDS / "results.md").read_text(encoding="utf-8")
COURSE = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]


def pairs(text):
    """(sign, size, its digits, deviation) of every `x ± y`."""
    for sign, size, deviation in re.findall(r"([+−]?)(\d+(?:\.\d+)?) ± (\d+(?:\.\d+)?)", text):
        yield sign, float(size), len(size.partition(".")[2]), float(deviation)


@pytest.mark.parametrize("page", ["lab/records/results.md", "docs/every-idea.md"])
def test_the_tables_are_those_of_the_records(page):
    text = (ROOT / page).read_text(encoding="utf-8")
    assert "<!-- end -->" in text
    assert filled(text, load()) == text, f"python -m lab.report --page={page} writes them"


def test_another_loss_changes_the_table():
    _, description, _ = next(match for match in TABLE.findall(RESULTS) if "<!-- table code\n" in match[0])
    text, records = f"<!-- table code\n{description}-->\n<!-- end -->", load()
    before = filled(text, records)
    one = next(r for r in records if (r["experiment"], r.get("attention"), r["seed"]) == ("code", "softmax1", 3))
    one["best"] += 0.1
    assert before.count("\n") == filled(text, records).count("\n") and before != filled(text, records)


def test_a_row_without_records_is_a_mistake():
    with pytest.raises(ValueError, match="nobody"):
        filled(
            "<!-- table x\nexperiment=text\nrows: attention=nobody\ncolumn loss: mean=best:4\n-->\n<!-- end -->", load()
        )


def test_any_label_is_a_column_or_a_row():
    page = (
        "<!-- table x\nexperiment=text\nrow column: attention=vanilla\ncolumn row sum: mean=best:4\n-->\n<!-- end -->"
    )
    head, _, row = filled(page, load()).splitlines()[6:9]
    assert head.split() == ["|", "|", "row", "sum", "|"] and row.startswith("| column | 1.69")


def test_labels_may_have_several_columns():
    page = (
        "<!-- table x\nexperiment=text\nlabels: word | idea\nrow a | b: attention=vanilla\n"
        "column loss: mean=best:4\n-->\n<!-- end -->"
    )
    head, _, row = filled(page, load()).splitlines()[7:10]
    assert head.split() == ["|", "word", "|", "idea", "|", "loss", "|"] and row.startswith("| a    | b    | 1.69")


@pytest.mark.parametrize("page", COURSE, ids=lambda page: page.name)
def test_every_deviation_of_the_course_stands_in_a_table(page):
    tables = [*pairs("\n".join(line for line in RESULTS.splitlines() if line.startswith("|")))]
    for sign, size, digits, deviation in pairs(page.read_text(encoding="utf-8")):
        assert any(
            sign in ("", s) and max(abs(x - size), abs(d - deviation)) <= half_a_unit(digits, more)
            for s, x, more, d in tables
        ), f"{sign}{size} ± {deviation}"


def test_the_page_of_ideas_counts_what_the_records_have():
    page = (ROOT / "docs/every-idea.md").read_text(encoding="utf-8")
    rows = runpy.run_path(str(ROOT / "docs/figures.py"))["ideas_measured"]()
    fresh = {name: row["difference"] for name, row in rows.items() if row["fresh"]}
    ahead = [name for name, of in fresh.items() if of["mean"] + of["half"] < 0]
    behind = [name for name, of in fresh.items() if of["mean"] - of["half"] > 0]
    two_maps = [name for name in fresh if ATTENTION[name].maps_per_head == 2]
    assert (len(rows), len(fresh), len(ahead), len(behind)) == (54, 42, 4, 22)
    assert len(two_maps) == 20 and len({*two_maps} & {*behind}) == 18
    assert sum(None not in row["solved_at"] for row in rows.values()) == 14
    assert all(f"`{name}`" in page for name in rows)


def half_a_unit(digits, more):
    """By how much a number may differ from one with more digits, of which it is a rounding."""
    return 1e-9 + 0.5 * (10**-digits + 10**-more) * (more > digits)
