"""A stream on its way through a backbone: frames in, answers out."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from torch import Tensor

from stc_lab.backbones.base import Backbone
from stc_lab.backbones.sink import FrameSink
from stc_lab.cachers.base import Cacher, Encoded, FrameTrace
from stc_lab.measure import StageTimer
from stc_lab.measure.flops import patch_embed_flops
from stc_lab.pruners.base import Pruner
from stc_lab.pruners.context import FrameContext
from stc_lab.types import Answer, FrameReport, Question, VisualTokens
from stc_lab.vision.layer_reading import Reading, Tap
from stc_lab.vision.probe import Probe


@dataclass
class _Pending:
    """A frame that has passed the projector and waits for the pruner's window to fill.

    ``tap``: what the tower showed for a pruner that needs more than tokens; ``note``: what a sink wants to know.
    """

    tokens: VisualTokens
    report: FrameReport
    tap: Tap | None = None
    note: Any = None


class StreamSession(ABC):
    """All state of one stream: cacher reference, pruner history, memory. Sessions on one model are independent.

    Frames pass the tower in chunks of the cacher's ``chunk_size`` and the pruner in windows of its
    ``window_frames``, both counted from the start of the stream, so how frames are divided over calls of
    :meth:`push` changes nothing. A leaf says how visual tokens are remembered and how a question is answered.

    ``shows_features``: once set, reports carry the features of their frame, for a comparison of two sessions.
    """

    shows_features: bool = False

    def __init__(self, backbone: Backbone, cacher: Cacher, pruner: Pruner, timer: StageTimer | None = None) -> None:
        self.backbone = backbone
        self.cacher = cacher
        self.pruner = pruner
        self.timer = timer or StageTimer(backbone.device)
        self.reset()

    def reset(self) -> None:
        """Forget everything: the next frame is the first of a new stream."""
        self._is_open = True
        self._cacher_state = self.cacher.new_state()
        self._pruner_state = self.pruner.new_state()
        self._probe = Probe(self.pruner.needs)
        self._pending: list[_Pending] = []
        self._reports: list[FrameReport] = []
        self._sink: FrameSink | None = None
        self._last_time_s = float("-inf")
        self.num_frames = 0
        with torch.inference_mode():
            self._start_memory()
        self.timer.drain()

    def close(self) -> None:
        """Free the memory of the stream; the session can be used again after :meth:`reset`."""
        self._is_open = False
        self._cacher_state = self._pruner_state = self._probe = None
        self._pending, self._reports, self._sink = [], [], None
        self._drop_memory()

    def show_to(self, sink: FrameSink) -> None:
        """From now on, and until the stream ends, tell ``sink`` what becomes of each frame."""
        self._require_open()
        self._sink = sink

    @torch.inference_mode()
    def push(self, frames: Sequence[np.ndarray], timestamps_s: Sequence[float]) -> list[FrameReport]:
        """Take the next frames, uint8 [H, W, 3] each, of the stream in time order.

        Returns the reports of the frames that were remembered since the last call: those pushed now, later for
        frames that wait for a pruner's window. Raises ``ValueError`` when a frame or a time is not as expected.
        """
        self._require_open()
        self._check_times(frames, timestamps_s)
        start, chunk_size = 0, getattr(self.cacher, "chunk_size", 1)
        while start < len(frames):
            stop = min(len(frames), start + chunk_size - self.num_frames % chunk_size)
            self._pending += self._encode(frames[start:stop], timestamps_s[start:stop])
            self.num_frames += stop - start
            start = stop
            while len(self._pending) >= (size := self._window_size()):
                self._finish(size)
        return self._take_reports()

    @torch.inference_mode()
    def flush(self) -> list[FrameReport]:
        """Remember the frames that wait for a pruner's window, as a question does, and return their reports."""
        self._require_open()
        self._finish_all()
        return self._take_reports()

    @torch.inference_mode()
    def ask(self, question: Question) -> Answer:
        """Answer from what was pushed so far; the stream goes on as if nothing had been asked.

        ``ttft_ms`` of the answer includes the frames that had to be remembered first. Raises ``ValueError`` for
        an empty question.
        """
        self._require_question(question)
        mark = self.timer.mark()
        self._finish_all()
        return self._answer(question, mark)

    def stats(self) -> dict[str, int]:
        """Sizes of the memory; see the leaf for its keys."""
        return {"num_frames": self.num_frames, "num_pending_frames": len(self._pending)}

    @abstractmethod
    def _start_memory(self) -> None:
        """Make the memory of a new stream."""

    @abstractmethod
    def _drop_memory(self) -> None:
        """Let go of the memory."""

    @abstractmethod
    def _remember(self, frames: Sequence[VisualTokens]) -> list[int]:
        """Take the next frames into the memory and return the FLOPs of each."""

    @abstractmethod
    def _answer(self, question: Question, mark: float) -> Answer:
        """Answer without disturbing the stream; ``mark`` is the timer's mark at the call of :meth:`ask`."""

    def _window_size(self) -> int:
        """Frames that pass the pruner together next; a leaf may make a window end where its memory needs it."""
        return self.pruner.window_frames

    def _note_features(self, features: Tensor) -> None:
        """For leaves that want the tower's features [F, T, C] besides the visual tokens made of them."""

    def _require_question(self, question: Question) -> None:
        self._require_open()
        if not question.text.strip():
            raise ValueError(f"question '{question.question_id}' has no text")

    def _require_open(self) -> None:
        if not self._is_open:
            raise RuntimeError("the session is closed: call reset() to start a new stream")

    def _check_times(self, frames: Sequence[np.ndarray], timestamps_s: Sequence[float]) -> None:
        if len(frames) != len(timestamps_s):
            raise ValueError(f"{len(frames)} frames came with {len(timestamps_s)} timestamps")
        for time_s in timestamps_s:
            if not time_s >= self._last_time_s:
                raise ValueError(f"frame at {time_s} s came after one at {self._last_time_s} s: push in time order")
            self._last_time_s = time_s

    def _encode(self, frames: Sequence[np.ndarray], timestamps_s: Sequence[float]) -> list[_Pending]:
        backbone, timer = self.backbone, self.timer
        with timer.stage("preprocess"):
            pixels = backbone.preprocess(frames)
        with timer.stage("vision"):
            encoded = self.cacher.encode(self._probe.view(backbone.tower), pixels, self._cacher_state)
            taps = self._probe.collect(encoded.traces, merged=encoded.sizes is not None)
        with timer.stage("project"):
            self._note_features(encoded.features)
            project = backbone.project if encoded.sizes is None else backbone.project_merged
            projected = project(encoded.features)
        latency_ms = _shares(timer.drain(), len(frames))
        pending = []
        sizes = [None] * len(frames) if encoded.sizes is None else encoded.sizes
        for tokens, merged, time_s, trace, ratio, tap in zip(
            projected, sizes, timestamps_s, encoded.traces, encoded.update_ratio, taps, strict=True
        ):
            report = FrameReport(time_s, trace.is_reference, ratio, len(tokens), len(tokens), dict(latency_ms))
            report.vision_batch_size = trace.batch_size
            report.flops = {"vision": self._vision_flops(trace), "project": self._project_flops(encoded)}
            grid = backbone.grid if merged is None else (1, len(tokens))
            visual = VisualTokens.full(tokens, grid, time_s)
            pending.append(_Pending(replace(visual, sizes=merged), report, tap))
        if self.shows_features:
            for waiting, features in zip(pending, encoded.full_grid(), strict=True):
                waiting.report.features = features
        if self._sink is not None:
            for waiting, frame, trace in zip(pending, frames, encoded.traces, strict=True):
                waiting.note = self._sink.note(frame, waiting.tokens.timestamp_s, trace, backbone.tower)
        return pending

    def _finish(self, num_frames: int) -> None:
        """Prune and remember the oldest ``num_frames`` pending frames."""
        window, self._pending = self._pending[:num_frames], self._pending[num_frames:]
        with self.timer.stage("prune"):
            kept, prune_flops = self._prune(window)
        with self.timer.stage("prefill"):
            prefill_flops = self._remember(kept)
        latency_ms = _shares(self.timer.drain(), len(window))
        for frame, tokens, *flops in zip(window, kept, prune_flops, prefill_flops, strict=True):
            report = frame.report
            report.num_tokens = tokens.num_tokens
            report.latency_ms |= latency_ms
            report.flops |= dict(zip(("prune", "prefill"), flops, strict=True))
            self._reports.append(report)
            self._show(frame, tokens)

    def _show(self, frame: _Pending, kept: VisualTokens | None) -> None:
        if self._sink is not None and frame.note is not None:
            self._sink.add(frame.note, frame.tokens, kept)

    def _prune(self, window: Sequence[_Pending]) -> tuple[list[VisualTokens], list[int]]:
        """What the pruner leaves of frames, and its FLOPs for each, those of asking the tower included."""
        readings = [Reading() if frame.tap is None else frame.tap.read(frame.tokens.grid) for frame in window]
        contexts = [
            FrameContext(frame.tokens.grid, frame.tokens.timestamp_s, reading.attention_received, reading.keys)
            for frame, reading in zip(window, readings, strict=True)
        ]
        kept = self.pruner.compress([frame.tokens for frame in window], self._pruner_state, contexts)
        flops = [
            reading.flops + self.pruner.flops(*frame.tokens.tokens.shape)
            for frame, reading in zip(window, readings, strict=True)
        ]
        return kept, flops

    def _finish_all(self) -> None:
        if self._pending:
            self._finish(len(self._pending))

    def _take_reports(self) -> list[FrameReport]:
        reports, self._reports = self._reports, []
        return reports

    def _project_flops(self, encoded: Encoded) -> int:
        """A projector's cost grows with its tokens; merged ones are fewer."""
        flops, num_full = self.backbone.project_flops, self.backbone.tower.num_tokens
        return flops if encoded.sizes is None else flops * encoded.features.shape[1] // num_full

    def _vision_flops(self, trace: FrameTrace) -> int:
        facts = self.backbone.tower.facts
        num_patches = facts.patches_per_token * facts.num_tokens - facts.num_special_tokens
        embedding = patch_embed_flops(num_patches, facts.hidden_size, facts.patch_size, facts.num_channels)
        return embedding + self.cacher.flops(facts, trace)


def _shares(times: Mapping[str, float], num_frames: int) -> dict[str, float]:
    return {stage: ms / num_frames for stage, ms in times.items()}
