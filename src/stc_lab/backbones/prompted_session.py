"""Sessions that keep visual tokens instead of keys and values: each question is one fresh prompt."""

from __future__ import annotations

from abc import abstractmethod
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from stc_lab.backbones.reply import ReadPrompt, answer_after
from stc_lab.backbones.session import StreamSession
from stc_lab.backbones.text_backbone import TextBackbone
from stc_lab.language.kv.growing import GrowingStore
from stc_lab.types import Answer, Question


@dataclass(frozen=True)
class Prompt:
    """Text, visual tokens [N, H] of the language model, text.

    ``flops``: what making the visual tokens took, per stage; ``details``: facts for the record.
    """

    before: str
    visual: Tensor
    after: str
    flops: dict[str, int] = field(default_factory=dict)
    details: dict[str, Any] = field(default_factory=dict)


class PromptedSession(StreamSession):
    """A leaf says what the prompt of a question is; nothing of the prompt outlives the question."""

    backbone: TextBackbone

    @abstractmethod
    def _prompt(self, question: Question) -> Prompt:
        """The prompt of ``question``; its work runs in timer stages of its own."""

    def _answer(self, question: Question, mark: float) -> Answer:
        prompt, store = self._prompt(question), GrowingStore(self.backbone.decoder.shape)
        num_visual = len(prompt.visual)
        answer, _ = answer_after(self.backbone, question, self.timer, mark, lambda: self._read(prompt, store))
        answer.num_prompt_tokens -= num_visual
        answer.flops = prompt.flops | answer.flops
        answer.details = prompt.details | {"num_visual_tokens": num_visual, "prompt_kv_bytes": store.num_bytes}
        return answer

    def _read(self, prompt: Prompt, store: GrowingStore) -> ReadPrompt:
        decoder, token_ids = self.backbone.decoder, self.backbone.loaded.token_ids
        before, after = token_ids(prompt.before), token_ids(prompt.after)
        embeds = torch.cat((decoder.embed(before), prompt.visual, decoder.embed(after)))
        return ReadPrompt(store, decoder.logits(decoder(embeds, store)[-1]), len(embeds))
