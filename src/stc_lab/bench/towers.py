"""Vision towers of the backbones at official dimensions, whole or as some layers that stand for all."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import nn
from transformers import CLIPVisionConfig, CLIPVisionModel, SiglipVisionConfig, SiglipVisionModel
from transformers.models.qwen2_5_vl.configuration_qwen2_5_vl import Qwen2_5_VLVisionConfig
from transformers.models.qwen2_5_vl.modeling_qwen2_5_vl import Qwen2_5_VisionTransformerPretrainedModel
from transformers.models.qwen2_vl.configuration_qwen2_vl import Qwen2VLVisionConfig
from transformers.models.qwen2_vl.modeling_qwen2_vl import Qwen2VisionTransformerPretrainedModel

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
