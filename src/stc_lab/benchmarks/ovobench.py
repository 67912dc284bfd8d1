"""``dataset=ovobench``: OVO-Bench (arXiv:2501.05510), 644 videos, questions about past, present and what is to come."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Any, ClassVar

from stc_lab.benchmarks import prompts
from stc_lab.benchmarks.files import find_annotation, read_json
from stc_lab.benchmarks.official import Item, OfficialBenchmark
from stc_lab.types import Question

GROUPS = {
    "backward": ("EPM", "ASI", "HLD"),
    "realtime": ("OCR", "ACR", "ATR", "STU", "FPD", "OJR"),
    "forward": ("REC", "SSR", "CRR"),
}
GROUP_OF_TASK = {task: group for group, tasks in GROUPS.items() for task in tasks}


@dataclass(frozen=True, kw_only=True)
class OVOBench(OfficialBenchmark):
    """The 1,640 items of ``ovo_bench_new.json``.

    Backward and real-time items are one multiple-choice question at ``realtime``. Forward items are asked once per
    entry of ``test_info``: REC a number, SSR and CRR yes or no. ``round_up`` asks at the next whole second, where the
    official clips end, which shows up to a second of the future.
    """

    round_up: bool = False
    name: str = "ovobench"

    annotations: ClassVar[tuple[str, ...]] = ("ovo_bench_new.json", "*/ovo_bench_new.json")

    def items(self) -> Iterator[Item]:
        """One item per question or probe; question ids are ``ID`` and ``ID_PROBE`` with the official numbers."""
        for entry in read_json(find_annotation(self.root, self.annotations)):
            video = entry["video"]
            asked = forward_questions(entry) if "test_info" in entry else [choice_question(entry)]
            for question in asked:
                yield Item(video, (video, f"src_videos/{video}"), self._timed(question))

    def _timed(self, question: Question) -> Question:
        return replace(question, time_s=float(math.ceil(question.time_s))) if self.round_up else question


def choice_question(entry: Mapping[str, Any]) -> Question:
    """A backward or real-time item."""
    return Question(
        question_id=str(entry["id"]),
        time_s=float(entry["realtime"]),
        text=entry["question"],
        options=tuple(entry["options"]),
        answer=prompts.LETTERS[entry["gt"]],
        task=entry["task"],
        group=GROUP_OF_TASK[entry["task"]],
        meta={"item": entry["id"]},
        prompt=prompts.ovo_choice(entry["question"], entry["options"]),
    )


def forward_questions(entry: Mapping[str, Any]) -> list[Question]:
    """The probes of a forward item."""
    task = entry["task"]
    asked = []
    for number, probe in enumerate(entry["test_info"]):
        text, prompt = _forward_texts(entry, probe)
        gold = str(probe["count"]) if task == "REC" else ("No", "Yes")[probe["type"]]
        asked.append(
            Question(
                question_id=f"{entry['id']}_{number}",
                time_s=float(probe["realtime"]),
                text=text,
                answer=gold,
                task=task,
                group=GROUP_OF_TASK[task],
                meta={"item": entry["id"], "probe": number},
                prompt=prompt,
            )
        )
    return asked


def _forward_texts(entry: Mapping[str, Any], probe: Mapping[str, Any]) -> tuple[str, str]:
    """What is asked in a few words, and the whole prompt."""
    if entry["task"] == "REC":
        text = f"How many times did they {entry['activity']}?"
        return text, prompts.OVO_REC.format(text)
    if entry["task"] == "SSR":
        return probe["step"], prompts.OVO_SSR.format(probe["step"])
    return entry["question"], prompts.OVO_CRR.format(entry["question"])
