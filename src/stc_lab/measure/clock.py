"""A virtual clock: would a stream that does not wait have been followed?

One worker does one job at a time, in the order of stream time. Frames and questions arrive at their stream times and
take as long as was measured; what is not done in time waits, and so does everything behind it. This replays a finished
run, it costs no run time.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass


@dataclass(frozen=True)
class FrameJob:
    """``num_frames`` frames that were encoded together, ready when the last of them has arrived."""

    ready_s: float
    work_s: float
    num_frames: int = 1


@dataclass(frozen=True)
class QuestionJob:
    """A question put at ``time_s``; ``key`` says which. Its first token takes ``first_token_s`` of its ``work_s``."""

    key: tuple[str, str]
    time_s: float
    work_s: float
    first_token_s: float = 0.0


@dataclass(frozen=True)
class Response:
    """What became of a question on the clock.

    ``backlog_frames``: frames that had arrived and were not done when it was put; ``wait_s``: how long it waited for
    them and for earlier questions; ``first_token_s`` and ``response_s``: from putting it to the first token, and to
    the end of the answer.
    """

    key: tuple[str, str]
    time_s: float
    backlog_frames: int
    wait_s: float
    first_token_s: float
    response_s: float


def replay(frames: Sequence[FrameJob], questions: Sequence[QuestionJob]) -> list[Response]:
    """The responses to ``questions``, in time order. A question comes after the frames of its own moment."""
    jobs = sorted([*frames, *questions], key=lambda job: (_arrival_s(job), isinstance(job, QuestionJob)))
    free_s, unfinished, responses = float("-inf"), deque(), []
    for job in jobs:
        # One worker: a job begins when it is there and when the one before it is done.
        start_s = max(free_s, _arrival_s(job))
        free_s = start_s + job.work_s
        if isinstance(job, FrameJob):
            unfinished.append((free_s, job.num_frames))
            continue
        # What had arrived when the question was put, and was not done then, is its backlog.
        while unfinished and unfinished[0][0] <= job.time_s:
            unfinished.popleft()
        wait_s = start_s - job.time_s
        backlog = sum(num_frames for _, num_frames in unfinished)
        responses.append(
            Response(job.key, job.time_s, backlog, wait_s, wait_s + job.first_token_s, wait_s + job.work_s)
        )
    return responses


def sustainable_fps(frame_s: float, answer_s: float = 0.0, stream_s: float = 0.0) -> float | None:
    """Highest frame rate without a growing backlog, for ``frame_s`` seconds of work per frame.

    With ``answer_s`` seconds of answering in ``stream_s`` seconds of stream, only the rest of the time is left for
    frames; 0 when there is no rest. ``None`` when frames cost nothing.
    """
    if frame_s <= 0:
        return None
    share = max(0.0, 1 - answer_s / stream_s) if stream_s > 0 else 1.0
    return share / frame_s


def _arrival_s(job: FrameJob | QuestionJob) -> float:
    return job.ready_s if isinstance(job, FrameJob) else job.time_s
