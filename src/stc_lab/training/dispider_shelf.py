"""What Dispider's trained tower and projectors say about real h264 streams, kept on disk for the later stages."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from stc_lab.backbones.dispider.networks import mix
from stc_lab.pocket.world.codec import coded_frames
from stc_lab.pocket.world.script import Script, sample_script
from stc_lab.pocket.world.vocabulary import NATIVE_FPS
from stc_lab.training.batches import CELLS, label_stream
from stc_lab.training.dispider_vision import DispiderVision, pixels_of
from stc_lab.training.features import array_on_disk, undone
from stc_lab.training.models.dispider import LAB_SETTINGS, TEXT

FIRST_SEED = 1 << 43
CLIP_FRAMES = LAB_SETTINGS["clip_frames"]
WIDTH = TEXT["hidden_size"]
PARTS = {
    "read": (np.float16, (CELLS, WIDTH)),
    "seen": (np.float16, (CELLS, WIDTH)),
    "means": (np.float16, (2, WIDTH)),
    "kinds": (np.int8, (CELLS,)),
}


@dataclass(frozen=True)
class ClipShelf:
    """Streams of one duration, one frame a second; stream ``i`` has seed FIRST_SEED + i. All [N, T, ...] on disk:

    ``read`` [.., 196, D] tokens for the language model, ``seen`` [.., 196, D] tokens for the compressor, ``means``
    [.., 2, D] the frame's mean and the mean of its clip up to the frame, as the compressor reads them, ``kinds``
    [.., 196] what the cells hold.
    """

    duration_s: int
    read: np.ndarray
    seen: np.ndarray
    means: np.ndarray
    kinds: np.ndarray

    def script(self, index: int) -> Script:
        """The script that stream ``index`` was drawn from."""
        return sample_script(FIRST_SEED + index, self.duration_s)


@torch.inference_mode()
def build_clip_shelf(vision: DispiderVision, duration_s: int, num_streams: int, folder: Path) -> ClipShelf:
    """Draw, encode, decode and look at ``num_streams`` streams; goes on where an earlier call was stopped."""
    arrays = {
        name: array_on_disk(folder / f"clips{duration_s}.{name}.npy", (num_streams, duration_s, *shape), dtype)
        for name, (dtype, shape) in PARTS.items()
    }
    shelf = ClipShelf(duration_s, **arrays)
    for index in undone(folder / f"clips{duration_s}.done", num_streams):
        for name, values in see_clips(vision, shelf.script(index)).items():
            arrays[name][index] = values.numpy()
    return shelf


def see_clips(vision: DispiderVision, script: Script) -> dict[str, Tensor]:
    """The parts of a shelf for one stream, at one frame a second, through real h264."""
    frames = coded_frames(script)[::NATIVE_FPS]
    mixed = mix(vision.patches(pixels_of(frames)))
    for_compressor, for_language = vision.projectors
    means = torch.stack([mixed.mean(dim=1), _means_so_far(mixed.mean(dim=1))], dim=1)
    kinds = torch.from_numpy(label_stream(script).kind.astype(np.int8))
    read, seen, means = for_language(mixed), for_compressor(mixed), for_compressor(means)
    return {"read": read.half(), "seen": seen.half(), "means": means.half(), "kinds": kinds}


def _means_so_far(means: Tensor) -> Tensor:
    """Mean of every frame's clip up to that frame [T, C]: what a clip that ends there has as its global mean."""
    starts = [t - t % CLIP_FRAMES for t in range(len(means))]
    return torch.stack([means[start : t + 1].mean(dim=0) for t, start in enumerate(starts)])
