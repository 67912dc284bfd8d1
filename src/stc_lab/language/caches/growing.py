"""The ordinary cache of a causal decoder: keeps everything, every token sees all before it."""

from __future__ import annotations

from torch import Tensor

from stc_lab.language.attention import BandMask, Rotation, attend, grouped, ungrouped
from stc_lab.language.caches.base import DecoderShape, Step, TokenBuffer

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
        self._next_position = int(given.max()) + 1
        return self._shape.rotary(given.to(keys.device), keys.dtype)
