"""From the logits after a prompt to an answer, in the way the user chose."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from torch import Tensor

from stc_lab.backbones.answers import best_letter, read_letter, read_text
from stc_lab.backbones.text_backbone import TextBackbone
from stc_lab.language.generate import greedy_with_logits
from stc_lab.language.kv.base import KVStore
from stc_lab.measure import StageTimer
from stc_lab.measure.flops import decoder_flops
from stc_lab.types import Answer, Question


@dataclass(frozen=True)
class ReadPrompt:
    """A prompt that the decoder has read into ``store``: ``num_tokens`` new ones after ``num_context`` others.

    ``logits`` [V]: those after its last token.
    """

    store: KVStore
    logits: Tensor
    num_tokens: int
    num_context: int = 0


@dataclass(frozen=True)
class Reply:
    """What was said: ``num_steps`` decoder steps were run after the prompt for the tokens ``ids``."""

    text: str
    ids: Sequence[int] = ()
    num_steps: int = 0

    def prediction(self, question: Question) -> str | None:
        """The letter for multiple choice, the text otherwise; ``None`` when it cannot be read."""
        return read_letter(self.text, question.letters) if question.options else read_text(self.text)


def answer_after(
    backbone: TextBackbone, question: Question, timer: StageTimer, mark: float, read: Callable[[], ReadPrompt]
) -> tuple[Answer, Reply]:
    """The answer, with its stages ``question`` (which is ``read``) and ``generate``; ``mark``: when it was asked.

    Details, and FLOPs of earlier stages, are the caller's to add.
    """
    with timer.stage("question"):
        prompt = read()
        letters = letter_logits(backbone, question, prompt.logits)
    ttft_ms = timer.elapsed_ms(mark)
    with timer.stage("generate"):
        reply = reply_to(backbone, question, prompt, letters)
    answer = Answer(
        text=reply.text,
        prediction=reply.prediction(question),
        reader=reader_of(backbone, question),
        num_prompt_tokens=prompt.num_tokens,
        num_generated_tokens=len(reply.ids),
        ttft_ms=ttft_ms,
        letter_logits=letters,
        latency_ms=timer.drain(),
        flops=_flops(backbone, prompt, reply),
        chat_template=question.chat_template,
        first_logits=prompt.logits,
    )
    return answer, reply


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
    backbone: TextBackbone, question: Question, prompt: ReadPrompt, letters: dict[str, float] | None
) -> Reply:
    """What follows the prompt; ``letters``: see :func:`letter_logits`."""
    if reader_of(backbone, question) == "letter_logits":
        return Reply(best_letter(letters))
    limit, stop_ids = backbone.options.max_new_tokens, backbone.loaded.stop_ids
    ids, logits = greedy_with_logits(backbone.decoder, prompt.store, prompt.logits, limit, stop_ids)
    return Reply(backbone.loaded.text(ids), ids, len(logits) - 1)


def _flops(backbone: TextBackbone, prompt: ReadPrompt, reply: Reply) -> dict[str, int]:
    sizes, start = backbone.decoder.sizes, prompt.num_context + prompt.num_tokens
    steps = (decoder_flops(sizes, 1, start + step, with_lm_head=1) for step in range(reply.num_steps))
    return {
        "question": decoder_flops(sizes, prompt.num_tokens, prompt.num_context, with_lm_head=1),
        "generate": sum(steps),
    }
