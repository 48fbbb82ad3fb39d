"""How results are shown."""

import pytest

import ideas  # noqa: F401  more mechanisms
from lab.show import THE_FOUR, look, shown, table
from model import ATTENTION


def test_a_table_has_a_column_for_every_key():
    text = table([{"T": 64, "ms": [1.0, 2.0, 3.0]}, {"T": 128, "failed": "out of memory"}])
    assert text.split("\n") == [
        "| T   | ms      | failed        |",
        "| --- | ------- | ------------- |",
        "| 64  | 2 (1-3) |               |",
        "| 128 |         | out of memory |",
    ]


@pytest.mark.parametrize(
    "value, text", [(0.12345, "0.123"), (12.345, "12.3"), (123456.7, "123,457"), (7, "7"), ("", "")]
)
def test_numbers_have_three_digits(value, text):
    assert shown(value) == text


def test_mechanisms_and_nanogpt_look_different_and_those_of_ideas_look_like_none_of_them():
    known = [*THE_FOUR, "nanoGPT"]
    for key in ("color", "marker"):
        styles = [look(name)[key] for name in known]
        assert len(set(styles)) == 5
        assert not {look(name)[key] for name in ATTENTION.keys() - set(THE_FOUR)} & set(styles)
