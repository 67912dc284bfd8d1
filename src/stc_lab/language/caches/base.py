"""What a key-value store must offer to the text decoder, and the growing memory that stores are made of."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Protocol

import torch
from torch import Tensor

from stc_lab.language.attention import Rotary


@dataclass(frozen=True)
class DecoderShape:
    """The facts about a decoder that its stores need; ``scale`` multiplies the attention scores."""

    num_layers: int
    num_heads: int
    num_kv_heads: int
    head_dim: int
    scale: float
    rotary: Rotary


@dataclass(frozen=True)
class Placed:
    """Where the tokens of a piece stand, relative to the start of the piece.

    ``offsets`` [T] or [3, T]: rotary positions from the start on; ``extent``: how far behind it the next piece starts.
    """

    offsets: Tensor
    extent: float


@dataclass(frozen=True)
class Step:
    """One pass through the decoder.

    ``lengths``: tokens of each piece of the pass, in order; a piece is what the store treats as a unit (a
    frame) and sees only itself and what came before. ``positions`` [T], or [3, T] with three axes: explicit
    positions of the new tokens, for stores that take them; ``None``: the store counts on. ``places``: for stores that
    put pieces one after the other, where the tokens of each piece stand in it; ``None``: side by side.
    """

    lengths: tuple[int, ...]
    positions: Tensor | None = None
    places: tuple[Placed, ...] | None = None

    @property
    def num_tokens(self) -> int:
        """New tokens of the pass."""
        return sum(self.lengths)


class KVStore(Protocol):
    """Memory of a decoder for one stream: holds keys and values of all layers and computes the attention.

    Keys and queries arrive un-rotated, so that each store decides at which positions they stand.
    """

    @property
    def num_context(self) -> int:
        """Tokens that stand before the next one, on average over layers."""
        ...

    def begin(self, step: Step) -> None:
        """Called once per pass, before the first layer. Raises ``ValueError`` for a step it cannot take."""
        ...

    def attend(self, layer: int, queries: Tensor, keys: Tensor, values: Tensor) -> Tensor:
        """Remember ``keys`` and ``values`` [T, Hkv, d]; return what ``queries`` [T, Hq, d] read, [T, Hq * d]."""
        ...

    def mark(self) -> Any:
        """The present point, for stores that can be taken back."""
        ...

    def rewind(self, mark: Any) -> None:
        """Forget what was appended since ``mark``; whatever is computed later is as if it had never been there."""
        ...


class TokenBuffer:
    """States [heads, L, d] of L tokens in preallocated memory: appending copies the new tokens only.

    With ``keep`` set, only the last ``keep`` tokens before an append have to survive it; older ones are dropped when
    the buffer is full, so memory stays below about 1.25 ``keep`` plus one append. Where more is needed, it grows by a
    ``growth``-th and at least ``min_spare`` tokens. ``pin`` makes all tokens survive that have to survive at that
    moment, whatever is appended until ``unpin``.
    """

    def __init__(self, keep: int | None = None, growth: int = 2, min_spare: int = 256) -> None:
        self._keep = keep
        self._growth, self._min_spare = growth, min_spare
        self._data: Tensor | None = None
        self._length = 0
        self._pinned: int | None = None

    def __len__(self) -> int:
        return self._length

    @property
    def all(self) -> Tensor:
        """View of the states of all tokens."""
        return self._data[:, : self._length]

    @property
    def dtype(self) -> torch.dtype | None:
        """Type of the stored elements, ``None`` before the first append."""
        return None if self._data is None else self._data.dtype

    @property
    def reserved_bytes(self) -> int:
        """Bytes allocated, used or not."""
        return 0 if self._data is None else self._data.nbytes

    def append(self, states: Tensor) -> None:
        """Add ``states`` [T, heads, d]."""
        num_new = states.shape[0]
        if self._data is None or self._length + num_new > self._data.shape[1]:
            self._make_room(states)
        self._data[:, self._length : self._length + num_new] = states.transpose(0, 1)
        self._length += num_new
        if self._pinned is not None:
            self._pinned += num_new

    def last(self, num_tokens: int) -> Tensor:
        """View of the states of the last ``num_tokens`` tokens (or all, if fewer)."""
        return self._data[:, max(0, self._length - num_tokens) : self._length]

    def keep(self, indices: Tensor) -> None:
        """Only the tokens at ``indices`` [N], in that order."""
        if self._data is not None:
            self._data[:, : len(indices)] = self._data[:, indices]
            self._length = len(indices)

    def cut(self, length: int) -> None:
        """Only the first ``length`` tokens."""
        self._length = min(self._length, max(0, length))

    def drop_last(self, num_tokens: int) -> None:
        """Forget the newest ``num_tokens`` tokens."""
        self.cut(self._length - num_tokens)

    def pin(self) -> None:
        """From now on count what is appended, so that :meth:`unpin` can forget it and leave all else as it was."""
        self._pinned = 0

    def unpin(self) -> None:
        """Forget what was appended since :meth:`pin`."""
        self.drop_last(self._pinned)
        self._pinned = None

    def _make_room(self, like: Tensor) -> None:
        """Room for ``like`` [T, heads, d] behind the tokens that must survive."""
        num_new, heads, head_dim = like.shape
        keep = None if self._keep is None else self._keep + (self._pinned or 0)
        # Older tokens than these are not read any more.
        survivors = self._length if keep is None else min(self._length, keep)
        needed = survivors + num_new
        if self._data is not None and needed + survivors // 8 <= self._data.shape[1]:
            # There is room once the oldest tokens are gone: move the others to the front.
            self._data[:, :survivors] = self.last(survivors).clone()
        else:
            capacity = needed + max(self._min_spare, needed // self._growth)
            if keep is not None:
                capacity = min(capacity, keep + keep // 4 + num_new)
            data = like.new_empty(heads, capacity, head_dim)
            if self._data is not None:
                data[:, :survivors] = self.last(survivors)
            self._data = data
        self._length = survivors


def tensor_bytes(*tensors: Tensor | None) -> int:
    """Bytes of the elements of ``tensors`` (of a view: only what it shows)."""
    return sum(t.numel() * t.element_size() for t in tensors if t is not None)
