"""The official prompts of the benchmarks, to the letter: misspellings, spaces before line breaks, curly quotes.

Sources: OVO-Bench ``constant.py`` and ``utils/OVOBench.py``; StreamingBench ``src/benchmark/*.py``; MLVU
``evaluation/multiple_choice_evaluation/choice_bench.py``; the README of Video-MME. EgoSchema has none. They are frozen
by the files in ``tests/benchmarks/prompts``.
"""

from __future__ import annotations

from collections.abc import Sequence

LETTERS = "ABCDEFGHIJKLMNOPQRSTUVWXYZ"

YES_OR_NO = "Answer only with \u201cYes\u201d or \u201cNo\u201d.\n"
NOTHING_ELSE = "Do not include any additional text or explanation in your response.\n"

OVO_CHOICE = (
    "\nQuestion: {}\nOptions:\n{}\n\n"
    "Respond only with the letter corresponding to your chosen option (e.g., A, B, C). \n" + NOTHING_ELSE
)
OVO_REC = (
    "\nYou're watching a video in which people may perform a certain type of action repetively. \n"
    "The person performing this kind of action are referred to as 'they' in the following statement.\n"
    "You're task is to count how many times have different people in the video perform this kind of action in total.\n"
    "One complete motion counts as one. \n"
    "Now, answer the following question: {}\n"
    "Provide your answer as a single number (e.g., 0, 1, 2, 3\u2026) indicating the total count.\n" + NOTHING_ELSE
)
OVO_SSR = (
    "\nYou're watching a tutorial video which contain a sequential of steps. \n"
    "The following is one step from the whole procedures: \n{}\n"
    "Your task is to determine if the man or woman in the video is currently performing this step.\n"
    + YES_OR_NO
    + NOTHING_ELSE
)
OVO_CRR = (
    "\nYou're responsible of answering questions based on the video content. \n"
    "The following question are relevant to the latest frames, i.e. the end of the video.\n{}\n"
    "Decide whether existing visual content, especially latest frames, i.e. frames that near the end of the video, "
    "provide enough information for answering the question.\n" + YES_OR_NO + NOTHING_ELSE
)

STREAMINGBENCH_REAL = (
    "You are an advanced video question-answering AI assistant. You have been provided with some frames from the "
    "video and a multiple-choice question related to the video. Your task is to carefully analyze the video and "
    "provide the best answer to question, choosing from the four options provided. Respond with only the letter "
    "(A, B, C, or D) of the correct option.\n\nQuestion: {}\n\nOptions:\n{}\n\nThe best option is:"
)
STREAMINGBENCH_SQA = (
    "You are an advanced video question-answering AI assistant. You have been provided with a video and a "
    "multiple-choice question related to the video. Your task is to carefully analyze the video and the provided "
    "context to answer the question, choosing from the four options provided. Respond with only the letter "
    "(A, B, C, or D) of the correct option.\n\n{}\n\n"
    "Here is the question. Answer it and don't confuse it with the previous conversation.\n"
    "Question: {}\n\nOptions:\n{}\n\nThe best option is:"
)
SQA_HISTORY_START = (
    "Here are the contextual information related to the video. "
    "Please answer the questions based on the contextual information: "
)
SQA_HISTORY_ITEM = (
    "At timestamp {}, the following question and answer occurred: Question: {}; Options: {}; Answer: {}; "
)
STREAMINGBENCH_PROACTIVE = (
    "You are an advanced image question-answering AI assistant. You have been provided with images and a question "
    "related to the images. Your task is to carefully analyze the images and provide the answer to the question. "
    "You need to carefully confirm whether the images content meet the conditions of the question, and then output "
    "the correct content.\n\nQuestion: {}\n\nThe answer is:\n"
)
PROACTIVE_POLL = '{} Is it the right time to output "{}"? You can only answer yes or no.'

MLVU = (
    "Carefully watch this video and pay attention to every detail. Based on your observations, select the best option "
    "that accurately addresses the question.\nQuestion: {}\nOptions:\n{}\nOnly give the best option."
)
MLVU_ANSWER_START = "Best Option: ("

VIDEOMME = (
    "Select the best answer to the following multiple-choice question based on the video. Respond with only the "
    "letter (A, B, C, or D) of the correct option.\n{}\n{}\nThe best answer is:"
)
VIDEOMME_SUBTITLES = "This video's subtitles are listed below:\n{}\n"


def ovo_choice(question: str, options: Sequence[str]) -> str:
    """Multiple choice of OVO-Bench: the options in one line, ``A. x; B. y;``."""
    listed = "; ".join(f"{letter}. {option}" for letter, option in zip(LETTERS, options, strict=False))
    return OVO_CHOICE.format(question, f"{listed};")


def streamingbench_real(question: str, lettered_options: Sequence[str]) -> str:
    """Real-time questions of StreamingBench; the options carry their letters."""
    return STREAMINGBENCH_REAL.format(question, "\n".join(lettered_options))


def streamingbench_sqa(question: str, lettered_options: Sequence[str], history: str) -> str:
    """Sequential questions of StreamingBench, after the questions and answers before (:func:`sqa_history_item`)."""
    context = SQA_HISTORY_START + history if history else ""
    return STREAMINGBENCH_SQA.format(context, question, "\n".join(lettered_options))


def sqa_history_item(time_stamp: str, question: str, lettered_options: Sequence[str], answer: str) -> str:
    """An earlier question with its answer, as later ones are told about it."""
    return SQA_HISTORY_ITEM.format(time_stamp, question, ", ".join(lettered_options), answer)


def mlvu(question: str, options: Sequence[str]) -> str:
    """Multiple choice of MLVU; its system line comes first, since a stream has one system prompt already."""
    listed = "\n".join(f"({letter}) {option}" for letter, option in zip(LETTERS, options, strict=False))
    return MLVU.format(question, listed.rstrip())


def videomme(question: str, lettered_options: Sequence[str], subtitles: str = "") -> str:
    """Multiple choice of Video-MME, with subtitles if there are any."""
    prompt = VIDEOMME.format(question, "\n".join(lettered_options))
    return VIDEOMME_SUBTITLES.format(subtitles) + prompt if subtitles else prompt
