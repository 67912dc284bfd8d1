"""Time to take a stream of frames into the ReKV memory, pruned against unpruned."""

from __future__ import annotations

from collections.abc import Mapping
from math import isqrt

import torch
from torch import Tensor

from stc_lab.bench.lanes import MemoryLane, PrunerLane
from stc_lab.bench.probing import Probed
from stc_lab.bench.rows import Row, quartiles, saved_shares
from stc_lab.bench.stopwatch import Deadline
from stc_lab.language import TextDecoder
from stc_lab.pruners import Pruner
from stc_lab.types import VisualTokens

MIN_FRAMES = 2


@torch.inference_mode()
def prefill_rows(
    decoder: TextDecoder,
    pruners: Mapping[str, Pruner],
    *,
    sizes: str,
    full_layers: int,
    n_local: int,
    tokens_per_frame: int,
    num_frames: int,
    limit_s: float | None,
    probed: Mapping[str, Probed] | None = None,
) -> list[Row]:
    """One row per pruner: a stream of ``num_frames`` frames, frame by frame in alternation.

    The memory takes equally long whichever tokens were kept, so there is one memory per number of tokens, and every
    pruner has its own stream of frames to prune. Pruning is part of the compressed time, once per frame, while the
    layers that were run stand for all of them. The share saved is that of the whole stream, since a frame costs the
    more the longer the memory; the quartiles are over its frames. ``limit_s`` ends the stream early. ``probed``: by
    pruner, what it asked of the vision tower.
    """
    num_layers = decoder.shape.num_layers
    lanes = {name: PrunerLane(pruner, decoder.device, (probed or {}).get(name)) for name, pruner in pruners.items()}
    counts = {name: pruner.num_kept(tokens_per_frame) for name, pruner in pruners.items()}
    memories = {count: MemoryLane(decoder, n_local, count) for count in {tokens_per_frame, *counts.values()}}
    deadline = Deadline(limit_s)
    for index in range(num_frames):
        if index >= MIN_FRAMES and deadline.has_passed():
            break
        frame = _frame(index, tokens_per_frame, decoder)
        for lane in (*lanes.values(), *memories.values()):
            lane.push(frame)
    shape = {"sizes": sizes, "num_layers": num_layers, "full_layers": full_layers}
    full = memories[tokens_per_frame]
    return [_row(name, lanes[name], memories[counts[name]], full, full_layers / num_layers, shape) for name in pruners]


def _row(name: str, lane: PrunerLane, pruned: MemoryLane, full: MemoryLane, depth: float, shape: dict) -> Row:
    """``depth``: layers that each layer that was run stands for."""
    num_frames, prune_ms = len(full.prefill_ms), lane.finish()
    before = [depth * ms for ms in full.prefill_ms]
    after = [own + depth * ms for own, ms in zip(prune_ms, pruned.prefill_ms, strict=True)]
    saving_ms = sum(before) - sum(after) + sum(prune_ms)
    return Row(
        part="prefill",
        method=name,
        setting=repr(lane.pruner),
        uncompressed_ms=sum(before) / num_frames,
        compressed_ms=sum(after) / num_frames,
        saved=1 - sum(after) / sum(before),
        saved_quartiles=quartiles(saved_shares(before, after)),
        bound=1 - pruned.flops / full.flops,
        num_pairs=num_frames,
        num_frames=num_frames,
        overhead_ms=sum(prune_ms) / num_frames,
        overhead_share=sum(prune_ms) / saving_ms if saving_ms > 0 else None,
        tokens=(full.num_tokens, pruned.num_tokens),
        **shape,
    )


def _frame(index: int, num_tokens: int, decoder: TextDecoder) -> VisualTokens:
    """Random visual tokens, a static part and noise."""
    shape = (num_tokens, decoder.sizes.hidden_size)
    static, noise = (torch.randn(shape, generator=torch.Generator().manual_seed(seed)) for seed in (0, index + 1))
    like: Tensor = decoder.embed([0])
    tokens = (static + 0.3 * noise).to(like.device, like.dtype)
    return VisualTokens.full(tokens, (isqrt(num_tokens), isqrt(num_tokens)), float(index))
