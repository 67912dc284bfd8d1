"""Settings of ``backbone=recent``, checked without loading anything."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

from stc_lab.backbones.llava_options import LlavaOptions


@dataclass(frozen=True, kw_only=True)
class RecentOptions(LlavaOptions):
    """``num_frames`` of the window. See :class:`LlavaOptions`."""

    num_frames: int = 4
    image_newline: bool = False

    name: ClassVar[str] = "recent"
    sizes: ClassVar[tuple[str, ...]] = ("tokens_per_frame", "num_frames")


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
