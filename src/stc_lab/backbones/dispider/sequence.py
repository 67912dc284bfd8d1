"""In which order the compressor reads memories, question and markers to decide (sections 3.3 and 3.4 of the paper)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass


@dataclass(frozen=True)
class Memory:
    """Clip memories of the clips ``start .. stop - 1``."""

    start: int
    stop: int


@dataclass(frozen=True)
class Summary(Memory):
    """One summarising state per clip of ``start .. stop - 1``, made from their memories and indicators."""


QUESTION, ANSWERED, TO_DO = "question", "<has_answer>", "<to_do>"
Piece = str | Memory
"""``QUESTION`` (with its own trailing to-do marker), a marker, or memories."""


def streaming_sequence(num_clips: int, asked_at: int = 0, answered_at: Sequence[int] = ()) -> list[Piece]:
    """For a question that came after ``asked_at`` clips and was answered after each of ``answered_at`` clips.

    What lies before the question and before every answer is read in summarised form, only what came since in full.
    Raises ``ValueError`` for points that are not in order.
    """
    points = list(answered_at)
    if points != sorted(set(points)) or any(not max(1, asked_at) <= point <= num_clips for point in points):
        raise ValueError(f"answered_at={points}: must ascend from asked_at={asked_at} (at least 1) to {num_clips}")
    if not 0 <= asked_at <= num_clips:
        raise ValueError(f"asked_at={asked_at}: must lie between 0 and the {num_clips} clips")
    if asked_at == num_clips:
        return [ANSWERED, *_memory(0, num_clips), QUESTION, TO_DO]
    pieces: list[Piece] = opening(asked_at)
    if asked_at in points:
        pieces.append(ANSWERED)
    last = asked_at
    for point in points:
        if last < point < num_clips:
            pieces += [Summary(last, point), ANSWERED]
            last = point
    return [*pieces, *_memory(last, num_clips), QUESTION, TO_DO]


def opening(asked_at: int) -> list[Piece]:
    """What stands in front of the clips that come after the question."""
    return [ANSWERED, *([Summary(0, asked_at)] if asked_at else []), QUESTION]


def question_sequence(place: str, num_clips: int) -> list[Piece]:
    """For a question that is answered at once.

    ``start``: as if it had been asked before the first clip (official inference, OVO-Bench); ``now``: asked after
    the last; ``offline``: as for videos seen in full; ``summary``: over summaries (a scoring routine of the release).
    """
    if place == "offline":
        return [ANSWERED, *_memory(0, num_clips), QUESTION]
    if place == "summary":
        return [ANSWERED, *([Summary(0, num_clips)] if num_clips else []), QUESTION]
    return streaming_sequence(num_clips, num_clips if place == "now" else 0)


def _memory(start: int, stop: int) -> list[Piece]:
    return [Memory(start, stop)] if stop > start else []
