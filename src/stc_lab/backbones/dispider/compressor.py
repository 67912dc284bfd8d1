"""The small model of Dispider: it perceives clips, summarises them, and reads what a question is judged by."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor, nn

from stc_lab.backbones.dispider.networks import mix, pool
from stc_lab.language import TextDecoder
from stc_lab.language.attention import attend, grouped, hidden, ungrouped
from stc_lab.language.caches.base import DecoderShape, Step
from stc_lab.language.caches.growing import GrowingStore
from stc_lab.measure.flops import decoder_flops, projector_flops
from stc_lab.memories.dispider import (
    ANSWERED,
    QUESTION,
    TO_DO,
    Clip,
    ClipFrame,
    Memories,
    Piece,
    Summary,
    time_span,
)

CLIP_TEXT = "This contains a clip sampled in {start} to {end} seconds"


class Compressor:
    """``decoder``: the language network with its head in place of one over words.

    ``project``: tokens of four patches -> its embeddings; ``for_language``: its states -> embeddings of the large
    model; ``pool_num``: means of a frame that it is shown, and states that are kept of it; ``num_special_tokens``: of
    the tower.
    """

    def __init__(
        self,
        decoder: TextDecoder,
        token_ids: Callable[[str], list[int]],
        project: nn.Sequential,
        for_language: nn.Module | None = None,
        pool_num: int = 1,
        num_special_tokens: int = 1,
    ) -> None:
        self.decoder, self.for_language = decoder, for_language
        self._token_ids, self._project = token_ids, project
        self._pool_num, self._num_special_tokens = pool_num, num_special_tokens

    def mix(self, features: Tensor) -> Tensor:
        """Features [T, C] of the tower -> tokens [N, 4C]: patches joined two by two."""
        return mix(features[None, self._num_special_tokens :])[0]

    def perceive(
        self, frames: Sequence[ClipFrame], prune: bool = False, indicator_mask: bool = False
    ) -> tuple[Clip, int]:
        """The clip that ``frames`` make, and the FLOPs it took (section 3.2).

        The states at the block means become the clip's memory, the last state its indicator. Attention is causal, as
        with flash attention in the official setting; ``indicator_mask``: the global mean sees only the block means
        and itself, as in the released code under SDPA. ``prune``: leave out of "all tokens" those that the pruner
        dropped; the means are taken over all of them.
        """
        # 1. The time of the clip as text, then all tokens, block means, one global mean.
        start_s, end_s = time_span(frames)
        ids = self._token_ids(CLIP_TEXT.format(start=round(start_s), end=round(end_s)))
        mixed = torch.stack([frame.mixed for frame in frames])
        tokens = mixed.flatten(0, 1)
        means = (pool(mixed, self._pool_num), tokens.mean(dim=0, keepdim=True))
        if prune:
            tokens = torch.cat([frame.mixed[frame.kept.positions] for frame in frames])
        visual = self._project(torch.cat((tokens, *means)))
        # 2. One pass, of which the states at the means are kept.
        num_memory, shape = len(frames) * self._pool_num, self.decoder.shape
        store = IndicatorStore(shape, num_memory) if indicator_mask else GrowingStore(shape)
        states = self.decoder(torch.cat((self.decoder.embed(ids), visual)), store)
        memory, indicator = states[-num_memory - 1 : -1].clone(), states[-1].clone()
        kept = torch.cat([frame.kept.tokens for frame in frames])
        clip = Clip(start_s, end_s, frames[-1].time_s, len(frames), kept, memory, indicator)
        width = self.decoder.sizes.hidden_size
        flops = projector_flops(len(visual), self._project[0].in_features, width)
        return clip, flops + decoder_flops(self.decoder.sizes, len(ids) + len(visual))

    def summary(self, clips: Sequence[Clip]) -> tuple[Tensor, int]:
        """One summarising state per clip [clips, C] (the global memory), and the FLOPs it took."""
        states = [*(clip.memory for clip in clips), *(clip.indicator[None] for clip in clips)]
        if not states:
            return self.decoder.embed([]), 0
        embeds = torch.cat(states)
        hidden_states = self.decoder(embeds, GrowingStore(self.decoder.shape))
        return hidden_states[-len(clips) :].clone(), decoder_flops(self.decoder.sizes, len(embeds))

    def embeds(self, pieces: Sequence[Piece], text: str, clips: Sequence[Clip]) -> tuple[Tensor, int]:
        """Embeddings [T, C] of a sequence about the question ``text``, and the FLOPs of the summaries in it."""
        parts, flops = [], 0
        for piece in pieces:
            if isinstance(piece, Summary):
                part, cost = self.summary(clips[piece.start : piece.stop])
                flops += cost
            elif isinstance(piece, Memories):
                part = torch.cat([clip.memory for clip in clips[piece.start : piece.stop]])
            else:
                words = {QUESTION: text + TO_DO, ANSWERED: ANSWERED, TO_DO: TO_DO}[piece]
                part = self.decoder.embed(self._token_ids(words))
            parts.append(part)
        return torch.cat(parts), flops


class IndicatorStore:
    """One pass of causal attention in which the last token sees only the ``num_visible`` before it and itself: the
    mask that the released code applies under SDPA, for comparison with numbers made that way."""

    num_context = 0

    def __init__(self, shape: DecoderShape, num_visible: int) -> None:
        self._shape = shape
        self._num_visible = num_visible
        self._num_tokens = 0

    def begin(self, step: Step) -> None:
        """There is one pass, and positions count from 0."""
        self._num_tokens = step.num_tokens

    def attend(self, layer: int, queries: Tensor, keys: Tensor, values: Tensor) -> Tensor:
        rotation = self._shape.rotary.span(0, self._num_tokens, keys)
        rotated, values = rotation(keys).transpose(0, 1), values.transpose(0, 1)
        q = grouped(rotation(queries), self._shape.num_kv_heads)
        return ungrouped(attend(q, rotated, values, self._mask(queries), self._shape.scale))

    def _mask(self, like: Tensor) -> Tensor:
        size = (self._num_tokens, self._num_tokens)
        mask = torch.full(size, hidden(like.dtype), dtype=like.dtype, device=like.device).triu_(1)
        mask[-1, : -1 - self._num_visible] = hidden(like.dtype)
        return mask
