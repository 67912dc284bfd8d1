"""Settings of ``backbone=livecc``."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, Literal

from stc_lab.backbones.qwen_vl.options import QwenOptions

POSITIONS = ("official", "3d")


@dataclass(frozen=True, kw_only=True)
class LiveCCOptions(QwenOptions):
    """See :class:`QwenOptions`; the others are explained in ``conf/backbone/livecc.yaml``."""

    query: str = "Please describe the video."
    positions: Literal["official", "3d"] = "official"
    remember_questions: bool = False
    silence_threshold: float | None = None
    silence_step: float = 0.0

    name: ClassVar[str] = "livecc"
    official_tokens: ClassVar[int] = 384

    def __post_init__(self) -> None:
        super().__post_init__()
        self._require_choice("positions", POSITIONS)
        if self.silence_threshold is not None and not 0.0 <= self.silence_threshold <= 1.0:
            raise ValueError(f"backbone.silence_threshold={self.silence_threshold}: must lie in [0, 1], or null")
        if self.remember_questions and self.mode == "oneshot":
            raise ValueError("backbone.remember_questions=true: backbone.mode=oneshot has no conversation for them")
