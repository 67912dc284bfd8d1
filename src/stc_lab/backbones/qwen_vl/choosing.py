"""Reading an answer from the logits after a question, or from what is said then."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from torch import Tensor

from stc_lab.backbones.answers import read_letter, read_text
from stc_lab.backbones.qwen_vl.prompts import OFFICIAL_CHOICES
from stc_lab.types import Question

if TYPE_CHECKING:
    from stc_lab.backbones.qwen_vl.backbone import QwenVL


def reader_of(model: QwenVL, question: Question) -> str:
    """Letter logits can only be read where there are letters; other questions are then generated."""
    reader = model.options.answer_reader
    return "generate" if reader == "letter_logits" and not question.options else reader


def choices_of(model: QwenVL, question: Question, reader: str, logits: Tensor) -> dict[str, float]:
    """What is chosen from, with its ``logits`` [V]; of a generated answer the letters, for the record."""
    return logits_of(model, OFFICIAL_CHOICES if reader == "choice_logits" else question.letters, logits)


def logits_of(model: QwenVL, words: Sequence[str], logits: Tensor) -> dict[str, float]:
    """``words``, one token each, with their ``logits`` [V]."""
    ids = [model.letter_id(word) for word in words]
    return dict(zip(words, logits[ids].tolist(), strict=True))


def prediction_of(question: Question, reader: str, text: str) -> str | None:
    """What was answered; ``None`` when it cannot be read."""
    if reader != "generate":
        return text
    return read_letter(text, question.letters) if question.options else read_text(text)
