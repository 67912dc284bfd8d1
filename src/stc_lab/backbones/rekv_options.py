"""Settings of ``backbone=rekv``, checked without loading anything."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from stc_lab.backbones.checkpoints import Checkpoint
from stc_lab.backbones.llava_options import LlavaOptions
from stc_lab.language.kv.settings import ReKVSettings

OFFICIAL_N_LOCAL = 15000
OFFICIAL_TOPK = 64


@dataclass(frozen=True, kw_only=True)
class ReKVOptions(LlavaOptions):
    """``None`` for a size means: what the checkpoint suggests, else the official value. See :class:`LlavaOptions`."""

    n_local: int | None = None
    topk: int | None = None
    retrieval_chunk_size: int = 1
    max_cached_blocks: int = 128
    offload: bool | None = None
    upstream_quirks: bool = False

    name: ClassVar[str] = "rekv"
    sizes: ClassVar[tuple[str, ...]] = ("tokens_per_frame", "n_local", "topk", "retrieval_chunk_size")

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.max_cached_blocks < 0:
            raise ValueError(f"backbone.max_cached_blocks={self.max_cached_blocks}: must be 0 (no cache) or more")

    def memory_settings(self, checkpoint: Checkpoint | None) -> ReKVSettings:
        """Sizes of the memory. Raises ``ValueError`` when a retrieved chunk is larger than ``topk``."""
        suggested = checkpoint.lab_settings("rekv") if checkpoint else {}
        n_local = self.n_local or suggested.get("n_local", OFFICIAL_N_LOCAL)
        topk = self.topk or suggested.get("topk", OFFICIAL_TOPK)
        if self.retrieval_chunk_size > topk:
            raise ValueError(
                f"backbone.retrieval_chunk_size={self.retrieval_chunk_size}: must be at most backbone.topk={topk}"
            )
        return ReKVSettings(
            n_local=n_local,
            topk=topk,
            chunk_size=self.retrieval_chunk_size,
            max_cached_blocks=self.max_cached_blocks,
            offload=self.offload,
            upstream_quirks=self.upstream_quirks,
        )


def check_retrieval(sizes: ReKVSettings, tokens_per_block: int) -> None:
    """Raise ``ValueError`` when the retrieved blocks do not fit the window in which a question is answered."""
    retrieved = sizes.topk * tokens_per_block
    if retrieved > sizes.n_local:
        most = sizes.n_local // tokens_per_block
        fix = f"lower topk to at most {most}" if most else f"raise n_local to at least {tokens_per_block}"
        raise ValueError(
            f"backbone.topk={sizes.topk}: {sizes.topk} blocks of {tokens_per_block} tokens are {retrieved} tokens, "
            f"more than backbone.n_local={sizes.n_local}; {fix}, or lower pruner.budget"
        )
