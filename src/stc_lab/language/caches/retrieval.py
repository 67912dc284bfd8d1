"""The memory of one question: which blocks it needs in each layer, read at contiguous positions, then the answer."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from stc_lab.language.attention import Rotation, RotationTable, ungrouped
from stc_lab.language.caches.base import DecoderShape, Placed, Step
from stc_lab.language.caches.windowed import BlockPool, ChunkPlanner, QueryChunk, SlidingLayer


@dataclass(frozen=True)
class ReKVSettings:
    """Sizes of the memory.

    ``n_local``: tokens of the sliding window; ``topk``: blocks retrieved per layer; ``chunk_size``: blocks
    scored together; ``max_cached_blocks``: retrieved blocks kept on a GPU per layer; ``offload``: move blocks
    to host memory once the window has overflowed (``None``: where the device is a GPU). ``upstream_quirks``:
    as the released code, init tokens leave the window's bookkeeping piecemeal while it overflows and are then
    seen twice by queries that still have them in their window; otherwise every token is seen once.
    """

    n_local: int = 15000
    topk: int = 64
    chunk_size: int = 1
    max_cached_blocks: int = 128
    offload: bool | None = None
    upstream_quirks: bool = False


@dataclass(frozen=True)
class RetrievalSource:
    """What a question reads of one layer of a stream's memory."""

    init_keys: Tensor
    init_values: Tensor
    pool: BlockPool


class RetrievedStore:
    """Filled layer by layer by the first pass, the question: each layer retrieves for itself.

    Call :meth:`drop_question` after that pass: the answer is decoded from the prompt on the retrieved context
    only. Long answers slide: the init tokens and the last ``n_local`` tokens stay visible. ``places``: where the
    tokens of each block stand in it (``None``: side by side).
    """

    def __init__(
        self,
        shape: DecoderShape,
        settings: ReKVSettings,
        sources: Sequence[RetrievalSource],
        places: Sequence[Placed | None],
        indices: Sequence[int] | None = None,
    ) -> None:
        self._shape = shape
        self._settings = settings
        self._sources = sources
        self._places = places
        self._given = indices
        self._layers: list[SlidingLayer] = []
        self._lengths: list[int] = []
        self._next_positions: list[float] = []
        self._planner = ChunkPlanner(settings.n_local)
        self._table = RotationTable(shape.rotary)
        self._chunks: dict[int, QueryChunk] = {}
        self._num_question = 0
        self.block_indices: list[list[int]] = []
        self.visual_lengths: list[int] = []
        self.scores: list[Tensor | None] = []

    def begin(self, step: Step) -> None:
        """Start a pass; raises ``ValueError`` for explicit positions or several pieces."""
        if step.positions is not None or step.places is not None or len(step.lengths) > 1:
            raise ValueError("a question or an answer comes in one piece, at positions that follow the context")
        self._chunks = {}

    def attend(self, layer: int, queries: Tensor, keys: Tensor, values: Tensor) -> Tensor:
        if layer == len(self._layers):
            self._retrieve(layer, queries)
            self._num_question = queries.shape[0]
        start, length, position = self._lengths[layer], queries.shape[0], self._next_positions[layer]
        self._lengths[layer] += length
        self._next_positions[layer] += length
        rotation = self._rotation(position, length, queries)
        chunk = self._chunks.get(start)
        if chunk is None:
            num_init = self._sources[layer].init_keys.shape[1]
            chunk = self._chunks[start] = self._planner.piece(0, length, start, num_init, queries)
        return ungrouped(self._layers[layer].attend(chunk, queries, rotation(queries), rotation(keys), values))

    def drop_question(self) -> None:
        """Forget the tokens of the question pass."""
        for layer, state in enumerate(self._layers):
            state.drop_last(self._num_question)
            self._lengths[layer] -= self._num_question
            self._next_positions[layer] -= self._num_question

    @property
    def context_lengths(self) -> list[int]:
        """Tokens that stand before the next one, per layer: init, retrieved blocks, prompt and answer so far."""
        return list(self._lengths)

    @property
    def num_context(self) -> int:
        """The same on average over layers; 0 before the first pass, when nothing was retrieved yet."""
        return sum(self._lengths) // len(self._lengths) if self._lengths else 0

    def _retrieve(self, layer: int, queries: Tensor) -> None:
        """Section 3.2: choose blocks of this layer, and put them behind the init tokens, at positions without gaps."""
        source = self._sources[layer]
        # 1. The blocks that the mean question query scores best, in the order of the stream.
        indices, scores = self._choose(source.pool, queries)
        self.block_indices.append(indices)
        self.scores.append(scores)
        # 2. Init tokens and chosen blocks side by side.
        keys, values = source.init_keys, source.init_values
        if indices:
            blocks = source.pool.gather(indices)
            keys, values = torch.cat((keys, blocks[0]), dim=1), torch.cat((values, blocks[1]), dim=1)
        num_init, num_tokens = source.init_keys.shape[1], keys.shape[1]
        # 3. They become the window in which question and answer are read.
        state = SlidingLayer(self._shape, self._settings.n_local, num_spare=queries.shape[0])
        state.set_init(source.init_keys.transpose(0, 1), source.init_values.transpose(0, 1))
        rotation, after = self._context_rotation(num_init, num_tokens, indices, keys)
        state.append(rotation(keys.transpose(0, 1)), values.transpose(0, 1))
        self._layers.append(state)
        self._lengths.append(num_tokens)
        self._next_positions.append(after)
        self.visual_lengths.append(num_tokens - num_init)

    def _context_rotation(
        self, num_init: int, num_tokens: int, indices: Sequence[int], like: Tensor
    ) -> tuple[Rotation, float]:
        """Rotation of init tokens and chosen blocks, and where the question starts."""
        places = [self._places[index] for index in indices]
        if all(placed is None for placed in places):
            return self._table.span(0, num_tokens, like), float(num_tokens)
        start = float(num_init)
        first = torch.arange(num_init, dtype=torch.double)
        parts = [first if places[0].offsets.dim() == 1 else first.expand(places[0].offsets.shape[0], -1)]
        for placed in places:
            parts.append(placed.offsets.double() + start)
            start += placed.extent
        positions = torch.cat(parts, dim=-1).to(like.device)
        return self._shape.rotary(positions, like.dtype), start

    def _rotation(self, position: float, length: int, like: Tensor) -> Rotation:
        """Of text from ``position`` on, which counts up alike on all axes."""
        if position == int(position):
            return self._table.span(int(position), int(position) + length, like)
        return self._shape.rotary(torch.arange(length, device=like.device) + position, like.dtype)

    def _choose(self, pool: BlockPool, queries: Tensor) -> tuple[list[int], Tensor | None]:
        """Indices of the blocks to read and, where they were compared, the scores [N] of all blocks."""
        if self._given is not None:
            return list(self._given), None
        if len(pool) <= self._settings.topk:
            return list(range(len(pool))), None
        scores = block_scores(queries, pool.representatives)
        return top_blocks(scores, self._settings.topk, self._settings.chunk_size), scores


