"""What a benchmark is, and what those with official files have in common: annotations, videos, styles of prompts."""

from __future__ import annotations

import json
import logging
from abc import ABC, abstractmethod
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, ClassVar, Literal, Protocol, runtime_checkable

from stc_lab.benchmarks.rules import LETTERS, Rule
from stc_lab.types import Answer, Question, Stream

log = logging.getLogger(__name__)

PROMPT_STYLES = ("official", "backbone", "bare")
ON_MISSING = ("error", "skip")
NUM_NAMED = 3
"""Missing videos that a message names."""


@runtime_checkable
class Benchmark(Protocol):
    """A set of streams and a scoring rule; implementations are frozen dataclasses of settings.

    ``fps`` is the rate at which frames are sampled from every stream. ``rule``: the official one, by which summaries
    average; ``None`` when there is no official script. ``judges_texts``: ``score`` judges what was said; otherwise an
    answer that the backbone could not read is wrong without being judged.
    """

    name: str
    fps: float
    rule: ClassVar[Rule | None]
    judges_texts: ClassVar[bool]

    def streams(self) -> list[Stream]:
        """All streams of the benchmark, always in the same order, with unique ids. Raises ``ValueError`` on user
        mistakes; a single broken video is no error here, its questions become failed records.
        """
        ...

    def score(self, question: Question, answer: Answer) -> bool | None:
        """Whether the answer is right; ``None`` when the question has no gold answer to compare with."""
        ...


def score_answer(question: Question, answer: Answer) -> bool | None:
    """The letter must equal the gold letter; without options the texts must be equal but for case and space."""
    if not question.answer:
        return None
    if question.options:
        return answer.prediction == question.answer
    return answer.text.strip().casefold() == question.answer.strip().casefold()


def check_limit_and_fps(limit: int | None, fps: float) -> None:
    """Raise ``ValueError`` for a ``dataset.limit`` below 1 or a ``dataset.fps`` that is not positive."""
    if limit is not None and limit < 1:
        raise ValueError(f"dataset.limit must be at least 1 (or null for all streams), got {limit}")
    if not fps > 0:
        raise ValueError(f"dataset.fps must be above 0 frames per second, got {fps}")


def check_choice(name: str, value: str, choices: Sequence[str]) -> None:
    """Raise ``ValueError`` when the setting ``dataset.NAME`` is none of the ``choices``."""
    if value not in choices:
        raise ValueError(f"dataset.{name}={value}: must be one of {', '.join(choices)}")


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

    rule: ClassVar[Rule]
    judges_texts: ClassVar[bool] = True
    annotations: ClassVar[tuple[str, ...]] = ()
    prompt_styles: ClassVar[tuple[str, ...]] = PROMPT_STYLES

    def __post_init__(self) -> None:
        check_limit_and_fps(self.limit, self.fps)
        check_choice("prompt", self.prompt, self.prompt_styles)
        check_choice("missing", self.missing, ON_MISSING)

    @abstractmethod
    def items(self) -> Iterator[Item]:
        """All questions with their official prompts, in the order of the annotation file."""

    def check_files(self) -> None:
        """Raise ``ValueError`` when the annotation file or the folder of videos is not there."""
        find_annotation(self.root, self.annotations)
        video_folder(self.videos)

    def streams(self) -> list[Stream]:
        """One stream per video, in the order of the annotation file. Raises ``ValueError``, see ``missing``."""
        folder = video_folder(self.videos)
        # Questions about one video need not stand together in the file.
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
        """The verdict of the benchmark's official rule."""
        return self.rule.official(question, answer.text, answer.details)

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


def find_annotation(root: str, patterns: Sequence[str]) -> Path:
    """The first file that matches a glob pattern below ``root``, or ``root`` itself if it is a file.

    Raises ``ValueError`` naming what was looked for.
    """
    folder = Path(root).expanduser()
    if folder.is_file():
        return folder
    for pattern in patterns:
        found = sorted(folder.glob(pattern)) if folder.is_dir() else []
        if found:
            return found[0]
    problem = "no such folder" if not folder.is_dir() else f"no {' or '.join(patterns)} in it"
    raise ValueError(f"dataset.root={root}: {problem}; it is the folder with the official annotation files")


def read_json(path: Path) -> Any:
    """The content of an annotation file. Raises ``ValueError`` when it is no JSON."""
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except (json.JSONDecodeError, UnicodeDecodeError) as error:
        raise ValueError(f"dataset.root: {path} is not JSON: {error}") from error


def video_folder(videos: str) -> Path:
    """The folder of the videos. Raises ``ValueError`` when there is none."""
    folder = Path(videos).expanduser()
    if not folder.is_dir():
        raise ValueError(f"dataset.videos={videos}: no such folder; it is the folder with the official videos")
    return folder


def find_video(folder: Path, candidates: Sequence[str]) -> Path:
    """The first of the relative paths that exists in ``folder``; the first of all when none does."""
    paths = [folder / candidate for candidate in candidates]
    return next((path for path in paths if path.is_file()), paths[0])


def report_missing(streams: Iterable[Stream], folder: Path, missing: str) -> None:
    """Say how many videos are not there, before anything runs.

    ``missing=error`` raises ``ValueError``; with ``skip`` it is a warning, and their questions will be recorded as
    failed.
    """
    streams = list(streams)
    absent = [stream for stream in streams if not stream.video.is_file()]
    if not absent:
        return
    num_questions = sum(len(stream.questions) for stream in streams)
    num_lost = sum(len(stream.questions) for stream in absent)
    named = ", ".join(str(stream.video) for stream in absent[:NUM_NAMED])
    counts = f"{len(absent)} of {len(streams)} videos are missing ({num_lost} of {num_questions} questions)"
    more = ", ..." if len(absent) > NUM_NAMED else ""
    if missing == "error":
        raise ValueError(
            f"dataset.missing=error: {counts} in {folder}: {named}{more}; put them there, or set dataset.missing=skip "
            f"to record their questions as failed"
        )
    log.warning("%s in %s: %s%s; their questions will be recorded as failed", counts, folder, named, more)


def lettered(options: Sequence[str]) -> tuple[str, ...]:
    """The options with their letters, which some of the files leave out."""
    if options[0].startswith("A."):
        return tuple(options)
    return tuple(f"{letter}. {option}" for letter, option in zip(LETTERS, options, strict=False))


def plain(options: Sequence[str]) -> tuple[str, ...]:
    """The options without their letters."""
    bare = []
    for letter, option in zip(LETTERS, lettered(options), strict=False):
        bare.append(option.removeprefix(f"{letter}.").strip())
    return tuple(bare)
