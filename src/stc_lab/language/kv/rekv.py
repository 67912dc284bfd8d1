"""ReKV's memory of a stream (arXiv:2503.00540): sliding window, init tokens, and blocks to retrieve from."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from stc_lab.language.attention import ungrouped
from stc_lab.language.kv.base import DecoderShape, Step
from stc_lab.language.kv.blocks import BlockPool
from stc_lab.language.kv.host import HostMemory
from stc_lab.language.kv.retrieval import checked_indices
from stc_lab.language.kv.retrieved import RetrievalSource, RetrievedStore
from stc_lab.language.kv.settings import ReKVSettings
from stc_lab.language.kv.sliding import Piece, PiecePlanner, SlidingLayer
from stc_lab.language.rotary import Rotation


@dataclass
class _Layer:
    sliding: SlidingLayer
    pool: BlockPool


@dataclass
class _Pass:
    """What the layers of one pass share."""

    lengths: tuple[int, ...]
    start: int
    is_init: bool
    pieces: list[Piece]
    rotation: Rotation | None = None


class ReKVMemory:
    """Key-value store of a stream. The first pass is the init prompt; every piece after it is one block.

    Frames may have different numbers of tokens, and several may come in one pass: the result is that of one
    pass each. All tokens are counted from the start of the stream, so an endless stream needs no re-rotation.
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
        self._planner = PiecePlanner(settings.n_local)
        self._pass: _Pass | None = None
        self.num_tokens = 0
        self.num_init = 0

    @property
    def num_blocks(self) -> int:
        """Blocks (frames) remembered so far."""
        return len(self.layers[-1].pool)

    @property
    def has_overflowed(self) -> bool:
        """Whether the init tokens have left the window, from when on blocks are offloaded."""
        return self.num_tokens - self.settings.n_local >= self.num_init > 0

    def begin(self, step: Step) -> None:
        """Start a pass; raises ``ValueError`` for explicit positions, which this memory counts itself."""
        if step.positions is not None:
            raise ValueError("positions cannot be given: this memory counts them from the start of the stream")
        is_init = self.num_tokens == 0
        if is_init and len(step.lengths) > 1:
            raise ValueError(f"lengths={step.lengths}: the first pass is the init prompt, in one piece")
        self._pass = _Pass(step.lengths, self.num_tokens, is_init, [])
        self.num_tokens += step.num_tokens
        self.num_init = self.num_init or step.num_tokens

    def attend(self, layer: int, queries: Tensor, keys: Tensor, values: Tensor) -> Tensor:
        """See :class:`stc_lab.language.kv.base.KVStore`."""
        state, current = self.layers[layer], self._pass
        if current.rotation is None:
            self._plan(queries)
        if current.is_init:
            state.sliding.set_init(keys, values)
        rotated, rotated_keys = current.rotation(queries), current.rotation(keys)
        outputs = []
        for piece in current.pieces:
            rows = piece.rows
            outputs.append(state.sliding.attend(piece, queries[rows], rotated[rows], rotated_keys[rows], values[rows]))
            if not current.is_init:
                state.pool.append(keys[rows], values[rows])
        if self.has_overflowed:
            state.pool.offload()
        return ungrouped(outputs[0] if len(outputs) == 1 else torch.cat(outputs, dim=2))

    def retrieve(self, indices: Sequence[int] | None = None) -> RetrievedStore:
        """A store for one question, to be filled by the question pass; this memory is only read.

        ``indices``: take these blocks in every layer instead of the best ones. Raises ``ValueError`` when one
        does not exist, or before the init prompt.
        """
        if self.num_init == 0:
            raise ValueError("nothing to retrieve from: the init prompt comes first")
        chosen = None if indices is None else checked_indices(indices, self.num_blocks)
        sources = [
            RetrievalSource(layer.sliding.init_keys, layer.sliding.init_values, layer.pool) for layer in self.layers
        ]
        return RetrievedStore(self._shape, self.settings, sources, chosen)

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
        return sum(layer.sliding.window.reserved_bytes for layer in self.layers)

    def _plan(self, like: Tensor) -> None:
        current, offset = self._pass, 0
        current.rotation = self._shape.rotary.span(current.start, self.num_tokens, like)
        for length in current.lengths:
            current.pieces.append(self._piece(offset, length, current.start + offset, like))
            offset += length

    def _piece(self, offset: int, length: int, position: int, like: Tensor) -> Piece:
        if not self.settings.upstream_quirks:
            return self._planner.piece(offset, length, position, self.num_init, like)
        num_moved = min(self.num_init, max(0, position + length - self.settings.n_local))
        return self._planner.local(offset, length, position, like, num_moved)
