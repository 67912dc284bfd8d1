"""Turns frames, answers and failures into records."""

from __future__ import annotations

import math
import time
from collections import Counter, deque
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import astuple, dataclass, field
from typing import Any

from stc_lab.benchmarks.base import Benchmark
from stc_lab.measure import peak_mem_gib
from stc_lab.results.records import Record
from stc_lab.types import Answer, Decision, FrameReport, Question, Stream

COPIED = (
    "prediction", "text", "reader", "letter_logits", "num_prompt_tokens", "num_generated_tokens", "chat_template",
    "tokens_read", "tokens_read_max",
)  # fmt: skip
NO_FRAME = "no frame at or before the question's time"
UNREADABLE = "the answer could not be read"
NEVER_TIME = "no poll said that it was time to answer"
RESPOND, SILENT = "respond", "silent"
"""A decision as it stands among the replies to polls."""


@dataclass
class FramesShown:
    """Frames that a session was shown so far.

    ``decode_ms``: of frames whose report is still to come; ``reports``: of frames since the last record.
    """

    num_frames: int = 0
    last_frame_time_s: float | None = None
    decode_ms: deque[float] = field(default_factory=deque)
    reports: list[FrameReport] = field(default_factory=list)
    num_warmup: int = 0

    def add(self, timestamp_s: float, decode_ms: float) -> None:
        """Count a frame that was handed to the session."""
        self.num_frames += 1
        self.last_frame_time_s = timestamp_s
        self.decode_ms.append(decode_ms)

    def take_columns(self) -> dict[str, Any]:
        """``frames`` of a record: the reports since the last call, every column with one entry per frame."""
        reports, num_warmup = self.reports, self.num_warmup
        self.reports, self.num_warmup = [], 0
        columns = {
            "timestamp_s": [round(report.timestamp_s, 6) for report in reports],
            "num_tokens": [report.num_tokens for report in reports],
            "num_tokens_full": [report.num_tokens_full for report in reports],
            "is_reference": [report.is_reference for report in reports],
            "update_ratio": [round(report.update_ratio, 6) for report in reports],
            "vision_batch_size": [report.vision_batch_size for report in reports],
            "latency_ms": round_times(_columns([report.latency_ms for report in reports])),
            "flops": _columns([report.flops for report in reports]),
            "num_warmup": num_warmup,
        }
        # Columns that only some backbones or settings fill are left out where there is nothing to say.
        if any(report.num_source_frames != 1 for report in reports):
            columns["num_source_frames"] = [report.num_source_frames for report in reports]
        if any(report.commentary for report in reports):
            columns["commentary"] = [[list(astuple(line)) for line in report.commentary] for report in reports]
        if any(report.fidelity for report in reports):
            columns["fidelity"] = _columns([report.fidelity for report in reports])
        return columns


