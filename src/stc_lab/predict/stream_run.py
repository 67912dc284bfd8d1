"""One stream through one session, in time order."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator
from itertools import islice
from typing import Protocol, TypeVar

import numpy as np

from stc_lab.predict.recorder import Recorder, Seen
from stc_lab.predict.tasks import StreamTask
from stc_lab.results.records import Record
from stc_lab.types import Answer, FrameReport, Question

T = TypeVar("T")


class Session(Protocol):
    """What the loop needs from a stream session of a backbone."""

    def push(self, frames: list[np.ndarray], timestamps_s: list[float]) -> list[FrameReport]: ...

    def ask(self, question: Question) -> Answer: ...

    def stats(self) -> dict: ...


class Frame(Protocol):
    """One sampled frame: pixels uint8 [H, W, 3]."""

    timestamp_s: float
    pixels: np.ndarray
    decode_ms: float


class Source(Protocol):
    """Frames on the sampling grid; ``frames(t)`` goes on from the last call and never reads beyond time ``t``."""

    def frames(self, until_s: float | None) -> Iterable[Frame]: ...


def run_stream(
    task: StreamTask,
    session: Session,
    source: Source,
    recorder: Recorder,
    chunk_size: int = 1,
    on_frames: Callable[[int], None] = lambda num_frames: None,
) -> Iterator[Record]:
    """Push the frames up to each question's time, ask, and yield one record per pending question.

    Questions with a record from an earlier run still divide the frames into the same chunks as in that run,
    but they are not asked again. Nothing after the last pending question is read.
    """
    seen = Seen()
    last = task.pending[-1]
    for question in task.stream.questions:
        for chunk in _chunks(_awaited(source.frames(_until(question)), recorder), chunk_size):
            for frame in chunk:
                seen.add(frame.timestamp_s, frame.decode_ms)
            reports = session.push([frame.pixels for frame in chunk], [frame.timestamp_s for frame in chunk])
            recorder.add_frames(reports, seen)
            on_frames(len(chunk))
        if question.question_id in task.recorded:
            recorder.skip()
        elif seen.num_frames == 0:
            yield recorder.unseen(task.stream, question)
        else:
            yield recorder.answered(task.stream, question, session.ask(question), seen, session.stats())
        if question is last:
            return


def _until(question: Question) -> float | None:
    return None if math.isinf(question.time_s) else question.time_s


def _awaited(frames: Iterable[Frame], recorder: Recorder) -> Iterator[Frame]:
    iterator = iter(frames)
    while True:
        with recorder.waiting():
            frame = next(iterator, None)
        if frame is None:
            return
        yield frame


def _chunks(items: Iterable[T], size: int) -> Iterator[list[T]]:
    iterator = iter(items)
    while chunk := list(islice(iterator, size)):
        yield chunk
