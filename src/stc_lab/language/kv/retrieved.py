"""The memory of one question: init tokens and retrieved blocks at contiguous positions, then prompt and answer."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from stc_lab.language.attention import ungrouped
from stc_lab.language.kv.base import DecoderShape, Step
from stc_lab.language.kv.blocks import BlockPool
from stc_lab.language.kv.retrieval import block_scores, top_blocks
from stc_lab.language.kv.settings import ReKVSettings
from stc_lab.language.kv.sliding import Piece, PiecePlanner, SlidingLayer
from stc_lab.language.rotary import RotationTable


@dataclass(frozen=True)
class RetrievalSource:
    """What a question reads of one layer of a stream's memory."""

    init_keys: Tensor
    init_values: Tensor
    pool: BlockPool


class RetrievedStore:
    """Filled layer by layer by the first pass, the question: each layer retrieves for itself.

    Call :meth:`drop_question` after that pass: the answer is decoded from the prompt on the retrieved context
    only. Long answers slide: the init tokens and the last ``n_local`` tokens stay visible.
    """

    def __init__(
        self,
        shape: DecoderShape,
        settings: ReKVSettings,
        sources: Sequence[RetrievalSource],
        indices: Sequence[int] | None = None,
    ) -> None:
        self._shape = shape
        self._settings = settings
        self._sources = sources
        self._given = indices
        self._layers: list[SlidingLayer] = []
        self._positions: list[int] = []
        self._planner = PiecePlanner(settings.n_local)
        self._table = RotationTable(shape.rotary)
        self._pieces: dict[int, Piece] = {}
        self._num_question = 0
        self.block_indices: list[list[int]] = []
        self.scores: list[Tensor | None] = []

    def begin(self, step: Step) -> None:
        """Start a pass; raises ``ValueError`` for explicit positions or several pieces."""
        if step.positions is not None or len(step.lengths) > 1:
            raise ValueError("a question or an answer comes in one piece, at positions that follow the context")
        self._pieces = {}

    def attend(self, layer: int, queries: Tensor, keys: Tensor, values: Tensor) -> Tensor:
        """See :class:`stc_lab.language.kv.base.KVStore`."""
        if layer == len(self._layers):
            self._retrieve(layer, queries)
            self._num_question = queries.shape[0]
        start, length = self._positions[layer], queries.shape[0]
        self._positions[layer] += length
        rotation = self._table.span(start, start + length, queries)
        piece = self._pieces.get(start)
        if piece is None:
            num_init = self._sources[layer].init_keys.shape[1]
            piece = self._pieces[start] = self._planner.piece(0, length, start, num_init, queries)
        return ungrouped(self._layers[layer].attend(piece, queries, rotation(queries), rotation(keys), values))

    def drop_question(self) -> None:
        """Forget the tokens of the question pass."""
        for layer, state in enumerate(self._layers):
            state.window.drop_last(self._num_question)
            self._positions[layer] -= self._num_question

    @property
    def context_lengths(self) -> list[int]:
        """Tokens that stand before the next one, per layer: init, retrieved blocks, prompt and answer so far."""
        return list(self._positions)

    @property
    def kept_lengths(self) -> list[int]:
        """Those of them that the next token can see: all, or init and the last ``n_local``."""
        limits = [source.init_keys.shape[1] + self._settings.n_local for source in self._sources]
        return [min(position, limit) for position, limit in zip(self._positions, limits, strict=True)]

    def _retrieve(self, layer: int, queries: Tensor) -> None:
        source = self._sources[layer]
        indices, scores = self._choose(source.pool, queries)
        self.block_indices.append(indices)
        self.scores.append(scores)
        keys, values = source.init_keys, source.init_values
        if indices:
            blocks = source.pool.gather(indices)
            keys, values = torch.cat((keys, blocks[0]), dim=1), torch.cat((values, blocks[1]), dim=1)
        state = SlidingLayer(self._shape, self._settings.n_local, num_spare=queries.shape[0])
        state.set_init(source.init_keys.transpose(0, 1), source.init_values.transpose(0, 1))
        rotation = self._table.span(0, keys.shape[1], keys)
        state.window.append(rotation(keys.transpose(0, 1)), values.transpose(0, 1))
        self._layers.append(state)
        self._positions.append(keys.shape[1])

    def _choose(self, pool: BlockPool, queries: Tensor) -> tuple[list[int], Tensor | None]:
        """Indices of the blocks to read and, where they were compared, the scores [N] of all blocks."""
        if self._given is not None:
            return list(self._given), None
        if len(pool) <= self._settings.topk:
            return list(range(len(pool))), None
        scores = block_scores(queries, pool.representatives)
        return top_blocks(scores, self._settings.topk, self._settings.chunk_size), scores
