"""Settings of ``backbone=rekv``, checked without loading anything."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any, Literal, Protocol

from stc_lab.backbones.answers import READERS
from stc_lab.backbones.checkpoints import Checkpoint
from stc_lab.language.kv.settings import ReKVSettings

OFFICIAL_N_LOCAL = 15000
OFFICIAL_TOPK = 64


@dataclass(frozen=True, kw_only=True)
class ReKVOptions:
    """The user's choices; ``None`` for a size means: what the checkpoint suggests, else the official value.

    Raises ``ValueError`` naming the field for a value that cannot work.
    """

    checkpoint: str = "pocket"
    revision: str | None = None
    tokens_per_frame: int = 196
    n_local: int | None = None
    topk: int | None = None
    retrieval_chunk_size: int = 1
    max_cached_blocks: int = 128
    offload: bool | None = None
    upstream_quirks: bool = False
    max_new_tokens: int = 16
    answer_reader: Literal["generate", "letter_logits"] = "generate"

    def __post_init__(self) -> None:
        for field in ("tokens_per_frame", "n_local", "topk", "retrieval_chunk_size", "max_new_tokens"):
            value = getattr(self, field)
            if value is not None and value < 1:
                raise ValueError(f"backbone.{field}={value}: must be at least 1")
        if self.max_cached_blocks < 0:
            raise ValueError(f"backbone.max_cached_blocks={self.max_cached_blocks}: must be 0 (no cache) or more")
        if self.answer_reader not in READERS:
            raise ValueError(f"backbone.answer_reader={self.answer_reader}: must be one of {', '.join(READERS)}")

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


class ModelChoice(Protocol):
    """The settings that must fit a checkpoint."""

    checkpoint: str
    tokens_per_frame: int


def check_model(config: dict[str, Any], options: ModelChoice, backbone: str = "rekv") -> None:
    """Raise ``ValueError`` when a checkpoint's ``config.json`` is another kind of model or has another geometry."""
    kind = config.get("model_type")
    if kind != "llava_onevision":
        raise ValueError(
            f"backbone.checkpoint={options.checkpoint}: model_type is {kind}, backbone={backbone} needs llava_onevision"
        )
    vision = config.get("vision_config", {})
    side = vision.get("image_size", 384) // vision.get("patch_size", 14)
    pooled = math.ceil(side / 2)
    if options.tokens_per_frame != pooled**2:
        raise ValueError(
            f"backbone.tokens_per_frame={options.tokens_per_frame}: backbone.checkpoint={options.checkpoint} pools "
            f"{side}x{side} patches to {pooled}x{pooled}; set backbone.tokens_per_frame={pooled**2}"
        )
