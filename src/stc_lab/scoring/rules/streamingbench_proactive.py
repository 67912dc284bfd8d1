"""StreamingBench, proactive output: the right thing at the right moment.

Source: ``src/data/count.py`` of github.com/THUNLP-MT/StreamingBench.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from stc_lab.answers import read_text
from stc_lab.scoring.rule import Asked, Rule, when_said

TOLERANCE_S = 2.0


def is_timely(asked: Asked, text: str, details: Mapping[str, Any] | None = None) -> bool:
    """Whether ``details["answered_s"]`` is within the tolerance of ``meta["ground_truth_time_s"]``."""
    answered_s = (details or {}).get("answered_s")
    if answered_s is None:
        return False
    return abs(answered_s - asked.meta["ground_truth_time_s"]) <= asked.meta.get("tolerance_s", TOLERANCE_S)


def is_right(asked: Asked, text: str, details: Mapping[str, Any] | None = None) -> bool:
    """In time, and the wanted output occurs in the text."""
    return is_timely(asked, text, details) and asked.answer in text


def read(asked: Asked, text: str) -> str | None:
    """The strict reading: the output and nothing else, but for quotes, a full stop and space around it."""
    said = read_text(text.strip().strip("\"'\u201c\u201d").removesuffix(".").strip("\"'\u201c\u201d"))
    wanted = asked.answer.strip().removesuffix(".")
    return asked.answer if said is not None and said.casefold() == wanted.casefold() else said


RULE = Rule(
    name="streamingbench_proactive",
    official=is_right,
    strict=read,
    official_words="answered within 2 s of the true moment, and the wanted output occurs in the answer",
    strict_words="answered within 2 s of the true moment with the wanted output and nothing else, case aside",
    source="github.com/THUNLP-MT/StreamingBench, src/data/count.py",
    counts=when_said,
    timely=is_timely,
    sizes={"Proactive Output": 250},
)
