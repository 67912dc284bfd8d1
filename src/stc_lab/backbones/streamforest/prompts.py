"""Prompts of StreamForest, as its released evaluation writes them (line breaks included)."""

from __future__ import annotations

from stc_lab.types import Question

BEFORE_VIDEO = "<|im_start|>system\nYou are a helpful assistant.<|im_end|>\n<|im_start|>user\n"
ANSWER_START = "<|im_end|>\n<|im_start|>assistant\n"
CHOICE_REQUEST = "Answer with the option's letter from the given choices directly."

_SPAN = "frames sampled from the past {span:.1f} seconds ago"
TIME_MESSAGES = {
    "short_online_v2": f"\nThe video contains {{count}} {_SPAN} ({{first:.1f}}s of the entire video) up to the present "
    "moment ({last:.1f}s of the entire video). ",
    "short_online": f"\nThe video segment contains {{count}} {_SPAN} up to the present moment. ",
    "none": "",
}
"""By name: what the model is told about the frames; ``short_online_v2`` is the one of the official evaluation."""


def question_body(question: Question) -> str:
    """The question with lettered options for multiple choice, as it is otherwise."""
    if not question.options:
        return question.text
    options = [f"{letter}. {option}" for letter, option in zip(question.letters, question.options, strict=True)]
    return "\n".join((question.text, *options, CHOICE_REQUEST))


def time_message(kind: str, num_frames: int, first_s: float, last_s: float) -> str:
    """What stands before the question about ``num_frames`` frames of the times ``first_s .. last_s``.

    Times are rounded to a tenth before the span is taken, as in the released code.
    """
    first_s, last_s = round(first_s, 1), round(last_s, 1)
    return TIME_MESSAGES[kind].format(count=num_frames, span=last_s - first_s, first=first_s, last=last_s)


def after_video(question: Question, message: str) -> str:
    """What follows the visual tokens, up to where the answer starts; an official prompt replaces the own form."""
    body = question.prompt or question_body(question)
    return f"\n{message}{body}{ANSWER_START}{question.answer_start}"
