"""A cache whose tokens can be removed, moved, and placed at new positions."""

from __future__ import annotations

import torch
from torch import Tensor

from stc_lab.language.attention import BandMask, Rotation, attend, grouped, ungrouped
from stc_lab.language.caches.base import DecoderShape, Step, TokenBuffer, tensor_bytes
from stc_lab.language.caches.growing import UNLIMITED


class _Layer:
    """Keys as projected, the same keys at their present positions, and values."""

    def __init__(self) -> None:
        self.keys, self.rotated, self.values = (TokenBuffer(growth=8, min_spare=64) for _ in range(3))

    @property
    def buffers(self) -> tuple[TokenBuffer, TokenBuffer, TokenBuffer]:
        return self.keys, self.rotated, self.values


class EvictingStore:
    """Keys are kept un-rotated; each pass says where all tokens stand, old and new (StreamingVLM, arXiv:2510.09608).

    As long as the old tokens stand where they stood, only the new keys are rotated; otherwise all are.
    """

    def __init__(self, shape: DecoderShape) -> None:
        self._shape = shape
        self._layers = [_Layer() for _ in range(shape.num_layers)]
        self._mask = BandMask(UNLIMITED)
        self._positions = torch.empty(3, 0)
        self._stands = True
        self._rotate_new: Rotation | None = None
        self._rotate_all: Rotation | None = None

    def __len__(self) -> int:
        return len(self._layers[-1].keys)

    @property
    def num_context(self) -> int:
        """Tokens that stand before the next one."""
        return len(self)

    def keys(self, layer: int) -> Tensor:
        """Un-rotated keys [Hkv, L, d] of a layer."""
        return self._layers[layer].keys.all

    def values(self, layer: int) -> Tensor:
        """Values [Hkv, L, d] of a layer."""
        return self._layers[layer].values.all

    @property
    def num_bytes(self) -> int:
        """Bytes of keys, rotated keys and values of all layers."""
        return sum(tensor_bytes(buffer.all) for layer in self._layers for buffer in layer.buffers if len(buffer))

    @property
    def reserved_bytes(self) -> int:
        """Bytes allocated, used or not."""
        return sum(buffer.reserved_bytes for layer in self._layers for buffer in layer.buffers)

    def keep(self, indices: Tensor) -> None:
        """Only the tokens at ``indices`` [N], in that order."""
        self._positions = self._positions[:, indices]
        for layer in self._layers:
            for buffer in layer.buffers:
                if len(buffer):
                    buffer.keep(indices.to(buffer.all.device))

    def mark(self) -> int:
        """The present length."""
        return len(self)

    def rewind(self, mark: int) -> None:
        """Only the first ``mark`` tokens."""
        self._positions = self._positions[:, :mark]
        for layer in self._layers:
            for buffer in layer.buffers:
                buffer.cut(mark)

    def begin(self, step: Step) -> None:
        """``step.positions`` [3, L + T]: of the L stored and the T new tokens, on the CPU."""
        old, total = len(self), len(self) + step.num_tokens
        if step.positions is None or step.positions.shape != (3, total):
            shape = None if step.positions is None else tuple(step.positions.shape)
            raise ValueError(f"positions has shape {shape}, expected (3, {total}): of all tokens, stored and new")
        self._stands = torch.equal(self._positions, step.positions[:, :old].to(self._positions.dtype))
        self._positions = step.positions.to(self._positions.dtype)
        self._rotate_new = self._rotate_all = None

    def attend(self, layer: int, queries: Tensor, keys: Tensor, values: Tensor) -> Tensor:
        new, buffers = self._rotation(keys), self._layers[layer]
        buffers.keys.append(keys)
        buffers.values.append(values)
        if self._stands:
            buffers.rotated.append(new(keys))
        else:
            # Tokens in front of these left or moved: every key is rotated to where it stands now.
            buffers.rotated.cut(0)
            buffers.rotated.append(self._rotate_all(buffers.keys.all.transpose(0, 1)))
        mask = self._mask.corner(queries.shape[0], len(buffers.keys), queries)
        q = grouped(new(queries), self._shape.num_kv_heads)
        return ungrouped(attend(q, buffers.rotated.all, buffers.values.all, mask, self._shape.scale))

    def _rotation(self, keys: Tensor) -> Rotation:
        """Rotation of the new tokens; made in the first layer, with that of all tokens where they moved."""
        if self._rotate_new is None:
            positions = self._positions.to(keys.device)
            if self._stands:
                self._rotate_new = self._shape.rotary(positions[:, -len(keys) :], keys.dtype)
            else:
                self._rotate_all = self._shape.rotary(positions, keys.dtype)
                self._rotate_new = self._rotate_all[-len(keys) :]
        return self._rotate_new
