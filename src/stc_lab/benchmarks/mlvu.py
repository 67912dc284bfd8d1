"""``dataset=mlvu``: the seven multiple-choice tasks of MLVU, development set (arXiv:2406.04264)."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

from stc_lab.benchmarks import prompts
from stc_lab.benchmarks.files import find_annotation, read_json
from stc_lab.benchmarks.official import Item, OfficialBenchmark
from stc_lab.types import Question

FILES = {
    "1_plotQA": ("plotQA", "single_detail"),
    "2_needle": ("needle", "single_detail"),
    "3_ego": ("ego", "single_detail"),
    "4_count": ("count", "multi_detail"),
    "5_order": ("order", "multi_detail"),
    "6_anomaly_reco": ("anomaly_reco", "holistic"),
    "7_topic_reasoning": ("topic_reasoning", "holistic"),
}
"""File name: task and its group in the paper."""

NO_OPTION = "@"
"""Gold letter of a question whose gold text is none of its options; as in the official script, nothing equals it."""
NO_QUESTION = "(no question)"
"""Stands for the question of an annotation that is empty but for its video, where a memory is searched by it."""


@dataclass(frozen=True, kw_only=True)
class MLVU(OfficialBenchmark):
    """2,175 questions, asked at the end of the video; one is empty and two have no right option, officially too.

    A stream is a file in one of the seven folders (1,242 of them): names recur between folders, and nothing promises
    that the files are the same.
    """

    fps: float = 0.5
    name: str = "mlvu"

    annotations: ClassVar[tuple[str, ...]] = ("1_plotQA.json", "*/1_plotQA.json")

    def items(self) -> Iterator[Item]:
        """One item per question; ids are ``FILE_NUMBER``, counted from 0 in the order of the file."""
        folder = find_annotation(self.root, self.annotations).parent
        for stem, (task, group) in FILES.items():
            for number, entry in enumerate(read_json(find_annotation(str(folder), (f"{stem}.json",)))):
                video = entry["video"]
                candidates = (f"{stem}/{video}", f"video/{stem}/{video}", f"{task}/{video}", video)
                yield Item(f"{stem}/{video}", candidates, _question(entry, f"{stem}_{number}", task, group))


def _question(entry: Mapping[str, Any], question_id: str, task: str, group: str) -> Question:
    options = tuple(entry["candidates"])
    matches = [letter for letter, option in zip(prompts.LETTERS, options, strict=False) if option == entry["answer"]]
    return Question(
        question_id=question_id,
        time_s=math.inf,
        text=entry["question"].strip() or NO_QUESTION,
        options=options,
        answer=matches[-1] if matches else NO_OPTION,  # of equal options the official script takes the last
        task=task,
        group=group,
        meta={} if matches else {"gold_text": entry["answer"]},
        prompt=prompts.mlvu(entry["question"], options),
        answer_start=prompts.MLVU_ANSWER_START,
    )
