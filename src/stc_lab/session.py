"""A stream on its way through a model: frames in, answers out. One class, never derived from."""

from __future__ import annotations

import copy
from collections import deque
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import Future
from functools import partial
from typing import Any, final

import numpy as np
import torch

from stc_lab.answering import answer, query_of
from stc_lab.backbones.base import VideoModel
from stc_lab.cachers.base import Cacher
from stc_lab.encoder import EncodedFrame, FrameObserver, Span, StreamEncoder
from stc_lab.measure import StageTimer
from stc_lab.memories.base import Memory, MemoryState, PruneOnRead, Reading
from stc_lab.pruners.base import FrameContext, Pruner
from stc_lab.triggers import Background, TriggerState
from stc_lab.types import Answer, Decision, FrameReport, Question, VisualTokens
from stc_lab.vision.saliency import SaliencyReading


@final
class StreamSession:
    """All state of one stream: pairing, cacher reference, pruner history, memory. Sessions on a model are independent.

    Frames pass the tower in chunks of the cacher's ``chunk_size`` and the pruner in windows of its ``window_frames``,
    both counted from the start of the stream, so how frames are divided over calls of :meth:`push` changes nothing. A
    question changes nothing either: frames that still wait are shown to it on copies, and it is forgotten (unless
    the memory's settings say that questions belong to the stream).

    ``memory`` is the public state of the memory; ``shows_features``: once set, reports carry the features of their
    frame, for a comparison of two sessions. Raises ``ValueError`` where model, methods and memory do not fit.
    """

    memory: MemoryState

    def __init__(
        self, model: VideoModel, cacher: Cacher, pruner: Pruner, memory: Memory, timer: StageTimer | None = None
    ) -> None:
        model.settings.check(cacher, pruner, memory, model.facts)
        self.model, self.cacher, self.pruner, self.settings = model, cacher, pruner, memory
        self.timer = timer or StageTimer(model.device)
        self._background: Background | None = None
        self.reset()

    def reset(self) -> None:
        """Forget everything: the next frame is the first of a new stream."""
        self.close()
        self._is_open = True
        model, projects = self.model, self.settings.takes == "tokens"
        needs = self.pruner.needs if projects else frozenset()
        features = "features" in self.settings.needs
        self._encoder = StreamEncoder(model, self.cacher, needs, self.timer, projects, features)
        self._pruner_state = self.pruner.new_state()
        self._pending: list[EncodedFrame] = []
        self._reports: list[FrameReport] = []
        self._last_time_s = float("-inf")
        self.num_frames = 0
        with torch.inference_mode():
            self.memory = self.settings.open(model, self.timer)
            trigger = model.trigger()
            self.trigger: TriggerState | None = trigger.open(self.memory, self.timer) if trigger else None
        self._background = Background(model.settings.asynchronous, model.device)
        self.timer.drain()

    def close(self) -> None:
        """Free the memory of the stream; the session can be used again after :meth:`reset`."""
        if self._background is None:
            return
        self._is_open = False
        self._background.close()
        self.memory.close()
        if self.trigger is not None:
            self.trigger.close()
        self._background = self._encoder = self._pruner_state = None
        self._pending, self._reports = [], []

    # Frames

    @torch.inference_mode()
    def push(self, frames: Sequence[np.ndarray], timestamps_s: Sequence[float]) -> list[FrameReport]:
        """Take the next frames, uint8 [H, W, 3] each, of the stream in time order.

        Returns the reports of the frames that were remembered since the last call: those pushed now, later for frames
        that wait for a partner or for a pruner's window. A report covers two frames where the tower takes pairs. Raises
        ``ValueError`` when a frame or a time is not as expected.
        """
        self._require_open()
        self._check_times(frames, timestamps_s)
        pairing, spans = self._encoder.pairing, [None] * len(frames)
        if pairing is not None:
            frames, timestamps_s, spans = pairing.take(frames, timestamps_s)
        start, chunk_size = 0, getattr(self.cacher, "chunk_size", 1)
        while start < len(frames):
            stop = min(len(frames), start + chunk_size - self.num_frames % chunk_size)
            self._take(frames[start:stop], timestamps_s[start:stop], spans[start:stop])
            start = stop
        return self._take_reports()

    @torch.inference_mode()
    def flush(self) -> list[FrameReport]:
        """Remember the frames that wait for a pruner's window as a shorter one, and return their reports."""
        self._require_open()
        self._finish(len(self._pending))
        return self._take_reports()

    @torch.inference_mode()
    def finish(self) -> list[FrameReport]:
        """The stream is over: what waits for a partner, a window or a whole turn is taken as it is."""
        self._require_open()
        self._commit_half()
        self._finish(len(self._pending))
        self.memory.finish()
        self._note_events()
        return self._take_reports()

    # Questions

    @torch.inference_mode()
    def ask(self, question: Question) -> Answer:
        """Answer from what was pushed so far; the stream goes on as if nothing had been asked.

        Raises ``ValueError`` for an empty question, and with the reason where the memory cannot be read.
        """
        asked_at = self.timer.mark()
        self._require_question(question)
        return self._answer(question, self._read(question), self.timer, asked_at, {})

    @torch.inference_mode()
    def submit(self, request: Question | Decision) -> Future[Answer]:
        """Begin to answer a question now, or to respond to a decision from what it was based on.

        Returns at once where the model answers asynchronously, and the stream goes on meanwhile; otherwise the future
        is done. Answers come in the order of submission. Raises ``ValueError`` for an empty question, or for a decision
        that is not from this session's watched questions.
        """
        asked_at = self.timer.mark()
        if isinstance(request, Decision):
            self._require_open()
            question, reading = self._require_trigger().reading(request)
        else:
            self._require_question(request)
            question, reading = request, self._read(request)
        # What was read does not change any more: the rest may run beside the stream, with a timer of its own.
        spent_ms, timer = self.timer.drain(), StageTimer(self.model.device)
        return self._background.start(partial(self._answer, question, reading, timer, asked_at, spent_ms))

    def respond(self, decision: Decision) -> Answer:
        """The response to a decision, waited for."""
        return self.submit(decision).result()

    def tell(self, message: str) -> None:
        """Tell the model something with the next turn of the stream. Raises ``ValueError`` without turns."""
        self._require_open()
        self.memory.tell(message)

    @torch.inference_mode()
    def watch(self, question: Question) -> None:
        """Decide from now on when to answer ``question``: reports carry decisions. ``ValueError`` without a trigger,
        or for a question that is empty or watched already."""
        self._require_question(question)
        self._require_trigger().watch(question)

    def unwatch(self, question_id: str) -> None:
        """Make no more decisions about a question; one that is not watched is no error."""
        self._require_open()
        self._require_trigger().unwatch(question_id)

    def observe_with(self, observer: FrameObserver) -> None:
        """From now on, and until the stream ends, tell ``observer`` what becomes of each frame."""
        self._require_open()
        self._encoder.observer = observer

    def stats(self) -> dict[str, int]:
        """``num_frames``: video frames, ``num_pending_frames``: those that are not remembered yet; ``bytes_kept``: all
        that the memory keeps between two frames; and the sizes that the memory tells (see its ``stats``)."""
        pairing, stats = self._encoder.pairing, self.memory.stats()
        counts = {"num_frames": self.num_frames, "num_pending_frames": len(self._pending)}
        if pairing is not None:
            waiting = 2 * len(self._pending) + (pairing.waiting is not None)
            counts = {"num_frames": pairing.num_frames, "num_pending_frames": waiting}
        if self.trigger is not None:
            watching = self.trigger.stats()
            stats["kv_bytes_device"] += watching.pop("watch_bytes")
            stats |= watching
        kept = sum(stats.get(key, 0) for key in ("kv_bytes_device", "kv_bytes_host", "token_bytes_device"))
        return counts | stats | {"bytes_kept": kept}

    @property
    def shows_features(self) -> bool:
        """Whether reports carry the features of their frame."""
        return self._encoder.shows_features

    @shows_features.setter
    def shows_features(self, value: bool) -> None:
        self._encoder.shows_features = value

    # The way of a frame: encoder -> pruner -> memory

    def _take(self, frames: Sequence[np.ndarray], times_s: Sequence[float], spans: Sequence[Span]) -> None:
        if self._encoder.changes_size(frames[0]):
            self._finish(len(self._pending))  # no pruner compares frames of different size
        self._pending += self._encoder.encode(frames, times_s, spans)
        self.num_frames += len(frames)
        if self.settings.takes == "features":
            self._remember_features()
        while self._pending and len(self._pending) >= (size := self.memory.next_window(self.pruner)):
            self._finish(size)

    def _finish(self, num_frames: int) -> None:
        """Prune and remember the oldest ``num_frames`` pending frames."""
        if not num_frames:
            return
        # 1. The pruner, on its window.
        window, self._pending = self._pending[:num_frames], self._pending[num_frames:]
        with self.timer.stage("prune"):
            kept, prune_flops = self._prune(window, self._pruner_state)
        with self.timer.stage("prefill"):
            prefill_flops = self.memory.remember(kept)
        # 2. A model that decides by itself looks at what is new.
        decisions, decide_flops = self._decide()
        # 3. Times are shared out among the frames of the window.
        latency_ms = {stage: ms / len(window) for stage, ms in self.timer.drain().items()}
        for frame, tokens, *flops in zip(window, kept, prune_flops, prefill_flops, strict=True):
            report = frame.report
            report.num_tokens = tokens.num_tokens
            report.latency_ms |= latency_ms
            report.flops |= dict(zip(("prune", "prefill"), flops, strict=True))
            self._done(frame, tokens)
        if decide_flops:
            self._reports[-1].flops["decide"] = decide_flops
        self._reports[-1].decisions += decisions
        self._note_events()

    def _remember_features(self) -> None:
        """For a memory that keeps features: nothing waits for a pruner, which sees the memory and not the frames."""
        window, self._pending = self._pending, []
        for frame in window:
            with self.timer.stage("prefill"):
                (flops,) = self.memory.remember([frame.tokens])
            report = frame.report
            report.num_tokens_full = self.model.facts.tokens_per_frame
            report.num_tokens = self.pruner.num_kept(report.num_tokens_full)
            report.latency_ms |= self.timer.drain()
            report.flops |= {"prefill": flops}
            self._done(frame, None)

    def _done(self, frame: EncodedFrame, kept: VisualTokens | None) -> None:
        self._reports.append(frame.report)
        if self._encoder.observer is not None and frame.note is not None:
            self._encoder.observer.remembered(frame.note, frame.tokens, kept)

    def _prune(self, window: Sequence[EncodedFrame], state: Any) -> tuple[list[VisualTokens], list[int]]:
        """What the pruner leaves of frames, and its FLOPs for each, those of asking the tower included."""
        readings = [
            SaliencyReading() if frame.saliency is None else frame.saliency.read(frame.tokens.grid) for frame in window
        ]
        contexts = [
            FrameContext(frame.tokens.grid, frame.tokens.timestamp_s, reading.attention_received, reading.keys)
            for frame, reading in zip(window, readings, strict=True)
        ]
        kept = self.pruner.compress([frame.tokens for frame in window], state, contexts)
        flops = [
            reading.flops + self.pruner.flops(*frame.tokens.tokens.shape)
            for frame, reading in zip(window, readings, strict=True)
        ]
        return kept, flops

    def _decide(self) -> tuple[list[Decision], int]:
        if self.trigger is None:
            return [], 0
        with self.timer.stage("decide"):
            return self.trigger.observe()

    def _note_events(self) -> None:
        """What was said goes into the last report there is."""
        if not self._reports:
            return
        lines, flops = self.memory.events()
        report = self._reports[-1]
        report.commentary += lines
        if flops:
            report.flops["speak"] = report.flops.get("speak", 0) + flops

    def _commit_half(self) -> None:
        """Take the frame that waits for its partner into the stream, shown twice."""
        pairing = self._encoder.pairing
        if pairing is None or pairing.waiting is None:
            return
        pair, span = pairing.commit_half()
        self._take([pair], [self._last_time_s], [span])
        last = self._pending[-1].report if self._pending else self._reports[-1]
        last.num_source_frames = 1

    # The way of a question: copies of what waits -> memory -> answer

    def _answer(
        self, question: Question, reading: Reading, timer: StageTimer, asked_at: float, spent_ms: dict[str, float]
    ) -> Answer:
        """Touches nothing of the session that changes, so that it may run beside the stream."""
        try:
            made = answer(self.model, reading, question, timer, asked_at)
        finally:
            reading.close()
        made.latency_ms = spent_ms | made.latency_ms
        return made

    def _read(self, question: Question) -> Reading:
        """What ``question`` sees, frames that wait included."""
        if self.settings.changes_stream:
            self._commit_half()
            self._finish(len(self._pending))
        waiting, flops = self._waiting()
        prune = PruneOnRead(self._encoder.project_merged, self.pruner)
        reading = self.memory.read(query_of(self.model, question), waiting, prune)
        reading.flops = flops | reading.flops
        return reading

    def _waiting(self) -> tuple[list[VisualTokens], dict[str, int]]:
        """Frames that wait for a window or a partner, pruned as a shorter window on a copy of the pruner's state, and
        the FLOPs that this took."""
        # 1. What waits for the window, and half a pair, encoded aside.
        waiting, flops, pairing = list(self._pending), {}, self._encoder.pairing
        if pairing is not None and pairing.waiting is not None:
            pair, span = pairing.half()
            waiting += (half := self._encoder.aside().encode([pair], [self._last_time_s], [span]))
            flops = dict(half[0].report.flops)
            self.timer.add(half[0].report.latency_ms)
        if not waiting or self.settings.takes == "features":
            return [frame.tokens for frame in waiting], flops
        with self.timer.stage("prune"):
            # 2. Pruned as if the window ended here; the stream's own history stays as it is.
            kept, prune_flops = self._prune(waiting, copy.deepcopy(self._pruner_state))
        return kept, flops | {"prune": sum(prune_flops)}

    # Checks

    def _take_reports(self) -> list[FrameReport]:
        reports, self._reports = self._reports, []
        return reports

    def _require_question(self, question: Question) -> None:
        self._require_open()
        if not question.text.strip():
            raise ValueError(f"question '{question.question_id}' has no text")

    def _require_open(self) -> None:
        if not self._is_open:
            raise RuntimeError("the session is closed: call reset() to start a new stream")

    def _require_trigger(self) -> TriggerState:
        if self.trigger is None:
            raise ValueError(f"backbone={self.model.settings.name} does not decide by itself when to respond")
        return self.trigger

    def _check_times(self, frames: Sequence[np.ndarray], timestamps_s: Sequence[float]) -> None:
        if len(frames) != len(timestamps_s):
            raise ValueError(f"{len(frames)} frames came with {len(timestamps_s)} timestamps")
        for time_s in timestamps_s:
            if not time_s >= self._last_time_s:
                raise ValueError(f"frame at {time_s} s came after one at {self._last_time_s} s: push in time order")
            self._last_time_s = time_s


def follow(
    session: StreamSession, question: Question, frames: Iterable[tuple[float, np.ndarray]]
) -> Iterator[tuple[Decision, Answer]]:
    """Watch for ``question`` while ``frames`` (time in seconds, uint8 [H, W, 3]) come in, and respond in time.

    Yields every response with its decision, in time order: as soon as it is there while the stream goes on, and what
    is left at its end.
    """
    session.watch(question)
    waiting: deque[tuple[Decision, Future[Answer]]] = deque()
    for time_s, frame in frames:
        for report in session.push([frame], [time_s]):
            responses = [decision for decision in report.decisions if decision.responds]
            waiting.extend((decision, session.submit(decision)) for decision in responses)
        while waiting and waiting[0][1].done():
            decision, future = waiting.popleft()
            yield decision, future.result()
    session.unwatch(question.question_id)
    for decision, future in waiting:
        yield decision, future.result()
