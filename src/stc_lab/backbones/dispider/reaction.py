"""Reaction: the language model reads the selected clips and answers."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from stc_lab.backbones.answers import best_letter
from stc_lab.backbones.dispider.clip import Clip
from stc_lab.backbones.dispider.prompts import after_video, before_video
from stc_lab.backbones.reply import Reply, letter_logits, reader_of
from stc_lab.language.generate import greedy_with_logits
from stc_lab.language.kv import GrowingStore
from stc_lab.measure import StageTimer
from stc_lab.measure.flops import decoder_flops
from stc_lab.types import Answer, Question

if TYPE_CHECKING:
    from stc_lab.backbones.dispider.backbone import Dispider


@dataclass(frozen=True)
class View:
    """What a reaction may see: all clips up to its moment, those selected, one summarising state per clip [n, C]."""

    clips: Sequence[Clip]
    selected: tuple[int, ...]
    summary: Tensor


class Reaction:
    """Reads, per selected clip, its tokens and its memory, then the summary of all clips, and answers greedily."""

    def __init__(self, backbone: Dispider) -> None:
        self._backbone = backbone

    def answer(self, question: Question, view: View, timer: StageTimer, mark: float) -> Answer:
        """The answer, with the stages ``question`` and ``generate`` in times and FLOPs."""
        decoder = self._backbone.decoder
        with timer.stage("question"):
            embeds = self.embeds(question, view)
            store = GrowingStore(decoder.shape)
            first = decoder.logits(decoder(embeds, store)[-1])
            letters = letter_logits(self._backbone, question, first)
        ttft_ms = timer.elapsed_ms(mark)
        with timer.stage("generate"):
            reply, is_silent = self._reply(question, store, first, letters)
        return Answer(
            text=reply.text,
            prediction=reply.prediction(question),
            reader=reader_of(self._backbone, question),
            num_prompt_tokens=len(embeds),
            num_generated_tokens=reply.num_tokens,
            ttft_ms=ttft_ms,
            letter_logits=letters,
            latency_ms=timer.drain(),
            flops=self._flops(len(embeds), reply.num_steps),
            details={"kept_silent": is_silent},
            chat_template=question.chat_template,
            first_logits=first,
        )

    def embeds(self, question: Question, view: View) -> Tensor:
        """Embeddings [T, H] of the whole prompt."""
        loaded, decoder = self._backbone.loaded, self._backbone.decoder
        markers = loaded.sizes.uses_image_markers
        texts = (before_video(markers), after_video(question, markers))
        before, after = (decoder.embed(loaded.token_ids(text)) for text in texts)
        return torch.cat((before, *self._visual(view), after))

    def _visual(self, view: View) -> list[Tensor]:
        project = self._backbone.model.compress_projector
        visual = []
        for index in view.selected:
            clip = view.clips[index]
            visual += [clip.tokens.to(clip.memory.device), project(clip.memory)]
        return [*visual, project(view.summary)]

    def _reply(
        self, question: Question, store: GrowingStore, first: Tensor, letters: dict[str, float] | None
    ) -> tuple[Reply, bool]:
        """The reply after the prompt in ``store``, and whether it is that there is nothing to say."""
        if reader_of(self._backbone, question) == "letter_logits":
            return Reply(best_letter(letters), 0, 0), False
        backbone, loaded = self._backbone, self._backbone.loaded
        limit = backbone.options.max_new_tokens
        ids, logits = greedy_with_logits(backbone.decoder, store, first, limit, loaded.stop_ids)
        return Reply(loaded.text(ids), len(ids), len(logits) - 1), loaded.silent_id in ids

    def _flops(self, num_prompt: int, num_steps: int) -> dict[str, int]:
        config = self._backbone.decoder.sizes
        steps = (decoder_flops(config, 1, num_prompt + step, with_lm_head=1) for step in range(num_steps))
        return {"question": decoder_flops(config, num_prompt, with_lm_head=1), "generate": sum(steps)}
