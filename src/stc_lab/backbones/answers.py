"""From generated text or letter logits to an answer."""

from __future__ import annotations

import re
from collections.abc import Sequence

READERS = ("generate", "letter_logits")

_LETTER = re.compile(r"\s*\(?\s*([A-Z])(?:\s*\)|[.:](?!\w)|\s*$|\s*\n)")


def read_letter(text: str, letters: Sequence[str]) -> str | None:
    """The letter that ``text`` starts with, written ``A)``, ``(A)``, ``A.``, ``A:``, or ``A`` alone in its line.

    Strict: a letter that is no option, the article "A", a word that begins with a letter, or a letter further on
    is not an answer (``None``).
    """
    match = _LETTER.match(text)
    return match.group(1) if match and match.group(1) in letters else None


def read_text(text: str) -> str | None:
    """An open answer: the text without surrounding space, ``None`` if nothing was said."""
    return text.strip() or None


def best_letter(letter_logits: dict[str, float]) -> str:
    """The letter with the highest logit; of equal ones the first."""
    return max(letter_logits, key=letter_logits.__getitem__)
