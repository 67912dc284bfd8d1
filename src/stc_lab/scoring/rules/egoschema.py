"""EgoSchema: its server takes the number of an option, so that there is no official reading of texts: ours it is."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from stc_lab.scoring.readings import read_letter
from stc_lab.scoring.rule import Asked, Rule, letters_of


def is_right(asked: Asked, text: str, details: Mapping[str, Any] | None = None) -> bool:
    """The strict reading is the gold letter."""
    return read(asked, text) == asked.answer


def read(asked: Asked, text: str) -> str | None:
    """The strict reading."""
    return read_letter(text, letters_of(asked))


RULE = Rule(
    name="egoschema",
    official=is_right,
    strict=read,
    official_words="there is none for texts: the strict reading is used",
    strict_words="the text starts with one letter, written as an answer",
    source="github.com/egoschema/EgoSchema",
    sizes={"egoschema": 500},
)
