"""``dataset=videomme``: Video-MME (arXiv:2405.21075), short, medium and long videos, with or without subtitles.

Prompt: the README of github.com/BradyFU/Video-MME; rule: its ``evaluation/eval_your_results.py``.
"""

from __future__ import annotations

import logging
import math
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, ClassVar, Literal

from stc_lab.benchmarks.base import Item, OfficialBenchmark, check_choice, find_annotation, plain
from stc_lab.benchmarks.rules import ONE_LETTER, Asked, Rule, read_option
from stc_lab.types import Question

log = logging.getLogger(__name__)

SUBTITLES = ("none", "frames", "all")

# To the letter; frozen by the files in tests/benchmarks/prompts.
PROMPT = (
    "Select the best answer to the following multiple-choice question based on the video. Respond with only the "
    "letter (A, B, C, or D) of the correct option.\n{}\n{}\nThe best answer is:"
)
PROMPT_SUBTITLES = "This video's subtitles are listed below:\n{}\n"

PHRASES = (
    "The best answer is",
    "The correct answer is",
    "The answer is",
    "The answer",
    "The best option isThe correct option is",
    "Best answer:Best option:",
)
"""Taken away before a letter is read. Officially two pairs are run together by missing commas; what follows from it is
kept, since published scores have it in them.
"""


def official_letter(text: str) -> str:
    """The letter that the official script reads, the first of A to D that is left; "" when it finds none."""
    said = text.strip()
    for phrase in PHRASES:
        said = said.replace(phrase, "")
    match = re.search("[ABCD]", said)
    return match.group() if match else ""


def is_right(asked: Asked, text: str, details: Mapping[str, Any] | None = None) -> bool:
    """The official rule."""
    return official_letter(text) == asked.answer


@dataclass(frozen=True, kw_only=True)
class VideoMME(OfficialBenchmark):
    """2,700 questions about 900 videos, three each, asked at the end; groups are short, medium and long.

    ``subtitles``: ``none``; ``frames``: those on the screen in the frames that are read, as the benchmark asks for;
    ``all``. They are read from ``subtitle_files``, ``VIDEO_ID.srt`` each; videos without a file are asked without.
    Subtitles are part of official prompts only.
    """

    subtitles: Literal["none", "frames", "all"] = "none"
    subtitle_files: str | None = None
    fps: float = 0.5
    name: str = "videomme"

    annotations: ClassVar[tuple[str, ...]] = (
        "test-00000-of-00001.parquet", "*/test-00000-of-00001.parquet", "*.parquet",
    )  # fmt: skip
    rule: ClassVar[Rule] = Rule(
        name="videomme",
        official=is_right,
        strict=partial(read_option, num_letters=4),
        official_words=(
            "the first of the letters A to D in the text, without phrases such as 'The best answer is'; texts without "
            "such a letter are left out"
        ),
        strict_words=ONE_LETTER,
        source="github.com/BradyFU/Video-MME, evaluation/eval_your_results.py",
        counts=lambda text: official_letter(text) != "",
    )

    def __post_init__(self) -> None:
        super().__post_init__()
        check_choice("subtitles", self.subtitles, SUBTITLES)
        if self.subtitles != "none" and self.subtitle_files is None:
            raise ValueError(f"dataset.subtitles={self.subtitles}: give the folder as dataset.subtitle_files=DIR")
        if self.subtitles != "none" and self.prompt == "backbone":
            raise ValueError(
                f"dataset.subtitles={self.subtitles} needs dataset.prompt=official: the backbone's own form of a "
                f"question has no place for subtitles"
            )

    def check_files(self) -> None:
        """Raise ``ValueError`` when a file or folder is not there, that of the subtitles too where they are wanted."""
        super().check_files()
        if self.subtitles != "none" and not Path(self.subtitle_files).expanduser().is_dir():
            raise ValueError(f"dataset.subtitle_files={self.subtitle_files}: no such folder")

    def items(self) -> Iterator[Item]:
        """One item per question, with the official ids."""
        told: dict[str, str] = {}
        for row in _read_table(find_annotation(self.root, self.annotations)):
            video_id = row["videoID"]
            if video_id not in told:
                told[video_id] = self._subtitles_of(video_id)
            candidates = (f"{video_id}.mp4", f"data/{video_id}.mp4", f"videos/{video_id}.mp4")
            yield Item(video_id, candidates, _question(row, told[video_id]))
        if self.subtitles != "none":
            log.info("%d of %d videos have subtitles", sum(map(bool, told.values())), len(told))

    def _subtitles_of(self, video_id: str) -> str:
        if self.subtitles == "none":
            return ""
        path = Path(self.subtitle_files).expanduser() / f"{video_id}.srt"
        cues = read_subtitles(path) if path.is_file() else []
        if self.subtitles == "frames":
            # On the screen in at least one of the frames at 0, 1/fps, ... seconds.
            cues = [cue for cue in cues if math.ceil(cue.start_s * self.fps - 1e-6) / self.fps < cue.end_s]
        return "\n".join(cue.text for cue in cues)


def _read_table(path: Path) -> list[dict[str, Any]]:
    try:
        import pyarrow.parquet as parquet
    except ImportError as error:
        raise ValueError("dataset=videomme reads a parquet file: pip install pyarrow") from error
    return parquet.read_table(path).to_pylist()


def _question(row: Mapping[str, Any], subtitles: str) -> Question:
    options = [str(option) for option in row["options"]]
    return Question(
        question_id=row["question_id"],
        time_s=math.inf,
        text=row["question"],
        options=plain(options),
        answer=row["answer"],
        task=row["task_type"],
        group=row["duration"],
        meta={"domain": row["domain"], "sub_category": row["sub_category"], "has_subtitles": bool(subtitles)},
        prompt=official_prompt(row["question"], options, subtitles),
    )


def official_prompt(question: str, lettered_options: Sequence[str], subtitles: str = "") -> str:
    """The question with its options, after the subtitles if there are any."""
    prompt = PROMPT.format(question, "\n".join(lettered_options))
    return PROMPT_SUBTITLES.format(subtitles) + prompt if subtitles else prompt


ARROW = re.compile(r"^\s*([\d:.,]+)\s*-->\s*([\d:.,]+)")
TAG = re.compile(r"<[^>]+>")


@dataclass(frozen=True)
class Cue:
    """What is written on the screen from ``start_s`` to ``end_s``."""

    start_s: float
    end_s: float
    text: str


def read_subtitles(path: Path) -> list[Cue]:
    """The cues of a SubRip file in order, without markup. Cues without text are left out."""
    cues = []
    for block in re.split(r"\n\s*\n", path.read_text(encoding="utf-8-sig", errors="replace").replace("\r", "")):
        lines = block.strip().splitlines()
        times = [(number, match) for number, line in enumerate(lines) if (match := ARROW.match(line))]
        if times:
            number, match = times[0]
            text = " ".join(TAG.sub("", line).strip() for line in lines[number + 1 :]).strip()
            if text:
                cues.append(Cue(_seconds(match[1]), _seconds(match[2]), text))
    return cues


def _seconds(text: str) -> float:
    parts = text.replace(",", ".").split(":")
    return sum(float(part) * 60**power for power, part in enumerate(reversed(parts)))
