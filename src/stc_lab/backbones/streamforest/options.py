"""Settings of ``backbone=streamforest``, checked without loading anything."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

from stc_lab.backbones.answers import READERS
from stc_lab.backbones.checkpoints import Checkpoint
from stc_lab.backbones.streamforest.prompts import TIME_MESSAGES
from stc_lab.backbones.streamforest.settings import MemorySettings

SIZES = ("now_frames", "now_tokens", "short_frames", "split_window", "event_tokens", "quota")


@dataclass(frozen=True, kw_only=True)
class StreamForestOptions:
    """The user's choices; ``None`` for a size means: what the checkpoint suggests, else the official value.

    ``tokens_per_frame`` are the tokens of a frame in the window. Raises ``ValueError`` naming the field for a value
    that cannot work.
    """

    checkpoint: str = "pocket"
    revision: str | None = None
    tokens_per_frame: int = 128
    mode: Literal["online", "lazy"] = "online"
    now_frames: int | None = None
    now_tokens: int | None = None
    short_frames: int | None = None
    split_window: int | None = None
    event_tokens: int | None = None
    quota: int | None = None
    similarity_weight: float = 0.4
    time_weight: float = 0.2
    merge_weight: float = 0.4
    time_message: str = "short_online_v2"
    upstream_quirks: bool = False
    max_new_tokens: int = 16
    answer_reader: Literal["generate", "letter_logits"] = "generate"

    def __post_init__(self) -> None:
        for field in ("tokens_per_frame", "max_new_tokens", *SIZES):
            value = getattr(self, field)
            if value is not None and value < 1:
                raise ValueError(f"backbone.{field}={value}: must be at least 1")
        if self.time_message not in TIME_MESSAGES:
            raise ValueError(f"backbone.time_message={self.time_message}: must be one of {', '.join(TIME_MESSAGES)}")
        if self.answer_reader not in READERS:
            raise ValueError(f"backbone.answer_reader={self.answer_reader}: must be one of {', '.join(READERS)}")

    @classmethod
    def of(cls, settings: Mapping[str, Any]) -> StreamForestOptions:
        """From the settings of a backbone, others than these left out."""
        return cls(**{key: value for key, value in settings.items() if key in cls.__dataclass_fields__})

    def memory_settings(self, checkpoint: Checkpoint | None, tower_tokens: int = 729) -> MemorySettings:
        """Sizes of the memory behind a tower of ``tower_tokens``. Raises ``ValueError`` where they do not fit."""
        suggested = checkpoint.lab_settings("streamforest") if checkpoint else {}
        chosen = {"now_tokens": tower_tokens} | {name: suggested[name] for name in SIZES if name in suggested}
        chosen |= {name: getattr(self, name) for name in SIZES if getattr(self, name) is not None}
        settings = MemorySettings(
            short_tokens=self.tokens_per_frame,
            similarity_weight=self.similarity_weight,
            time_weight=self.time_weight,
            merge_weight=self.merge_weight,
            mode=self.mode,
            upstream_quirks=self.upstream_quirks,
            **chosen,
        )
        if settings.now_tokens > tower_tokens:
            raise ValueError(
                f"backbone.now_tokens={settings.now_tokens}: the tower of backbone.checkpoint={self.checkpoint} makes "
                f"{tower_tokens} tokens of a frame"
            )
        return settings
