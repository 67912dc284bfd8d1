"""Prompts of the Qwen-VL chat template, as the released code of LiveCC and StreamingVLM renders them."""

from __future__ import annotations

from stc_lab.types import Question

IM_START, IM_END = "<|im_start|>", "<|im_end|>"
SYSTEM = f"{IM_START}system\nYou are a helpful assistant.{IM_END}\n"
USER = f"{IM_START}user\n"
ASSISTANT = f"{IM_START}assistant\n"
CLOSE = f"{IM_END}\n"
VISION_START, VISION_END, VIDEO_PAD = "<|vision_start|>", "<|vision_end|>", "<|video_pad|>"
ELLIPSIS = " ..."
"""Ends what is said about a second; alone it is silence."""
CHOOSE = "Please select the correct answer."
ANSWER_START = "The answer is:\n"
OFFICIAL_CHOICES = ("No", "Yes", *"0123456789", *"ABCDE")
"""What LiveCC's evaluation chooses from, whatever the question is."""


def time_text(start_s: float, stop_s: float) -> str:
    """First words of a turn about the seconds from ``start_s`` to ``stop_s``."""
    return f"Time={start_s:.1f}-{stop_s:.1f}s"


def question_text(question: Question) -> str:
    """A benchmark's official prompt, or the question and its lettered options."""
    if question.prompt:
        return question.prompt
    if not question.options:
        return question.text
    options = [f"{letter}. {option}" for letter, option in zip(question.letters, question.options, strict=True)]
    return "\n".join((question.text, *options, CHOOSE))


def answer_start(question: Question, is_chosen: bool) -> str:
    """Words put into the model's mouth: the benchmark's, else LiveCC's where the answer is read from logits."""
    if question.answer_start or not is_chosen:
        return question.answer_start
    return ANSWER_START
