"""Tiny towers with random weights and a short stream for them."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from transformers import CLIPVisionConfig, CLIPVisionModel, SiglipVisionConfig, SiglipVisionModel

from stc_lab.vision import ClipTower, SiglipTower, VisionTower

SIZES = dict(hidden_size=32, intermediate_size=64, num_attention_heads=4, num_hidden_layers=3)
SIZES |= dict(image_size=42, patch_size=6)


@pytest.fixture(autouse=True)
def _one_thread() -> None:
    """For tensors this small a second thread only waits for the first."""
    torch.set_num_threads(1)


def build_tower(kind: str, dtype: torch.dtype = torch.float32) -> VisionTower:
    torch.manual_seed(0)
    if kind == "siglip":
        return SiglipTower(SiglipVisionModel(SiglipVisionConfig(**SIZES, vision_use_head=False)).eval().to(dtype))
    return ClipTower(CLIPVisionModel(CLIPVisionConfig(**SIZES)).eval().to(dtype))


@pytest.fixture(scope="session", params=["siglip", "clip"])
def tower(request) -> VisionTower:
    return build_tower(request.param)


def build_stream(seed: int = 0, num_frames: int = 8) -> torch.Tensor:
    """A static texture with a patch that moves, and noise: [F, 3, 42, 42]."""
    generator = torch.Generator().manual_seed(seed)
    texture = torch.randn(3, 42, 42, generator=generator)
    frames = texture + 0.1 * torch.randn(num_frames, 3, 42, 42, generator=generator)
    for f in range(num_frames):
        frames[f, :, 3 * f : 3 * f + 12, 10:22] = 2.0
    return frames


@pytest.fixture(scope="session")
def stream() -> torch.Tensor:
    return build_stream()


@pytest.fixture(scope="session")
def make_tower() -> Callable[..., VisionTower]:
    return build_tower


@pytest.fixture(scope="session")
def make_stream() -> Callable[..., torch.Tensor]:
    return build_stream