@dataclass
class Polls:
    """Replies to the polls of one question, or the model's own decisions about it, in time order."""

    time_s: list[float] = field(default_factory=list)
    text: list[str] = field(default_factory=list)
    num_frames_seen: list[int] = field(default_factory=list)
    latency_ms: list[float] = field(default_factory=list)

    def add(self, time_s: float, answer: Answer, num_frames_seen: int) -> None:
        """Note the reply to the poll at ``time_s``."""
        self._append(time_s, answer.text, num_frames_seen, round(sum(answer.latency_ms.values()), 3))

    def add_decision(self, decision: Decision, num_frames_seen: int) -> None:
        """Note a decision; what it cost is part of the cost of its frame."""
        self._append(decision.time_s, RESPOND if decision.responds else SILENT, num_frames_seen, 0.0)

    def columns(self) -> dict[str, Any]:
        """As a record keeps them; empty for a question that was not polled for."""
        return vars(self) if self.time_s else {}

    def _append(self, time_s: float, text: str, num_frames_seen: int, latency_ms: float) -> None:
        self.time_s.append(time_s)
        self.text.append(text)
        self.num_frames_seen.append(num_frames_seen)
        self.latency_ms.append(latency_ms)


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

    def add_frames(self, reports: Sequence[FrameReport], shown: FramesShown) -> None:
        """Keep the reports of the next frames; their decoding becomes the first stage."""
        for report in reports:
            # A report of a pair of frames stands for both.
            decode_ms = sum(shown.decode_ms.popleft() for _ in range(report.num_source_frames))
            report.latency_ms = {"decode": decode_ms, **report.latency_ms}
            shown.reports.append(report)
            is_warmup = self._warmup_frames > 0  # not for latency statistics
            shown.num_warmup += is_warmup
            self._warmup_frames -= is_warmup

    @contextmanager
    def attribute_to(self, name: str) -> Iterator[None]:
        """Count the block as ``wait_ms`` (the loop waits for the video) or ``start_ms`` (a session is opened)."""
        start = time.perf_counter()
        try:
            yield
        finally:
            self._other_ms[name] += (time.perf_counter() - start) * 1e3

    @contextmanager
    def exclude(self) -> Iterator[None]:
        """Count the block as no time of this run: ``wall_ms`` goes on where it was."""
        start = time.perf_counter()
        try:
            yield
        finally:
            self._lap += time.perf_counter() - start

    def skip(self, shown: FramesShown | None = None) -> None:
        """Forget frames and time since the last record: they belong to a record of an earlier run, or to none."""
        if shown is not None:
            shown.take_columns()
        self._other_ms.clear()
        self._lap = time.perf_counter()

    def answered(
        self,
        stream: Stream,
        question: Question,
        answer: Answer,
        shown: FramesShown,
        stats: dict,
        polls: Polls | None = None,
    ) -> Record:
        """Record of a question that was asked; ``unanswered`` when nothing was said that the benchmark can judge."""
        # Rules that judge texts read what no reader could, unless nothing was said at all.
        is_read = answer.prediction is not None or (self.benchmark.judges_texts and bool(answer.text.strip()))
        correct = self.benchmark.score(question, answer) if is_read else _never_right(question)
        record = self._record(stream, question, "answered" if is_read else "unanswered", correct, shown, polls)
        record.reason = None if is_read else UNREADABLE
        return self._with_answer(record, answer, stats)

    def silent(
        self, stream: Stream, question: Question, answer: Answer, shown: FramesShown, stats: dict, polls: Polls
    ) -> Record:
        """Record of a question whose moment, as polled for, never came; ``answer`` is the last reply to a poll."""
        record = self._record(stream, question, "unanswered", _never_right(question), shown, polls)
        record.reason = NEVER_TIME
        answer.details = {**answer.details, "answered_s": None}
        self._with_answer(record, answer, stats)
        record.prediction = None
        return record

    def unseen(self, stream: Stream, question: Question, shown: FramesShown) -> Record:
        """Record of a question before the first frame, which is not asked."""
        record = self._record(stream, question, "unanswered", _never_right(question), shown)
        record.reason = NO_FRAME
        return record

    def failed(self, stream: Stream, question: Question, reason: str, error: str | None = None) -> Record:
        """Record of a question that could not be asked because its stream broke."""
        record = self._record(stream, question, "failed", _never_right(question), FramesShown())
        record.frames, record.reason, record.error = {}, reason, error
        self.skip()
        return record

    def _with_answer(self, record: Record, answer: Answer, stats: dict) -> Record:
        for name in COPIED:
            setattr(record, name, getattr(answer, name))
        record.details, record.flops, record.fidelity = answer.details, answer.flops, answer.fidelity
        record.latency_ms = round_times(answer.latency_ms)
        record.ttft_ms = round(answer.ttft_ms, 3)
        record.bytes_kept = stats.get("bytes_kept")
        counts = {name: count for name, count in stats.items() if name != "bytes_kept"}
        record.memory = {"peak_mem_gib": round(peak_mem_gib(self.device), 4), **counts}
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
        shown: FramesShown,
        polls: Polls | None = None,
    ) -> Record:
        return Record(
            fingerprint=self.fingerprint,
            stream_id=stream.stream_id,
            question_id=question.question_id,
            task=question.task,
            group=question.group,
            # JSON knows no infinity: None is the end of the video.
            time_s=None if math.isinf(question.time_s) else question.time_s,
            question=question.text,
            options=list(question.options),
            answer=question.answer,
            status=status,
            correct=correct,
            num_frames_seen=shown.num_frames,
            last_frame_time_s=shown.last_frame_time_s,
            frames={**shown.take_columns(), **self._take_other_ms()},
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


def round_times(times: dict[str, Any]) -> dict[str, Any]:
    """Milliseconds to whole microseconds; finer digits are noise."""
    return {
        stage: [round(ms, 3) for ms in value] if isinstance(value, list) else round(value, 3)
        for stage, value in times.items()
    }


def _columns(rows: list[dict[str, Any]]) -> dict[str, list]:
    """One list per key; a frame that did not pass a stage has 0 there."""
    keys = dict.fromkeys(key for row in rows for key in row)
    return {key: [row.get(key, 0) for row in rows] for key in keys}
