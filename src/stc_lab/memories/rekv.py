"""``memory=rekv``: every frame a block of keys and values, retrieved per question and layer (arXiv:2503.00540)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import torch

from stc_lab.cachers.base import Cacher
from stc_lab.language.caches.base import Placed
from stc_lab.language.caches.rekv import ReKVSettings, ReKVStore
from stc_lab.language.caches.retrieval import RetrievedStore
from stc_lab.language.context import Context
from stc_lab.language.sequence import Segment, Text
from stc_lab.measure import StageTimer
from stc_lab.measure.flops import decoder_flops
from stc_lab.memories.base import (
    Memory,
    MemoryState,
    Model,
    ModelFacts,
    PruneOnRead,
    Query,
    Reading,
    require_at_least_one,
)
from stc_lab.memories.recent import num_to_prune
from stc_lab.pruners.base import Pruner
from stc_lab.types import VisualTokens

OFFICIAL = {"n_local": 15000, "topk": 64}


@dataclass(frozen=True, kw_only=True)
class ReKV(Memory):
    """Sizes of the memory. ``None``: what the checkpoint suggests, else the official value.

    ``n_local``: tokens of the sliding window; ``topk``: blocks retrieved per layer; ``retrieval_chunk_size``: blocks
    scored together; ``max_cached_blocks``: retrieved blocks kept on a GPU per layer; ``offload``: move blocks to host
    memory once the window has overflowed (``None``: where the device is a GPU). ``upstream_quirks``: as the released
    code, init tokens are seen twice while they leave the window.
    """

    name: str = "rekv"
    n_local: int | None = None
    topk: int | None = None
    retrieval_chunk_size: int = 1
    max_cached_blocks: int = 128
    offload: bool | None = None
    upstream_quirks: bool = False

    needs: ClassVar[frozenset[str]] = frozenset({"kv"})

    def __post_init__(self) -> None:
        require_at_least_one("memory", self, ("n_local", "topk", "retrieval_chunk_size"))
        if self.max_cached_blocks < 0:
            raise ValueError(f"memory.max_cached_blocks={self.max_cached_blocks}: must be 0 (no cache) or more")

    def sizes(self, facts: ModelFacts) -> ReKVSettings:
        """Sizes for a checkpoint. Raises ``ValueError`` when a retrieved chunk is larger than ``topk``."""
        chosen = OFFICIAL | dict(facts.suggested.get("rekv", {}))
        n_local, topk = self.n_local or chosen["n_local"], self.topk or chosen["topk"]
        if self.retrieval_chunk_size > topk:
            raise ValueError(
                f"memory.retrieval_chunk_size={self.retrieval_chunk_size}: must be at most memory.topk={topk}"
            )
        return ReKVSettings(
            n_local=n_local,
            topk=topk,
            chunk_size=self.retrieval_chunk_size,
            max_cached_blocks=self.max_cached_blocks,
            offload=self.offload,
            upstream_quirks=self.upstream_quirks,
        )

    def check(self, facts: ModelFacts, cacher: Cacher, pruner: Pruner) -> None:
        super().check(facts, cacher, pruner)
        sizes, per_block = self.sizes(facts), pruner.max_kept(num_to_prune(facts, cacher))
        retrieved = sizes.topk * per_block
        if retrieved > sizes.n_local:  # they must fit the window in which a question is answered
            most = sizes.n_local // per_block
            fix = f"lower topk to at most {most}" if most else f"raise n_local to at least {per_block}"
            raise ValueError(
                f"memory.topk={sizes.topk}: {sizes.topk} blocks of {per_block} tokens are {retrieved} tokens, "
                f"more than memory.n_local={sizes.n_local}; {fix}, or lower pruner.budget"
            )

    def open(self, model: Model, timer: StageTimer) -> ReKVState:
        return ReKVState(self.sizes(model.facts), model, timer)


class ReKVState(MemoryState):
    """Frames go into the memory one block each; a question retrieves blocks by its raw text, per layer."""

    def __init__(self, sizes: ReKVSettings, model: Model, timer: StageTimer) -> None:
        self._model, self._timer = model, timer
        self.store = ReKVStore(model.decoder.shape, sizes, model.device)
        # Section 3.1: the system prompt stays visible, whatever leaves the window.
        self._run([model.layout.opening()], self.store)

    def remember(self, frames: Sequence[VisualTokens]) -> list[int]:
        flops, position = [], self.store.num_tokens
        for frame in frames:
            flops.append(self._prefill_flops(frame.num_tokens, position))
            position += frame.num_tokens
        # Section 3.1: sliding-window attention over the stream; the keys and values of each frame become a block.
        self._run([self._model.layout.frames([frame]) for frame in frames if frame.num_tokens], self.store)
        return flops

    def read(self, query: Query, waiting: Sequence[VisualTokens], prune: PruneOnRead) -> Reading:
        mark, flops = self.store.mark() if waiting else None, {}
        if waiting:
            with self._timer.stage("prefill"):
                flops["prefill"] = sum(self.remember(waiting))
        view = self.store.retrieve()
        with self._timer.stage("retrieve"):
            # Section 3.2, internal retrieval: the question alone passes the layers, each scores its own blocks by the
            # mean query, and reads the best ones from there on.
            context = Context(self._model, view, counts_on=True)
            num_question = len(context.extend([Text(query.text)]))
            view.drop_question()
        flops["retrieve"] = self._retrieve_flops(view, num_question)
        details = self._details(view, num_question)
        if mark is not None:
            self.store.rewind(mark)
        context = Context(self._model, view, counts_on=True)
        return Reading(context, self._model.layout.closing(), view.visual_lengths, flops=flops, details=details)

    def stats(self) -> dict[str, int]:
        """``num_tokens``: visual tokens remembered; ``num_blocks``: frames they came from; ``num_offloaded_blocks``:
        those that left the device; ``kv_bytes_device``: windows, init tokens, representative keys, blocks still on the
        device; ``kv_bytes_host``: offloaded blocks (on a CPU these are counted, but not moved); ``kv_bytes_reserved``:
        memory taken for the windows, used or not."""
        store = self.store
        return {
            "num_tokens": store.num_tokens - store.num_init,
            "num_blocks": store.num_blocks,
            "num_offloaded_blocks": store.layers[0].pool.num_offloaded,
            "kv_bytes_device": store.device_bytes,
            "kv_bytes_host": store.host_bytes,
            "kv_bytes_reserved": store.reserved_bytes,
        }

    def close(self) -> None:
        self.store = None

    def _run(self, pieces: Sequence[list[Segment]], store: ReKVStore) -> None:
        """Pieces in one pass; each is a block, after the first."""
        if not pieces:
            return
        parts = [self._model.sequence(piece) for piece in pieces]
        offsets = [0, *torch.tensor([len(part) for part in parts]).cumsum(0).tolist()]
        visual = torch.cat([part.visual + start for part, start in zip(parts, offsets, strict=False)])
        extras = [part.per_layer for part in parts if part.per_layer is not None]
        places = None
        if parts[0].positions is not None:
            places = tuple(Placed(part.positions, part.cursor.position) for part in parts)
        self._model.decoder(
            torch.cat([part.embeds for part in parts]),
            store,
            lengths=[len(part) for part in parts],
            places=places,
            per_layer=torch.cat(extras, dim=1) if extras else None,
            visual=visual,
        )

    def _details(self, view: RetrievedStore, num_question: int) -> dict[str, Any]:
        blocks = view.block_indices
        is_chosen = any(scores is not None for scores in view.scores)
        return {
            "num_question_tokens": num_question,
            "num_blocks": self.store.num_blocks,
            "num_retrieved": max(map(len, blocks)),
            "retrieved_blocks": blocks if is_chosen else "all",
        }

    def _prefill_flops(self, num_tokens: int, position: int) -> int:
        """One frame at ``position``: it sees what came before, later the window and the init tokens."""
        n_local, num_init = self.store.settings.n_local, self.store.num_init
        context = position
        if position + num_tokens > n_local:
            context = max(0, n_local + num_init - (num_tokens + 1) // 2)
        return decoder_flops(self._model.decoder.sizes, num_tokens, context)

    def _retrieve_flops(self, view: RetrievedStore, num_question: int) -> int:
        """Reading the question, and scoring every block in every layer."""
        sizes, shape = self._model.decoder.sizes, self._model.decoder.shape
        scoring = 2 * self.store.num_blocks * shape.num_layers * shape.num_kv_heads * shape.head_dim
        return decoder_flops(sizes, num_question, view.num_context) + scoring
