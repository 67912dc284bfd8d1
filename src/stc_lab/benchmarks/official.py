"""What the published benchmarks have in common: annotation files, a folder of videos, prompts, missing videos."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import ClassVar, Literal

from stc_lab.benchmarks.base import check_limit_and_fps
from stc_lab.benchmarks.files import ON_MISSING, find_annotation, find_video, report_missing, video_folder
from stc_lab.scoring.rules import rule_of
from stc_lab.types import Answer, Question, Stream

PROMPT_STYLES = ("official", "backbone", "bare")


@dataclass(frozen=True)
class Item:
    """A question, and under which relative paths its video may lie (the official one first)."""

    stream_id: str
    candidates: tuple[str, ...]
    question: Question


@dataclass(frozen=True, kw_only=True)
class OfficialBenchmark(ABC):
    """A benchmark read from its official annotation files; streams are distinct videos.

    ``root`` is the folder of the annotation files, ``videos`` that of the videos. ``prompt``: ``official`` puts the
    benchmark's own prompt into the backbone's chat template; ``backbone`` asks multiple choice in the backbone's own
    form; ``bare`` hands the official prompt over without any chat template and retrieves by all of it, as the released
    STC code does. ``missing``: see :func:`report_missing`. ``tasks``: only these; ``limit``: number of videos.
    """

    root: str
    videos: str
    prompt: Literal["official", "backbone", "bare"] = "official"
    missing: Literal["error", "skip"] = "error"
    tasks: list[str] | None = None
    limit: int | None = None
    fps: float = 1.0
    name: str = ""

    judges_texts: ClassVar[bool] = True
    annotations: ClassVar[tuple[str, ...]] = ()
    prompt_styles: ClassVar[tuple[str, ...]] = PROMPT_STYLES

    def __post_init__(self) -> None:
        check_limit_and_fps(self.limit, self.fps)
        if self.prompt not in self.prompt_styles:
            raise ValueError(f"dataset.prompt={self.prompt}: must be one of {', '.join(self.prompt_styles)}")
        if self.missing not in ON_MISSING:
            raise ValueError(f"dataset.missing={self.missing}: must be one of {', '.join(ON_MISSING)}")

    def check_files(self) -> None:
        """Raise ``ValueError`` when the annotation file or the folder of videos is not there."""
        find_annotation(self.root, self.annotations)
        video_folder(self.videos)

    def streams(self) -> list[Stream]:
        """One stream per video, in the order of the annotation file. Raises ``ValueError``, see ``missing``."""
        folder = video_folder(self.videos)
        grouped: dict[str, list[Item]] = {}
        for item in self._chosen():
            grouped.setdefault(item.stream_id, []).append(item)
        streams = [
            Stream(name, find_video(folder, items[0].candidates), tuple(self._asked(item.question) for item in items))
            for name, items in list(grouped.items())[: self.limit]
        ]
        report_missing(streams, folder, self.missing)
        return streams

    def score(self, question: Question, answer: Answer) -> bool | None:
        """The benchmark's official rule, see :mod:`stc_lab.scoring.rules`."""
        return rule_of(type(self).name).official(question, answer.text, answer.details)

    @abstractmethod
    def items(self) -> Iterator[Item]:
        """All questions with their official prompts, in the order of the annotation file."""

    def _chosen(self) -> list[Item]:
        items = list(self.items())
        if self.tasks is None:
            return items
        wanted = {self.tasks} if isinstance(self.tasks, str) else set(self.tasks)
        known = sorted({item.question.task for item in items})
        if not wanted or wanted - set(known):
            raise ValueError(f"dataset.tasks={self.tasks}: must be a list of some of {', '.join(known)}")
        return [item for item in items if item.question.task in wanted]

    def _asked(self, question: Question) -> Question:
        """The question in the chosen style; without options there is no form but the official one."""
        if question.polling:
            polling = replace(question.polling, ask=self._asked(question.polling.ask))
            question = replace(question, polling=polling)
        if self.prompt == "bare":
            return replace(question, chat_template=False, answer_start="")
        if self.prompt == "backbone" and question.options:
            return replace(question, prompt="", answer_start="")
        return question
