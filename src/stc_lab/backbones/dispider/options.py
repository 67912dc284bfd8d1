"""Settings of ``backbone=dispider``, checked without loading anything."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

from stc_lab.backbones.answers import READERS
from stc_lab.backbones.checkpoints import Checkpoint
from stc_lab.backbones.dispider.sizes import read_sizes
from stc_lab.pruners.base import Pruner

OFFICIAL = {"clip_frames": 16, "topk": 4}
CLIPS = ("uniform", "scenes")
QUESTION_PLACES = ("start", "now", "offline", "summary")


@dataclass(frozen=True, kw_only=True)
class DispiderOptions:
    """The user's choices; ``None`` for a size means: what the checkpoint suggests, else the official value.

    Raises ``ValueError`` naming the field for a value that cannot work.
    """

    checkpoint: str = "pocket"
    revision: str | None = None
    tokens_per_frame: int = 196
    clip_frames: int | None = None
    clips: Literal["uniform", "scenes"] = "uniform"
    scene_threshold: float = 0.85
    min_scene_frames: int = 4
    topk: int | None = None
    question_place: Literal["start", "now", "offline", "summary"] = "start"
    prune_compressor: bool = False
    asynchronous: bool = False
    offload: bool | None = None
    indicator_mask: bool = False
    max_new_tokens: int = 16
    answer_reader: Literal["generate", "letter_logits"] = "generate"

    def __post_init__(self) -> None:
        for field in ("tokens_per_frame", "clip_frames", "min_scene_frames", "topk", "max_new_tokens"):
            value = getattr(self, field)
            if value is not None and value < 1:
                raise ValueError(f"backbone.{field}={value}: must be at least 1")
        choices = {"clips": CLIPS, "question_place": QUESTION_PLACES, "answer_reader": READERS}
        for field, valid in choices.items():
            if getattr(self, field) not in valid:
                raise ValueError(f"backbone.{field}={getattr(self, field)}: must be one of {', '.join(valid)}")
        if not -1.0 <= self.scene_threshold <= 1.0:
            raise ValueError(f"backbone.scene_threshold={self.scene_threshold}: a cosine, must lie in [-1, 1]")

    @classmethod
    def of(cls, settings: Mapping[str, Any]) -> DispiderOptions:
        """From a configuration node; other keys are left alone."""
        return cls(**{key: value for key, value in settings.items() if key in cls.__dataclass_fields__})

    def size(self, field: Literal["clip_frames", "topk"], files: Checkpoint | None) -> int:
        """The user's value, else the checkpoint's, else the official one."""
        suggested = files.lab_settings("dispider") if files else {}
        return getattr(self, field) or suggested.get(field, OFFICIAL[field])


def check_files(files: Checkpoint, options: DispiderOptions) -> None:
    """Raise ``ValueError`` when a checkpoint is another kind of model or has another geometry."""
    sizes = read_sizes(files)
    if options.tokens_per_frame != sizes.tokens_per_frame:
        rows, columns = sizes.grid
        raise ValueError(
            f"backbone.tokens_per_frame={options.tokens_per_frame}: backbone.checkpoint={options.checkpoint} joins "
            f"patches to {rows}x{columns} tokens; set backbone.tokens_per_frame={sizes.tokens_per_frame}"
        )


def check_pruner(options: DispiderOptions, pruner: Pruner) -> None:
    """Raise ``ValueError`` when the pruner's budget does not fit, or when it would join frames of two scenes."""
    pruner.check(options.tokens_per_frame)
    window = pruner.window_frames
    if options.clips == "scenes" and window > 1:
        raise ValueError(
            f"backbone.clips=scenes: pruner={getattr(pruner, 'name', pruner)} looks at {window} frames together and "
            "could join two scenes; use backbone.clips=uniform, or a pruner that looks at single frames"
        )
