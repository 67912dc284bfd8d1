"""From what a question sees to its answer: the one place that makes an :class:`Answer`."""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor

from stc_lab.answers import best_letter, read_letter, read_text
from stc_lab.backbones.base import VideoModel
from stc_lab.language.context import SamplingParams, generate
from stc_lab.measure import StageTimer
from stc_lab.memories.base import Query, Reading
from stc_lab.types import Answer, Question

OFFICIAL_CHOICES = ("No", "Yes", *"0123456789", *"ABCDE")
"""What ``answer_reader=choice_logits`` chooses from, whatever the question is (LiveCC's evaluation)."""


def query_of(model: VideoModel, question: Question) -> Query:
    """The question as a memory sees it."""
    return Query(question, question.query, reader_of(model, question))


def reader_of(model: VideoModel, question: Question) -> str:
    """Letter logits can only be read where there are letters; open questions are then generated."""
    reader = model.settings.answer_reader
    return "generate" if reader == "letter_logits" and not question.options else reader


def answer(model: VideoModel, reading: Reading, question: Question, timer: StageTimer, asked_at: float) -> Answer:
    """Read the question behind ``reading`` (stage ``question``) and answer it (``generate``).

    ``asked_at``: the timer's mark when it was asked, from which the time to the first token counts. The reading is
    closed, or becomes part of the stream where its memory wants that.
    """
    reader, context = reader_of(model, question), reading.context
    num_before, visual_before, flops_before = len(context.ids), context.num_visual, context.flops
    with timer.stage("question"):
        # 1. What the memory hands over and the question are one prompt, read in one pass.
        prompt = [*reading.segments, *model.layout.question(question, reader, reading.message)]
        logits = context.read(prompt)
        choices = _choices(model, question, reader, logits)
    question_flops = context.flops - flops_before
    num_words = len(context.ids) - num_before - (context.num_visual - visual_before)
    ttft_ms = timer.elapsed_ms(asked_at)
    generated = None
    with timer.stage("generate"):
        # 2. The answer is the best choice, or what the model says.
        if reader == "generate":
            sampling = SamplingParams(repetition_penalty=model.settings.repetition_penalty)
            generated = generate(context, logits, model.settings.max_new_tokens, model.stop_ids, sampling)
    text = best_letter(choices) if generated is None else model.text(generated.text_ids)
    details = reading.details | (reading.describe(generated) if reading.describe else {})
    tokens_read = reading.tokens_read if reading.tokens_read is not None else [context.num_visual]
    # 3. The question leaves the stream as it was, unless it is meant to stay.
    if reading.commit is not None:
        reading.commit([model.letter_id(text)] if generated is None else generated.ids)
    reading.close()
    return Answer(
        text=text,
        prediction=_prediction(question, reader, text),
        reader=reader,
        num_prompt_tokens=num_words,
        num_generated_tokens=0 if generated is None else len(generated.text_ids),
        ttft_ms=ttft_ms,
        letter_logits=choices or None,
        latency_ms=timer.drain(),
        flops=reading.flops | {"question": question_flops, "generate": context.flops - flops_before - question_flops},
        details=details,
        chat_template=question.chat_template,
        first_logits=logits,
        tokens_read=sum(tokens_read) / len(tokens_read),
        tokens_read_max=max(tokens_read),
    )


def _choices(model: VideoModel, question: Question, reader: str, logits: Tensor) -> dict[str, float]:
    """What is chosen from, one token each, with its ``logits`` [V]; of a generated answer the letters alone."""
    words: Sequence[str] = OFFICIAL_CHOICES if reader == "choice_logits" else question.letters
    ids = [model.letter_id(word) for word in words]
    return dict(zip(words, logits[ids].tolist(), strict=True)) if words else {}


def _prediction(question: Question, reader: str, text: str) -> str | None:
    """What was answered: a letter for multiple choice, else the text; ``None`` when it cannot be read."""
    if reader != "generate":
        return text
    return read_letter(text, question.letters) if question.options else read_text(text)
