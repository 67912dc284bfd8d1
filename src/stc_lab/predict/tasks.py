"""What is left to do of a benchmark."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from stc_lab.results.records import Record
from stc_lab.types import Question, Stream


@dataclass(frozen=True)
class StreamTask:
    """A stream with the ids of those of its questions that need no asking because they have a record."""

    stream: Stream
    recorded: frozenset[str] = frozenset()

    @property
    def pending(self) -> tuple[Question, ...]:
        """Questions still to be asked, in time order."""
        return tuple(q for q in self.stream.questions if q.question_id not in self.recorded)

    @property
    def until_s(self) -> float:
        """Stream time up to which something pending has to be read: nothing later is."""
        return max(question.last_time_s for question in self.pending)

    def spans(self) -> list[tuple[float, float]]:
        """Stream times from and up to which frames are shown, one pair per context that pending questions have."""
        starts = sorted({question.context_start_s for question in self.pending})
        return [(start, max(q.last_time_s for q in self.pending if q.context_start_s == start)) for start in starts]


def pending_tasks(streams: Sequence[Stream], records: Iterable[Record]) -> list[StreamTask]:
    """Streams with at least one question without a record, in benchmark order."""
    recorded: dict[str, set[str]] = {}
    for record in records:
        recorded.setdefault(record.stream_id, set()).add(record.question_id)
    tasks = [StreamTask(stream, frozenset(recorded.get(stream.stream_id, ()))) for stream in streams]
    return [task for task in tasks if task.pending]


def estimated_num_frames(task: StreamTask, fps: float, duration_s: float | None = None) -> int:
    """Frames on the sampling grid 0, 1/fps, ... that will be pushed, counted once per context; 0 while unknown.

    A video that ends earlier, or one that is asked at its end, is only known by its ``duration_s``.
    """
    return sum(_frames_between(start_s, until_s, fps, duration_s) for start_s, until_s in task.spans())


def _frames_between(start_s: float, until_s: float, fps: float, duration_s: float | None) -> int:
    until_s = until_s if duration_s is None else min(until_s, duration_s)
    if math.isinf(until_s) or until_s < 0:
        return 0
    return max(0, math.floor(until_s * fps + 1e-6) + 1 - math.ceil(start_s * fps - 1e-6))


def check_unique_ids(streams: Sequence[Stream]) -> None:
    """Raise ``ValueError`` when two streams, or two questions of a stream, share an id."""
    _check_unique([stream.stream_id for stream in streams], "stream ids of the dataset")
    for stream in streams:
        _check_unique([q.question_id for q in stream.questions], f"question ids of stream '{stream.stream_id}'")


def _check_unique(names: list[str], what: str) -> None:
    seen: set[str] = set()
    for name in names:
        if name in seen:
            raise ValueError(f"{what} are not unique: '{name}' occurs twice")
        seen.add(name)
