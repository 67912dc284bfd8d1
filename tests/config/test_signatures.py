"""Types of plug-in settings are read from the class or function that takes them."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Literal

import pytest

from stc_lab.config.build import check_arguments, describe, fits


def example(
    count: int, share: float = 0.5, mode: Literal["a", "b"] = "a", folder: str | Path | None = None, name: str = "x"
) -> None:
    """Stands for a method."""


@pytest.mark.parametrize(
    ("value", "hint", "expected"),
    [
        (1, int, True),
        (True, int, False),
        (1.0, int, False),
        (1, float, True),
        (True, float, False),
        ("1", float, False),
        (None, int | None, True),
        (None, int, False),
        ("a", Literal["a", "b"], True),
        ("c", Literal["a", "b"], False),
        (1, Literal[True], False),
        ("dir", Path, True),
        (3, Path, False),
        ([1], list, True),
        ("anything", Any, True),
    ],
)
def test_fits(value, hint, expected):
    assert fits(value, hint) is expected


def test_describe():
    assert describe(int | None) == "an integer or null"
    assert describe(Literal["a", "b"]) == "one of a, b"


def test_arguments_that_fit_pass():
    check_arguments("group", {"_target_": "x", "count": 3, "share": 1, "mode": "b", "folder": "here"}, example)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"count": "3"}, "group.count='3': must be an integer"),
        ({"count": 3, "mode": "c"}, "group.mode='c': must be one of a, b"),
        ({"count": 3, "folder": 1}, "group.folder=1: must be a text or a path or null"),
        ({"count": "???"}, "group.count is required"),
        ({"count": 3, "shares": 1}, "group.shares=1: no such setting; valid settings are count"),
    ],
)
def test_arguments_that_do_not_fit(settings, message):
    with pytest.raises(ValueError, match="group") as caught:
        check_arguments("group", settings, example)
    assert message in str(caught.value)


def test_labels_need_not_be_taken():
    check_arguments("group", {"count": 1, "fps": 1.0}, example)
