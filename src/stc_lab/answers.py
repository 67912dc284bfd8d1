"""From what a model said to an answer: a letter, a number, yes or no; what was meant beyond doubt, or ``None``."""

from __future__ import annotations

import re
from collections.abc import Sequence

_LETTER = re.compile(r"\s*\(?\s*([A-Z])(?:\s*\)|[.:](?!\w)|\s*$|\s*\n)")
_NUMBER = re.compile(r"(?<![\w.,-])\d+(?![\w]|[.,]\d)")
_DIGIT = re.compile(r"\d")
_YES_NO = re.compile(r"\s*(yes|no|y|n)\b", re.IGNORECASE)


def read_letter(text: str, letters: Sequence[str]) -> str | None:
    """The letter that ``text`` starts with, written ``A)``, ``(A)``, ``A.``, ``A:``, or ``A`` alone in its line.

    Strict: a letter that is no option, the article "A", a word that begins with a letter, or a letter further on
    is not an answer (``None``).
    """
    match = _LETTER.match(text)
    return match.group(1) if match and match.group(1) in letters else None


def read_count(text: str) -> str | None:
    """The only number in ``text``, as written without leading zeros; ``None`` for none, several, or a fraction."""
    numbers = _NUMBER.findall(text)
    num_digits = len(_DIGIT.findall(text))
    if len(numbers) != 1 or num_digits != len(numbers[0]):
        return None
    return str(int(numbers[0]))


def read_yes_no(text: str) -> str | None:
    """``Yes`` or ``No``, which must be the first word of ``text``; ``Y`` and ``N`` count, and case does not."""
    match = _YES_NO.match(text)
    return {"y": "Yes", "n": "No"}[match.group(1)[0].lower()] if match else None


def read_text(text: str) -> str | None:
    """An open answer: the text without surrounding space, ``None`` if nothing was said."""
    return text.strip() or None


def best_letter(letter_logits: dict[str, float]) -> str:
    """The letter (or word) with the highest logit; of equal ones the first."""
    return max(letter_logits, key=letter_logits.__getitem__)
