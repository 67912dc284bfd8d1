"""Frames to normalised pixels, with the constants of the checkpoint and without torchvision."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor


@dataclass(frozen=True)
class FramePreprocessor:
    """Resize, rescale and normalise as an image or video processor of transformers does.

    ``size`` is (height, width), the aspect ratio is not kept; ``resample`` is PIL's code (3: bicubic). Resizing
    is PIL's, which the processors' PIL variants use as well; the torchvision variants round differently by at
    most one step of 255.
    """

    size: tuple[int, int]
    mean: tuple[float, ...]
    std: tuple[float, ...]
    rescale_factor: float = 1 / 255
    resample: int = 3

    @classmethod
    def from_config(cls, config: dict[str, Any], source: str) -> FramePreprocessor:
        """From the content of a ``(video_)preprocessor_config.json``, called ``source`` in messages.

        Raises ``ValueError`` for processors that crop, that do not resize to a fixed height and width, or whose
        mean and deviation are not written down (class defaults of transformers differ from the checkpoints').
        """
        size = config.get("size")
        if not isinstance(size, dict) or not {"height", "width"} <= size.keys():
            raise ValueError(f"{source}: size={size} is not supported, it must give height and width")
        if config.get("do_center_crop"):
            raise ValueError(f"{source}: do_center_crop=true is not supported")
        missing = [key for key in ("image_mean", "image_std") if config.get(key) is None]
        if config.get("do_normalize", True) and missing:
            raise ValueError(f"{source}: {', '.join(missing)} missing")
        normalise = config.get("do_normalize", True)
        return cls(
            size=(int(size["height"]), int(size["width"])),
            mean=tuple(config["image_mean"]) if normalise else (0.0, 0.0, 0.0),
            std=tuple(config["image_std"]) if normalise else (1.0, 1.0, 1.0),
            rescale_factor=float(config.get("rescale_factor", 1 / 255)) if config.get("do_rescale", True) else 1.0,
            resample=int(config.get("resample", 3)),
        )

    def __call__(self, frames: Sequence[np.ndarray], device: torch.device, dtype: torch.dtype) -> Tensor:
        """Frames, uint8 [H, W, 3] each and of any size -> pixels [F, 3, height, width]."""
        resized = torch.from_numpy(np.stack([self.resize(frame) for frame in frames]))
        scale = torch.tensor([self.rescale_factor / s for s in self.std], dtype=torch.float32)
        shift = torch.tensor([-m / s for m, s in zip(self.mean, self.std, strict=True)], dtype=torch.float32)
        pixels = resized.to(device).permute(0, 3, 1, 2).float()
        return torch.addcmul(shift.to(device)[:, None, None], pixels, scale.to(device)[:, None, None]).to(dtype)

    def resize(self, frame: np.ndarray) -> np.ndarray:
        """One frame, uint8 [H, W, 3] -> uint8 [height, width, 3]. Raises ``ValueError`` for another kind of array."""
        if frame.ndim != 3 or frame.shape[2] != 3 or frame.dtype != np.uint8:
            raise ValueError(f"a frame must be uint8 [H, W, 3], got {frame.dtype} {list(frame.shape)}")
        height, width = self.size
        if frame.shape[:2] == (height, width):
            return frame
        return np.asarray(Image.fromarray(frame).resize((width, height), resample=Image.Resampling(self.resample)))
