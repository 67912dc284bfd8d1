"""Held-out pocket streams: mp4 files made once from fixed seeds, with their questions."""

from __future__ import annotations

import json
import os
from dataclasses import asdict
from pathlib import Path

from stc_lab.pocket.world.questions import PocketQuestion, sample_questions
from stc_lab.pocket.world.render import Renderer, write_video
from stc_lab.pocket.world.script import Script, sample_script
from stc_lab.types import Question, Stream

WORLD_VERSION = 2
FIRST_SEED = {"dev": 10_000_000, "test": 30_000_000}
"""Training draws its streams from seeds of 2**40 and above."""
QUESTIONS_PER_STREAM = 12
SHORT_S, LONG_S = 12, 28


def ensure_streams(root: Path, split: str, num_streams: int) -> list[Stream]:
    """The first ``num_streams`` streams of ``split``; videos that are not yet under ``root`` are made.

    Every fourth stream is long (28 s instead of 12 s), so that a streaming memory overflows at the pocket's sizes.

    Raises:
        ValueError: unknown split or fewer than one stream.
    """
    if split not in FIRST_SEED:
        raise ValueError(f"dataset.split={split!r} is unknown; choose from {', '.join(FIRST_SEED)}")
    if num_streams < 1:
        raise ValueError(f"dataset.limit={num_streams} must be at least 1")
    folder = root / f"{split}-v{WORLD_VERSION}"
    folder.mkdir(parents=True, exist_ok=True)
    return [_ensure_stream(folder, split, index) for index in range(num_streams)]


def held_out_script(split: str, index: int) -> Script:
    """Script of one held-out stream."""
    return sample_script(FIRST_SEED[split] + index, LONG_S if index % 4 == 3 else SHORT_S)


def _ensure_stream(folder: Path, split: str, index: int) -> Stream:
    stream_id = f"{split}-{index:04d}"
    video, listing = folder / f"{stream_id}.mp4", folder / f"{stream_id}.questions.json"
    script = held_out_script(split, index)
    questions = sample_questions(script, QUESTIONS_PER_STREAM)
    if not video.exists():
        partial = folder / f".{stream_id}.{os.getpid()}.mp4"
        write_video(Renderer(script), partial)
        listing.write_text(json.dumps([asdict(q) for q in questions], indent=1), encoding="utf-8")
        partial.replace(video)
    return Stream(stream_id, video, tuple(_question(stream_id, i, q) for i, q in enumerate(questions)))


def _question(stream_id: str, index: int, question: PocketQuestion) -> Question:
    return Question(
        question_id=f"{stream_id}-q{index:02d}",
        time_s=question.time_s,
        text=question.text,
        options=question.options,
        answer=question.answer,
        task=question.task,
        group=question.group,
    )
