"""Caches that grow: one that keeps all tokens, and one from which tokens may leave."""

from __future__ import annotations

import torch
from torch import Tensor

from stc_lab.language.attention import BandMask, Rotation, attend, grouped, ungrouped
from stc_lab.language.caches.base import DecoderShape, Step, TokenBuffer, tensor_bytes

UNLIMITED = 2**62


class GrowingStore:
    """Keys are rotated once, at the explicit positions of the step or counting on from the last one."""

    def __init__(self, shape: DecoderShape) -> None:
        self._shape = shape
        self._keys = [TokenBuffer() for _ in range(shape.num_layers)]
        self._values = [TokenBuffer() for _ in range(shape.num_layers)]
        self._mask = BandMask(UNLIMITED)
        self._step: Step | None = None
        self._rotation: Rotation | None = None
        self._next_position = 0

    def __len__(self) -> int:
        return len(self._keys[-1])

    @property
    def num_context(self) -> int:
        """Tokens that stand before the next one."""
        return len(self)

    @property
    def num_bytes(self) -> int:
        """Bytes of the stored keys and values, without the spare room of the buffers."""
        shape, dtype = self._shape, self._keys[0].dtype
        if dtype is None:
            return 0
        return 2 * len(self) * shape.num_layers * shape.num_kv_heads * shape.head_dim * dtype.itemsize

    @property
    def reserved_bytes(self) -> int:
        """Bytes allocated, used or not."""
        return sum(buffer.reserved_bytes for buffer in (*self._keys, *self._values))

    def begin(self, step: Step) -> None:
        """Positions [T] or [3, T] may be any integers or floats; the default counts on. ``ValueError`` if not T."""
        if step.positions is not None and step.positions.shape not in ((step.num_tokens,), (3, step.num_tokens)):
            raise ValueError(f"positions has shape {tuple(step.positions.shape)}, expected ({step.num_tokens},)")
        self._step, self._rotation = step, None

    def attend(self, layer: int, queries: Tensor, keys: Tensor, values: Tensor) -> Tensor:
        rotation = self._rotation = self._rotation or self._rotate(keys)
        all_keys, all_values = self._keys[layer], self._values[layer]
        all_keys.append(rotation(keys))
        all_values.append(values)
        # Causal: the last query stands on the last key.
        mask = self._mask.corner(queries.shape[0], len(all_keys), queries)
        q = grouped(rotation(queries), self._shape.num_kv_heads)
        return ungrouped(attend(q, all_keys.all, all_values.all, mask, self._shape.scale))

    def drop_last(self, num_tokens: int) -> None:
        """Forget the newest tokens, so that the next ones continue from before them."""
        self._next_position -= num_tokens
        for buffer in (*self._keys, *self._values):
            buffer.drop_last(num_tokens)

    def mark(self) -> tuple[int, int]:
        """The present point: tokens, and the position of the next one."""
        return len(self), self._next_position

    def rewind(self, mark: tuple[int, int]) -> None:
        """Forget what was appended since ``mark``."""
        length, self._next_position = mark
        for buffer in (*self._keys, *self._values):
            buffer.cut(length)

    def _rotate(self, keys: Tensor) -> Rotation:
        given, start = self._step.positions, self._next_position
        if given is None:
            self._next_position = start + len(keys)
            return self._shape.rotary.span(start, self._next_position, keys)
        # Text after a clip counts on from the furthest position.
        self._next_position = int(given.max()) + 1
        return self._shape.rotary(given.to(keys.device), keys.dtype)


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
        # Whether any token in front of the new ones was moved since the last pass.
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
