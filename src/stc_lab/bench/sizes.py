"""Shapes of the models whose speed is measured, and towers and decoders of these shapes with random weights."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import nn
from transformers import (
    CLIPVisionConfig,
    CLIPVisionModel,
    Qwen2Config,
    Qwen2Model,
    SiglipVisionConfig,
    SiglipVisionModel,
)
from transformers.models.qwen2_5_vl.configuration_qwen2_5_vl import Qwen2_5_VLTextConfig, Qwen2_5_VLVisionConfig
from transformers.models.qwen2_5_vl.modeling_qwen2_5_vl import (
    Qwen2_5_VisionTransformerPretrainedModel,
    Qwen2_5_VLTextModel,
)
from transformers.models.qwen2_vl.configuration_qwen2_vl import Qwen2VLTextConfig, Qwen2VLVisionConfig
from transformers.models.qwen2_vl.modeling_qwen2_vl import Qwen2VisionTransformerPretrainedModel, Qwen2VLTextModel

from stc_lab.backbones.dispider.networks import CLIP_LARGE
from stc_lab.language import TextDecoder
from stc_lab.memories.streamforest import ForestSizes
from stc_lab.vision import ClipTower, QwenTower, SiglipTower, VisionTower
from stc_lab.vision.qwen import MERGE


@dataclass(frozen=True)
class Slice:
    """Some layers of a tower: the time and the FLOPs of ``tower`` count for ``full_layers`` layers."""

    tower: VisionTower
    full_layers: int

    @property
    def factor(self) -> float:
        """Layers that each of its layers stands for."""
        return self.full_layers / self.tower.facts.num_layers


@dataclass(frozen=True)
class TowerSize:
    """Dimensions of a tower. ``kind``: siglip, clip, qwen2_vl or qwen2_5_vl; ``shape``: arguments of Hugging Face's
    configuration; ``grid``: visual tokens of a frame (rows, columns), where the model does not fix them.
    """

    name: str
    kind: str
    shape: dict[str, Any] = field(default_factory=dict)
    grid: tuple[int, int] | None = None

    @property
    def num_layers(self) -> int:
        """Layers of the whole tower."""
        return self.shape["depth" if self.kind.startswith("qwen") else "num_hidden_layers"]

    def slices(self, num_layers: int | None, device: torch.device, dtype: torch.dtype) -> list[Slice]:
        """Random towers that stand for the whole one. ``num_layers``: layers that are run; ``None``: all.

        Where layers are of two kinds (attention within windows, attention to all), both are run, the latter once.
        """
        full = self.num_layers
        if num_layers is None or num_layers >= full:
            return [self._slice(self.shape, full, device, dtype)]
        wide = self.shape.get("fullatt_block_indexes")
        if wide is None:
            return [self._slice(self._shortened(num_layers), full, device, dtype)]
        windowed = self._shortened(max(1, num_layers - 1)) | {"fullatt_block_indexes": []}
        complete = self._shortened(1) | {"fullatt_block_indexes": [0]}
        parts = ((windowed, full - len(wide)), (complete, len(wide)))
        return [self._slice(shape, stands_for, device, dtype) for shape, stands_for in parts]

    def _shortened(self, num_layers: int) -> dict[str, Any]:
        key = "depth" if "depth" in self.shape else "num_hidden_layers"
        return self.shape | {key: num_layers}

    def _slice(self, shape: dict[str, Any], full_layers: int, device: torch.device, dtype: torch.dtype) -> Slice:
        model = MODELS[self.kind](shape).eval().requires_grad_(False).to(device, dtype)
        return Slice(self._tower(model), full_layers)

    def _tower(self, model: nn.Module) -> VisionTower:
        if self.kind == "siglip":
            return SiglipTower(model)
        return ClipTower(model) if self.kind == "clip" else QwenTower(model, tuple(MERGE * n for n in self.grid))


MODELS: dict[str, Callable[[dict[str, Any]], nn.Module]] = {
    "siglip": lambda shape: SiglipVisionModel(SiglipVisionConfig(**shape, vision_use_head=False)),
    "clip": lambda shape: CLIPVisionModel(CLIPVisionConfig(**shape)),
    "qwen2_vl": lambda shape: Qwen2VisionTransformerPretrainedModel(Qwen2VLVisionConfig(**shape)),
    "qwen2_5_vl": lambda shape: Qwen2_5_VisionTransformerPretrainedModel(Qwen2_5_VLVisionConfig(**shape)),
}


UNUSED_VOCABULARY = 8
DECODERS = {
    "qwen2": (Qwen2Config, Qwen2Model),
    "qwen2_vl": (Qwen2VLTextConfig, Qwen2VLTextModel),
    "qwen2_5_vl": (Qwen2_5_VLTextConfig, Qwen2_5_VLTextModel),
}


@dataclass(frozen=True)
class Size:
    """Dimensions of a ReKV model: its tower, arguments of Hugging Face's text configuration, window of its memory."""

    tower: TowerSize
    text: dict[str, Any]
    n_local: int = 15000


