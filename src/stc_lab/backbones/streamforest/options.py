"""Settings of ``backbone=streamforest``, checked without loading anything."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, Literal

from stc_lab.backbones.checkpoints import Checkpoint
from stc_lab.backbones.options import BackboneOptions
from stc_lab.backbones.streamforest.config import check_config, tower_tokens
from stc_lab.backbones.streamforest.prompts import TIME_MESSAGES
from stc_lab.backbones.streamforest.settings import MemorySettings

SIZES = ("now_frames", "now_tokens", "short_frames", "split_window", "event_tokens", "quota")


@dataclass(frozen=True, kw_only=True)
class StreamForestOptions(BackboneOptions):
    """``None`` for a size means: what the checkpoint suggests, else the official value; ``tokens_per_frame`` are the
    tokens of a frame in the window. See :class:`BackboneOptions`."""

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

    name: ClassVar[str] = "streamforest"
    required_files: ClassVar[tuple[str, ...]] = ("config.json", "tokenizer_config.json")
    sizes: ClassVar[tuple[str, ...]] = ("tokens_per_frame", *SIZES)

    def __post_init__(self) -> None:
        super().__post_init__()
        self._require_choice("time_message", TIME_MESSAGES)

    def check_files(self, files: Checkpoint) -> None:
        """See :meth:`BackboneOptions.check_files`."""
        check_config(files.json("config.json"), files.name)

    def memory_settings(self, checkpoint: Checkpoint | None) -> MemorySettings:
        """Sizes of the memory behind the tower of ``checkpoint``, or behind the official one where none is known yet.

        Raises ``ValueError`` where they do not fit.
        """
        suggested = checkpoint.lab_settings(self.name) if checkpoint else {}
        num_tower = tower_tokens(checkpoint.json("config.json") if checkpoint else {})
        chosen = {"now_tokens": num_tower} | {name: suggested[name] for name in SIZES if name in suggested}
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
        if settings.now_tokens > num_tower:
            raise ValueError(
                f"backbone.now_tokens={settings.now_tokens}: the tower of backbone.checkpoint={self.checkpoint} makes "
                f"{num_tower} tokens of a frame"
            )
        return settings
