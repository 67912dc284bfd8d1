"""STC-Cacher: recompute in each layer only the tokens that changed since a reference frame."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from stc_lab.cachers.base import Cacher, Encoded, FrameTrace, dense_trace
from stc_lab.cachers.reference import LayerReference, run_reference, run_selective
from stc_lab.cachers.selection import Selection, below_threshold, least_similar
from stc_lab.vision.base import VisionTower


@dataclass
class STCCacherState:
    """Progress of one stream: frames seen, and the reference of each layer (``None`` before the first frame)."""

    num_frames: int = 0
    references: list[LayerReference] | None = None


@dataclass(frozen=True, kw_only=True)
class STCCacher(Cacher):
    """STC-Cacher (arXiv 2512.00891, section 3), in the key variant of the released code.

    Frames come in chunks of ``chunk_size``. Chunk 0, ``interval``, 2 * ``interval``, ... is computed in full, and
    its last frame becomes the reference; ``interval=None`` keeps the first one for the whole stream. In any other
    frame each layer computes the keys of all tokens, compares them with the reference's by cosine, and recomputes
    only the least similar tokens: a share ``update_ratio``, or, when ``threshold`` is given, those with a cosine
    below it, at most a share ``max_update_ratio`` (a frame equal to the reference then recomputes none). The others
    keep the reference's value, attention output and MLP output on top of their own input.

    ``chunk_size`` above 1 runs several frames as one batch, where throughput counts and latency does not. A frame's
    chunk follows from its number in the stream alone: a chunk that arrives in several calls, or is cut short by the
    end of the stream, runs in its own mode, and no result depends on how frames are divided over calls.
    ``protect_cls`` recomputes special tokens always and takes shares of the patches only; off, they compete like
    any token and, being equal in every frame at the input, stay as in the reference (as released).
    """

    interval: int | None = 2
    update_ratio: float = 0.25
    threshold: float | None = None
    max_update_ratio: float = 1.0
    chunk_size: int = 1
    protect_cls: bool = True
    selection: Literal["ratio", "threshold"] | None = None
    name: str = "stc"

    def __post_init__(self) -> None:
        if self.interval is not None and self.interval < 1:
            raise ValueError(f"cacher.interval={self.interval}: must be at least 1, or null for one reference only")
        if self.chunk_size < 1:
            raise ValueError(f"cacher.chunk_size={self.chunk_size}: must be at least 1")
        for field in ("update_ratio", "threshold", "max_update_ratio"):
            value = getattr(self, field)
            if value is not None and not 0.0 <= value <= 1.0:
                raise ValueError(f"cacher.{field}={value}: must lie in [0, 1]")
        self._derive_selection()

    def _derive_selection(self) -> None:
        derived = "ratio" if self.threshold is None else "threshold"
        if self.selection not in (None, derived):
            raise ValueError(
                f"cacher.selection={self.selection}: follows from cacher.threshold={self.threshold} and must be "
                f"'{derived}' here (set the threshold, or null for a fixed ratio)"
            )
        object.__setattr__(self, "selection", derived)

    def new_state(self) -> STCCacherState:
        return STCCacherState()

    def run(self, tower: VisionTower, x: Tensor, state: STCCacherState) -> Encoded:
        pieces, traces = [], []
        x = x.contiguous()
        while len(x):
            size = self.chunk_size - state.num_frames % self.chunk_size
            piece, more = self._run_chunk(tower, x[:size], state)
            pieces.append(piece)
            traces += more
            x = x[size:]
        return Encoded(pieces[0] if len(pieces) == 1 else torch.cat(pieces), traces)

    def _run_chunk(self, tower: VisionTower, x: Tensor, state: STCCacherState) -> tuple[Tensor, list[FrameTrace]]:
        """Frames ``x`` [F, T, C] that belong to one chunk."""
        chunk = state.num_frames // self.chunk_size
        is_reference = chunk == 0 if self.interval is None else chunk % self.interval == 0
        state.num_frames += len(x)
        return self._full(tower, x, state) if is_reference else self._selective(tower, x, state)

    def _full(self, tower: VisionTower, x: Tensor, state: STCCacherState) -> tuple[Tensor, list[FrameTrace]]:
        traces = [dense_trace(tower, x.shape[1], len(x)) for _ in x]
        state.references = []
        for block in tower.blocks:
            x, reference = run_reference(block, x)
            state.references.append(reference)
        return x, traces

    def _selective(self, tower: VisionTower, x: Tensor, state: STCCacherState) -> tuple[Tensor, list[FrameTrace]]:
        num_protected = tower.num_special_tokens if self.protect_cls else 0
        traces = [FrameTrace(False, [], [], [], batch_size=len(x)) for _ in x]
        for block, reference in zip(tower.blocks, state.references, strict=True):
            x, chosen, similarity = run_selective(block, x, reference, lambda s: self._select(s, num_protected))
            for frame, indices in enumerate(chosen.per_frame()):
                traces[frame].num_recomputed.append(chosen.counts[frame])
                traces[frame].recomputed.append(indices)
                traces[frame].similarity.append(similarity[frame])
        return x, traces

    def _select(self, similarity: Tensor, num_protected: int) -> Selection:
        if self.threshold is None:
            return least_similar(similarity, self.update_ratio, num_protected)
        return below_threshold(similarity, self.threshold, self.max_update_ratio, num_protected)
