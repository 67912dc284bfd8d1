"""A conversation that only grows: text and clips into an ordinary cache."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from stc_lab.backbones.qwen_vl.layout import Axes, Clip, Piece
from stc_lab.backbones.qwen_vl.memory import Cost, seen_mask
from stc_lab.backbones.qwen_vl.speaking import Spoken, Voice, speak
from stc_lab.language.caches.growing import GrowingStore
from stc_lab.measure.flops import decoder_flops

if TYPE_CHECKING:
    from stc_lab.backbones.qwen_vl.backbone import QwenVL


@dataclass(frozen=True)
class Mark:
    """A point to which a thread can be taken back."""

    num_tokens: int
    position: float
    seen: Tensor


class Thread:
    """Reads pieces one after the other. ``position``: where the next token stands; ``ids``: of all tokens read, with a
    placeholder for visual ones; ``seen`` [V]: which of them occur."""

    def __init__(self, model: QwenVL, axes: Axes) -> None:
        self._model = model
        self._text_axes = axes
        self.store = GrowingStore(model.decoder.shape)
        self.position = 0.0
        self.ids: list[int] = []
        self.seen = seen_mask(model.decoder.sizes.vocab_size, model.device)

    def read(self, pieces: Sequence[Piece], axes: Axes | None = None) -> tuple[Tensor, Cost]:
        """Token ids and clips, placed by ``axes``. Returns the logits [V] after the last token, and the cost."""
        decoder, embeds, placed = self._model.decoder, [], []
        for piece in pieces:
            if isinstance(piece, Clip):
                positions, self.position = (axes or self._text_axes).clip(self.position, piece)
                embeds.append(piece.tokens)
                ids = [self._model.loaded.video_id] * piece.num_tokens
            elif len(piece):
                positions, self.position = self._text_axes.text(self.position, len(piece))
                embeds.append(decoder.embed(piece))
                ids = list(piece)
            else:
                continue
            placed.append(positions)
            self.ids += ids
            self.seen[ids] = True
        num_context, embeds = len(self.store), torch.cat(embeds)
        hidden = decoder(embeds, self.store, torch.cat(placed, dim=1).to(embeds.device))
        flops = decoder_flops(decoder.sizes, len(embeds), num_context, with_lm_head=1)
        return decoder.logits(hidden[-1]), Cost(len(embeds), num_context, flops)

    def say(
        self,
        voice: Voice,
        logits: Tensor,
        max_new_tokens: int,
        stop_ids: frozenset[int],
        generator: torch.Generator | None = None,
    ) -> tuple[Spoken, int]:
        """Words after ``logits`` [V], and the FLOPs they took. The last token is not read."""
        flops = 0

        def read(token: int) -> Tensor:
            nonlocal flops
            after, cost = self.read([[token]])
            flops += cost.flops
            return after

        return speak(voice, logits, self.seen, read, max_new_tokens, stop_ids, generator), flops

    def mark(self) -> Mark:
        """The present point."""
        return Mark(len(self.store), self.position, self.seen.clone())

    def rewind(self, mark: Mark) -> None:
        """Forget what was read since ``mark``."""
        self.store.drop_last(len(self.store) - mark.num_tokens)
        del self.ids[mark.num_tokens :]
        self.position, self.seen = mark.position, mark.seen
