"""EgoSchema: its server takes the number of an option, so that there is no official reading of texts: ours it is."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from stc_lab.scoring.rule import ONE_LETTER, Asked, Rule, read_option


def is_right(asked: Asked, text: str, details: Mapping[str, Any] | None = None) -> bool:
    """The strict reading is the gold letter."""
    return read_option(asked, text) == asked.answer


RULE = Rule(
    name="egoschema",
    official=is_right,
    strict=read_option,
    official_words="there is none for texts: the strict reading is used",
    strict_words=ONE_LETTER,
    source="github.com/egoschema/EgoSchema",
    sizes={"egoschema": 500},
)
