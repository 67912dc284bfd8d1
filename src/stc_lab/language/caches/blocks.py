"""The blocks of one layer: un-rotated keys and values per frame, a representative key for each, on device or host."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Sequence

import torch
from torch import Tensor

from stc_lab.language.caches.base import tensor_bytes

SLAB_BYTES = 64 * 2**20


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

    def drop_last(self, num_blocks: int) -> None:
        """Forget the newest ``num_blocks`` blocks."""
        for _ in range(num_blocks):
            self._num_bytes -= tensor_bytes(self._blocks.pop())
            self._cache.pop(len(self._blocks), None)

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


class HostMemory:
    """Stores device tensors on the host and brings them back.

    Pinned memory is taken in slabs, because pinning each block costs more than copying it. Both directions run
    on one side stream, so a load never overtakes the store of the same block; the current stream waits for
    loads only, and computing goes on during stores.
    """

    def __init__(self, device: torch.device) -> None:
        self._device = device
        self._is_cuda = device.type == "cuda"
        self._stream = torch.cuda.Stream(device) if self._is_cuda else None
        self._slab: Tensor | None = None
        self._used = 0

    def store(self, block: Tensor) -> Tensor:
        """Host copy of a contiguous device tensor; on CUDA it is complete when the side stream has caught up."""
        target = self._take(block)
        if self._stream is None:
            return target.copy_(block)
        self._stream.wait_stream(torch.cuda.current_stream(self._device))
        with torch.cuda.stream(self._stream):
            target.copy_(block, non_blocking=True)
        block.record_stream(self._stream)
        return target

    def load(self, block: Tensor) -> Tensor:
        """Device copy of a tensor made by :meth:`store`, usable in the current stream."""
        if self._stream is None:
            return block.to(self._device, copy=True)
        current = torch.cuda.current_stream(self._device)
        target = torch.empty(block.shape, dtype=block.dtype, device=self._device)
        self._stream.wait_stream(current)
        with torch.cuda.stream(self._stream):
            target.copy_(block, non_blocking=True)
        target.record_stream(self._stream)
        current.wait_stream(self._stream)
        return target

    def _take(self, like: Tensor) -> Tensor:
        """An unused part of a slab with the shape and dtype of ``like``."""
        size = like.numel()
        if self._slab is None or self._slab.dtype != like.dtype or self._used + size > self._slab.numel():
            elements = max(size, SLAB_BYTES // like.element_size())
            self._slab = torch.empty(elements, dtype=like.dtype, device="cpu", pin_memory=self._is_cuda)
            self._used = 0
        part = self._slab[self._used : self._used + size]
        self._used += size
        return part.view(like.shape)
