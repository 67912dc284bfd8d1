"""Frames of any size to the square pixels of CLIP, as Dispider's released loader makes them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn.functional import interpolate

from stc_lab.backbones.preprocessing import FramePreprocessor


@dataclass(frozen=True)
class SquarePreprocessor:
    """Squash a frame to its shorter side (nearest neighbour), then resize and normalise as CLIP's processor.

    The aspect ratio is not kept and nothing is cut off: after the squash CLIP's crop has nothing left to crop.
    """

    pixels: FramePreprocessor

    @classmethod
    def from_config(cls, config: Mapping[str, Any], image_size: int) -> SquarePreprocessor:
        """From the content of CLIP's ``preprocessor_config.json``; the size follows from the tower."""
        return cls(
            FramePreprocessor(
                size=(image_size, image_size),
                mean=tuple(config["image_mean"]),
                std=tuple(config["image_std"]),
                rescale_factor=float(config.get("rescale_factor", 1 / 255)),
                resample=int(config.get("resample", 3)),
            )
        )

    def __call__(self, frames: Sequence[np.ndarray], device: torch.device, dtype: torch.dtype) -> Tensor:
        """Frames, uint8 [H, W, 3] each -> pixels [F, 3, image size, image size]."""
        return self.pixels([square(frame) for frame in frames], device, dtype)


def square(frame: np.ndarray) -> np.ndarray:
    """One frame, uint8 [H, W, 3] -> [S, S, 3] with S the shorter side; every pixel is one of the frame's."""
    if frame.ndim != 3 or frame.shape[0] == frame.shape[1]:
        return frame
    side = min(frame.shape[:2])
    return frame[_nearest(frame.shape[0], side)][:, _nearest(frame.shape[1], side)]


def _nearest(size: int, new_size: int) -> np.ndarray:
    """Indices that torch's nearest neighbour takes, by sending the indices themselves through it."""
    indices = torch.arange(size, dtype=torch.float32)[None, None]
    return interpolate(indices, size=new_size)[0, 0].long().numpy()
