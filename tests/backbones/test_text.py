"""Prompts and the reading of answers."""

from __future__ import annotations

import pytest

from stc_lab.answers import best_letter, read_letter, read_text
from stc_lab.backbones.llava_onevision import INIT, answer_prompt
from stc_lab.types import Question


def test_prompts_as_released() -> None:
    assert INIT == "<|im_start|>system \nYou are a helpful assistant.<|im_end|><|im_start|>user "
    choice = Question("q", 1.0, "Which?", ("red", "blue"))
    assert answer_prompt(choice) == (
        "\nQuestion: Which?\nOptions:\n(A) red\n(B) blue\nOnly give the best option."
        "<|im_end|><|im_start|>assistant\nBest option: ("
    )
    assert answer_prompt(Question("q", 1.0, "Why?")) == "\nWhy?<|im_end|><|im_start|>assistant\n"


@pytest.mark.parametrize(
    "text", ["B", "B)", "(B)", "B.", " B) blue", "B: blue", "B) A) C)", "B\nbecause", "B )", "(B) x"]
)
def test_letters_that_are_read(text: str) -> None:
    assert read_letter(text, "ABC") == "B"


@pytest.mark.parametrize(
    "text", ["", "D)", "b)", "A dog", "Blue", "The answer is B", "B blue", "BC", "B.C.", "1. B", "-B", "(", "I'm B"]
)
def test_anything_else_is_no_answer(text: str) -> None:
    assert read_letter(text, "ABC") is None


def test_open_answers_and_logits() -> None:
    assert read_text("  a cat \n") == "a cat"
    assert read_text(" \n") is None
    assert best_letter({"A": 0.5, "B": 2.0, "C": 2.0}) == "B"
