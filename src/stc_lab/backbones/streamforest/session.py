"""One stream on StreamForest: frames into the memory, the whole memory into every question."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor

from stc_lab.backbones.prompted_session import Prompt, PromptedSession
from stc_lab.backbones.streamforest.memory import ForestMemory, MemoryView
from stc_lab.backbones.streamforest.prompts import BEFORE_VIDEO, after_video, time_message
from stc_lab.backbones.streamforest.pruning import prune_units, unit_pruner
from stc_lab.measure.flops import projector_flops
from stc_lab.types import Question, VisualTokens

if TYPE_CHECKING:
    from stc_lab.backbones.streamforest.backbone import StreamForest


class StreamForestSession(PromptedSession):
    """Frames are merged on their way through the memory (stage ``prefill``: what a frame costs after the tower).

    A question reads it (``retrieve``: forest and projector), prunes what it read (``prune``), and runs it as one
    prompt (``question``).
    """

    backbone: StreamForest

    def stats(self) -> dict[str, int]:
        """Sizes of the memory.

        ``num_tokens``: visual tokens kept; ``num_blocks``: events; ``kv_bytes_device``: bytes kept between two
        frames, here features of the tower; ``kv_bytes_host``: none. A question's prompt is in its own record.
        """
        memory = self._memory
        sizes = {"num_tokens": memory.num_tokens, "num_blocks": len(memory.forest.events)}
        return super().stats() | sizes | {"kv_bytes_device": memory.num_bytes, "kv_bytes_host": 0}

    def _start_memory(self) -> None:
        backbone = self.backbone
        self._memory = ForestMemory(backbone.memory_settings, backbone.tower.num_heads)
        self._pruner = unit_pruner(self.pruner, backbone.memory_settings)
        self._first_s = 0.0

    def _drop_memory(self) -> None:
        self._memory = None

    def _encode(self, frames: Sequence[np.ndarray], timestamps_s: Sequence[float]) -> list:
        """As ever, but nothing waits for a pruner: it sees the memory, not the frames."""
        for pending in super()._encode(frames, timestamps_s):
            report = pending.report
            with self.timer.stage("prefill"):
                (flops,) = self._remember([pending.tokens])
            report.num_tokens_full = self.backbone.tokens_per_frame
            report.num_tokens = self.pruner.num_kept(self.backbone.tokens_per_frame)
            report.latency_ms |= self.timer.drain()
            report.flops |= {"prefill": flops}
            self._reports.append(report)
            self._show(pending, None)
        return []

    def _remember(self, frames: Sequence[VisualTokens]) -> list[int]:
        flops = []
        for frame in frames:
            index = self._memory.num_frames
            if index == 0:
                self._first_s = frame.timestamp_s
            flops.append(self._memory.push(self.backbone.positions(frame.tokens[None], index)[0]))
        return flops

    def _prompt(self, question: Question) -> Prompt:
        num_frames = self._memory.num_frames
        if not num_frames:
            nothing = self.backbone.decoder.embed([])
            return Prompt(BEFORE_VIDEO, nothing, after_video(question, ""), {"retrieve": 0, "prune": 0})
        with self.timer.stage("retrieve"):
            view = self._memory.read()
            tokens = view.tokens
            projected = self.backbone.model.projector(tokens)
        with self.timer.stage("prune"):
            kept, prune_flops = prune_units(self._pruner, self._segments(view, projected))
            visual = torch.cat(kept)
        message = time_message(self.backbone.options.time_message, num_frames, self._first_s, self._last_time_s)
        flops = {"retrieve": view.flops + projector_flops(*tokens.shape, projected.shape[1]), "prune": prune_flops}
        return Prompt(BEFORE_VIDEO, visual, after_video(question, message), flops, _details(view, num_frames))

    def _segments(self, view: MemoryView, projected: Tensor) -> list[list[VisualTokens]]:
        """The projected tokens [N, H] as units: shares of events, frames of the window, newest frames."""
        lengths = [[event.shape[1]] * len(event) for event in view.events]
        event_times = [time for time, event in zip(view.times, view.events, strict=False) for _ in range(len(event))]
        frame_times = view.times[len(view.events) :]
        groups = (
            ([length for event in lengths for length in event], event_times),
            (list(map(len, view.short)), frame_times[: len(view.short)]),
            (list(map(len, view.now)), frame_times[len(view.short) :]),
        )
        segments, start = [], 0
        for sizes, times in groups:
            parts = projected[start : start + sum(sizes)].split(sizes) if sizes else ()
            segments.append([self._unit(part, time) for part, time in zip(parts, times, strict=True)])
            start += sum(sizes)
        return segments

    def _unit(self, tokens: Tensor, index: float) -> VisualTokens:
        """A unit has no grid: its tokens are in the order in which merging left them."""
        last = max(1, self._memory.num_frames - 1)
        time_s = self._first_s + (self._last_time_s - self._first_s) * index / last
        return VisualTokens.full(tokens, (1, len(tokens)), time_s)


def _details(view: MemoryView, num_frames: int) -> dict[str, int]:
    return {
        "num_frames_used": num_frames,
        "num_events": len(view.events),
        "num_event_tokens": sum(event.shape[0] * event.shape[1] for event in view.events),
        "num_short_tokens": sum(map(len, view.short)),
        "num_now_tokens": sum(map(len, view.now)),
    }
