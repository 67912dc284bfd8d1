"""Video-MME: the first of the letters A to D that is left when phrases such as "The best answer is" are taken away.

Source: ``evaluation/eval_your_results.py`` of github.com/BradyFU/Video-MME. There, two of the phrases are run together
by a missing comma; what follows from it is kept, since published scores have it in them.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from functools import partial
from typing import Any

from stc_lab.scoring.rule import ONE_LETTER, Asked, Rule, read_option

PHRASES = (
    "The best answer is",
    "The correct answer is",
    "The answer is",
    "The answer",
    "The best option isThe correct option is",
    "Best answer:Best option:",
)
LONG = 10


def is_right(asked: Asked, text: str, details: Mapping[str, Any] | None = None) -> bool:
    """The official rule."""
    return official_letter(text) == asked.answer


def official_letter(text: str) -> str:
    """The letter that the official script reads; "" when it finds none."""
    said = text.strip()
    for phrase in PHRASES:
        said = said.replace(phrase, "")
    match = re.search("[ABCD]", said)
    return match.group() if match else ""


RULE = Rule(
    name="videomme",
    official=is_right,
    strict=partial(read_option, num_letters=4),
    official_words=(
        "the first of the letters A to D in the text, without phrases such as 'The best answer is'; texts without such "
        "a letter are left out"
    ),
    strict_words=ONE_LETTER,
    source="github.com/BradyFU/Video-MME, evaluation/eval_your_results.py",
    counts=lambda text: official_letter(text) != "",
)
