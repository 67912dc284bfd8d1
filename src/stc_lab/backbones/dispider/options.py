"""Settings of ``backbone=dispider``, checked without loading anything."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, Literal

from stc_lab.backbones.checkpoints import Checkpoint
from stc_lab.backbones.dispider.sizes import read_sizes
from stc_lab.backbones.options import BackboneOptions
from stc_lab.pruners.base import Pruner

OFFICIAL = {"clip_frames": 16, "topk": 4}
CLIPS = ("uniform", "scenes")
QUESTION_PLACES = ("start", "now", "offline", "summary")


@dataclass(frozen=True, kw_only=True)
class DispiderOptions(BackboneOptions):
    """``None`` for a size means: what the checkpoint suggests, else the official value.

    See :class:`BackboneOptions`.
    """

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

    name: ClassVar[str] = "dispider"
    required_files: ClassVar[tuple[str, ...]] = ("config.json",)
    sizes: ClassVar[tuple[str, ...]] = ("tokens_per_frame", "clip_frames", "min_scene_frames", "topk")

    def __post_init__(self) -> None:
        super().__post_init__()
        self._require_choice("clips", CLIPS)
        self._require_choice("question_place", QUESTION_PLACES)
        if not -1.0 <= self.scene_threshold <= 1.0:
            raise ValueError(f"backbone.scene_threshold={self.scene_threshold}: a cosine, must lie in [-1, 1]")

    def check_files(self, files: Checkpoint) -> None:
        """See :meth:`BackboneOptions.check_files`: kind of model and geometry."""
        sizes = read_sizes(files)
        if self.tokens_per_frame != sizes.tokens_per_frame:
            rows, columns = sizes.grid
            raise ValueError(
                f"backbone.tokens_per_frame={self.tokens_per_frame}: backbone.checkpoint={self.checkpoint} joins "
                f"patches to {rows}x{columns} tokens; set backbone.tokens_per_frame={sizes.tokens_per_frame}"
            )

    def size(self, field: Literal["clip_frames", "topk"], files: Checkpoint | None) -> int:
        """The user's value, else the checkpoint's, else the official one."""
        suggested = files.lab_settings(self.name) if files else {}
        return getattr(self, field) or suggested.get(field, OFFICIAL[field])


def check_pruner(options: DispiderOptions, pruner: Pruner) -> None:
    """Raise ``ValueError`` when the pruner's budget does not fit, or when it would join frames of two scenes."""
    pruner.check(options.tokens_per_frame)
    window = pruner.window_frames
    if options.clips == "scenes" and window > 1:
        raise ValueError(
            f"backbone.clips=scenes: pruner={getattr(pruner, 'name', pruner)} looks at {window} frames together and "
            "could join two scenes; use backbone.clips=uniform, or a pruner that looks at single frames"
        )
