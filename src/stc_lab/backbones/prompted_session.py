"""Sessions that keep visual tokens instead of keys and values: each question is one fresh prompt."""

from __future__ import annotations

from abc import abstractmethod
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from stc_lab.backbones.reply import Reply, letter_logits, reader_of, reply_to
from stc_lab.backbones.session import StreamSession
from stc_lab.backbones.text_backbone import TextBackbone
from stc_lab.language.kv.growing import GrowingStore
from stc_lab.measure.flops import decoder_flops
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
        timer, backbone = self.timer, self.backbone
        prompt = self._prompt(question)
        store = GrowingStore(backbone.decoder.shape)
        with timer.stage("question"):
            first, num_text = self._read(prompt, store)
            letters = letter_logits(backbone, question, first)
        ttft_ms = timer.elapsed_ms(mark)
        with timer.stage("generate"):
            reply = reply_to(backbone, question, store, first, letters)
        return Answer(
            text=reply.text,
            prediction=reply.prediction(question),
            reader=reader_of(backbone, question),
            num_prompt_tokens=num_text,
            num_generated_tokens=reply.num_tokens,
            ttft_ms=ttft_ms,
            letter_logits=letters,
            latency_ms=timer.drain(),
            flops=prompt.flops | self._answer_flops(num_text + len(prompt.visual), reply),
            details=prompt.details | {"num_visual_tokens": len(prompt.visual), "prompt_kv_bytes": store.num_bytes},
            chat_template=question.chat_template,
            first_logits=first,
        )

    def _read(self, prompt: Prompt, store: GrowingStore) -> tuple[Tensor, int]:
        """Logits [V] after the prompt, and how many of its tokens are text."""
        decoder, token_ids = self.backbone.decoder, self.backbone.loaded.token_ids
        before, after = token_ids(prompt.before), token_ids(prompt.after)
        embeds = torch.cat((decoder.embed(before), prompt.visual, decoder.embed(after)))
        return decoder.logits(decoder(embeds, store)[-1]), len(before) + len(after)

    def _answer_flops(self, num_prompt: int, reply: Reply) -> dict[str, int]:
        config, steps = self.backbone.decoder.sizes, range(reply.num_steps)
        return {
            "question": decoder_flops(config, num_prompt, with_lm_head=1),
            "generate": sum(decoder_flops(config, 1, num_prompt + step, with_lm_head=1) for step in steps),
        }
