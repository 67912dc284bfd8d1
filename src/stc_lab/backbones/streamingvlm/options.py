"""Settings of ``backbone=streamingvlm``."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import ClassVar, Literal

from stc_lab.backbones.qwen_vl.options import QwenOptions

POSITIONS = ("shrink", "append")


@dataclass(frozen=True)
class Windows:
    """What the cache keeps, in rounds and tokens. ``patches_per_round``: temporal patches that make a round."""

    text_rounds: int
    vision_rounds: int
    text_sink: int
    text_window: int
    patches_per_round: int


@dataclass(frozen=True, kw_only=True)
class StreamingVLMOptions(QwenOptions):
    """See :class:`QwenOptions`; the others are explained in ``conf/backbone/streamingvlm.yaml``."""

    query: str = "Commentate on this match"
    previous_text: str = ""
    positions: Literal["shrink", "append"] = "shrink"
    round_s: int = 1
    vision_window_s: int = 16
    text_window_s: int = 16
    text_sink: int = 512
    text_window: int = 512
    commentary_tokens: int = 20

    name: ClassVar[str] = "streamingvlm"
    official_tokens: ClassVar[int] = 768

    def __post_init__(self) -> None:
        super().__post_init__()
        self._require_choice("positions", POSITIONS)
        for field in ("round_s", "vision_window_s", "text_window_s"):
            if getattr(self, field) < 1:
                raise ValueError(f"backbone.{field}={getattr(self, field)}: must be at least 1 second")
        for field in ("text_sink", "text_window"):
            if getattr(self, field) < 0:
                raise ValueError(f"backbone.{field}={getattr(self, field)}: must be 0 tokens or more")

    @property
    def windows(self) -> Windows:
        """Windows in rounds. A round takes at least one temporal patch, whatever the frame rate is; the released code
        takes seconds for rounds, which ``upstream_quirks`` does as well."""
        patches = max(1, round(self.round_s * self.fps / 2))
        seconds = 1.0 if self.upstream_quirks else patches * 2 / self.fps
        text, vision = (max(1, math.ceil(s / seconds - 1e-9)) for s in (self.text_window_s, self.vision_window_s))
        return Windows(text, vision, self.text_sink, self.text_window, patches)
