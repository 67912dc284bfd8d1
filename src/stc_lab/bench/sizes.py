"""Shapes of the models whose speed is measured, and models of these shapes with random weights."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import nn
from transformers import Qwen2Config, Qwen2Model, SiglipVisionConfig, SiglipVisionModel

from stc_lab.language import TextDecoder
from stc_lab.vision import SiglipTower

TOKENS_PER_FRAME = 196
UNUSED_VOCABULARY = 8


@dataclass(frozen=True)
class Size:
    """Dimensions of one model: arguments of Hugging Face's configurations, and the window of its memory."""

    tower_name: str
    tower: dict[str, Any]
    text: dict[str, Any]
    n_local: int = 15000

    def with_layers(self, vision: int | None, text: int | None) -> Size:
        """The same with fewer layers; ``None`` or more than there are: all."""
        return replace(self, tower=_shortened(self.tower, vision), text=_shortened(self.text, text))


def _width(hidden: int, mlp: int, layers: int, heads: int, **more: Any) -> dict[str, Any]:
    shape = {"hidden_size": hidden, "intermediate_size": mlp, "num_hidden_layers": layers}
    return shape | {"num_attention_heads": heads} | more


SO400M = _width(1152, 4304, 26, 16, image_size=384, patch_size=14)
POCKET = _width(96, 384, 3, 3, image_size=108, patch_size=4)

SIZES = {
    "pocket": Size("pocket", POCKET, _width(128, 384, 5, 4, num_key_value_heads=2), n_local=3136),
    "0.5b": Size("so400m", SO400M, _width(896, 4864, 24, 14, num_key_value_heads=2)),
    "7b": Size("so400m", SO400M, _width(3584, 18944, 28, 28, num_key_value_heads=4)),
}


def random_tower(size: Size, device: torch.device, dtype: torch.dtype) -> SiglipTower:
    """A SigLIP tower of that size."""
    model = SiglipVisionModel(SiglipVisionConfig(**size.tower, vision_use_head=False))
    return SiglipTower(model.eval().to(device, dtype))


def random_decoder(size: Size, device: torch.device, dtype: torch.dtype) -> TextDecoder:
    """A Qwen2 decoder of that size, fed with embeddings: neither vocabulary nor output head take memory."""
    config = Qwen2Config(**size.text, vocab_size=UNUSED_VOCABULARY, max_position_embeddings=32768)
    config.rope_parameters = {"rope_type": "default", "rope_theta": 1_000_000.0}
    return TextDecoder(Qwen2Model(config).eval().to(device, dtype), nn.Identity())


def _shortened(shape: dict[str, Any], num_layers: int | None) -> dict[str, Any]:
    layers = shape["num_hidden_layers"]
    return shape | {"num_hidden_layers": layers if num_layers is None else min(num_layers, layers)}
