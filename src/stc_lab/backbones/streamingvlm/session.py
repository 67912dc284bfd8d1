"""A stream commented on by StreamingVLM."""

from __future__ import annotations

from stc_lab.backbones.qwen_vl.layout import Axes
from stc_lab.backbones.qwen_vl.memory import Memory
from stc_lab.backbones.qwen_vl.oneshot import OneShotMemory
from stc_lab.backbones.qwen_vl.session import QwenSession
from stc_lab.backbones.streamingvlm.memory import StreamingMemory


class StreamingVLMSession(QwenSession):
    """Comments arrive in the reports of :meth:`push`; questions leave no trace; memory does not grow."""

    def _new_memory(self) -> Memory:
        options = self.model.options
        axes = Axes(time_step=self.model.tokens_per_second * 2 / options.fps)
        if options.mode == "oneshot":
            return OneShotMemory(self.model, axes, options.max_frames // 2)
        return StreamingMemory(self.model, axes, self.timer)
