"""Turns of the chat template as spans."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from stc_lab.backbones.qwen_vl.layout import Clip
from stc_lab.backbones.qwen_vl.memory import Patch
from stc_lab.backbones.qwen_vl.prompts import (
    ASSISTANT,
    CLOSE,
    IM_START,
    SYSTEM,
    USER,
    VISION_END,
    VISION_START,
    time_text,
)
from stc_lab.backbones.streamingvlm.eviction import CLIP, PREVIOUS, PREVIOUS_TAIL, QUERY, REPLY_TAIL, TAIL, TIME
from stc_lab.backbones.streamingvlm.spans import START, Span

if TYPE_CHECKING:
    from stc_lab.backbones.qwen_vl.loading import LoadedQwen


class TurnWriter:
    """Writes what stands before the rounds, and the turns of round ``number``."""

    def __init__(self, loaded: LoadedQwen) -> None:
        self._loaded = loaded

    def opening(self, previous_text: str) -> list[Span]:
        """System prompt, and the block that will take up what was said."""
        return [
            self.text("system", START, SYSTEM),
            self.text("previous.head", START, f"{IM_START}previous text\n"),
            self.text(PREVIOUS, START, previous_text),
            self.text(PREVIOUS_TAIL, START, CLOSE),
        ]

    def shown(self, number: int, patches: Sequence[Patch], text: str, last: Span) -> list[Span]:
        """A user turn with a clip of ``patches`` (if any), up to where the model speaks; ``last``: the span before."""
        spans = [self.text("user.head", number, USER)]
        if last.kind == REPLY_TAIL:
            spans.insert(0, self.text(REPLY_TAIL, last.round, "\n"))
        if patches:
            spans.append(self.text(TIME, number, time_text(patches[0].start_s, patches[-1].stop_s)))
            spans += self._clip(number, Clip(tuple(patch.visual for patch in patches)))
        if text:
            spans.append(self.text(QUERY, number, text))
        return [*spans, self.text(TAIL, number, CLOSE), self.text("reply.head", number, ASSISTANT)]

    def text(self, kind: str, number: int, text: str) -> Span:
        """A span of text."""
        return Span(kind, number, self._loaded.token_ids(text))

    def _clip(self, number: int, clip: Clip) -> list[Span]:
        video = Span(CLIP, number, [self._loaded.video_id] * clip.num_tokens, clip.shape_only(), clip.tokens)
        return [self.text(CLIP, number, VISION_START), video, self.text(CLIP, number, VISION_END)]
