"""A stream commented on by LiveCC."""

from __future__ import annotations

from stc_lab.backbones.livecc.memory import LiveCCMemory
from stc_lab.backbones.qwen_vl.layout import Axes
from stc_lab.backbones.qwen_vl.memory import Memory
from stc_lab.backbones.qwen_vl.oneshot import OneShotMemory
from stc_lab.backbones.qwen_vl.session import QwenSession
from stc_lab.backbones.qwen_vl.speaking import Spoken


class LiveCCSession(QwenSession):
    """Comments arrive in the reports of :meth:`push`. Questions leave no trace, or become turns of the conversation
    with ``remember_questions``, as in the official demo."""

    def _new_memory(self) -> Memory:
        options = self.model.options
        if options.mode == "oneshot":
            return OneShotMemory(self.model, Axes(), options.max_frames // 2)
        return LiveCCMemory(self.model, self.timer)

    def _kept(self, spoken: Spoken | None, text: str) -> Spoken | None:
        if not self.model.options.remember_questions:
            return None
        return spoken or Spoken([self.model.letter_id(text)])
