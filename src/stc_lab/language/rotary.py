"""Rotary position embedding with explicit positions, accurate at any distance from the start of a stream."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn


@dataclass(frozen=True)
class Rotation:
    """Cosine and signed sine [T, d] of T positions; call it on states [T, heads, d] to rotate them."""

    cos: Tensor
    signed_sin: Tensor

    def __call__(self, states: Tensor) -> Tensor:
        half = states.shape[-1] // 2
        swapped = torch.cat((states[..., half:], states[..., :half]), dim=-1)
        return torch.addcmul(states * self.cos[:, None], swapped, self.signed_sin[:, None])

    def __getitem__(self, rows: slice) -> Rotation:
        return Rotation(self.cos[rows], self.signed_sin[rows])


class Rotary:
    """Rotations of a Hugging Face rotary embedding module.

    Angles are computed in float64: at position 700,000 (an hour at one frame a second) a float32 angle is
    already off by 0.03 rad. The frequencies come from a freshly built module, because casting a model to half
    precision casts its frequency buffer as well.
    """

    def __init__(self, inv_freq: Tensor, scaling: float = 1.0) -> None:
        self._inv_freq = inv_freq.detach().double()
        self._scaling = scaling

    @classmethod
    def of(cls, module: nn.Module) -> Rotary:
        """``module``: the ``rotary_emb`` of a Qwen2-like text model (default and static scaled types)."""
        fresh = type(module)(module.config)
        return cls(fresh.inv_freq, float(fresh.attention_scaling))

    def __call__(self, positions: Tensor, dtype: torch.dtype) -> Rotation:
        """Rotation for ``positions`` [T] (integers or floats) on their device."""
        device = positions.device
        if device.type == "mps":  # has no float64
            positions = positions.cpu()
        if self._inv_freq.device != positions.device:
            self._inv_freq = self._inv_freq.to(positions.device)
        angles = self._spread(positions.double()) * self._inv_freq
        cos, sin = ((wave * self._scaling).to(device, dtype) for wave in (angles.cos(), angles.sin()))
        return Rotation(torch.cat((cos, cos), dim=-1), torch.cat((-sin, sin), dim=-1))

    def _spread(self, positions: Tensor) -> Tensor:
        """Positions [T] -> [T, 1] or [T, d / 2]: what the frequencies are multiplied with."""
        return positions[:, None]

    def span(self, start: int, stop: int, like: Tensor) -> Rotation:
        """Rotation for the positions ``start .. stop - 1`` in the dtype and on the device of ``like``."""
        return self(torch.arange(start, stop, device=like.device), like.dtype)


class RotationTable:
    """Rotations of the positions 0, 1, 2, ... kept for reuse; grows by doubling."""

    def __init__(self, rotary: Rotary) -> None:
        self._rotary = rotary
        self._table: Rotation | None = None

    def span(self, start: int, stop: int, like: Tensor) -> Rotation:
        """Rotation for the positions ``start .. stop - 1`` in the dtype and on the device of ``like``."""
        table = self._table
        if table is None or table.cos.shape[0] < stop or table.cos.dtype != like.dtype:
            size = 2 * (stop if table is None else max(stop, table.cos.shape[0]))
            table = self._table = self._rotary.span(0, size, like)
        return table[start:stop]


class MultiAxisRotary(Rotary):
    """Every frequency turns with one of three positions (Qwen2-VL, arXiv:2409.12191, section 2.1).

    ``sections``: number of frequencies of the time, row and column axis. With one position per token, or three equal
    ones, this is the ordinary rotary embedding.
    """

    def __init__(self, inv_freq: Tensor, sections: Sequence[int], scaling: float = 1.0) -> None:
        super().__init__(inv_freq, scaling)
        if sum(sections) != len(inv_freq):
            raise ValueError(f"mrope_section={list(sections)}: must add up to {len(inv_freq)}, half the head size")
        self._axis = torch.arange(3).repeat_interleave(torch.tensor(sections))

    def _spread(self, positions: Tensor) -> Tensor:
        """Positions [T] or [3, T] -> the one that each frequency turns with, [T, d / 2]."""
        if positions.dim() == 1:
            return super()._spread(positions)
        return positions[self._axis.to(positions.device)].T


def rotary_of(module: nn.Module) -> Rotary:
    """``module``: the ``rotary_emb`` of a text model, with one axis or three."""
    sections = (module.config.rope_parameters or {}).get("mrope_section")
    if sections is None:
        return Rotary.of(module)
    fresh = type(module)(module.config)
    return MultiAxisRotary(fresh.inv_freq, sections, float(fresh.attention_scaling))
