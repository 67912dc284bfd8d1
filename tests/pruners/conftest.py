"""A short stream of visual tokens."""

from __future__ import annotations

import sys
from functools import cache
from pathlib import Path

import pytest
import torch

from stc_lab.types import VisualTokens

sys.path.insert(0, str(Path(__file__).parent))  # tests import what they share from pruner_streams.py


@cache
def build_frames(seed: int = 0, num_frames: int = 8, dtype: torch.dtype = torch.float32) -> list[VisualTokens]:
    """Frames of 14 x 14 tokens, 32 wide: a static part, a region that changes, noise."""
    generator = torch.Generator().manual_seed(seed)
    tokens = torch.randn(196, 32, generator=generator) + 0.3 * torch.randn(num_frames, 196, 32, generator=generator)
    for f in range(num_frames):
        region = 10 * f % 160
        tokens[f, region : region + 30] += torch.randn(32, generator=generator)
    return [VisualTokens.full(frame.to(dtype), (14, 14), float(f)) for f, frame in enumerate(tokens)]


@pytest.fixture(scope="session")
def frames() -> list[VisualTokens]:
    return build_frames()


@pytest.fixture(scope="session")
def make_frames():
    return build_frames


@pytest.fixture(autouse=True)
def _one_thread() -> None:
    """For tensors this small a second thread only waits for the first."""
    torch.set_num_threads(1)
