"""Time of what a pruner wants to know of the vision tower."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass

import torch

from stc_lab.bench.rows import median
from stc_lab.bench.stopwatch import time_ms
from stc_lab.cachers import NoCacher
from stc_lab.pruners import FrameContext
from stc_lab.vision import TokenSaliency, VisionTower

REPEATS = 3


@dataclass(frozen=True)
class Probed:
    """``context`` of one frame, with what was asked for; ``time_ms`` it takes per frame (median of several)."""

    context: FrameContext
    time_ms: float


@torch.inference_mode()
def probe(tower: VisionTower, needs: Collection[str], grid: tuple[int, int], device: torch.device) -> Probed:
    """Ask the last layer of ``tower`` for ``needs`` of visual tokens on ``grid``, after frames that it computed."""
    facts, times, readings = tower.facts, [], []
    for seed in range(REPEATS):
        pixels = torch.randn(1, facts.num_channels, facts.image_size, facts.image_size)
        pixels = pixels.normal_(generator=torch.Generator().manual_seed(seed))
        probing = TokenSaliency(needs)
        view = probing.view(tower)
        encoded = NoCacher().run(view, tower.embed(pixels.to(device)), None)
        (saliency,) = probing.collect(encoded.traces)
        times.append(time_ms(device, lambda saliency=saliency: readings.append(saliency.read(grid))))
    reading = readings[-1]
    return Probed(FrameContext(grid, 0.0, reading.attention_received, reading.keys), median(times))
