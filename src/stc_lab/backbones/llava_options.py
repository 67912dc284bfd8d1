"""Settings of the backbones on a LLaVA-OneVision checkpoint."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import ClassVar

from stc_lab.backbones.checkpoints import Checkpoint
from stc_lab.backbones.options import BackboneOptions


@dataclass(frozen=True, kw_only=True)
class LlavaOptions(BackboneOptions):
    """``tokens_per_frame``: visual tokens of a frame, which the checkpoint must make. See :class:`BackboneOptions`."""

    tokens_per_frame: int = 196

    sizes: ClassVar[tuple[str, ...]] = ("tokens_per_frame",)

    def check_files(self, files: Checkpoint) -> None:
        """See :meth:`BackboneOptions.check_files`: kind of model and geometry, from ``config.json``."""
        config = files.json("config.json")
        kind = config.get("model_type")
        if kind != "llava_onevision":
            raise ValueError(
                f"backbone.checkpoint={self.checkpoint}: model_type is {kind}, backbone={self.name} needs "
                "llava_onevision"
            )
        vision = config.get("vision_config", {})
        side = vision.get("image_size", 384) // vision.get("patch_size", 14)
        pooled = math.ceil(side / 2)
        if self.tokens_per_frame != pooled**2:
            raise ValueError(
                f"backbone.tokens_per_frame={self.tokens_per_frame}: backbone.checkpoint={self.checkpoint} pools "
                f"{side}x{side} patches to {pooled}x{pooled}; set backbone.tokens_per_frame={pooled**2}"
            )
