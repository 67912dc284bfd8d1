"""From video frames to visual tokens, for one stream: pairing, pixels, the tower through its cacher, the projector."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
from torch import Tensor

from stc_lab.backbones.base import FrameEncoder, VideoModel
from stc_lab.cachers.base import Cacher, Encoded, FrameTrace
from stc_lab.measure import StageTimer
from stc_lab.measure.flops import patch_embed_flops
from stc_lab.types import FrameReport, VisualTokens
from stc_lab.vision.saliency import Saliency, TokenSaliency
from stc_lab.vision.tower import VisionTower

Span = tuple[float, float] | None
"""Stream time (start, stop) that a temporal patch covers; ``None`` for single frames."""


class FrameObserver(Protocol):
    """Who wants to see what becomes of each frame (token maps); a session works the same without."""

    def encoded(self, pixels: np.ndarray, time_s: float, trace: FrameTrace, tower: VisionTower) -> Any:
        """A frame has left the tower. Returns what is to be known of it later, ``None`` where it is not wanted.

        ``pixels``: uint8 [H, W, 3], or [2, H, W, 3] where a tower takes frames in pairs; the caller's, not to be kept.
        """

    def remembered(self, note: Any, full: VisualTokens, kept: VisualTokens | None) -> None:
        """The frame of ``note`` is remembered, in time order; ``kept`` is ``None`` where frames are not pruned.

        Called while an answer is waited for, so it must not compute, nor wait for a device.
        """


@dataclass
class EncodedFrame:
    """A frame that has passed the projector. ``saliency``: what the tower showed for a pruner that needs more than
    tokens; ``note``: what an observer wants to know."""

    tokens: VisualTokens
    report: FrameReport
    saliency: Saliency | None = None
    note: Any = None


class StreamEncoder:
    """The cacher's state of one stream, and the way of its frames to the pruner.

    ``projects``: off for memories that keep features of the tower; ``wants_features``: visual tokens carry those of
    their frame; ``shows_features``: reports do, for a comparison of two sessions. Frames of another size than those
    before start the cacher anew, since nothing compares them.
    """

    def __init__(
        self,
        model: VideoModel,
        cacher: Cacher,
        needs: frozenset[str],
        timer: StageTimer,
        projects: bool,
        features: bool,
    ) -> None:
        self.pairing = model.pairing()
        self.observer: FrameObserver | None = None
        self.shows_features = False
        self._model, self._cacher, self._timer = model, cacher, timer
        self._projects, self._wants_features = projects, features
        self._state = cacher.new_state()
        self._saliency = TokenSaliency(needs) if needs else None
        self._view: FrameEncoder | None = None

    def changes_size(self, frame: np.ndarray) -> bool:
        """Whether ``frame``, [..., H, W, 3], is shown to the tower at another size than those before it."""
        return self._view is not None and self._model.encoder(frame.shape[-3:-1]) is not self._view

    def encode(
        self, frames: Sequence[np.ndarray], times_s: Sequence[float], spans: Sequence[Span]
    ) -> list[EncodedFrame]:
        """Frames of one size, which pass the tower together: in the stages ``preprocess``, ``vision``, ``project``."""
        # 1. A reference frame of another size is of no use.
        if self.changes_size(frames[0]):
            self._state = self._cacher.new_state()
        self._view = view = self._model.encoder(frames[0].shape[-3:-1])
        timer = self._timer
        # 2. Pixels, features under the cacher, visual tokens.
        with timer.stage("preprocess"):
            pixels = view.preprocess(frames)
        with timer.stage("vision"):
            encoded, saliencies = self._encode(view.tower, pixels)
        with timer.stage("project"):
            projected = self._project(view, encoded)
        # 3. Frame by frame: tokens with all that travels with them, and the first half of the report.
        latency_ms = {stage: ms / len(frames) for stage, ms in timer.drain().items()}
        done = []
        for index, (trace, ratio) in enumerate(zip(encoded.traces, encoded.update_ratio, strict=True)):
            tokens = self._tokens(view, encoded, projected, index, times_s[index], spans[index])
            report = FrameReport(
                times_s[index], trace.is_reference, ratio, tokens.num_tokens, tokens.num_tokens, dict(latency_ms)
            )
            report.vision_batch_size = trace.batch_size
            report.num_source_frames = self._model.facts.frames_per_patch
            report.flops = {"vision": self._vision_flops(view, trace), "project": self._project_flops(view, encoded)}
            done.append(EncodedFrame(tokens, report, saliencies[index]))
        if self.shows_features:
            for frame, features in zip(done, encoded.full_grid(), strict=True):
                frame.report.features = features
        if self.observer is not None:
            for frame, pixel, trace in zip(done, frames, encoded.traces, strict=True):
                frame.note = self.observer.encoded(pixel, frame.tokens.timestamp_s, trace, view.tower)
        return done

    def aside(self) -> StreamEncoder:
        """One that goes on from here on copies of all that changes, while this one stays as it is."""
        other = copy.copy(self)
        other._state, other._saliency = copy.deepcopy(self._state), copy.copy(self._saliency)
        other.observer = None
        return other

    def project_merged(self, features: Tensor) -> Tensor:
        """Features [N, C] of the tower, merged or not, -> visual tokens [N, H] of the language model."""
        return self._view.project_merged(features[None])[0]

    def _encode(self, tower: VisionTower, pixels: Tensor) -> tuple[Encoded, list[Saliency | None]]:
        """Features of the frames, and what the pruner asked of the tower about each."""
        if self._saliency is None:
            return self._cacher.encode(tower, pixels, self._state), [None] * len(pixels)
        encoded = self._cacher.encode(self._saliency.view(tower), pixels, self._state)
        return encoded, self._saliency.collect(encoded.traces, merged=encoded.sizes is not None)

    def _project(self, view: FrameEncoder, encoded: Encoded) -> Tensor:
        if not self._projects:
            return encoded.features
        return view.project(encoded.features) if encoded.sizes is None else view.project_merged(encoded.features)

    def _tokens(
        self, view: FrameEncoder, encoded: Encoded, projected: Tensor, index: int, time_s: float, span: Span
    ) -> VisualTokens:
        """Frame ``index`` of a batch as visual tokens, with all that travels with them."""
        tokens = projected[index]
        grid = view.grid if self._projects else view.tower.facts.grid
        return VisualTokens.full(
            tokens,
            grid if encoded.sizes is None else (1, len(tokens)),
            time_s,
            sizes=None if encoded.sizes is None else encoded.sizes[index],
            start_s=span and span[0],
            stop_s=span and span[1],
            features=encoded.features[index] if self._wants_features else None,
        )

    def _project_flops(self, view: FrameEncoder, encoded: Encoded) -> int:
        """A projector's cost grows with its tokens; merged ones are fewer."""
        if not self._projects:
            return 0
        flops, num_full = view.project_flops, view.tower.facts.num_tokens
        return flops if encoded.sizes is None else flops * encoded.features.shape[1] // num_full

    def _vision_flops(self, view: FrameEncoder, trace: FrameTrace) -> int:
        facts = view.tower.facts
        num_patches = facts.patches_per_token * facts.num_tokens - facts.num_special_tokens
        embedding = patch_embed_flops(num_patches, facts.hidden_size, facts.patch_size, facts.num_channels)
        return embedding + self._cacher.flops(facts, trace)
