"""OVO-Bench: a letter in the text, all digits of the text, yes or no in the text.

Source: ``utils/OVOBenchScore.py`` of github.com/JoeLeelyf/OVO-Bench. As there, the probes of all items of a forward
task are pooled, a group is the plain mean of its tasks, and the total is the mean of the three groups.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

from stc_lab.answers import read_count, read_letter, read_yes_no
from stc_lab.scoring.rule import Asked, Rule, letters_of

COUNTING = ("REC",)
YES_OR_NO = ("SSR", "CRR")
GROUPS = {
    "backward": ("EPM", "ASI", "HLD"),
    "realtime": ("OCR", "ACR", "ATR", "STU", "FPD", "OJR"),
    "forward": (*COUNTING, *YES_OR_NO),
}
SIZES = {
    **{"EPM": 297, "ASI": 148, "HLD": 186},
    **{"OCR": 149, "ACR": 109, "ATR": 116, "STU": 178, "FPD": 101, "OJR": 184},
    **{"REC": 698, "SSR": 629, "CRR": 240},
}


def is_right(asked: Asked, text: str, details: Mapping[str, Any] | None = None) -> bool:
    """The official rule; ``asked.answer`` is a letter, a number, or ``Yes`` or ``No``."""
    if asked.task in COUNTING:
        return "".join(re.findall(r"\d+", text)) == asked.answer
    if asked.task in YES_OR_NO and text == asked.answer[0]:
        return True
    return asked.answer in text


def read(asked: Asked, text: str) -> str | None:
    """The strict reading."""
    if asked.task in COUNTING:
        return read_count(text)
    if asked.task in YES_OR_NO:
        return read_yes_no(text)
    return read_letter(text, letters_of(asked))


RULE = Rule(
    name="ovobench",
    official=is_right,
    strict=read,
    official_words=(
        "the gold letter occurs anywhere in the text; REC: all digits of the text, put together, are the count; "
        "SSR, CRR: Yes or No occurs in the text, or the text is Y or N"
    ),
    strict_words="the text starts with one letter, has one number, or starts with yes or no",
    source="github.com/JoeLeelyf/OVO-Bench, utils/OVOBenchScore.py",
    average="groups",
    sizes=SIZES,
    groups=GROUPS,
)
