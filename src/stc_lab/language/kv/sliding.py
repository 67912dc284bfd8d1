"""Sliding-window attention that always sees the first tokens: one softmax over a local and a far part.

Local part: keys at distance below ``n_local``, rotated by their position. Far part: the init tokens once they
are out of the window, as if they stood at the far end of it (distance ``n_local - 1``). Only distances matter
to a rotary embedding, so local keys are rotated once, at their absolute position, and never again.
"""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor

from stc_lab.language.attention import attend, attend_two_parts, grouped
from stc_lab.language.kv.base import DecoderShape, tensor_bytes
from stc_lab.language.kv.buffer import KVBuffer
from stc_lab.language.masks import BandMask, far_mask


@dataclass(frozen=True)
class Piece:
    """What all layers share for the rows ``start .. stop - 1`` of a pass.

    ``num_keys``: length of the local part, the new tokens included; ``num_far``: init tokens in the far part.
    """

    start: int
    stop: int
    num_keys: int
    local_mask: Tensor | None
    num_far: int = 0
    far_mask: Tensor | None = None

    @property
    def rows(self) -> slice:
        """Rows of the pass."""
        return slice(self.start, self.stop)


class PiecePlanner:
    """Makes the pieces of a pass."""

    def __init__(self, n_local: int) -> None:
        self._n_local = n_local
        self._band = BandMask(n_local)

    def piece(self, offset: int, length: int, position: int, num_init: int, like: Tensor) -> Piece:
        """``length`` tokens at ``position``, the rows from ``offset`` of the pass; each init token is seen once."""
        planned = self.local(offset, length, position, like)
        if num_init == 0 or position + length - 1 < self._n_local:
            return planned
        mask = far_mask(position, length, num_init, self._n_local, like)
        return Piece(planned.start, planned.stop, planned.num_keys, planned.local_mask, num_init, mask)

    def local(self, offset: int, length: int, position: int, like: Tensor, num_far: int = 0) -> Piece:
        """The same with the first ``num_far`` init tokens shown to every query, in the window or not."""
        num_keys = min(position + length, self._n_local + length - 1)
        mask = self._band.corner(length, num_keys, like)
        return Piece(offset, offset + length, num_keys, mask, num_far)


class SlidingLayer:
    """Window and init tokens of one layer; the newest ``num_spare`` tokens may be dropped again."""

    def __init__(self, shape: DecoderShape, n_local: int, num_spare: int = 0) -> None:
        self._shape = shape
        self._n_local = n_local
        self.window = KVBuffer(keep=n_local + num_spare)
        self.init_keys: Tensor | None = None
        self.init_values: Tensor | None = None
        self._far_keys: Tensor | None = None

    def set_init(self, keys: Tensor, values: Tensor) -> None:
        """The init tokens' un-rotated ``keys`` and ``values`` [n, Hkv, d]."""
        self.init_keys, self.init_values = keys.transpose(0, 1).contiguous(), values.transpose(0, 1).contiguous()
        # A query at distance n_local - 1 from a key at 0: rotating the key back by that much, once, spares
        # rotating every query a second time.
        back = self._shape.rotary.span(1 - self._n_local, 2 - self._n_local, keys)
        self._far_keys = back(keys).transpose(0, 1).contiguous()

    def attend(self, piece: Piece, queries: Tensor, rotated: Tensor, keys: Tensor, values: Tensor) -> Tensor:
        """Append the piece's rotated ``keys`` and ``values``; output [Hkv, G, T, d] of its queries.

        ``queries`` and ``rotated`` [T, Hq, d]: the piece's queries before and after rotation.
        """
        self.window.append(keys, values)
        local = self.window.last(piece.num_keys)
        near_queries = grouped(rotated, self._shape.num_kv_heads)
        if piece.num_far == 0:
            return attend(near_queries, *local, piece.local_mask, self._shape.scale)
        far = self._far_keys[:, : piece.num_far], self.init_values[:, : piece.num_far]
        far_queries = grouped(queries, self._shape.num_kv_heads)
        return attend_two_parts(
            near_queries, local, piece.local_mask, far, piece.far_mask, self._shape.scale, far_queries
        )

    @property
    def num_bytes(self) -> int:
        """Bytes of what is remembered: window and init tokens."""
        window = self.window.last(self._n_local) if len(self.window) else ()
        return tensor_bytes(*window, self.init_keys, self.init_values, self._far_keys)
