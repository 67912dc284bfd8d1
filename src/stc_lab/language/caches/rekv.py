"""ReKV's store of a stream (arXiv:2503.00540): sliding window, init tokens, and blocks to retrieve from."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from stc_lab.language.attention import Rotation, ungrouped
from stc_lab.language.caches.base import DecoderShape, Placed, Step
from stc_lab.language.caches.retrieval import ReKVSettings, RetrievalSource, RetrievedStore, checked_indices
from stc_lab.language.caches.windowed import BlockPool, ChunkPlanner, HostMemory, QueryChunk, SlidingLayer


@dataclass
class _Layer:
    sliding: SlidingLayer
    pool: BlockPool


@dataclass
class _Pass:
    """What the layers of one pass share."""

    step: Step
    start: int
    start_position: float
    is_init: bool
    chunks: list[QueryChunk]
    rotation: Rotation | None = None


@dataclass(frozen=True)
class ReKVMark:
    """A point to which the store can be taken back."""

    num_tokens: int
    num_blocks: int
    next_position: float


class ReKVStore:
    """Key-value store of a stream. The first pass is the init prompt; every piece after it is one block.

    Frames may have different numbers of tokens, and several may come in one pass: the result is that of one pass each.
    Windows count tokens from the start of the stream. Where tokens stand is counted alike, or follows from the places
    of each piece (see :class:`Step`); either way nothing is ever rotated again.
    """

    def __init__(self, shape: DecoderShape, settings: ReKVSettings, device: torch.device) -> None:
        self.settings = settings
        self._shape = shape
        offload = device.type == "cuda" if settings.offload is None else settings.offload
        host = HostMemory(device) if offload else None
        self.layers = [
            _Layer(SlidingLayer(shape, settings.n_local), BlockPool(settings.max_cached_blocks, host))
            for _ in range(shape.num_layers)
        ]
        self._planner = ChunkPlanner(settings.n_local)
        self._pass: _Pass | None = None
        self._places: list[Placed | None] = []
        self._next_position = 0.0
        self._is_marked = False
        self.num_tokens = 0
        self.num_init = 0

    @property
    def num_context(self) -> int:
        """Tokens that stand before the next one, whether it sees them or not."""
        return self.num_tokens

    @property
    def num_blocks(self) -> int:
        """Blocks (frames) remembered so far."""
        return len(self.layers[-1].pool)

    @property
    def has_overflowed(self) -> bool:
        """Whether the init tokens have left the window, from when on blocks are offloaded."""
        return self.num_tokens - self.settings.n_local >= self.num_init > 0

    def begin(self, step: Step) -> None:
        """Start a pass; raises ``ValueError`` for explicit positions, which this store counts itself."""
        if step.positions is not None:
            raise ValueError("positions cannot be given: this memory counts them from the start of the stream")
        is_init = self.num_tokens == 0
        if is_init and len(step.lengths) > 1:
            raise ValueError(f"lengths={step.lengths}: the first pass is the init prompt, in one piece")
        self._pass = _Pass(step, self.num_tokens, self._next_position, is_init, [])
        self.num_tokens += step.num_tokens
        self.num_init = self.num_init or step.num_tokens
        places = step.places or [None] * len(step.lengths)
        for length, placed in zip(step.lengths, places, strict=True):
            self._next_position += length if placed is None else placed.extent
            if not is_init:
                self._places.append(placed)

    def attend(self, layer: int, queries: Tensor, keys: Tensor, values: Tensor) -> Tensor:
        state, current = self.layers[layer], self._pass
        # 1. Once per pass: rotations, and who sees what.
        if current.rotation is None:
            self._plan(queries)
        if current.is_init:
            state.sliding.set_init(keys, values)
        # 2. Piece by piece (a frame each): attention within the window, then into the pool.
        rotated, rotated_keys = current.rotation(queries), current.rotation(keys)
        outputs = []
        for chunk in current.chunks:
            rows = chunk.rows
            outputs.append(state.sliding.attend(chunk, queries[rows], rotated[rows], rotated_keys[rows], values[rows]))
            if not current.is_init:
                # Section 3.1: the un-rotated keys and values of a frame are what questions will retrieve.
                state.pool.append(keys[rows], values[rows])
        # 3. The window is full: from now on blocks live in host memory.
        if self.has_overflowed and not self._is_marked:
            state.pool.offload()
        return ungrouped(outputs[0] if len(outputs) == 1 else torch.cat(outputs, dim=2))

    def retrieve(self, indices: Sequence[int] | None = None) -> RetrievedStore:
        """A store for one question, to be filled by the question pass; this one is only read.

        ``indices``: take these blocks in every layer instead of the best ones. Raises ``ValueError`` when one
        does not exist, or before the init prompt.
        """
        if self.num_init == 0:
            raise ValueError("nothing to retrieve from: the init prompt comes first")
        chosen = None if indices is None else checked_indices(indices, self.num_blocks)
        sources = [
            RetrievalSource(layer.sliding.init_keys, layer.sliding.init_values, layer.pool) for layer in self.layers
        ]
        return RetrievedStore(self._shape, self.settings, sources, tuple(self._places), chosen)

    def mark(self) -> ReKVMark:
        """The present point. Until :meth:`rewind` all that later passes need is kept, and nothing leaves the device."""
        self._is_marked = True
        for layer in self.layers:
            layer.sliding.pin()
        return ReKVMark(self.num_tokens, self.num_blocks, self._next_position)

    def rewind(self, mark: ReKVMark) -> None:
        """Forget the blocks that were appended since ``mark``."""
        num_blocks = self.num_blocks - mark.num_blocks
        for layer in self.layers:
            layer.sliding.unpin()
            layer.pool.drop_last(num_blocks)
        del self._places[mark.num_blocks :]
        self.num_tokens, self._next_position = mark.num_tokens, mark.next_position
        self._is_marked = False

    @property
    def device_bytes(self) -> int:
        """Bytes of keys and values on the device (window, init, representatives, blocks not offloaded)."""
        return sum(layer.sliding.num_bytes + layer.pool.device_bytes for layer in self.layers)

    @property
    def host_bytes(self) -> int:
        """Bytes of offloaded blocks."""
        return sum(layer.pool.host_bytes for layer in self.layers)

    @property
    def reserved_bytes(self) -> int:
        """Bytes allocated for the windows, used or not."""
        return sum(layer.sliding.reserved_bytes for layer in self.layers)

    def _plan(self, like: Tensor) -> None:
        """Rotations of all new tokens, and which keys each piece sees; made in the first layer."""
        current, step, offset = self._pass, self._pass.step, 0
        if step.places is None:
            start = int(current.start_position)
            current.rotation = self._shape.rotary.span(start, start + step.num_tokens, like)
        else:
            positions = placed_positions(step.places, current.start_position)
            current.rotation = self._shape.rotary(positions.to(like.device), like.dtype)
        for length in step.lengths:
            current.chunks.append(self._chunk(offset, length, current.start + offset, like))
            offset += length

    def _chunk(self, offset: int, length: int, position: int, like: Tensor) -> QueryChunk:
        if not self.settings.upstream_quirks:
            return self._planner.piece(offset, length, position, self.num_init, like)
        # As released: init tokens that leave the window are shown as far ones, and once more within it.
        num_moved = min(self.num_init, max(0, position + length - self.settings.n_local))
        return self._planner.local(offset, length, position, like, num_moved)


def placed_positions(places: Sequence[Placed], start: float) -> Tensor:
    """Positions [T] or [3, T] of pieces that stand one after the other from ``start`` on."""
    parts = []
    for placed in places:
        parts.append(placed.offsets + start)
        start += placed.extent
    return torch.cat(parts, dim=-1)
