"""The records of a run on the virtual clock: backlog, response delays, and the frame rate that could be kept up."""

from __future__ import annotations

import csv
import io
from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import astuple
from pathlib import Path
from typing import Any

import numpy as np

from stc_lab.measure.clock import FrameJob, QuestionJob, Response, replay, sustainable_fps
from stc_lab.results.records import Record, write_text_atomically
from stc_lab.results.statistics import distribution

CLOCK_FILE = "clock.csv"
COLUMNS = ("stream_id", "question_id", "time_s", "backlog_frames", "wait_s", "first_token_s", "response_s")
NOT_WORK = ("decode",)


class Clock:
    """Replays every stream of a run by itself, with a worker of its own.

    Decoding is not counted: it runs ahead in another process. Frames and questions of the warm-up take the median time
    of the others. Polls are questions too, but only final answers are reported. Failed questions are not replayed.
    """

    def __init__(self, records: Sequence[Record]) -> None:
        self._records = [record for record in records if record.frames]
        self._typical_frame_s = _median(w for r in self._records for w in _work_s(r)[r.frames["num_warmup"] :])
        self._typical_answer_s = _median(_answer_s(r) for r in self._records if _is_timed(r))
        self.responses: list[Response] = []
        self.frame_s: list[float] = []
        self.answer_s = 0.0
        self.stream_s = 0.0
        by_stream: defaultdict[str, list[Record]] = defaultdict(list)
        for record in self._records:
            by_stream[record.stream_id].append(record)
        for stream in by_stream.values():
            self._replay(stream)

    def summary(self, fps: float) -> dict[str, Any]:
        """Delays in seconds over all answered questions but warm-up ones, and frame rates (``docs/protocol.md``).

        ``busy_ratio``: work in all per second of stream; above 1 the backlog grows. ``sustainable_fps``: the rate at
        which frames alone are just kept up with; ``with_questions``: besides the answering of this run.
        """
        # Where every question was a warm-up one, they are better than nothing.
        warm = {record.key for record in self._records if record.warmup}
        shown = [response for response in self.responses if response.key not in warm] or self.responses
        frame_s = float(np.mean(self.frame_s)) if self.frame_s else 0.0
        busy_s = sum(self.frame_s) + self.answer_s
        return {
            "fps": fps,
            "busy_ratio": busy_s / self.stream_s if self.stream_s else None,
            "sustainable_fps": sustainable_fps(frame_s),
            "sustainable_fps_with_questions": sustainable_fps(frame_s, self.answer_s, self.stream_s),
            "response_delay_s": _spread([response.response_s for response in shown]),
            "first_token_delay_s": _spread([response.first_token_s for response in shown]),
            "wait_s": _spread([response.wait_s for response in shown]),
            "backlog_frames": _spread([response.backlog_frames for response in shown]),
        }

    def _replay(self, records: list[Record]) -> None:
        # Frames arrive at their stream times; a question at the end of the video comes when all else has arrived.
        frames = [job for record in records for job in self._frame_jobs(record)]
        end_s = max([job.ready_s for job in frames] + [record.time_s or 0.0 for record in records])
        questions = [job for record in records for job in self._question_jobs(record, end_s)]
        kept = {record.key for record in records}
        self.responses += [response for response in replay(frames, questions) if response.key in kept]
        # Work per video frame: a job may be a batch of the tower, or a pair of frames that share their tokens.
        self.frame_s += [job.work_s / job.num_frames for job in frames for _ in range(job.num_frames)]
        self.answer_s += sum(job.work_s for job in questions)
        self.stream_s += end_s

    def _frame_jobs(self, record: Record) -> Iterable[FrameJob]:
        """One job per batch of the tower; a batch is ready when its last frame has arrived."""
        frames, work_s = record.frames, _work_s(record)
        num_warmup = frames["num_warmup"]
        if self._typical_frame_s is not None:
            work_s = [self._typical_frame_s] * num_warmup + work_s[num_warmup:]
        num_source = frames.get("num_source_frames") or [1] * len(work_s)
        first = 0
        while first < len(work_s):
            size = min(max(1, frames["vision_batch_size"][first]), len(work_s) - first)
            times_s = frames["timestamp_s"][first : first + size]
            yield FrameJob(times_s[-1], sum(work_s[first : first + size]), sum(num_source[first : first + size]))
            first += size

    def _question_jobs(self, record: Record, end_s: float) -> Iterable[QuestionJob]:
        if record.ttft_ms is None:
            return
        put_s = end_s if record.time_s is None else record.time_s
        polls = zip(record.polls.get("time_s", ()), record.polls.get("latency_ms", ()), strict=True)
        for number, (poll_s, latency_ms) in enumerate(polls):
            put_s = poll_s
            # The last poll of a question that was never answered is the record itself, added below.
            is_answer = poll_s == record.polls["time_s"][-1] and record.details.get("answered_s") is None
            if not is_answer:
                yield QuestionJob((record.question_id, f"poll {number}"), poll_s, latency_ms / 1e3)
        answer_s, first_token_s = _answer_s(record), record.ttft_ms / 1e3
        if record.warmup and self._typical_answer_s is not None:
            answer_s, first_token_s = self._typical_answer_s, min(first_token_s, self._typical_answer_s)
        yield QuestionJob(record.key, put_s, answer_s, first_token_s)


