"""One backbone on an endless stream: an early and a late part of it side by side."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from stc_lab.backbones.base import VideoModel
from stc_lab.bench.endless.formulas import Sizes, predicted
from stc_lab.bench.rows import median, quartiles
from stc_lab.cachers.base import Cacher
from stc_lab.memories.base import Memory
from stc_lab.pruners.base import Pruner
from stc_lab.session import StreamSession

TENTHS, PAIRS = 10, 10
"""A tenth of the stream is measured in ten groups of frames, each paired with one of the other tenth."""


@dataclass(frozen=True)
class Growth:
    """Milliseconds per frame in the second and in the last tenth of a stream, medians over groups of frames.

    ``ratio``: median of late by early, pair by pair, with its quartiles.
    """

    early_ms: float
    late_ms: float
    ratio: float
    ratio_quartiles: tuple[float, float]

    @classmethod
    def of(cls, early_ms: Sequence[float], late_ms: Sequence[float]) -> Growth:
        """From times of groups that were measured in alternation."""
        ratios = [late / early for early, late in zip(early_ms, late_ms, strict=True)]
        return cls(median(early_ms), median(late_ms), median(ratios), quartiles(ratios))


@dataclass(frozen=True)
class Checkpoint:
    """Sizes after ``num_frames`` frames, as the session says and as the formula does."""

    num_frames: int
    stats: dict[str, int]
    sizes: Sizes

    @property
    def misses(self) -> list[str]:
        """What is not as predicted."""
        return [f"after {self.num_frames} frames {miss}" for miss in self.sizes.misses(self.stats)]


@dataclass(frozen=True)
class Endless:
    """The result. ``frame``: all of a frame's way; ``memory``: its step into the memory alone."""

    backbone: str
    num_frames: int
    frame: Growth
    memory: Growth
    checkpoints: list[Checkpoint]

    @property
    def misses(self) -> list[str]:
        """Sizes that are not as predicted."""
        return [miss for checkpoint in self.checkpoints for miss in checkpoint.misses]


class Lane:
    """A stream made of ``clip``, again and again."""

    def __init__(self, session: StreamSession, clip: Sequence[np.ndarray], fps: float) -> None:
        self.session = session
        self.num_frames = 0
        self._clip, self._fps = clip, fps

    def push(self, num_frames: int) -> tuple[float, float]:
        """The next frames, one by one: milliseconds per frame, and those of them in the memory's step."""
        memory_ms, start = 0.0, time.perf_counter()
        for index in range(self.num_frames, self.num_frames + num_frames):
            reports = self.session.push([self._clip[index % len(self._clip)]], [index / self._fps])
            memory_ms += sum(report.latency_ms["prefill"] for report in reports)
        self.num_frames += num_frames
        return 1e3 * (time.perf_counter() - start) / num_frames, memory_ms / num_frames


def run_endless(
    model: VideoModel,
    cacher: Cacher,
    pruner: Pruner,
    memory: Memory,
    clip: Sequence[np.ndarray],
    *,
    num_frames: int,
    fps: float,
    tokens_per_frame: int | None = None,
) -> Endless:
    """Push ``num_frames`` frames; a second stream stands still at the second tenth until the first is at its last.

    Then the two tenths are measured in alternation, so that whatever else the machine does slows down both. Sizes are
    compared after every tenth. Raises ``ValueError`` when ``num_frames`` cannot be divided so.
    """
    check_length(num_frames, len(clip))
    tenth = num_frames // TENTHS
    kept = pruner.num_kept(tokens_per_frame or model.facts.tokens_per_frame)
    early, late = (Lane(StreamSession(model, cacher, pruner, memory), clip, fps) for _ in range(2))
    early.push(tenth)
    checkpoints = []
    for _ in range(TENTHS - 1):
        late.push(tenth)
        checkpoints.append(_checkpoint(late, kept))
    times = _alternate(early, late, tenth // PAIRS)
    checkpoints.append(_checkpoint(late, kept))
    frame, memory = (Growth.of(*(part[:, kind] for part in times)) for kind in (0, 1))
    return Endless(model.settings.name, num_frames, frame, memory, checkpoints)


def check_length(num_frames: int, clip_frames: int) -> None:
    """Raise ``ValueError`` unless both tenths are of whole groups of pairs and see the same frames of the clip."""
    step = 2 * TENTHS * PAIRS
    if num_frames < step or num_frames % step:
        raise ValueError(f"num_frames={num_frames}: must be a multiple of {step}")
    apart = num_frames // TENTHS * (TENTHS - 2)
    if apart % clip_frames:
        raise ValueError(f"num_frames={num_frames}: {apart} frames between the tenths are no multiple of the clip's")


def _alternate(early: Lane, late: Lane, group: int) -> tuple[np.ndarray, np.ndarray]:
    """Times [pairs, 2] of either stream."""
    times: dict[Lane, list[tuple[float, float]]] = {early: [], late: []}
    for pair in range(PAIRS):
        for lane in (early, late) if pair % 2 == 0 else (late, early):
            times[lane].append(lane.push(group))
    return np.array(times[early]), np.array(times[late])


def _checkpoint(lane: Lane, kept: int) -> Checkpoint:
    stats = lane.session.stats()
    return Checkpoint(
        lane.num_frames, stats, predicted(lane.session.settings, lane.session.model, lane.num_frames, kept)
    )
