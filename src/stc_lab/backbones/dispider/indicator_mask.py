"""The attention mask that the released code applies under SDPA, for comparison with numbers made that way."""

from __future__ import annotations

import torch
from torch import Tensor

from stc_lab.language.attention import attend, grouped, ungrouped
from stc_lab.language.caches.base import DecoderShape, Step
from stc_lab.language.attention import hidden


class IndicatorStore:
    """One pass of causal attention in which the last token sees only the ``num_visible`` before it and itself."""

    def __init__(self, shape: DecoderShape, num_visible: int) -> None:
        self._shape = shape
        self._num_visible = num_visible
        self._num_tokens = 0

    def begin(self, step: Step) -> None:
        """See :class:`stc_lab.language.caches.base.KVStore`; there is one pass, and positions count from 0."""
        self._num_tokens = step.num_tokens

    def attend(self, layer: int, queries: Tensor, keys: Tensor, values: Tensor) -> Tensor:
        """See :class:`stc_lab.language.caches.base.KVStore`."""
        rotation = self._shape.rotary.span(0, self._num_tokens, keys)
        rotated, values = rotation(keys).transpose(0, 1), values.transpose(0, 1)
        q = grouped(rotation(queries), self._shape.num_kv_heads)
        return ungrouped(attend(q, rotated, values, self._mask(queries), self._shape.scale))

    def _mask(self, like: Tensor) -> Tensor:
        size = (self._num_tokens, self._num_tokens)
        mask = torch.full(size, hidden(like.dtype), dtype=like.dtype, device=like.device).triu_(1)
        mask[-1, : -1 - self._num_visible] = hidden(like.dtype)
        return mask
