"""Blocks in host memory: pinned and copied on a side stream where the device is a GPU."""

from __future__ import annotations

import torch
from torch import Tensor

SLAB_BYTES = 64 * 2**20


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