def write_clock(run_dir: Path, responses: Sequence[Response]) -> None:
    """``clock.csv``: one line per question, in the order of streams and time."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(COLUMNS)
    for response in responses:
        (stream_id, question_id), *values = astuple(response)
        writer.writerow([stream_id, question_id, *(round(value, 6) for value in values)])
    write_text_atomically(run_dir / CLOCK_FILE, text.getvalue())


def encoding_summary(records: Sequence[Record]) -> dict[str, Any]:
    """Frames that were encoded, beside those that encoding again for every question and poll would take."""
    num_frames = sum(sum(_source_frames(record)) for record in records if record.frames)
    asked = [record for record in records if record.ttft_ms is not None]
    num_again = sum(sum(record.polls.get("num_frames_seen", ())) or record.num_frames_seen for record in asked)
    return {
        "num_frames": num_frames,
        "num_frames_anew": num_again,
        "ratio": num_again / num_frames if num_frames else None,
    }


def encoding_work_s(records: Sequence[Record]) -> float:
    """Seconds of work on all frames, from pixels to memory."""
    return sum(sum(_work_s(record)) for record in records if record.frames)


def prompt_summary(style: str | None, records: Sequence[Record]) -> dict[str, Any]:
    """The style of the prompts (``backbone`` where a benchmark has no choice), and whether chat templates were applied.

    ``chat_template`` is ``None`` when nothing was asked, or when it was not the same for all questions.
    """
    applied = {record.chat_template for record in records if record.chat_template is not None}
    return {"style": style or "backbone", "chat_template": applied.pop() if len(applied) == 1 else None}


def _source_frames(record: Record) -> list[int]:
    """Video frames that each entry stands for; towers that take pairs have one entry for two."""
    return record.frames.get("num_source_frames") or [1] * len(record.frames["num_tokens"])


def _work_s(record: Record) -> list[float]:
    """Seconds of work on each frame of the record."""
    columns = [values for stage, values in record.frames["latency_ms"].items() if stage not in NOT_WORK]
    return (np.sum(columns, axis=0) / 1e3).tolist() if columns else [0.0] * len(record.frames["num_tokens"])


def _answer_s(record: Record) -> float:
    return sum(record.latency_ms.values()) / 1e3


def _is_timed(record: Record) -> bool:
    return record.ttft_ms is not None and not record.warmup


def _median(values: Iterable[float]) -> float | None:
    known = list(values)
    return float(np.median(known)) if known else None


def _spread(values: Sequence[float]) -> dict[str, float] | None:
    spread = distribution(values)
    return spread and {**spread, "max": float(max(values))}
