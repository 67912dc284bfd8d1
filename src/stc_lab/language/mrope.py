"""Rotary positions with three axes (time, row, column), as Qwen2-VL and its successors use them."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from stc_lab.language.rotary import Rotary


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
