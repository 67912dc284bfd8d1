"""From the logits after a prompt to an answer, in the way the user chose."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor

from stc_lab.backbones.answers import best_letter, read_letter, read_text
from stc_lab.backbones.text_backbone import TextBackbone
from stc_lab.language.generate import greedy_with_logits
from stc_lab.language.kv.base import KVStore
from stc_lab.types import Question


@dataclass(frozen=True)
class Reply:
    """What was said: ``num_steps`` decoder steps were run after the prompt for ``num_tokens`` tokens."""

    text: str
    num_tokens: int
    num_steps: int

    def prediction(self, question: Question) -> str | None:
        """The letter for multiple choice, the text otherwise; ``None`` when it cannot be read."""
        return read_letter(self.text, question.letters) if question.options else read_text(self.text)


def reader_of(backbone: TextBackbone, question: Question) -> str:
    """Letter logits can only be read where there are letters; open questions are always generated."""
    return backbone.options.answer_reader if question.options else "generate"


def letter_logits(backbone: TextBackbone, question: Question, logits: Tensor) -> dict[str, float] | None:
    """The options' letters with their ``logits`` [V], ``None`` for open questions."""
    if not question.options:
        return None
    ids = [backbone.letter_id(letter) for letter in question.letters]
    return dict(zip(question.letters, logits[ids].tolist(), strict=True))


def reply_to(
    backbone: TextBackbone, question: Question, store: KVStore, first: Tensor, letters: dict[str, float] | None
) -> Reply:
    """The answer after a prompt that ``store`` holds; ``first`` [V]: logits of its last token."""
    if reader_of(backbone, question) == "letter_logits":
        return Reply(best_letter(letters), 0, 0)
    limit, stop_ids = backbone.options.max_new_tokens, backbone.loaded.stop_ids
    ids, logits = greedy_with_logits(backbone.decoder, store, first, limit, stop_ids)
    return Reply(backbone.loaded.text(ids), len(ids), len(logits) - 1)