@dataclass(frozen=True)
class BackboneSize:
    """Dimensions of another backbone. ``grid``: visual tokens before pruning (rows, columns), of what passes at once.

    ``compressor``: of Dispider's small language model; ``memory``: of StreamForest's.
    """

    tower: TowerSize
    text: dict[str, Any]
    grid: tuple[int, int]
    text_kind: str = "qwen2"
    compressor: dict[str, Any] | None = None
    memory: ForestSizes | None = None

    @property
    def num_tokens(self) -> int:
        """Visual tokens before pruning."""
        return self.grid[0] * self.grid[1]


def _width(hidden: int, mlp: int, layers: int, heads: int, **more: Any) -> dict[str, Any]:
    shape = {"hidden_size": hidden, "intermediate_size": mlp, "num_hidden_layers": layers}
    return shape | {"num_attention_heads": heads} | more


QWEN2_7B = _width(3584, 18944, 28, 28, num_key_value_heads=4)
QWEN2_1B5 = _width(1536, 8960, 28, 12, num_key_value_heads=2)
THREE_AXES = {"rope_type": "default", "rope_theta": 1_000_000.0, "mrope_section": [16, 24, 24]}
SO400M = TowerSize("so400m", "siglip", _width(1152, 4304, 26, 16, image_size=384, patch_size=14))
POCKET = TowerSize("pocket", "siglip", _width(96, 384, 3, 3, image_size=108, patch_size=4))
QWEN2_VL = {"depth": 32, "embed_dim": 1280, "hidden_size": 3584, "mlp_ratio": 4, "num_heads": 16}
QWEN2_5_VL = {"depth": 32, "hidden_size": 1280, "intermediate_size": 3420, "num_heads": 16, "out_hidden_size": 3584}
QWEN2_5_VL |= {"window_size": 112, "fullatt_block_indexes": [7, 15, 23, 31]}

SIZES = {
    "pocket": Size(POCKET, _width(128, 384, 5, 4, num_key_value_heads=2), n_local=3136),
    "0.5b": Size(SO400M, _width(896, 4864, 24, 14, num_key_value_heads=2)),
    "7b": Size(SO400M, QWEN2_7B),
}
LIVECC_GRID, STREAMINGVLM_GRID = (16, 24), (24, 32)
"""Frames of 448 x 672 and 672 x 896 pixels: the official 384 and 768 visual tokens of a temporal patch."""

BACKBONES = {
    "streamforest": BackboneSize(SO400M, QWEN2_7B, grid=(27, 27), memory=ForestSizes()),
    "dispider": BackboneSize(TowerSize("clip_large", "clip", CLIP_LARGE), QWEN2_7B, grid=(8, 8), compressor=QWEN2_1B5),
    "livecc": BackboneSize(
        TowerSize("qwen2_vl", "qwen2_vl", QWEN2_VL, LIVECC_GRID),
        QWEN2_7B | {"rope_parameters": THREE_AXES},
        LIVECC_GRID,
        "qwen2_vl",
    ),
    "streamingvlm": BackboneSize(
        TowerSize("qwen2_5_vl", "qwen2_5_vl", QWEN2_5_VL, STREAMINGVLM_GRID),
        QWEN2_7B | {"rope_parameters": THREE_AXES},
        STREAMINGVLM_GRID,
        "qwen2_5_vl",
    ),
}


def random_decoder(
    text: dict[str, Any],
    num_layers: int | None,
    device: torch.device,
    dtype: torch.dtype,
    kind: str = "qwen2",
    vocab_size: int = UNUSED_VOCABULARY,
) -> TextDecoder:
    """A decoder of that shape with ``num_layers`` layers (``None`` or more than there are: all), without a head.

    It is fed with embeddings: neither vocabulary nor head take memory, unless ``vocab_size`` says otherwise.
    """
    config_class, model_class = DECODERS[kind]
    common = {"vocab_size": vocab_size, "bos_token_id": None, "eos_token_id": None, "max_position_embeddings": 32768}
    rope = {"rope_parameters": {"rope_type": "default", "rope_theta": 1_000_000.0}}
    config = config_class(**common, **(rope | shortened(text, num_layers)))
    # Frozen, as loaded models are: products with weights that want gradients are run otherwise.
    model = model_class(config).eval().requires_grad_(False)
    return TextDecoder(model.to(device, dtype), nn.Identity())


def shortened(shape: dict[str, Any], num_layers: int | None) -> dict[str, Any]:
    """The same with fewer layers; ``None`` or more than there are: all."""
    layers = shape["num_hidden_layers"]
    return shape | {"num_hidden_layers": layers if num_layers is None else min(num_layers, layers)}
