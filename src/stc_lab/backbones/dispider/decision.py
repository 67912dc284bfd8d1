"""Decision: whether to respond, and which clips to look at for it."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn.functional import normalize

from stc_lab.backbones.dispider.clip import Clip
from stc_lab.backbones.dispider.sequence import ANSWERED, QUESTION, TO_DO, Memory, Piece, Summary, question_sequence
from stc_lab.language import TextDecoder
from stc_lab.language.caches.growing import GrowingStore
from stc_lab.measure.flops import decoder_flops

TEMPERATURE = 0.1
OFFLINE_COSINE, OFFLINE_MOST = 0.2, 28
"""Offline, as many clips are taken as have a cosine above the first, at most the second."""


@dataclass(frozen=True)
class Judgement:
    """What the compressor says about a question: ``score`` above 0 means respond; ``selected`` clips in time order.

    ``cosine`` and ``similarity`` (softmax of cosine / 0.1) [clips]: closeness of the question to each indicator.
    """

    state: Tensor
    score: float
    cosine: Tensor
    similarity: Tensor
    selected: tuple[int, ...]
    flops: int

    @property
    def responds(self) -> bool:
        """Whether it is time to respond."""
        return self.score > 0


class Judge:
    """The compressor as a judge: it reads memories and a question; its last state decides and retrieves.

    ``decoder``: the compressor with its head in place of a language head.
    """

    def __init__(self, decoder: TextDecoder, token_ids: Callable[[str], list[int]], topk: int) -> None:
        self.decoder = decoder
        self._token_ids = token_ids
        self._topk = topk

    def ask(self, text: str, clips: Sequence[Clip], place: str) -> Judgement:
        """Judge a question that is to be answered at once; ``place``: see :func:`question_sequence`."""
        embeds, flops = self.embeds(question_sequence(place, len(clips)), text, clips)
        state = self.decoder(embeds, GrowingStore(self.decoder.shape))[-1]
        flops += decoder_flops(self.decoder.sizes, len(embeds))
        return self.judge(state, clips, flops, is_offline=place == "offline")

    def judge(self, state: Tensor, clips: Sequence[Clip], flops: int = 0, is_offline: bool = False) -> Judgement:
        """Judgement from the last ``state`` [C] of a sequence."""
        cosine = self.cosine(state, clips)
        similarity = (cosine / TEMPERATURE).softmax(dim=0)
        count = self._topk
        if is_offline:
            count = min(max(count, int((cosine > OFFLINE_COSINE).sum())), max(OFFLINE_MOST, count))
        best = similarity.argsort(descending=True, stable=True)[:count]
        score = self.decoder.logits(state).item()
        return Judgement(state, score, cosine, similarity, tuple(sorted(best.tolist())), flops)

    def cosine(self, state: Tensor, clips: Sequence[Clip]) -> Tensor:
        """Cosine [clips] of a state [C] and the clips' indicators, float32."""
        if not clips:
            return state.new_zeros(0, dtype=torch.float32)
        indicators = torch.stack([clip.indicator for clip in clips])
        return (normalize(indicators, dim=1) @ normalize(state, dim=0)).float()

    def summary(self, clips: Sequence[Clip]) -> tuple[Tensor, int]:
        """One summarising state per clip [clips, C] (the global memory), and the FLOPs it took."""
        states = [*(clip.memory for clip in clips), *(clip.indicator[None] for clip in clips)]
        if not states:
            return self.decoder.embed([]), 0
        embeds = torch.cat(states)
        hidden = self.decoder(embeds, GrowingStore(self.decoder.shape))
        return hidden[-len(clips) :].clone(), decoder_flops(self.decoder.sizes, len(embeds))

    def embeds(self, pieces: Sequence[Piece], text: str, clips: Sequence[Clip]) -> tuple[Tensor, int]:
        """Embeddings [T, C] of a sequence, and the FLOPs of the summaries in it."""
        parts, flops = [], 0
        for piece in pieces:
            part, cost = self._piece(piece, text, clips)
            parts.append(part)
            flops += cost
        return torch.cat(parts), flops

    def _piece(self, piece: Piece, text: str, clips: Sequence[Clip]) -> tuple[Tensor, int]:
        if isinstance(piece, Summary):
            return self.summary(clips[piece.start : piece.stop])
        if isinstance(piece, Memory):
            return torch.cat([clip.memory for clip in clips[piece.start : piece.stop]]), 0
        words = {QUESTION: text + TO_DO, ANSWERED: ANSWERED, TO_DO: TO_DO}[piece]
        return self.decoder.embed(self._token_ids(words)), 0
