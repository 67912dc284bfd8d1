"""Prompts of ReKV on LLaVA-OneVision, as in the released code (spaces included)."""

from __future__ import annotations

from stc_lab.types import Question

INIT = "<|im_start|>system \nYou are a helpful assistant.<|im_end|><|im_start|>user "
ANSWER_START = "<|im_end|><|im_start|>assistant\n"
CHOICE_START = "Best option: ("


def question_body(question: Question) -> str:
    """The question as the model reads it: with lettered options for multiple choice, as it is otherwise."""
    if not question.options:
        return question.text
    options = [f"({letter}) {option}" for letter, option in zip(question.letters, question.options, strict=True)]
    return "\n".join((f"Question: {question.text}", "Options:", *options, "Only give the best option."))


def answer_prompt(question: Question) -> str:
    """What follows the video, up to where the answer starts.

    An official prompt takes the place of the question's own form, with the first words of the answer that belong
    to it; without a chat template it stands alone, as released evaluation code hands it over.
    """
    if not question.chat_template:
        return question.prompt
    if question.prompt:
        return f"\n{question.prompt}{ANSWER_START}{question.answer_start}"
    start = CHOICE_START if question.options else ""
    return f"\n{question_body(question)}{ANSWER_START}{start}"
