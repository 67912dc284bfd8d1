"""MLVU, multiple choice: the character before the first closing bracket; M-Avg is the plain mean of the seven tasks.

Source: ``evaluation/multiple_choice_evaluation/choice_bench.py`` of github.com/JUNJIE99/MLVU.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from stc_lab.scoring.rule import ONE_LETTER, Asked, Rule, read_option

SIZES = {
    **{"plotQA": 539, "needle": 355, "ego": 352},
    **{"count": 206, "order": 259, "anomaly_reco": 200, "topic_reasoning": 264},
}
GROUPS = {
    "single_detail": ("plotQA", "needle", "ego"),
    "multi_detail": ("count", "order"),
    "holistic": ("anomaly_reco", "topic_reasoning"),
}


def is_right(asked: Asked, text: str, details: Mapping[str, Any] | None = None) -> bool:
    """The official rule; without a bracket the whole text must be the letter."""
    end = text.find(")")
    said = text if end < 0 else text[max(end - 1, 0) : end]
    return said == asked.answer


RULE = Rule(
    name="mlvu",
    official=is_right,
    strict=read_option,
    official_words="the character before the first ')' is the gold letter, or the whole text is",
    strict_words=ONE_LETTER,
    source="github.com/JUNJIE99/MLVU, evaluation/multiple_choice_evaluation/choice_bench.py",
    average="tasks",
    sizes=SIZES,
    groups=GROUPS,
)
