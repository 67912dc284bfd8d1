"""``dataset=egoschema``: the 500 questions of EgoSchema with public answers (arXiv:2308.09126)."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any, ClassVar, Literal

from stc_lab.benchmarks.base import Item, OfficialBenchmark, find_annotation, read_json
from stc_lab.benchmarks.rules import LETTERS, ONE_LETTER, Asked, Rule, read_option
from stc_lab.types import Question

NUM_OPTIONS = 5


def is_right(asked: Asked, text: str, details: Mapping[str, Any] | None = None) -> bool:
    """Its server takes the number of an option: no text has an official reading, so that the strict one decides."""
    return read_option(asked, text) == asked.answer


@dataclass(frozen=True, kw_only=True)
class EgoSchema(OfficialBenchmark):
    """``questions.json`` with ``subset_answers.json``: one question a video, asked at its end.

    There is no official prompt, so questions are asked in the backbone's own form. Questions without a public answer
    are left out.
    """

    prompt: Literal["backbone"] = "backbone"
    fps: float = 0.5
    name: str = "egoschema"

    annotations: ClassVar[tuple[str, ...]] = ("questions.json", "*/questions.json")
    prompt_styles: ClassVar[tuple[str, ...]] = ("backbone",)
    rule: ClassVar[Rule] = Rule(
        name="egoschema",
        official=is_right,
        strict=read_option,
        official_words="there is none for texts: the strict reading is used",
        strict_words=ONE_LETTER,
        source="github.com/egoschema/EgoSchema",
        sizes={"egoschema": 500},
    )

    def items(self) -> Iterator[Item]:
        """One item per video."""
        path = find_annotation(self.root, self.annotations)
        answers = read_json(find_annotation(str(path.parent), ("subset_answers.json",)))
        for entry in read_json(path):
            video_id = entry["q_uid"]
            if video_id in answers:
                video = f"{video_id}.mp4"
                candidates = (video, f"videos/{video}", f"good_clips_git/{video}")
                yield Item(video_id, candidates, _question(entry, int(answers[video_id])))


def _question(entry: Mapping[str, Any], answer: int) -> Question:
    return Question(
        question_id=entry["q_uid"],
        time_s=math.inf,
        text=entry["question"],
        options=tuple(entry[f"option {number}"] for number in range(NUM_OPTIONS)),
        answer=LETTERS[answer],
        task="egoschema",
    )
