"""Reaction: the language model reads the selected clips and answers."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from stc_lab.backbones.dispider.clip import Clip
from stc_lab.backbones.dispider.prompts import after_video, before_video
from stc_lab.backbones.reply import ReadPrompt, answer_after
from stc_lab.language.caches.growing import GrowingStore
from stc_lab.measure import StageTimer
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
        backbone = self._backbone
        answer, reply = answer_after(backbone, question, timer, mark, lambda: self._read(question, view))
        answer.details = {"kept_silent": backbone.loaded.silent_id in reply.ids}
        return answer

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

    def _read(self, question: Question, view: View) -> ReadPrompt:
        decoder, embeds = self._backbone.decoder, self.embeds(question, view)
        store = GrowingStore(decoder.shape)
        return ReadPrompt(store, decoder.logits(decoder(embeds, store)[-1]), len(embeds))
