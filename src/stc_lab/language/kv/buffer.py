"""Growing buffer of the keys and values of one layer."""

from __future__ import annotations

import torch
from torch import Tensor

MIN_SPARE = 256


class KVBuffer:
    """Keys and values [Hkv, L, d] in preallocated memory: appending copies the new tokens only.

    With ``keep`` set, only the last ``keep`` tokens before an append have to survive it; older ones are
    dropped when the buffer is full, so memory stays below about 1.25 ``keep`` plus one append.
    """

    def __init__(self, keep: int | None = None) -> None:
        self._keep = keep
        self._keys: Tensor | None = None
        self._values: Tensor | None = None
        self._stop = 0

    def __len__(self) -> int:
        return self._stop

    def append(self, keys: Tensor, values: Tensor) -> None:
        """Add ``keys`` and ``values`` [T, Hkv, d]."""
        num_new = keys.shape[0]
        if self._keys is None or self._stop + num_new > self._keys.shape[1]:
            self._make_room(keys, values)
        span = slice(self._stop, self._stop + num_new)
        self._keys[:, span] = keys.transpose(0, 1)
        self._values[:, span] = values.transpose(0, 1)
        self._stop += num_new

    def last(self, num_tokens: int) -> tuple[Tensor, Tensor]:
        """Views of the keys and values of the last ``num_tokens`` tokens (or all, if fewer)."""
        span = slice(max(0, self._stop - num_tokens), self._stop)
        return self._keys[:, span], self._values[:, span]

    def drop_last(self, num_tokens: int) -> None:
        """Forget the newest ``num_tokens`` tokens."""
        self._stop = max(0, self._stop - num_tokens)

    @property
    def dtype(self) -> torch.dtype | None:
        """Type of the stored elements, ``None`` before the first append."""
        return None if self._keys is None else self._keys.dtype

    @property
    def reserved_bytes(self) -> int:
        """Bytes allocated, used or not."""
        return 0 if self._keys is None else 2 * self._keys.nbytes

    def _make_room(self, keys: Tensor, values: Tensor) -> None:
        survivors = len(self) if self._keep is None else min(len(self), self._keep)
        needed = survivors + keys.shape[0]
        if self._keys is not None and needed + survivors // 8 <= self._keys.shape[1]:
            for buffer in (self._keys, self._values):
                buffer[:, :survivors] = buffer[:, self._stop - survivors : self._stop].clone()
        else:
            capacity = needed + max(MIN_SPARE, needed // 2)
            if self._keep is not None:
                capacity = min(capacity, self._keep + self._keep // 4 + keys.shape[0])
            old = (None, None) if self._keys is None else self.last(survivors)
            self._keys, self._values = _moved(old[0], keys, capacity), _moved(old[1], values, capacity)
        self._stop = survivors


def _moved(old: Tensor | None, like: Tensor, capacity: int) -> Tensor:
    _, num_kv_heads, head_dim = like.shape
    new = like.new_empty(num_kv_heads, capacity, head_dim)
    if old is not None:
        new[:, : old.shape[1]] = old
    return new
