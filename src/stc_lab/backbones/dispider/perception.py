"""Perception: from the frames of a clip to its memory and its indicator."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from stc_lab.backbones.dispider.clip import Clip, ClipFrame, time_span
from stc_lab.backbones.dispider.indicator_mask import IndicatorStore
from stc_lab.backbones.dispider.model import DispiderModel, pool
from stc_lab.language import TextDecoder
from stc_lab.language.caches.growing import GrowingStore
from stc_lab.measure.flops import decoder_flops, projector_flops

CLIP_TEXT = "This contains a clip sampled in {start} to {end} seconds"


class Perception:
    """Runs the compressor over one clip: its time as text, all tokens, block means, one global mean.

    The states at the block means become the clip's memory, the last state its indicator. Attention is causal, as
    with flash attention in the official setting; ``indicator_mask``: the global mean sees only the block means and
    itself, as in the released code under SDPA. ``prune``: leave out of "all tokens" those that the pruner dropped;
    the means are taken over all of them.
    """

    def __init__(
        self,
        model: DispiderModel,
        decoder: TextDecoder,
        token_ids: Callable[[str], list[int]],
        pool_num: int,
        prune: bool = False,
        indicator_mask: bool = False,
    ) -> None:
        self._project = model.mm_projector["mlp"]
        self._decoder = decoder
        self._token_ids = token_ids
        self._pool_num = pool_num
        self._prune = prune
        self._indicator_mask = indicator_mask

    def __call__(self, frames: Sequence[ClipFrame]) -> tuple[Clip, int]:
        """The clip that ``frames`` make, and the FLOPs it took."""
        start_s, end_s = time_span(frames)
        ids = self._token_ids(CLIP_TEXT.format(start=round(start_s), end=round(end_s)))
        visual = self._project(self._visual(frames))
        num_memory = len(frames) * self._pool_num
        states = self._run(torch.cat((self._decoder.embed(ids), visual)), num_memory)
        memory, indicator = states[-num_memory - 1 : -1].clone(), states[-1].clone()
        tokens = torch.cat([frame.kept.tokens for frame in frames])
        clip = Clip(start_s, end_s, len(frames), tokens, memory, indicator)
        return clip, self._flops(len(ids), visual.shape[0])

    def _visual(self, frames: Sequence[ClipFrame]) -> Tensor:
        """All tokens, block means and the global mean [T + frames * pool_num + 1, 4C]."""
        mixed = torch.stack([frame.mixed for frame in frames])
        tokens = mixed.flatten(0, 1)
        means = (pool(mixed, self._pool_num), tokens.mean(dim=0, keepdim=True))
        if self._prune:
            tokens = torch.cat([frame.mixed[frame.kept.positions] for frame in frames])
        return torch.cat((tokens, *means))

    def _run(self, embeds: Tensor, num_memory: int) -> Tensor:
        shape = self._decoder.shape
        store = IndicatorStore(shape, num_memory) if self._indicator_mask else GrowingStore(shape)
        return self._decoder(embeds, store)

    def _flops(self, num_text: int, num_visual: int) -> int:
        config = self._decoder.sizes
        project = projector_flops(num_visual, self._project[0].in_features, config.hidden_size)
        return project + decoder_flops(config, num_text + num_visual)
