"""The two halves of ReKV's store: a sliding window in which everything is seen, and the blocks that have left it.

Window: one softmax over a local and a far part. Local: keys at distance below ``n_local``, rotated by their position.
Far: the init tokens once they are out of the window, as if they stood at the far end of it (distance ``n_local - 1``).
Only distances matter to a rotary embedding: local keys are rotated once, at their absolute position.
Blocks: un-rotated keys and values per frame, a representative key for each, on device or host.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from stc_lab.language.attention import BandMask, FadingMask, Part, attend, attend_parts, far_mask, grouped
from stc_lab.language.caches.base import DecoderShape, TokenBuffer, tensor_bytes

SPLIT_ABOVE = 4096
"""Keys in the middle of a window above which they are read without a mask, apart from those at its two ends. The
masked kernel takes a third longer and a mask as large as the window; splitting costs a few small operations."""


@dataclass(frozen=True)
class QueryChunk:
    """What all layers share for the rows ``start .. stop - 1`` of a pass.

    ``num_keys``: length of the local part, the new tokens included. ``local_mask`` [T, num_keys], or, for a long
    window, [T, T] for the new tokens alone; then ``fading_mask`` [T, n] is for the oldest keys, those that leave
    the window while the piece is read. ``num_far``: init tokens in the far part, with their mask [T, num_far].
    """

    start: int
    stop: int
    num_keys: int
    local_mask: Tensor | None
    is_split: bool = False
    fading_mask: Tensor | None = None
    num_far: int = 0
    far_mask: Tensor | None = None

    @property
    def rows(self) -> slice:
        """Rows of the pass."""
        return slice(self.start, self.stop)

    @property
    def num_new(self) -> int:
        """Tokens of the piece."""
        return self.stop - self.start

    @property
    def num_fading(self) -> int:
        """Keys at the old end of the window that some of the queries do not see."""
        return 0 if self.fading_mask is None else self.fading_mask.shape[1]


class ChunkPlanner:
    """Makes the pieces of a pass."""

    def __init__(self, n_local: int, split_above: int = SPLIT_ABOVE) -> None:
        self._n_local = n_local
        self._split_above = split_above
        self._band = BandMask(n_local)
        self._fading = FadingMask()

    def piece(self, offset: int, length: int, position: int, num_init: int, like: Tensor) -> QueryChunk:
        """``length`` tokens at ``position``, the rows from ``offset`` of the pass; each init token is seen once."""
        # 1. What is seen in the window.
        planned = self.local(offset, length, position, like)
        if num_init == 0 or position + length - 1 < self._n_local:
            return planned
        # 2. Init tokens that have left it for some query of the piece: each query sees them once, near or far.
        mask = far_mask(position, length, num_init, self._n_local, like)
        return replace(planned, num_far=num_init, far_mask=mask)

    def local(self, offset: int, length: int, position: int, like: Tensor, num_far: int = 0) -> QueryChunk:
        """The same with the first ``num_far`` init tokens shown to every query, in the window or not."""
        num_keys, rows = min(position + length, self._n_local + length - 1), (offset, offset + length)
        num_fading = max(0, num_keys - self._n_local)
        if length == 1 or num_keys - num_fading - length <= self._split_above:
            return QueryChunk(*rows, num_keys, self._band.corner(length, num_keys, like), num_far=num_far)
        # A long window is read without a mask but for its two ends: what is new, and what leaves meanwhile.
        fading = self._fading.corner(length, num_fading, like) if num_fading else None
        return QueryChunk(*rows, num_keys, self._band.corner(length, length, like), True, fading, num_far)


class SlidingLayer:
    """Window and init tokens of one layer; the newest ``num_spare`` tokens may be dropped again."""

    def __init__(self, shape: DecoderShape, n_local: int, num_spare: int = 0) -> None:
        self._shape = shape
        self._n_local = n_local
        self.keys, self.values = (TokenBuffer(keep=n_local + num_spare) for _ in range(2))
        self.init_keys: Tensor | None = None
        self.init_values: Tensor | None = None
        self._far_keys: Tensor | None = None

    def set_init(self, keys: Tensor, values: Tensor) -> None:
        """The init tokens' un-rotated ``keys`` and ``values`` [n, Hkv, d]."""
        self.init_keys, self.init_values = keys.transpose(0, 1).contiguous(), values.transpose(0, 1).contiguous()
        # A query at distance n_local - 1 from a key at 0: rotating the key back by that much, once, spares
        # rotating every query a second time.
        back = self._shape.rotary.span(1 - self._n_local, 2 - self._n_local, keys)
        self._far_keys = back(keys).transpose(0, 1).contiguous()

    def attend(self, piece: QueryChunk, queries: Tensor, rotated: Tensor, keys: Tensor, values: Tensor) -> Tensor:
        """Append the piece's rotated ``keys`` and ``values``; output [Hkv, G, T, d] of its queries.

        ``queries`` and ``rotated`` [T, Hq, d]: the piece's queries before and after rotation.
        """
        self.keys.append(keys)
        self.values.append(values)
        near = grouped(rotated, self._shape.num_kv_heads)
        # Local part: everything at a distance below n_local from the query, already rotated by its position.
        local_keys, local_values = self.keys.last(piece.num_keys), self.values.last(piece.num_keys)
        if not piece.is_split and piece.num_far == 0:
            return attend(near, local_keys, local_values, piece.local_mask, self._shape.scale)
        # One softmax over up to four sets of keys: the middle of the window, new tokens, fading ones, far init tokens.
        parts = [Part(near, local_keys, local_values, piece.local_mask)]
        if piece.is_split:
            parts = _split(parts[0], piece)
        if piece.num_far:
            far = grouped(queries, self._shape.num_kv_heads)
            init_keys, init_values = self._far_keys[:, : piece.num_far], self.init_values[:, : piece.num_far]
            parts.append(Part(far, init_keys, init_values, piece.far_mask))
        return attend_parts(parts[0], parts[1:], self._shape.scale)

    def append(self, keys: Tensor, values: Tensor) -> None:
        """Rotated ``keys`` and ``values`` [T, Hkv, d] behind the window, without reading it."""
        self.keys.append(keys)
        self.values.append(values)

    def drop_last(self, num_tokens: int) -> None:
        """Forget the newest tokens of the window."""
        self.keys.drop_last(num_tokens)
        self.values.drop_last(num_tokens)

    def pin(self) -> None:
        """From now on keep all that has to survive at this moment, until :meth:`unpin` forgets what was appended."""
        self.keys.pin()
        self.values.pin()

    def unpin(self) -> None:
        """Forget what was appended since :meth:`pin`."""
        self.keys.unpin()
        self.values.unpin()

    @property
    def num_bytes(self) -> int:
        """Bytes of what is remembered: window and init tokens."""
        window = [buffer.last(self._n_local) for buffer in (self.keys, self.values) if len(buffer)]
        return tensor_bytes(*window, self.init_keys, self.init_values, self._far_keys)

    @property
    def reserved_bytes(self) -> int:
        """Bytes allocated for the window, used or not."""
        return self.keys.reserved_bytes + self.values.reserved_bytes


def _split(local: Part, piece: QueryChunk) -> list[Part]:
    """The middle of the window, which every query sees, then the new tokens, then the keys that leave it."""
    first, last = piece.num_fading, piece.num_keys - piece.num_new
    spans = [(first, last, None), (last, piece.num_keys, piece.local_mask), (0, first, piece.fading_mask)]
    return [
        Part(local.queries, local.keys[:, start:stop], local.values[:, start:stop], mask)
        for start, stop, mask in spans
        if stop > start
    ]


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
        # Section 3.2 of ReKV: a block keeps un-rotated states, and is found by the mean of its keys.
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
        # The least recently used copies on the device go first.
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
        # The copy begins when the block is computed; the allocator may reuse the block once it is copied.
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
            # A new slab; what is left of the old one stays unused.
            elements = max(size, SLAB_BYTES // like.element_size())
            self._slab = torch.empty(elements, dtype=like.dtype, device="cpu", pin_memory=self._is_cuda)
            self._used = 0
        part = self._slab[self._used : self._used + size]
        self._used += size
        return part.view(like.shape)
