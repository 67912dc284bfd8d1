"""Pairs of frames to packed patches, as the Qwen-VL video processors make them, without torchvision."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn.functional import interpolate

from stc_lab.vision.qwen_plane import MERGE

BICUBIC = 3


@dataclass(frozen=True)
class PairPreprocessor:
    """Resize, rescale, normalise and cut into patches; constants of the checkpoint.

    Resizing is torch's bicubic one with antialiasing on bytes, which is what torchvision's resize of a video calls.
    """

    mean: tuple[float, ...]
    std: tuple[float, ...]
    rescale_factor: float
    patch_size: int
    frames_per_patch: int

    @classmethod
    def from_config(
        cls, config: dict[str, Any], patch_size: int, frames_per_patch: int, source: str
    ) -> PairPreprocessor:
        """From a ``(video_)preprocessor_config.json``, called ``source`` in messages; patch sizes from the model.

        Raises ``ValueError`` for a processor that does something else than these steps.
        """
        missing = [key for key in ("image_mean", "image_std") if config.get(key) is None]
        if missing:
            raise ValueError(f"{source}: {', '.join(missing)} missing")
        expected = {
            "patch_size": patch_size,
            "temporal_patch_size": frames_per_patch,
            "merge_size": MERGE,
            "resample": BICUBIC,
            "do_rescale": True,
            "do_normalize": True,
        }
        for key, value in expected.items():
            if config.get(key, value) != value:
                raise ValueError(f"{source}: {key}={config[key]} is not supported, it must be {value}")
        return cls(
            mean=tuple(config["image_mean"]),
            std=tuple(config["image_std"]),
            rescale_factor=float(config.get("rescale_factor", 1 / 255)),
            patch_size=patch_size,
            frames_per_patch=frames_per_patch,
        )

    def __call__(
        self, pairs: Sequence[np.ndarray], size: tuple[int, int], device: torch.device, dtype: torch.dtype
    ) -> Tensor:
        """Pairs, uint8 [2, H, W, 3] each -> patches [F, T, 3 * 2 * patch * patch] of frames of ``size``.

        Patches of a 2x2 group follow each other, groups run row by row.
        """
        frames = torch.from_numpy(np.stack(pairs)).permute(0, 1, 4, 2, 3)
        frames = self._resized(frames.flatten(0, 1), size).to(device)
        mean = torch.tensor(self.mean, device=device) / self.rescale_factor
        std = torch.tensor(self.std, device=device) / self.rescale_factor
        pixels = (frames.float() - mean[:, None, None]) / std[:, None, None]
        return self._packed(pixels.view(len(pairs), self.frames_per_patch, *pixels.shape[1:])).to(dtype)

    def _resized(self, frames: Tensor, size: tuple[int, int]) -> Tensor:
        if tuple(frames.shape[-2:]) == tuple(size):
            return frames
        return interpolate(frames.contiguous(), size=size, mode="bicubic", antialias=True, align_corners=False)

    def _packed(self, pixels: Tensor) -> Tensor:
        """[F, 2, 3, H, W] -> [F, T, 3 * 2 * patch * patch]."""
        side = self.patch_size
        rows, columns = (edge // (MERGE * side) for edge in pixels.shape[-2:])
        cells = pixels.view(*pixels.shape[:3], rows, MERGE, side, columns, MERGE, side)
        return cells.permute(0, 3, 6, 4, 7, 2, 1, 5, 8).flatten(1, 4).flatten(2)
