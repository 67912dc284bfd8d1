"""A growing table of per-token states that can be thinned out and put in another order."""

from __future__ import annotations

from torch import Tensor

MIN_SPARE = 64


class Rows:
    """States [heads, L, d] of L tokens. Memory grows by an eighth where more is needed, and is reused."""

    def __init__(self) -> None:
        self._data: Tensor | None = None
        self._length = 0

    def __len__(self) -> int:
        return self._length

    @property
    def all(self) -> Tensor:
        """View of the states of all tokens."""
        return self._data[:, : self._length]

    @property
    def reserved_bytes(self) -> int:
        """Bytes allocated, used or not."""
        return 0 if self._data is None else self._data.nbytes

    def append(self, states: Tensor) -> None:
        """Add ``states`` [T, heads, d]."""
        stop = self._length + states.shape[0]
        if self._data is None or stop > self._data.shape[1]:
            self._grow(stop, states)
        self._data[:, self._length : stop] = states.transpose(0, 1)
        self._length = stop

    def keep(self, indices: Tensor) -> None:
        """Only the tokens at ``indices`` [N], in that order."""
        if self._data is not None:
            self._data[:, : len(indices)] = self._data[:, indices]
            self._length = len(indices)

    def cut(self, length: int) -> None:
        """Only the first ``length`` tokens."""
        self._length = min(self._length, length)

    def _grow(self, needed: int, like: Tensor) -> None:
        capacity = needed + max(MIN_SPARE, needed // 8)
        data = like.new_empty(like.shape[1], capacity, like.shape[2])
        if self._length:
            data[:, : self._length] = self.all
        self._data = data
