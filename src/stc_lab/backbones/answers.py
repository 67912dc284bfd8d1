"""From generated text or letter logits to an answer."""

from __future__ import annotations

from stc_lab.scoring.readings import read_letter, read_text

__all__ = ["READERS", "best_letter", "read_letter", "read_text"]

READERS = ("generate", "letter_logits")


def best_letter(letter_logits: dict[str, float]) -> str:
    """The letter with the highest logit; of equal ones the first."""
    return max(letter_logits, key=letter_logits.__getitem__)
