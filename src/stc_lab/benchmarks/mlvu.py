"""``dataset=mlvu``: the seven multiple-choice tasks of MLVU, development set (arXiv:2406.04264).

Prompt and rule: ``evaluation/multiple_choice_evaluation/choice_bench.py`` of github.com/JUNJIE99/MLVU.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

from stc_lab.benchmarks.base import Item, OfficialBenchmark, find_annotation, read_json
from stc_lab.benchmarks.rules import LETTERS, ONE_LETTER, Asked, Rule, read_option
from stc_lab.types import Question

FILES = {
    "1_plotQA": ("plotQA", "single_detail", 539),
    "2_needle": ("needle", "single_detail", 355),
    "3_ego": ("ego", "single_detail", 352),
    "4_count": ("count", "multi_detail", 206),
    "5_order": ("order", "multi_detail", 259),
    "6_anomaly_reco": ("anomaly_reco", "holistic", 200),
    "7_topic_reasoning": ("topic_reasoning", "holistic", 264),
}
"""File name: task, its group in the paper, number of questions."""
GROUPS = {
    name: tuple(task for task, group, _ in FILES.values() if group == name)
    for name in ("single_detail", "multi_detail", "holistic")
}

# To the letter; frozen by the files in tests/benchmarks/prompts.
PROMPT = (
    "Carefully watch this video and pay attention to every detail. Based on your observations, select the best option "
    "that accurately addresses the question.\nQuestion: {}\nOptions:\n{}\nOnly give the best option."
)
ANSWER_START = "Best Option: ("

NO_OPTION = "@"
"""Gold letter of a question whose gold text is none of its options; as in the official script, nothing equals it."""
NO_QUESTION = "(no question)"
"""Stands for the question of an annotation that is empty but for its video, where a memory is searched by it."""


def is_right(asked: Asked, text: str, details: Mapping[str, Any] | None = None) -> bool:
    """The official rule: the character before the first bracket; without a bracket the whole text is the letter."""
    end = text.find(")")
    said = text if end < 0 else text[max(end - 1, 0) : end]
    return said == asked.answer


@dataclass(frozen=True, kw_only=True)
class MLVU(OfficialBenchmark):
    """2,175 questions, asked at the end of the video; one is empty and two have no right option, officially too.

    A stream is a file in one of the seven folders (1,242 of them): names recur between folders, and nothing promises
    that the files are the same.
    """

    fps: float = 0.5
    name: str = "mlvu"

    annotations: ClassVar[tuple[str, ...]] = ("1_plotQA.json", "*/1_plotQA.json")
    rule: ClassVar[Rule] = Rule(
        name="mlvu",
        official=is_right,
        strict=read_option,
        official_words="the character before the first ')' is the gold letter, or the whole text is",
        strict_words=ONE_LETTER,
        source="github.com/JUNJIE99/MLVU, evaluation/multiple_choice_evaluation/choice_bench.py",
        average="tasks",  # M-Avg: the plain mean of the seven
        sizes={task: num_questions for task, _, num_questions in FILES.values()},
        groups=GROUPS,
    )

    def items(self) -> Iterator[Item]:
        """One item per question; ids are ``FILE_NUMBER``, counted from 0 in the order of the file."""
        folder = find_annotation(self.root, self.annotations).parent
        for stem, (task, group, _) in FILES.items():
            for number, entry in enumerate(read_json(find_annotation(str(folder), (f"{stem}.json",)))):
                video = entry["video"]
                candidates = (f"{stem}/{video}", f"video/{stem}/{video}", f"{task}/{video}", video)
                yield Item(f"{stem}/{video}", candidates, _question(entry, f"{stem}_{number}", task, group))


def _question(entry: Mapping[str, Any], question_id: str, task: str, group: str) -> Question:
    options = tuple(entry["candidates"])
    matches = [letter for letter, option in zip(LETTERS, options, strict=False) if option == entry["answer"]]
    return Question(
        question_id=question_id,
        time_s=math.inf,
        text=entry["question"].strip() or NO_QUESTION,
        options=options,
        answer=matches[-1] if matches else NO_OPTION,  # of equal options the official script takes the last
        task=task,
        group=group,
        meta={} if matches else {"gold_text": entry["answer"]},
        prompt=official_prompt(entry["question"], options),
        answer_start=ANSWER_START,
    )


def official_prompt(question: str, options: Sequence[str]) -> str:
    """The options one a line, ``(A) x``. The official system line comes first: a stream has a system prompt already."""
    listed = "\n".join(f"({letter}) {option}" for letter, option in zip(LETTERS, options, strict=False))
    return PROMPT.format(question, listed.rstrip())
