"""One stream on the sliding window: the visual tokens of the last frames, and nothing else."""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

import torch

from stc_lab.backbones.prompted_session import Prompt, PromptedSession
from stc_lab.backbones.prompts import INIT, answer_prompt
from stc_lab.language.kv.base import tensor_bytes
from stc_lab.types import Question, VisualTokens

if TYPE_CHECKING:
    from stc_lab.backbones.recent import Recent


class RecentSession(PromptedSession):
    """Tokens of the last frames wait for a question; its prompt has them at the positions 0, 1, ... of a clip."""

    backbone: Recent

    def stats(self) -> dict[str, int]:
        """Sizes of the window.

        ``num_tokens``, ``num_blocks``: visual tokens and frames in it; ``kv_bytes_device``: bytes of what is kept
        between two frames, here embeddings; ``kv_bytes_host``: none. A question's prompt is in its own record.
        """
        tokens = [frame.tokens for frame in self._window]
        sizes = {"num_tokens": sum(map(len, tokens)), "num_blocks": len(tokens)}
        return super().stats() | sizes | {"kv_bytes_device": tensor_bytes(*tokens), "kv_bytes_host": 0}

    def _start_memory(self) -> None:
        self._window: deque[VisualTokens] = deque(maxlen=self.backbone.options.num_frames)

    def _drop_memory(self) -> None:
        self._window.clear()

    def _remember(self, frames: Sequence[VisualTokens]) -> list[int]:
        # A copy of its own: a view would keep all frames alive that passed the tower together.
        self._window.extend(replace(frame, tokens=frame.tokens.clone()) for frame in frames)
        return [0] * len(frames)

    def _prompt(self, question: Question) -> Prompt:
        with self.timer.stage("retrieve"):
            newline = self.backbone.newline if self._window else self.backbone.newline[:0]
            visual = torch.cat([*(frame.tokens for frame in self._window), newline])
        times_s = [frame.timestamp_s for frame in self._window]
        details = {"num_frames_used": len(times_s), "first_frame_time_s": times_s[0] if times_s else None}
        return Prompt(INIT, visual, answer_prompt(question), {"retrieve": 0}, details)
