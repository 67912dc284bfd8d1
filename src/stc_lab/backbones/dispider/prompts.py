"""Dispider's prompt, as in the released scripts: a conversation in which the video stands in front of the question."""

from __future__ import annotations

from stc_lab.backbones.prompts import question_body
from stc_lab.types import Question

SYSTEM = (
    "A chat between a curious user and an artificial intelligence assistant. "
    "The assistant gives helpful, detailed, and polite answers to the user's questions."
)
CHOICE_START = "The best answer is:"
MARKERS = ("<im_start>", "<im_end>")


def before_video(uses_image_markers: bool = False) -> str:
    """Text up to the visual tokens."""
    return f"{SYSTEM} USER: {MARKERS[0] if uses_image_markers else ''}"


def after_video(question: Question, uses_image_markers: bool = False) -> str:
    """Text from the visual tokens to where the answer starts.

    An official prompt takes the place of the question's own form, with the first words of the answer that belong to
    it; multiple choice in its own form starts as in the released Video-MME script.
    """
    body, start = question_body(question), CHOICE_START if question.options else ""
    if question.prompt:
        body, start = question.prompt, question.answer_start
    marker = MARKERS[1] if uses_image_markers else ""
    return f"{marker}\n{body} ASSISTANT:{f' {start}' if start else ''}"
