"""Attention and keys of a layer for one frame, from what entered it, brought to the visual tokens of the frame."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn.functional import interpolate

from stc_lab.vision.base import Block, VisionTower
from stc_lab.vision.tap import Note


@dataclass(frozen=True)
class Reading:
    """Of the N visual tokens of a frame: ``attention_received`` [N] and ``keys`` [N, heads, head size], where asked
    for, as ``stc_lab.pruners.FrameContext`` describes them; and the ``flops`` that it took."""

    attention_received: Tensor | None = None
    keys: Tensor | None = None
    flops: int = 0


class Tap:
    """What entered ``block`` of ``tower`` for one frame, until somebody asks.

    ``groups`` [T0]: the token entering the block that each original token is part of, ``None`` where nothing was
    merged; ``final`` [T0]: the same for merged tokens that are handed on in place of the grid.
    """

    def __init__(
        self,
        tower: VisionTower,
        block: Block,
        needs: frozenset[str],
        note: Note,
        groups: Tensor | None = None,
        final: Tensor | None = None,
    ) -> None:
        self._tower, self._block, self._needs, self._note = tower, block, needs, note
        self._groups, self._final = groups, final
        self._measured: dict[str, Tensor] | None = None

    def read(self, grid: tuple[int, int]) -> Reading:
        """Values for visual tokens on ``grid`` (rows, columns), pooled bilinearly as LLaVA-OneVision pools features.

        A second reading, of a frame whose features are reused, measures nothing and costs nothing.
        """
        flops = 0 if self._measured else self._flops()
        self._measured = self._measured or self._measure()
        return Reading(**{name: self._on(grid, value) for name, value in self._measured.items()}, flops=flops)

    def _measure(self) -> dict[str, Tensor]:
        """What is needed, of all original tokens: [T0, ...]."""
        block, normed = self._block, self._block.norm1(self._note.x)
        key, values = block.key(normed), {}
        if "keys" in self._needs:
            values["keys"] = block.heads(key)[0]
        if "attention_received" in self._needs:
            values["attention_received"] = self._attention_received(normed, key)
        return {name: (v if self._groups is None else v[self._groups]).float() for name, v in values.items()}

    def _attention_received(self, normed: Tensor, key: Tensor) -> Tensor:
        """By each original token that a token of the layer stands for, summed over heads: [T]."""
        has_class_token = self._tower.num_special_tokens > 0
        query, sizes = self._block.query(normed[:, :1] if has_class_token else normed), self._sizes()
        weights = self._block.attention_weights(query, key, self._note.weights)[0]
        per_head = weights[:, 0] if has_class_token else sizes @ weights / sizes.sum()
        return per_head.sum(0) / sizes

    def _sizes(self) -> Tensor:
        """Original tokens that each token of the layer stands for: [T]."""
        num_tokens = self._note.x.shape[1]
        if self._groups is None:
            return torch.ones(num_tokens, device=self._note.x.device)
        return torch.bincount(self._groups, minlength=num_tokens).float()

    def _on(self, grid: tuple[int, int], values: Tensor) -> Tensor:
        """From the original tokens [T0, ...] to the visual tokens [N, ...]."""
        flat = self._tower.on_grid(values[None])[0].reshape(-1, values[0].numel())
        if self._final is not None:
            flat = self._gathered(flat, grid[0] * grid[1], is_sum=values.dim() == 1)
        elif grid != self._tower.grid:
            planes = flat.T.unflatten(1, self._tower.grid)[None]
            flat = interpolate(planes, size=grid, mode="bilinear")[0].flatten(1).T
        return flat.reshape(-1, *values.shape[1:])

    def _gathered(self, flat: Tensor, num_tokens: int, is_sum: bool) -> Tensor:
        """Per merged token the attention of all its patches, or the mean of their keys."""
        groups = self._final[self._tower.num_special_tokens :]
        is_part = (groups == torch.arange(num_tokens, device=flat.device)[:, None]).to(flat)
        return is_part @ flat if is_sum else is_part @ flat / is_part.sum(1, keepdim=True)

    def _flops(self) -> int:
        """Key projection; for attention the query projection and the products of all pairs as well."""
        facts = self._tower.facts
        num_tokens, width = facts.patches_per_token * self._note.x.shape[1], facts.hidden_size
        if "attention_received" not in self._needs:
            return 2 * num_tokens * width**2
        num_queries = 1 if facts.num_special_tokens else num_tokens
        return 2 * (num_tokens + num_queries) * width**2 + 2 * num_queries * num_tokens * width
