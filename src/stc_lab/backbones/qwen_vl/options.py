"""Settings that LiveCC and StreamingVLM share, checked without loading anything."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, fields
from typing import Any, Literal, Self

from stc_lab.backbones.checkpoints import Checkpoint, cached_checkpoint, fetched_checkpoint, local_checkpoint
from stc_lab.backbones.qwen_vl.geometry import FrameBudget
from stc_lab.backbones.qwen_vl.loading import REQUIRED_FILES, check_model
from stc_lab.vision.qwen_plane import MERGE

MIN_TOKENS = 100
"""LiveCC's and StreamingVLM's smallest frame, in visual tokens."""
READERS = ("letter_logits", "choice_logits", "generate")
MODES = ("streaming", "oneshot")


@dataclass(frozen=True, kw_only=True)
class QwenOptions:
    """The user's choices, explained in ``conf/backbone``; ``None`` for a size: as the checkpoint suggests, else the
    official value. Raises ``ValueError`` naming the field for a value that cannot work.
    """

    checkpoint: str = "pocket"
    revision: str | None = None
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
    max_new_tokens: int = 16
    answer_reader: Literal["letter_logits", "choice_logits", "generate"] = "letter_logits"

    name = "qwen_vl"
    official_tokens = 768

    def __post_init__(self) -> None:
        for field in ("tokens_per_frame", "min_tokens_per_frame", "commentary_tokens", "max_new_tokens"):
            value = getattr(self, field)
            if value is not None and value < 1:
                raise ValueError(f"backbone.{field}={value}: must be at least 1")
        if self.max_frames < 2:
            raise ValueError(f"backbone.max_frames={self.max_frames}: must be at least 2, a temporal patch")
        for field, choices in (("answer_reader", READERS), ("mode", MODES)):
            if getattr(self, field) not in choices:
                raise ValueError(f"backbone.{field}={getattr(self, field)}: must be one of {', '.join(choices)}")
        if not self.fps > 0:
            raise ValueError(f"backbone.fps={self.fps}: must be above 0 frames per second")
        if not self.repetition_penalty > 0:
            raise ValueError(f"backbone.repetition_penalty={self.repetition_penalty}: must be above 0 (1: none)")
        if not self.temperature >= 0:
            raise ValueError(f"backbone.temperature={self.temperature}: must be 0 (greedy) or more")

    @classmethod
    def of(cls, settings: Mapping[str, Any]) -> Self:
        """From the settings of a configuration node; labels and targets are left out."""
        known = {field.name for field in fields(cls)}
        return cls(**{key: value for key, value in settings.items() if key in known})

    def local_files(self) -> Checkpoint | None:
        """The checkpoint if its files are on this machine. Raises ``ValueError`` when it is of another kind."""
        name = self.checkpoint
        files = local_checkpoint(name, self.name, REQUIRED_FILES)
        files = files or cached_checkpoint(name, self.revision, REQUIRED_FILES)
        if files is not None:
            check_model(files, self.name)
        return files

    def all_files(self) -> Checkpoint:
        """The checkpoint, fetched if need be. Raises ``ValueError`` where it cannot be, or is of another kind."""
        files = self.local_files()
        if files is None:
            files = fetched_checkpoint(self.checkpoint, self.revision, REQUIRED_FILES)
            check_model(files, self.name)
        return files

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
