"""One stream through one session, in time order."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator
from itertools import islice
from typing import Protocol

import numpy as np

from stc_lab.predict.recorder import Recorder, Seen
from stc_lab.predict.tasks import StreamTask
from stc_lab.results.records import Record
from stc_lab.types import Answer, FrameReport, Question


class Session(Protocol):
    """What the loop needs from a stream session of a backbone."""

    def push(self, frames: list[np.ndarray], timestamps_s: list[float]) -> list[FrameReport]: ...

    def flush(self) -> list[FrameReport]: ...

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

    Frames go in ``chunk_size`` at a time, counted from the start of the stream; a question cuts a chunk short.
    Questions with a record from an earlier run are not asked again, but divide the frames as they did in that
    run. Nothing after the last pending question is read.
    """
    seen = Seen()
    last = task.pending[-1]
    for question in task.stream.questions:
        frames = _awaited(source.frames(_until(question)), recorder)
        while chunk := list(islice(frames, chunk_size - seen.num_frames % chunk_size)):
            for frame in chunk:
                seen.add(frame.timestamp_s, frame.decode_ms)
            reports = session.push([frame.pixels for frame in chunk], [frame.timestamp_s for frame in chunk])
            recorder.add_frames(reports, seen)
            on_frames(len(chunk))
        if question.question_id in task.recorded:
            recorder.add_frames(session.flush(), seen)
            recorder.skip()
        elif seen.num_frames == 0:
            yield recorder.unseen(task.stream, question)
        else:
            answer = session.ask(question)
            recorder.add_frames(session.flush(), seen)  # frames that had waited for more, until the question came
            yield recorder.answered(task.stream, question, answer, seen, session.stats())
        if question is last:
            return


def _until(question: Question) -> float | None:
    return None if math.isinf(question.time_s) else question.time_s


def _awaited(frames: Iterable[Frame], recorder: Recorder) -> Iterator[Frame]:
    iterator = iter(frames)
    while True:
        with recorder.counted_as("wait_ms"):
            frame = next(iterator, None)
        if frame is None:
            return
        yield frame
