"""Fixed sine-cosine tables that tell a frame's tokens where and when they were seen."""

from __future__ import annotations

import torch
from torch import Tensor, nn

TEMPORAL_LENGTH = 512
"""Frames after which the temporal table starts again."""


class FramePositions(nn.Module):
    """Adds a place and a time to tower features of width C, a multiple of 16.

    The first quarter of the channels gets the index of the frame, modulo 512; of the rest, the first half gets the
    column and the second half the row. The tables are no part of a checkpoint.
    """

    def __init__(self, width: int, side: int) -> None:
        super().__init__()
        if width % 16:
            raise ValueError(f"mm_hidden_size={width}: position tables need a multiple of 16")
        self.register_buffer("temporal", temporal_table(width), persistent=False)
        self.register_buffer("spatial", spatial_table(width, side), persistent=False)

    def forward(self, features: Tensor, first_index: int) -> Tensor:
        """Features [F, T, C] of the frames ``first_index ...`` of a stream -> the same with both tables added."""
        index = torch.arange(first_index, first_index + len(features), device=features.device) % TEMPORAL_LENGTH
        return self.add_place(features) + self.temporal[index, None].to(features.dtype)

    def add_place(self, features: Tensor) -> Tensor:
        """The spatial table alone, for single images."""
        return features + self.spatial.to(features.dtype)


def temporal_table(width: int, length: int = TEMPORAL_LENGTH) -> Tensor:
    """[length, width]: sines and cosines in the first quarter of the channels, zeros behind."""
    waves = _waves(torch.arange(length), width // 4)
    return torch.cat((waves, waves.new_zeros(length, width - width // 4)), dim=1)


def spatial_table(width: int, side: int) -> Tensor:
    """[side * side, width], row by row: zeros in the first quarter of the channels, then column, then row."""
    along = _waves(torch.arange(side), width * 3 // 8)
    columns, rows = along.repeat(side, 1), along.repeat_interleave(side, dim=0)
    return torch.cat((along.new_zeros(side * side, width // 4), columns, rows), dim=1)


def _waves(positions: Tensor, width: int) -> Tensor:
    """[P, width]: sines, then cosines, at frequencies 10000^(-i / (width / 2))."""
    half = width // 2
    frequencies = 1.0 / 10000 ** (torch.arange(half, dtype=torch.float32) / half)
    angles = positions.float()[:, None] * frequencies
    return torch.cat((angles.sin(), angles.cos()), dim=1)
