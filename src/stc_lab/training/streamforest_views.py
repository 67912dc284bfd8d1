"""What StreamForest's memory hands to a question, of many training streams at several times, kept on disk."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from stc_lab.backbones.streamforest.checkpoint import StreamForestModel
from stc_lab.backbones.streamforest.model import FramePositions
from stc_lab.memories.streamforest import Forest, ForestSizes, ForestView
from stc_lab.pocket.world.script import Script, sample_script
from stc_lab.training.features import FIRST_SEED, coded_pixels
from stc_lab.vision import SiglipTower

FIRST_TIME_S = 3
"""Nothing is asked before this second."""


@dataclass(frozen=True)
class View:
    """One reading of the memory: ``tokens`` float16 [N, C] of the tower, before the projector.

    ``sizes``: tokens of each unit (a frame's share of an event, a frame of the window, the newest frame) by kind,
    oldest first; ``script`` and ``time_s`` (whole seconds, the time of the newest frame) say of what.
    """

    script: Script
    time_s: int
    tokens: np.ndarray
    sizes: tuple[tuple[int, ...], ...]


class ViewShelf:
    """Files of views in ``folder``, one per stream; stream ``i`` of a duration has the seed FIRST_SEED + i."""

    def __init__(self, folder: Path, num_streams: Mapping[int, int], views_per_stream: Mapping[int, int]) -> None:
        """Both map a duration in seconds to a number."""
        self.folder, self.num_streams, self.views_per_stream = folder, num_streams, views_per_stream

    def build(self, model: StreamForestModel, settings: ForestSizes) -> None:
        """Make the files that are not there yet: draw, encode, decode, look, remember, read."""
        self.folder.mkdir(parents=True, exist_ok=True)
        for duration_s, number in self.num_streams.items():
            for index in range(number):
                if not (path := self._path(duration_s, index)).exists():
                    views = see_views(model, settings, self._script(duration_s, index), self._times(duration_s, index))
                    _save(path, views)

    def view(self, duration_s: int, index: int, number: int) -> View:
        """View ``number`` of stream ``index``."""
        with np.load(self._path(duration_s, index)) as file:
            time_s, start, stop, *counts = file["table"][number].tolist()
            sizes = tuple((int(size),) * count for size, count in zip(file["unit_sizes"], counts, strict=True))
            return View(self._script(duration_s, index), time_s, file["tokens"][start:stop], sizes)

    def _path(self, duration_s: int, index: int) -> Path:
        return self.folder / f"{duration_s}s-{index:04d}.npz"

    def _script(self, duration_s: int, index: int) -> Script:
        return sample_script(FIRST_SEED + index, duration_s)

    def _times(self, duration_s: int, index: int) -> list[int]:
        rng = np.random.default_rng([6, duration_s, index])
        times = rng.permutation(np.arange(FIRST_TIME_S, duration_s))[: self.views_per_stream[duration_s]]
        return sorted(times.tolist())


@torch.inference_mode()
def see_views(
    model: StreamForestModel, settings: ForestSizes, script: Script, times_s: Iterable[int]
) -> list[tuple[int, ForestView]]:
    """What the memory hands over at ``times_s`` (whole seconds) of a stream seen once a second through real h264."""
    tower = SiglipTower(model.vision)
    features = see_frames(tower, coded_pixels(script))
    placed = FramePositions(tower.facts.hidden_size, tower.facts.grid[0])(features, 0)
    memory, wanted = Forest(settings, tower.facts.num_heads), set(times_s)
    views = []
    for time_s, frame in enumerate(placed):
        memory.push(frame)
        if time_s in wanted:
            views.append((time_s, memory.read()))
    return views


def see_frames(tower: SiglipTower, pixels: Tensor) -> Tensor:
    """Pixels [F, 3, H, W] -> features [F, T, C]."""
    x = tower.embed(pixels)
    for block in tower.blocks:
        x = block(x)
    return x


def unit_sizes(view: ForestView) -> tuple[tuple[int, ...], ...]:
    """Tokens of each unit of ``view``: of events, window, now."""
    return tuple(tuple(sizes) for sizes in view.unit_sizes)


def _save(path: Path, views: list[tuple[int, ForestView]]) -> None:
    """Tokens of all views back to back; a table row is (time, start, stop, units of events, window, now)."""
    rows, start = [], 0
    for time_s, view in views:
        stop = start + len(view.tokens)
        rows.append((time_s, start, stop, *map(len, unit_sizes(view))))
        start = stop
    sizes = [max((size for _, view in views for size in unit_sizes(view)[kind]), default=0) for kind in range(3)]
    tokens = torch.cat([view.tokens for _, view in views]).half().numpy()
    partial = path.with_suffix(".partial")
    with partial.open("wb") as file:
        np.savez(file, tokens=tokens, table=np.array(rows), unit_sizes=np.array(sizes))
    partial.replace(path)
