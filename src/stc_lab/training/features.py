"""What the trained towers really say about real h264 streams, kept on disk for the language stages."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from stc_lab.backbones.dispider.networks import mix
from stc_lab.pocket.world.labels import CellLabels, cell_labels
from stc_lab.pocket.world.render import Renderer, coded_frames
from stc_lab.pocket.world.script import Script, sample_script
from stc_lab.pocket.world.vocabulary import NATIVE_FPS
from stc_lab.training.codes import PairLabels
from stc_lab.training.models.dispider import LAB_SETTINGS
from stc_lab.training.vision import DispiderEncoder, LlavaEncoder, QwenEncoder

CLIP_FRAMES = LAB_SETTINGS["clip_frames"]
Times = tuple[float, float]
Arrays = Mapping[str, np.ndarray]


@dataclass(frozen=True)
class FeatureCache:
    """Arrays of ``num_streams`` streams of one duration, one file each in ``folder``; stream ``i`` has the seed
    ``first_seed + i``."""

    folder: Path
    duration_s: int
    num_streams: int
    first_seed: int = 1 << 42

    def __len__(self) -> int:
        return self.num_streams

    def build(self, make: Callable[[Script, int], Arrays]) -> FeatureCache:
        """Make the files that are not there yet; ``make`` gets the script and the number of a stream."""
        self.folder.mkdir(parents=True, exist_ok=True)
        for index in range(self.num_streams):
            if not (path := self._path(index)).exists():
                # A file appears only when it is whole, so a build can be stopped at any time.
                with torch.inference_mode(), (partial := path.with_suffix(".partial")).open("wb") as file:
                    np.savez(file, **make(self.script(index), index))
                partial.replace(path)
        return self

    def script(self, index: int) -> Script:
        """The script that stream ``index`` was drawn from."""
        return sample_script(self.first_seed + index, self.duration_s)

    def load(self, index: int) -> Arrays:
        """The arrays of a stream, each read from disk when it is asked for."""
        return np.load(self._path(index))

    def stack(self, name: str, indices: Sequence[int]) -> np.ndarray:
        """One array of several streams [N, ...]."""
        return np.stack([self.load(int(index))[name] for index in indices])

    def _path(self, index: int) -> Path:
        return self.folder / f"{self.duration_s}s-{index:05d}.npz"


def caches(
    folder: Path, num_streams: Mapping[int, int], make: Callable[[Script, int], Arrays], first_seed: int = 1 << 42
) -> dict[int, FeatureCache]:
    """A cache for every duration in seconds; ``num_streams`` maps each to a number."""
    every = (FeatureCache(folder, duration_s, number, first_seed) for duration_s, number in num_streams.items())
    return {cache.duration_s: cache.build(make) for cache in every}


def coded_seconds(script: Script) -> np.ndarray:
    """Frames uint8 [T, H, W, 3] of a stream at one frame a second, through real h264."""
    return np.stack(coded_frames(script)[::NATIVE_FPS])


def stream_tokens(encoder: LlavaEncoder, script: Script) -> Tensor:
    """Visual tokens [T, 196, D] (float16) of a stream at one frame a second."""
    _, (tokens,) = encoder(coded_seconds(script))
    return tokens.half()


def clip_features(encoder: DispiderEncoder, script: Script) -> dict[str, np.ndarray]:
    """What Dispider's stages read of a stream, one frame a second.

    ``read`` [T, 196, D] tokens for the language model, ``seen`` [T, 196, D] tokens for the compressor, ``means``
    [T, 2, D] the frame's mean and the mean of its clip up to the frame, as the compressor reads them, ``kinds``
    [T, 196] what the cells hold.
    """
    mixed = mix(encoder.patches(coded_seconds(script)))
    for_compressor, for_language = encoder.projectors
    means = torch.stack([mixed.mean(dim=1), _means_so_far(mixed.mean(dim=1))], dim=1)
    tensors = {"read": for_language(mixed), "seen": for_compressor(mixed), "means": for_compressor(means)}
    return {name: values.half().numpy() for name, values in tensors.items()} | {
        "kinds": label_stream(script).kind.astype(np.int8)
    }


def _means_so_far(means: Tensor) -> Tensor:
    """Mean of every frame's clip up to that frame [T, C]: what a clip that ends there has as its global mean."""
    starts = [t - t % CLIP_FRAMES for t in range(len(means))]
    return torch.stack([means[start : t + 1].mean(dim=0) for t, start in enumerate(starts)])


def pair_features(encoder: QwenEncoder, script: Script, batch: int = 8) -> dict[str, np.ndarray]:
    """``tokens`` float16 [P, 196, D] of pairs of frames, P as in :func:`pair_times`."""
    frames = np.stack(coded_frames(script))
    pairs = frames[(np.array(pair_times(script.duration_s)) * NATIVE_FPS).round().astype(int)]
    seen = [encoder(pairs[start : start + batch])[1][0] for start in range(0, len(pairs), batch)]
    return {"tokens": torch.cat(seen).half().numpy()}


def pair_times(duration_s: int) -> list[Times]:
    """Frames of all pairs in a cache: whole pairs at one and at two frames a second, and single frames twice."""
    # One pass over these serves both frame rates and every moment at which a frame waits for its partner.
    ones = [(float(t), float(t + 1)) for t in range(0, duration_s - 1, 2)]
    twos = [(float(t), t + 0.5) for t in range(duration_s)]
    halves = [(float(t), float(t)) for t in range(duration_s)]
    return ones + twos + halves


def whole_pairs(duration_s: int, fps: float) -> list[Times]:
    """The pairs of a stream at ``fps``."""
    return [(2 * n / fps, (2 * n + 1) / fps) for n in range(int(duration_s * fps) // 2)]


def label_stream(script: Script) -> CellLabels:
    """Cell labels of a stream seen once a second."""
    return cell_labels(Renderer(script, textured=False), np.arange(float(script.duration_s)))


def label_pairs(script: Script, times: list[Times]) -> PairLabels:
    """What the pairs show, without drawing them."""
    moments, where = np.unique(np.array(times), return_inverse=True)
    labels = cell_labels(Renderer(script, textured=False), moments)
    first, second = where.reshape(-1, 2).T
    take = lambda rows: CellLabels(labels.kind[rows], labels.color[rows], labels.coverage[rows])  # noqa: E731
    return PairLabels(take(first), take(second))
