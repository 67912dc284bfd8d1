"""Loads a Qwen2-VL or Qwen2.5-VL checkpoint as Hugging Face saves it, in the new key layout or the official one."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor
from torch.nn.functional import interpolate

from stc_lab.backbones.checkpoints import (
    Checkpoint,
    pretrained,
    processor_config,
    stop_ids_of,
)
from stc_lab.language.chat import ELLIPSIS, IM_END, IM_START, VIDEO_PAD, VISION_END, VISION_START, LoadedText
from stc_lab.vision.qwen import MERGE

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

MARKERS = (IM_START, IM_END, VISION_START, VISION_END, VIDEO_PAD)
BICUBIC = 3
MAX_ASPECT = 200


@dataclass(frozen=True)
class LoadedQwen(LoadedText):
    """A loaded checkpoint. ``stop_ids``: tokens that end an answer; ``silence_id``: the token of `` ...``."""

    model: PreTrainedModel
    tokenizer: PreTrainedTokenizerBase
    preprocessor: PairPreprocessor
    stop_ids: frozenset[int]
    im_end_id: int
    video_id: int
    silence_id: int


def check_model(checkpoint: Checkpoint, backbone: str, model_types: Sequence[str]) -> None:
    """Raise ``ValueError`` when ``config.json`` is of another kind of model, or merges other groups than 2x2."""
    config = checkpoint.json("config.json")
    kind = config.get("model_type")
    if kind not in model_types:
        raise ValueError(
            f"backbone.checkpoint={checkpoint.name}: model_type is {kind}, backbone={backbone} needs "
            f"{' or '.join(model_types)}"
        )
    merge = config.get("vision_config", {}).get("spatial_merge_size", MERGE)
    if merge != MERGE:
        raise ValueError(f"backbone.checkpoint={checkpoint.name}: spatial_merge_size={merge} is not supported, only 2")


def load_checkpoint(checkpoint: Checkpoint, dtype: torch.dtype) -> LoadedQwen:
    """Weights on the CPU in ``dtype``, tokenizer and processor constants of a checkpoint folder; no network.

    Raises ``ValueError`` when weights are missing or left over, when the processor is of another kind, or when the
    tokenizer has no chat and vision markers.
    """
    from transformers import Qwen2_5_VLForConditionalGeneration, Qwen2VLForConditionalGeneration

    classes = {"qwen2_vl": Qwen2VLForConditionalGeneration, "qwen2_5_vl": Qwen2_5_VLForConditionalGeneration}
    model, tokenizer = pretrained(checkpoint, classes[checkpoint.json("config.json")["model_type"]], dtype)
    config, source = processor_config(checkpoint)
    vision = model.config.vision_config
    markers = _marker_ids(checkpoint, tokenizer)
    ends = stop_ids_of(
        model.generation_config.eos_token_id,
        model.config.text_config.eos_token_id,
        tokenizer.eos_token_id,
        markers[IM_END],
    )
    return LoadedQwen(
        model=model,
        tokenizer=tokenizer,
        preprocessor=PairPreprocessor.from_config(config, vision.patch_size, vision.temporal_patch_size, source),
        stop_ids=ends,
        im_end_id=markers[IM_END],
        video_id=markers[VIDEO_PAD],
        silence_id=tokenizer(ELLIPSIS, add_special_tokens=False).input_ids[-1],
    )


def _marker_ids(checkpoint: Checkpoint, tokenizer: PreTrainedTokenizerBase) -> dict[str, int]:
    vocabulary = tokenizer.get_vocab()
    missing = [marker for marker in MARKERS if marker not in vocabulary]
    if missing:
        raise ValueError(f"backbone.checkpoint={checkpoint.name}: its tokenizer has no {', '.join(missing)}")
    return {marker: vocabulary[marker] for marker in MARKERS}


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
        # Resized as uint8, like the official processor: results are rounded to whole steps.
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
        # Groups of 2x2 patches row by row; in a group its patches, in a patch channels, both frames, pixels.
        cells = pixels.view(*pixels.shape[:3], rows, MERGE, side, columns, MERGE, side)
        return cells.permute(0, 3, 6, 4, 7, 2, 1, 5, 8).flatten(1, 4).flatten(2)


@dataclass(frozen=True)
class FrameBudget:
    """Pixels of a frame: at least ``min_pixels``, at most ``max_pixels``; sides are multiples of ``factor``.

    ``factor`` pixels are one token of the language model: patch size times the 2 that are merged.
    """

    factor: int
    min_pixels: int
    max_pixels: int

    @classmethod
    def of_tokens(cls, factor: int, min_tokens: int, max_tokens: int) -> FrameBudget:
        """From visual tokens of a frame."""
        return cls(factor, min_tokens * factor**2, max_tokens * factor**2)

    @property
    def max_tokens(self) -> int:
        """Most visual tokens of a frame."""
        return self.max_pixels // self.factor**2

    def fit(self, height: int, width: int) -> tuple[int, int]:
        """(height, width) near the given ones, with about the same aspect ratio (qwen-vl-utils' ``smart_resize``).

        Raises ``ValueError`` for frames that are longer than 200 times their width.
        """
        if max(height, width) > MAX_ASPECT * min(height, width):
            raise ValueError(f"a frame of {height} x {width} pixels: aspect ratios above {MAX_ASPECT} cannot be shown")
        factor = self.factor
        # Rounded to whole tokens; if these are too many or too few, scaled to the nearest that fit.
        fitted = tuple(max(factor, round(side / factor) * factor) for side in (height, width))
        if fitted[0] * fitted[1] > self.max_pixels:
            shrink = math.sqrt(height * width / self.max_pixels)
            fitted = tuple(max(factor, math.floor(side / shrink / factor) * factor) for side in (height, width))
        elif fitted[0] * fitted[1] < self.min_pixels:
            stretch = math.sqrt(self.min_pixels / (height * width))
            fitted = tuple(math.ceil(side * stretch / factor) * factor for side in (height, width))
        return fitted
