"""Turns answers and failures into records."""

from __future__ import annotations

import math
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

from stc_lab.benchmarks.base import Benchmark
from stc_lab.measure.memory import peak_mem_gib
from stc_lab.predict.frame_log import round_times
from stc_lab.predict.seen import Polls, Seen
from stc_lab.results.records import Record
from stc_lab.types import Answer, FrameReport, Question, Stream

COPIED = (
    "prediction", "text", "reader", "letter_logits", "num_prompt_tokens", "num_generated_tokens", "chat_template",
)  # fmt: skip
NO_FRAME = "no frame at or before the question's time"
UNREADABLE = "the answer could not be read"
NEVER_TIME = "no poll said that it was time to answer"


class Recorder:
    """Makes the records of one process, and keeps what spans its streams: warm-up counts and the lap clock."""

    def __init__(
        self, fingerprint: str, benchmark: Benchmark, device: str, warmup_frames: int = 0, warmup_questions: int = 0
    ) -> None:
        self.fingerprint = fingerprint
        self.benchmark = benchmark
        self.device = device
        self._warmup_frames = warmup_frames
        self._warmup_questions = warmup_questions
        self._other_ms = Counter()
        self._lap = time.perf_counter()

    def add_frames(self, reports: Sequence[FrameReport], seen: Seen) -> None:
        """Keep the reports of the next frames; their decoding becomes the first stage."""
        for report in reports:
            decode_ms = sum(seen.decode_ms.popleft() for _ in range(report.num_source_frames))
            report.latency_ms = {"decode": decode_ms, **report.latency_ms}
            seen.log.add(report, is_warmup=self._warmup_frames > 0)
            self._warmup_frames -= self._warmup_frames > 0

    @contextmanager
    def counted_as(self, name: str) -> Iterator[None]:
        """Count the block as ``wait_ms`` (the loop waits for the video) or ``start_ms`` (a session is opened)."""
        start = time.perf_counter()
        try:
            yield
        finally:
            self._other_ms[name] += (time.perf_counter() - start) * 1e3

    @contextmanager
    def left_out(self) -> Iterator[None]:
        """Count the block as no time of this run: ``wall_ms`` goes on where it was."""
        start = time.perf_counter()
        try:
            yield
        finally:
            self._lap += time.perf_counter() - start

    def skip(self, seen: Seen | None = None) -> None:
        """Forget frames and time since the last record: they belong to a record of an earlier run, or to none."""
        if seen is not None:
            seen.log.take()
        self._other_ms.clear()
        self._lap = time.perf_counter()

    def answered(
        self, stream: Stream, question: Question, answer: Answer, seen: Seen, stats: dict, polls: Polls | None = None
    ) -> Record:
        """Record of a question that was asked; ``unanswered`` when nothing was said that the benchmark can judge."""
        is_read = answer.prediction is not None or (self.benchmark.judges_texts and bool(answer.text.strip()))
        correct = self.benchmark.score(question, answer) if is_read else _never_right(question)
        record = self._record(stream, question, "answered" if is_read else "unanswered", correct, seen, polls)
        record.reason = None if is_read else UNREADABLE
        return self._with_answer(record, answer, stats)

    def silent(
        self, stream: Stream, question: Question, answer: Answer, seen: Seen, stats: dict, polls: Polls
    ) -> Record:
        """Record of a question whose moment, as polled for, never came; ``answer`` is the last reply to a poll."""
        record = self._record(stream, question, "unanswered", _never_right(question), seen, polls)
        record.reason = NEVER_TIME
        answer.details = {**answer.details, "answered_s": None}
        self._with_answer(record, answer, stats)
        record.prediction = None
        return record

    def unseen(self, stream: Stream, question: Question, seen: Seen) -> Record:
        """Record of a question before the first frame, which is not asked."""
        record = self._record(stream, question, "unanswered", _never_right(question), seen)
        record.reason = NO_FRAME
        return record

    def failed(self, stream: Stream, question: Question, reason: str, error: str | None = None) -> Record:
        """Record of a question that could not be asked because its stream broke."""
        record = self._record(stream, question, "failed", _never_right(question), Seen())
        record.frames, record.reason, record.error = {}, reason, error
        self.skip()
        return record

    def _with_answer(self, record: Record, answer: Answer, stats: dict) -> Record:
        for name in COPIED:
            setattr(record, name, getattr(answer, name))
        record.details, record.flops, record.fidelity = answer.details, answer.flops, answer.fidelity
        record.latency_ms = round_times(answer.latency_ms)
        record.ttft_ms = round(answer.ttft_ms, 3)
        record.memory = {"peak_mem_gib": round(peak_mem_gib(self.device), 4), **stats}
        record.warmup = self._warmup_questions > 0
        self._warmup_questions -= record.warmup
        record.wall_ms = round(self._finish_lap() * 1e3, 3)
        return record

    def _record(
        self,
        stream: Stream,
        question: Question,
        status: str,
        correct: bool | None,
        seen: Seen,
        polls: Polls | None = None,
    ) -> Record:
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
            frames={**seen.log.take(), **self._take_other_ms()},
            context_start_s=question.context_start_s,
            meta=dict(question.meta),
            polls=polls.columns() if polls else {},
        )

    def _take_other_ms(self) -> dict[str, float]:
        other_ms = {name: round(self._other_ms[name], 3) for name in ("wait_ms", "start_ms")}
        self._other_ms.clear()
        return other_ms

    def _finish_lap(self) -> float:
        now = time.perf_counter()
        lap_s, self._lap = now - self._lap, now
        return lap_s


def _never_right(question: Question) -> bool | None:
    """What a question without an answer counts as: wrong, if it counts at all."""
    return False if question.answer else None


def failure_reason(error: BaseException) -> str:
    """``kind: message`` of an exception in one line."""
    message: Any = " ".join(str(error).split())
    return f"{type(error).__name__}: {message}" if message else type(error).__name__