def block_scores(queries: Tensor, representatives: Tensor) -> Tensor:
    """Plain dot product of the mean question query with each block's key -> [N], float32.

    ``queries`` [T, Hq, d], un-rotated; ``representatives`` [N, Hkv * d]. Query heads that share a key head are
    summed first, which equals repeating the keys. Neither normalised nor scaled (ReKV, upstream).
    """
    mean = queries.float().mean(dim=0)
    num_groups = queries.shape[1] * queries.shape[2] // representatives.shape[1]
    return representatives @ mean.view(-1, num_groups, mean.shape[-1]).sum(dim=1).flatten()


def top_blocks(scores: Tensor, topk: int, chunk_size: int) -> list[int]:
    """Indices, ascending, of the blocks of the ``topk // chunk_size`` best chunks; all if there are at most ``topk``.

    A chunk is ``chunk_size`` consecutive blocks with their mean score; the last one may be short. Of equal
    chunks the earlier wins.
    """
    num_blocks = scores.shape[0]
    if num_blocks <= topk:
        return list(range(num_blocks))
    # Neighbouring blocks are scored together and stay together.
    chunk_scores = torch.stack([chunk.mean() for chunk in scores.split(chunk_size)]) if chunk_size > 1 else scores
    best = chunk_scores.argsort(descending=True, stable=True)[: topk // chunk_size]
    # Read in the order of the stream, not of the scores.
    chunks = sorted(best.tolist())
    return [i for c in chunks for i in range(c * chunk_size, min((c + 1) * chunk_size, num_blocks))]


def checked_indices(indices: Sequence[int], num_blocks: int) -> list[int]:
    """Block indices given from outside, ascending and without repeats; ``ValueError`` for one out of range."""
    wrong = [i for i in indices if not 0 <= i < num_blocks]
    if wrong:
        raise ValueError(f"block indices {wrong} are out of range: there are {num_blocks} blocks")
    return sorted(set(indices))
