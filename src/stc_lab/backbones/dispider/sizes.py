"""What the JSON files of a Dispider checkpoint say about the model, in the released layout and its successor."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from math import isqrt
from pathlib import Path
from typing import Any

from stc_lab.backbones.checkpoints import Checkpoint

COMPRESSOR_FOLDERS = ("perception_decision", "stream_compressor")
"""Folder with configuration and tokenizer of the compressor; the second is the name of the first release."""

CLIP_LARGE = {
    "hidden_size": 1024,
    "intermediate_size": 4096,
    "num_hidden_layers": 24,
    "num_attention_heads": 16,
    "image_size": 224,
    "patch_size": 14,
    "hidden_act": "quick_gelu",
}
"""The tower of the first release, which names it but does not describe it."""
CLIP_PIXELS = {
    "image_mean": [0.48145466, 0.4578275, 0.40821073],
    "image_std": [0.26862954, 0.26130258, 0.27577711],
    "resample": 3,
}


@dataclass(frozen=True)
class DispiderSizes:
    """Settings of the four networks as plain dictionaries, and how they are joined.

    ``select_layer``: index into the tower's hidden states; ``pool_num``: pooled tokens (blocks) per frame;
    ``uses_image_markers``: whether the prompt marks where the video begins and ends.
    """

    language: Mapping[str, Any]
    compressor: Mapping[str, Any]
    vision: Mapping[str, Any]
    pixels: Mapping[str, Any]
    select_layer: int
    pool_num: int
    uses_image_markers: bool

    @property
    def grid(self) -> tuple[int, int]:
        """(rows, columns) of the tokens of a frame: patches joined two by two."""
        side = self.vision["image_size"] // self.vision["patch_size"] // 2
        return side, side

    @property
    def tokens_per_frame(self) -> int:
        """Tokens of a frame after neighbouring patches were joined."""
        return self.grid[0] * self.grid[1]

    @property
    def mixed_size(self) -> int:
        """Width of a token made of four patches."""
        return 4 * self.vision["hidden_size"]


def compressor_folder(files: Checkpoint) -> Path:
    """The folder of the compressor. Raises ``ValueError`` where there is none."""
    for name in COMPRESSOR_FOLDERS:
        if (files.folder / name / "config.json").is_file():
            return files.folder / name
    names = " or ".join(f"{name}/config.json" for name in COMPRESSOR_FOLDERS)
    raise ValueError(f"backbone.checkpoint={files.name}: {names} not found in {files.folder}")


def read_sizes(files: Checkpoint) -> DispiderSizes:
    """Raises ``ValueError`` for another kind of model, or for a part that this lab does not build."""
    language = files.json("config.json") or {}
    if language.get("model_type") != "long":
        kind = language.get("model_type")
        raise ValueError(f"backbone.checkpoint={files.name}: model_type is {kind}, backbone=dispider needs long")
    inner = Checkpoint(files.name, compressor_folder(files))
    compressor = inner.json("config.json") or {}
    vision = _vision(files.name, compressor, inner.json("vision_tower/config.json"))
    sizes = DispiderSizes(
        language=language,
        compressor=compressor,
        vision=vision,
        pixels=inner.json("vision_tower/preprocessor_config.json", "preprocessor_config.json") or CLIP_PIXELS,
        select_layer=int(_either(compressor, "select_layer", -1)),
        pool_num=int(compressor.get("pool_num") or 1),
        uses_image_markers=bool(language.get("mm_use_im_start_end", False)),
    )
    _check(files.name, sizes)
    return sizes


def _either(compressor: Mapping[str, Any], key: str, default: Any) -> Any:
    """A setting of the tower under its newer or its older name."""
    for name in (f"perception_{key}", f"mm_vision_{key}"):
        if compressor.get(name) is not None:
            return compressor[name]
    return default


def _vision(name: str, compressor: Mapping[str, Any], described: dict[str, Any] | None) -> dict[str, Any]:
    if described is not None:
        return described.get("vision_config", described)
    tower = str(compressor.get("perception_vision_tower") or compressor.get("mm_vision_tower") or "")
    if "clip-vit-large-patch14" in tower and "336" not in tower:
        return dict(CLIP_LARGE)
    raise ValueError(
        f"backbone.checkpoint={name}: its vision tower '{tower}' is not known here; put the tower's config.json and "
        f"preprocessor_config.json into {COMPRESSOR_FOLDERS[0]}/vision_tower"
    )


def _check(name: str, sizes: DispiderSizes) -> None:
    """Raise ``ValueError`` for what cannot be built."""
    side = sizes.vision["image_size"] // sizes.vision["patch_size"]
    block_side = isqrt(sizes.pool_num)
    resolution = sizes.compressor.get("resolution", sizes.tokens_per_frame)
    wrong = None
    if sizes.compressor.get("mm_projector_type", "pool") != "pool":
        wrong = f"mm_projector_type={sizes.compressor['mm_projector_type']}, only pool is supported"
    elif _either(sizes.compressor, "select_feature", "patch") != "patch":
        wrong = "the tower's class token is among its features, only patch features are supported"
    elif side % 2:
        wrong = f"{side}x{side} patches cannot be joined two by two"
    elif resolution != sizes.tokens_per_frame:
        wrong = f"resolution={resolution}, but the tower gives {sizes.tokens_per_frame} tokens"
    elif block_side**2 != sizes.pool_num or sizes.grid[0] % block_side:
        wrong = f"pool_num={sizes.pool_num} does not divide {sizes.grid[0]}x{sizes.grid[1]} tokens into square blocks"
    if wrong:
        raise ValueError(f"backbone.checkpoint={name}: {wrong}")
