"""The blocks of one layer: un-rotated keys and values per frame, and a representative key for each."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Sequence

import torch
from torch import Tensor

from stc_lab.language.kv.base import tensor_bytes
from stc_lab.language.kv.host import HostMemory


class BlockPool:
    """Blocks [2, Hkv, T, d] (keys, values) in the order of arrival; T may differ from block to block.

    Blocks stay on the device until :meth:`offload` is called; from then on all of them lie in ``host`` memory
    and at most ``max_cached_blocks`` copies on the device are kept, the least recently used going first.
    Without a ``host`` (CPU) offloading only counts the blocks: they are plain tensors either way.
    """

    def __init__(self, max_cached_blocks: int, host: HostMemory | None = None) -> None:
        self._host = host
        self._max_cached = max_cached_blocks
        self._blocks: list[Tensor] = []
        self._num_bytes = 0
        self._cache: OrderedDict[int, Tensor] = OrderedDict()
        self._offloaded = False
        self._keys: Tensor | None = None

    def __len__(self) -> int:
        return len(self._blocks)

    def append(self, keys: Tensor, values: Tensor) -> None:
        """Add one block from un-rotated ``keys`` and ``values`` [T, Hkv, d]."""
        block = torch.stack((keys.transpose(0, 1), values.transpose(0, 1)))
        self._add_representative(keys.float().mean(dim=0).flatten())
        self._num_bytes += tensor_bytes(block)
        self._blocks.append(self._host.store(block) if self._offloaded and self._host else block)

    def offload(self) -> None:
        """Move all blocks to host memory, and those still to come."""
        if not self._offloaded and self._host:
            self._blocks = [self._host.store(block) for block in self._blocks]
        self._offloaded = True

    @property
    def representatives(self) -> Tensor:
        """Mean un-rotated key of each block [N, Hkv * d], float32, on the device."""
        return self._keys[: len(self)]

    def gather(self, indices: Sequence[int]) -> tuple[Tensor, Tensor]:
        """Keys and values [Hkv, n, d] of the blocks at ``indices``, in that order, on the device."""
        joined = torch.cat([self._on_device(index) for index in indices], dim=2)
        return joined[0], joined[1]

    @property
    def num_offloaded(self) -> int:
        """Blocks in host memory."""
        return len(self) if self._offloaded else 0

    @property
    def host_bytes(self) -> int:
        """Bytes of the offloaded blocks."""
        return self._num_bytes if self._offloaded else 0

    @property
    def device_bytes(self) -> int:
        """Bytes of representative keys, cached blocks and blocks not offloaded yet."""
        blocks = tensor_bytes(*self._cache.values()) if self._offloaded else self._num_bytes
        return blocks + tensor_bytes(self.representatives if len(self) else None)

    def _on_device(self, index: int) -> Tensor:
        if not (self._offloaded and self._host):
            return self._blocks[index]
        block = self._cache.pop(index, None)
        if block is None:
            block = self._host.load(self._blocks[index])
        self._cache[index] = block
        while len(self._cache) > self._max_cached:
            self._cache.popitem(last=False)
        return block

    def _add_representative(self, key: Tensor) -> None:
        used = len(self)
        if self._keys is None or used == self._keys.shape[0]:
            grown = key.new_empty(max(64, 2 * used), key.shape[0])
            if used:
                grown[:used] = self._keys
            self._keys = grown
        self._keys[used] = key
