"""Settings of ``backbone=recent``, checked without loading anything."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

from stc_lab.backbones.answers import READERS


@dataclass(frozen=True, kw_only=True)
class RecentOptions:
    """The user's choices. Raises ``ValueError`` naming the field for a value that cannot work."""

    checkpoint: str = "pocket"
    revision: str | None = None
    tokens_per_frame: int = 196
    num_frames: int = 4
    image_newline: bool = False
    max_new_tokens: int = 16
    answer_reader: Literal["generate", "letter_logits"] = "generate"

    def __post_init__(self) -> None:
        for field in ("tokens_per_frame", "num_frames", "max_new_tokens"):
            if getattr(self, field) < 1:
                raise ValueError(f"backbone.{field}={getattr(self, field)}: must be at least 1")
        if self.answer_reader not in READERS:
            raise ValueError(f"backbone.answer_reader={self.answer_reader}: must be one of {', '.join(READERS)}")

    @classmethod
    def of(cls, settings: Mapping[str, Any]) -> RecentOptions:
        """From the settings of a backbone, others than these left out."""
        return cls(**{key: value for key, value in settings.items() if key in cls.__dataclass_fields__})


def check_window(options: RecentOptions, config: dict[str, Any], tokens_per_frame: int) -> None:
    """Raise ``ValueError`` when the frames are more than the language model was made to read at once."""
    limit = config.get("text_config", {}).get("max_position_embeddings")
    if limit is None or options.num_frames * tokens_per_frame < limit:
        return
    raise ValueError(
        f"backbone.num_frames={options.num_frames}: so many frames of {tokens_per_frame} tokens do not fit the {limit} "
        f"positions of backbone.checkpoint={options.checkpoint}; lower num_frames to at most "
        f"{(limit - 1) // tokens_per_frame}, or lower pruner.budget"
    )
