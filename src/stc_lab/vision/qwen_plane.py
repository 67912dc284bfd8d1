"""Where the patches of a Qwen-VL frame stand: rotary angles, order, and attention windows."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import torch
from torch import Tensor

MERGE = 2
"""Rows and columns of patches that become one token of the language model; groups of them stay together."""
GROUP = MERGE * MERGE


@dataclass(frozen=True)
class Plane:
    """A frame of ``rows`` x ``columns`` groups of 2x2 patches, for heads of width ``head_dim``.

    ``window``: side of an attention window in groups; ``None`` for towers without windows. Group numbers run row by
    row; the tower keeps groups in ``order``, which is window after window.
    """

    rows: int
    columns: int
    head_dim: int
    theta: float = 10000.0
    window: int | None = None

    @property
    def num_groups(self) -> int:
        """Groups of a frame."""
        return self.rows * self.columns

    @cached_property
    def places(self) -> Tensor:
        """(row, column) of the groups [G, 2], row by row."""
        return torch.cartesian_prod(torch.arange(self.rows), torch.arange(self.columns)).view(-1, 2)

    @cached_property
    def windows(self) -> Tensor:
        """Number of the window each group lies in [G], row by row."""
        if self.window is None:
            return torch.zeros(self.num_groups, dtype=torch.long)
        across = -(-self.columns // self.window)
        return (self.places[:, 0] // self.window) * across + self.places[:, 1] // self.window

    @cached_property
    def order(self) -> Tensor:
        """Group numbers [G] in the order in which the tower keeps them."""
        return self.windows.argsort(stable=True)

    @cached_property
    def back(self) -> Tensor:
        """Index [G] that brings what is in ``order`` back to row by row."""
        return self.order.argsort()

    @cached_property
    def window_patches(self) -> list[Tensor]:
        """Patches of the windows in tower order, windows of one size together: a list of [windows, size]."""
        counts = self.windows.bincount()
        stops = counts.cumsum(0).tolist()
        by_size: dict[int, list[Tensor]] = {}
        for stop, count in zip(stops, counts.tolist(), strict=True):
            by_size.setdefault(count, []).append(torch.arange(GROUP * (stop - count), GROUP * stop))
        return [torch.stack(windows) for windows in by_size.values()]

    @cached_property
    def num_window_pairs(self) -> int:
        """Pairs of patches that see each other inside windows."""
        return int((self.windows.bincount() * GROUP).square().sum())

    @cached_property
    def angles(self) -> tuple[Tensor, Tensor]:
        """Cosine and sine [G, 4, head_dim] of each group's patches, row by row, float32.

        The first half of a head turns with the row, the second with the column; angles repeat for both halves of a
        rotated pair.
        """
        axis = self.head_dim // 2
        steps = torch.arange(0, axis, 2, dtype=torch.float) / axis
        frequencies = 1.0 / (self.theta**steps)
        within = torch.cartesian_prod(torch.arange(MERGE), torch.arange(MERGE)).view(GROUP, 2)
        positions = MERGE * self.places[:, None] + within
        both = (positions[..., None].float() * frequencies).flatten(2)
        return torch.cat((both.cos(),) * 2, dim=-1), torch.cat((both.sin(),) * 2, dim=-1)


def rotate(x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    """Turn ``x`` [..., heads, d] by ``cos``, ``sin`` [..., d] in float32, as Hugging Face's vision towers do."""
    half = x.shape[-1] // 2
    precise = x.float()
    swapped = torch.cat((-precise[..., half:], precise[..., :half]), dim=-1)
    return (precise * cos.unsqueeze(-2) + swapped * sin.unsqueeze(-2)).to(x.dtype)
