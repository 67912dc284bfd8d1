"""Strict readings say what was meant beyond doubt, and nothing otherwise."""

from __future__ import annotations

import pytest

from stc_lab.answers import read_count, read_letter, read_text, read_yes_no

LETTERS = ("A", "B", "C", "D")


@pytest.mark.parametrize(
    ("text", "letter"),
    [
        ("B", "B"), (" B ", "B"), ("B.", "B"), ("(B)", "B"), ("B) a dog", "B"), ("B: a dog", "B"), ("B\nbecause", "B"),
        ("", None), ("b", None), ("E", None), ("A dog", None), ("The answer is B", None), ("Because", None),
        ("B.C", None), ("AB", None),
    ],
)  # fmt: skip
def test_letters(text: str, letter: str | None) -> None:
    assert read_letter(text, LETTERS) == letter


@pytest.mark.parametrize(
    ("text", "count"),
    [
        ("2", "2"), (" 2.", "2"), ("They did it 12 times", "12"), ("0", "0"), ("02", "2"),
        ("", None), ("two", None), ("1 or 2", None), ("2.5", None), ("1,000", None), ("-1", None), ("x2", None),
        ("1st", None),
    ],
)  # fmt: skip
def test_counts(text: str, count: str | None) -> None:
    assert read_count(text) == count


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("Yes", "Yes"), ("yes, it is", "Yes"), ("NO.", "No"), ("N", "No"), (" y", "Yes"),
        ("Not yet", None), ("Nothing", None), ("I think Yes", None), ("", None),
    ],
)  # fmt: skip
def test_yes_and_no(text: str, said: str | None) -> None:
    assert read_yes_no(text) == said


def test_open_texts() -> None:
    assert read_text("  a dog\n") == "a dog"
    assert read_text(" \n") is None
