"""A cache whose tokens can be removed, moved, and placed at new positions."""

from __future__ import annotations

import torch
from torch import Tensor

from stc_lab.language.attention import attend, grouped, ungrouped
from stc_lab.language.kv.base import DecoderShape, Step, tensor_bytes
from stc_lab.language.kv.rows import Rows
from stc_lab.language.masks import BandMask
from stc_lab.language.rotary import Rotation

UNLIMITED = 2**62


class _Layer:
    """Keys as projected, the same keys at their present positions, and values."""

    def __init__(self) -> None:
        self.keys, self.turned, self.values = Rows(), Rows(), Rows()

    @property
    def rows(self) -> tuple[Rows, Rows, Rows]:
        return self.keys, self.turned, self.values


class ReplacedStore:
    """Keys are kept un-rotated; each pass says where all tokens stand, old and new (StreamingVLM, arXiv:2510.09608).

    As long as the old tokens stand where they stood, only the new keys are rotated; otherwise all are.
    """

    def __init__(self, shape: DecoderShape) -> None:
        self._shape = shape
        self._layers = [_Layer() for _ in range(shape.num_layers)]
        self._mask = BandMask(UNLIMITED)
        self._positions = torch.empty(3, 0)
        self._stands = True
        self._turn_new: Rotation | None = None
        self._turn_all: Rotation | None = None

    def __len__(self) -> int:
        return len(self._layers[-1].keys)

    def keys(self, layer: int) -> Tensor:
        """Un-rotated keys [Hkv, L, d] of a layer."""
        return self._layers[layer].keys.all

    def values(self, layer: int) -> Tensor:
        """Values [Hkv, L, d] of a layer."""
        return self._layers[layer].values.all

    @property
    def num_bytes(self) -> int:
        """Bytes of keys, rotated keys and values of all layers."""
        return sum(tensor_bytes(rows.all) for layer in self._layers for rows in layer.rows if len(rows))

    @property
    def reserved_bytes(self) -> int:
        """Bytes allocated, used or not."""
        return sum(rows.reserved_bytes for layer in self._layers for rows in layer.rows)

    def keep(self, indices: Tensor) -> None:
        """Only the tokens at ``indices`` [N], in that order."""
        self._positions = self._positions[:, indices]
        for layer in self._layers:
            for rows in layer.rows:
                rows.keep(indices.to(rows.all.device))

    def cut(self, length: int) -> None:
        """Only the first ``length`` tokens."""
        self._positions = self._positions[:, :length]
        for layer in self._layers:
            for rows in layer.rows:
                rows.cut(length)

    def begin(self, step: Step) -> None:
        """``step.positions`` [3, L + T]: of the L stored and the T new tokens, on the CPU."""
        old, total = len(self), len(self) + step.num_tokens
        if step.positions is None or step.positions.shape != (3, total):
            shape = None if step.positions is None else tuple(step.positions.shape)
            raise ValueError(f"positions has shape {shape}, expected (3, {total}): of all tokens, stored and new")
        self._stands = torch.equal(self._positions, step.positions[:, :old].to(self._positions.dtype))
        self._positions = step.positions.to(self._positions.dtype)
        self._turn_new = self._turn_all = None

    def attend(self, layer: int, queries: Tensor, keys: Tensor, values: Tensor) -> Tensor:
        """See :class:`stc_lab.language.kv.base.KVStore`."""
        new, rows = self._rotation(keys), self._layers[layer]
        rows.keys.append(keys)
        rows.values.append(values)
        if self._stands:
            rows.turned.append(new(keys))
        else:
            rows.turned.cut(0)
            rows.turned.append(self._turn_all(rows.keys.all.transpose(0, 1)))
        mask = self._mask.corner(queries.shape[0], len(rows.keys), queries)
        q = grouped(new(queries), self._shape.num_kv_heads)
        return ungrouped(attend(q, rows.turned.all, rows.values.all, mask, self._shape.scale))

    def _rotation(self, keys: Tensor) -> Rotation:
        """Rotation of the new tokens; made in the first layer, with that of all tokens where they moved."""
        if self._turn_new is None:
            positions = self._positions.to(keys.device)
            if self._stands:
                self._turn_new = self._shape.rotary(positions[:, -len(keys) :], keys.dtype)
            else:
                self._turn_all = self._shape.rotary(positions, keys.dtype)
                self._turn_new = self._turn_all[-len(keys) :]
        return self._turn_new
