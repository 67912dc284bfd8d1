"""Turns answers and failures into records."""

from __future__ import annotations

import math
import time
from collections import deque
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

from stc_lab.benchmarks.base import Benchmark
from stc_lab.measure.memory import peak_mem_gib
from stc_lab.predict.frame_log import FrameLog, round_times
from stc_lab.results.records import Record
from stc_lab.types import Answer, FrameReport, Question, Stream

NO_FRAME = "no frame at or before the question's time"
UNREADABLE = "the answer could not be read"


@dataclass
class Seen:
    """What a session was shown so far. ``decode_ms`` of frames whose report is still to come."""

    num_frames: int = 0
    last_frame_time_s: float | None = None
    decode_ms: deque[float] = field(default_factory=deque)

    def add(self, timestamp_s: float, decode_ms: float) -> None:
        """Count a frame that was handed to the session."""
        self.num_frames += 1
        self.last_frame_time_s = timestamp_s
        self.decode_ms.append(decode_ms)


class Recorder:
    """Makes the records of one process, and keeps what spans its streams: warm-up counts and the lap clock."""

    def __init__(
        self, fingerprint: str, benchmark: Benchmark, device: str, warmup_frames: int = 0, warmup_questions: int = 0
    ) -> None:
        self.fingerprint = fingerprint
        self.benchmark = benchmark
        self.device = device
        self._frames = FrameLog(warmup_frames)
        self._warmup_questions = warmup_questions
        self._lap = time.perf_counter()

    def add_frames(self, reports: Sequence[FrameReport], seen: Seen) -> None:
        """Keep the reports of the next frames; their decoding becomes the first stage."""
        for report in reports:
            report.latency_ms = {"decode": seen.decode_ms.popleft(), **report.latency_ms}
            self._frames.add(report)

    @contextmanager
    def counted_as(self, name: str) -> Iterator[None]:
        """Count the block as ``wait_ms`` (the loop waits for the video) or ``start_ms`` (a session is opened)."""
        start = time.perf_counter()
        try:
            yield
        finally:
            self._frames.other_ms[name] += (time.perf_counter() - start) * 1e3

    def skip(self) -> None:
        """Forget frames and time since the last record: they belong to a record of an earlier run, or to none."""
        self._frames.take()
        self._lap = time.perf_counter()

    def answered(self, stream: Stream, question: Question, answer: Answer, seen: Seen, stats: dict) -> Record:
        """Record of a question that was asked; ``unanswered`` when the reader found no answer in the text."""
        is_read = answer.prediction is not None
        correct = self.benchmark.score(question, answer) if is_read else (False if question.answer else None)
        record = self._record(stream, question, "answered" if is_read else "unanswered", correct, seen)
        record.reason = None if is_read else UNREADABLE
        for name in ("prediction", "text", "reader", "letter_logits", "num_prompt_tokens", "num_generated_tokens"):
            setattr(record, name, getattr(answer, name))
        record.details, record.flops = answer.details, answer.flops
        record.latency_ms = round_times(answer.latency_ms)
        record.ttft_ms = round(answer.ttft_ms, 3)
        record.memory = {"peak_mem_gib": round(peak_mem_gib(self.device), 4), **stats}
        record.warmup = self._warmup_questions > 0
        self._warmup_questions -= record.warmup
        record.wall_ms = round(self._finish_lap() * 1e3, 3)
        return record

    def unseen(self, stream: Stream, question: Question) -> Record:
        """Record of a question before the first frame, which is not asked."""
        record = self._record(stream, question, "unanswered", False if question.answer else None, Seen())
        record.reason = NO_FRAME
        return record

    def failed(self, stream: Stream, question: Question, reason: str, error: str | None = None) -> Record:
        """Record of a question that could not be asked because its stream broke."""
        record = self._record(stream, question, "failed", False if question.answer else None, Seen())
        record.frames, record.reason, record.error = {}, reason, error
        self.skip()
        return record

    def _record(self, stream: Stream, question: Question, status: str, correct: bool | None, seen: Seen) -> Record:
        return Record(
            fingerprint=self.fingerprint,
            stream_id=stream.stream_id,
            question_id=question.question_id,
            task=question.task,
            group=question.group,
            time_s=None if math.isinf(question.time_s) else question.time_s,
            question=question.text,
            options=list(question.options),
            answer=question.answer,
            status=status,
            correct=correct,
            num_frames_seen=seen.num_frames,
            last_frame_time_s=seen.last_frame_time_s,
            frames=self._frames.take(),
        )

    def _finish_lap(self) -> float:
        now = time.perf_counter()
        lap_s, self._lap = now - self._lap, now
        return lap_s


def failure_reason(error: BaseException) -> str:
    """``kind: message`` of an exception in one line."""
    message: Any = " ".join(str(error).split())
    return f"{type(error).__name__}: {message}" if message else type(error).__name__
