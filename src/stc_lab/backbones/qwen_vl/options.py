"""Settings that LiveCC and StreamingVLM share, checked without loading anything."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, Literal

from stc_lab.backbones.checkpoints import Checkpoint
from stc_lab.backbones.options import BackboneOptions
from stc_lab.backbones.qwen_vl.geometry import FrameBudget
from stc_lab.backbones.qwen_vl.loading import check_model
from stc_lab.vision.qwen_plane import MERGE

MIN_TOKENS = 100
"""LiveCC's and StreamingVLM's smallest frame, in visual tokens."""
MODES = ("streaming", "oneshot")


@dataclass(frozen=True, kw_only=True)
class QwenOptions(BackboneOptions):
    """Explained in ``conf/backbone``; ``None`` for a size: as the checkpoint suggests, else the official value.

    See :class:`BackboneOptions`.
    """

    mode: Literal["streaming", "oneshot"] = "streaming"
    fps: float = 2.0
    tokens_per_frame: int | None = None
    min_tokens_per_frame: int | None = None
    max_frames: int = 480
    query: str = ""
    commentary: bool = True
    commentary_tokens: int = 16
    repetition_penalty: float = 1.05
    temperature: float = 0.0
    seed: int = 0
    upstream_quirks: bool = False
    answer_reader: str = "letter_logits"

    readers: ClassVar[tuple[str, ...]] = ("letter_logits", "choice_logits", "generate")
    sizes: ClassVar[tuple[str, ...]] = ("tokens_per_frame", "min_tokens_per_frame", "commentary_tokens")
    official_tokens: ClassVar[int]

    def __post_init__(self) -> None:
        super().__post_init__()
        self._require_choice("mode", MODES)
        if self.max_frames < 2:
            raise ValueError(f"backbone.max_frames={self.max_frames}: must be at least 2, a temporal patch")
        if not self.fps > 0:
            raise ValueError(f"backbone.fps={self.fps}: must be above 0 frames per second")
        if not self.repetition_penalty > 0:
            raise ValueError(f"backbone.repetition_penalty={self.repetition_penalty}: must be above 0 (1: none)")
        if not self.temperature >= 0:
            raise ValueError(f"backbone.temperature={self.temperature}: must be 0 (greedy) or more")

    def check_files(self, files: Checkpoint) -> None:
        """See :meth:`BackboneOptions.check_files`."""
        check_model(files, self.name)

    def max_tokens(self, files: Checkpoint | None) -> int:
        """Most visual tokens of a temporal patch."""
        suggested = files.lab_settings(self.name) if files else {}
        return self.tokens_per_frame or suggested.get("tokens_per_frame", self.official_tokens)

    def frame_budget(self, files: Checkpoint | None, patch_size: int) -> FrameBudget:
        """Sizes at which frames are shown. Raises ``ValueError`` when the smallest exceeds the largest."""
        suggested = files.lab_settings(self.name) if files else {}
        most = self.max_tokens(files)
        least = self.min_tokens_per_frame or min(most, suggested.get("min_tokens_per_frame", MIN_TOKENS))
        if least > most:
            raise ValueError(f"backbone.min_tokens_per_frame={least}: must be at most tokens_per_frame={most}")
        return FrameBudget.of_tokens(MERGE * patch_size, least, most)
