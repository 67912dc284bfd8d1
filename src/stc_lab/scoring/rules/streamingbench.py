"""StreamingBench, real-time understanding and sequential questions: the letter, and nothing but the letter.

The published figures of token compression on StreamingBench come from the script of the STC repository, which compares
the text without surrounding space with the gold letter and leaves unanswered questions out. The benchmark's own
``src/data/count.py`` compares the first character instead; that is reported beside it where it makes a difference.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from functools import partial
from typing import Any

from stc_lab.scoring.rule import ONE_LETTER, Asked, Rule, read_option, when_said

SIZES = {
    "Object Recognition": 367,
    "Action Recognition": 353,
    "Text-Rich Understanding": 321,
    "Clips Summarize": 317,
    "Attribute Recognition": 306,
    "Spatial Understanding": 246,
    "Counting": 193,
    "Event Understanding": 161,
    "Causal Reasoning": 128,
    "Prospective Reasoning": 108,
}


def is_right(asked: Asked, text: str, details: Mapping[str, Any] | None = None) -> bool:
    """The official rule: the text is the letter."""
    return text.strip() == asked.answer


def starts_right(asked: Asked, text: str, details: Mapping[str, Any] | None = None) -> bool:
    """The benchmark's own script: the first character of the text is the letter."""
    return text.strip()[:1] == asked.answer


RULE = Rule(
    name="streamingbench",
    official=is_right,
    strict=partial(read_option, num_letters=4),
    official_words="the text is the gold letter, but for space around it; unanswered questions are left out",
    strict_words=ONE_LETTER,
    source="github.com/lern-to-write/STC, streamingbench/src/data/count.py",
    counts=when_said,
    others={"first_character": starts_right},
    sizes=SIZES,
)
SEQUENTIAL = replace(RULE, name="streamingbench_sqa", sizes={"Sequential Question Answering": 250})
