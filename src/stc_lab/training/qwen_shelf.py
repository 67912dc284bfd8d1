"""What a trained Qwen-VL tower says about real h264 streams, kept on disk, and the same from labels alone."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch

from stc_lab.pocket.world.codec import coded_frames
from stc_lab.pocket.world.labels import CellLabels, cell_labels
from stc_lab.pocket.world.render import Renderer
from stc_lab.pocket.world.script import Script, sample_script
from stc_lab.pocket.world.vocabulary import NATIVE_FPS
from stc_lab.training.features import FIRST_SEED, array_on_disk, undone
from stc_lab.training.qwen_codes import PairLabels
from stc_lab.training.qwen_vision import QwenVision

RATES = (1.0, 2.0)
Times = tuple[float, float]


def pair_times(duration_s: int) -> list[Times]:
    """Frames of all pairs on a shelf: whole pairs at one and at two frames a second, and single frames twice."""
    ones = [(float(t), float(t + 1)) for t in range(0, duration_s - 1, 2)]
    twos = [(float(t), t + 0.5) for t in range(duration_s)]
    halves = [(float(t), float(t)) for t in range(duration_s)]
    return ones + twos + halves


def whole_pairs(duration_s: int, fps: float) -> list[Times]:
    """The pairs of a stream at ``fps``."""
    return [(2 * n / fps, (2 * n + 1) / fps) for n in range(int(duration_s * fps) // 2)]


@dataclass(frozen=True)
class PairShelf:
    """Streams of one duration: ``tokens`` float16 [N, P, 196, D], P as in :func:`pair_times`; stream ``i`` has seed
    FIRST_SEED + i."""

    duration_s: int
    tokens: np.ndarray

    def script(self, index: int) -> Script:
        """The script that stream ``index`` was drawn from."""
        return sample_script(FIRST_SEED + index, self.duration_s)


@torch.inference_mode()
def build_shelf(vision: QwenVision, duration_s: int, num_streams: int, folder: Path) -> PairShelf:
    """Draw, encode, decode and look at streams; goes on where an earlier call was stopped."""
    times = pair_times(duration_s)
    shape = (num_streams, len(times), 14 * 14, vision.code.kind.shape[-1])
    tokens = array_on_disk(folder / f"pairs{duration_s}.npy", shape)
    shelf = PairShelf(duration_s, tokens)
    for index in undone(folder / f"pairs{duration_s}.done", num_streams):
        tokens[index] = see_pairs(vision, shelf.script(index), times)
    return shelf


def see_pairs(vision: QwenVision, script: Script, times: list[Times], batch: int = 8) -> np.ndarray:
    """Visual tokens float16 [P, 196, D] of pairs of frames, through real h264."""
    frames = np.stack(coded_frames(script))
    pairs = frames[(np.array(times) * NATIVE_FPS).round().astype(int)]
    seen = [vision(pairs[start : start + batch])[0] for start in range(0, len(pairs), batch)]
    return torch.cat(seen).half().numpy()


def label_pairs(script: Script, times: list[Times]) -> PairLabels:
    """What the pairs show, without drawing them."""
    moments, where = np.unique(np.array(times), return_inverse=True)
    labels = cell_labels(Renderer(script, textured=False), moments)
    first, second = where.reshape(-1, 2).T
    take = lambda rows: CellLabels(labels.kind[rows], labels.color[rows], labels.coverage[rows])  # noqa: E731
    return PairLabels(take(first), take(second))
