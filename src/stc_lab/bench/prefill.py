"""Time to take a stream of frames into the ReKV memory, pruned against unpruned."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from math import isqrt

import torch
from torch import Tensor

from stc_lab.bench.rows import Row, quartiles, saved_shares
from stc_lab.bench.stopwatch import Deadline
from stc_lab.language import TextDecoder
from stc_lab.language.kv import ReKVMemory, ReKVSettings
from stc_lab.measure.flops import decoder_flops
from stc_lab.measure.timer import StageTimer
from stc_lab.pruners import NoPruner, Pruner
from stc_lab.types import VisualTokens

NUM_INIT_TOKENS = 14
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
) -> list[Row]:
    """One row per pruner: a stream of ``num_frames`` frames into a memory of its own, frame by frame in alternation.

    Pruning is part of the compressed time, once per frame, while the layers that were run stand for all of them.
    The share saved is that of the whole stream, since a frame costs the more the longer the memory; the quartiles
    are over its frames. ``limit_s`` ends the stream early.
    """
    num_layers = decoder.shape.num_layers
    everyone = {"none": NoPruner(), **pruners}
    lanes = {name: _Lane(decoder, pruner, n_local, full_layers / num_layers) for name, pruner in everyone.items()}
    deadline = Deadline(limit_s)
    for index in range(num_frames):
        if index >= MIN_FRAMES and deadline.has_passed():
            break
        frame = _frame(index, tokens_per_frame, decoder)
        for lane in lanes.values():
            lane.push(frame)
    shape = {"sizes": sizes, "num_layers": num_layers, "full_layers": full_layers}
    return [_row(name, lanes[name], lanes["none"], tokens_per_frame, shape) for name in pruners]


@dataclass
class _Lane:
    """One pruner with its own memory, and the milliseconds of each frame; prefill counts ``depth`` times."""

    decoder: TextDecoder
    pruner: Pruner
    n_local: int
    depth: float
    prune_ms: list[float] = field(default_factory=list)
    total_ms: list[float] = field(default_factory=list)
    flops: int = 0

    def __post_init__(self) -> None:
        device = self.decoder.device
        self._state = self.pruner.new_state()
        self._timer = StageTimer(device)
        self._memory = ReKVMemory(self.decoder.shape, ReKVSettings(n_local=self.n_local), device)
        self.decoder(self.decoder.embed([0] * NUM_INIT_TOKENS), self._memory)

    def push(self, frame: VisualTokens) -> None:
        """Prune one frame and take it into the memory."""
        context = min(self._memory.num_tokens, NUM_INIT_TOKENS + self.n_local)
        with self._timer.stage("prune"):
            kept = self.pruner.compress([frame], self._state)[0]
        with self._timer.stage("prefill"):
            self.decoder(kept.tokens, self._memory)
        stages = self._timer.drain()
        self.prune_ms.append(stages["prune"])
        self.total_ms.append(stages["prune"] + self.depth * stages["prefill"])
        self.flops += decoder_flops(self.decoder.config, kept.num_tokens, context)


def _row(name: str, lane: _Lane, full: _Lane, tokens_per_frame: int, shape: dict) -> Row:
    num_frames = len(lane.total_ms)
    return Row(
        part="prefill",
        method=name,
        setting=repr(lane.pruner),
        uncompressed_ms=sum(full.total_ms) / num_frames,
        compressed_ms=sum(lane.total_ms) / num_frames,
        saved=1 - sum(lane.total_ms) / sum(full.total_ms),
        saved_quartiles=quartiles(saved_shares(full.total_ms, lane.total_ms)),
        bound=1 - lane.flops / full.flops,
        num_pairs=num_frames,
        num_frames=num_frames,
        overhead_ms=sum(lane.prune_ms) / num_frames,
        tokens=(tokens_per_frame, lane.pruner.num_kept(tokens_per_frame)),
        **shape,
    )


def _frame(index: int, num_tokens: int, decoder: TextDecoder) -> VisualTokens:
    """Random visual tokens, a static part and noise."""
    shape = (num_tokens, decoder.config.hidden_size)
    static, noise = (torch.randn(shape, generator=torch.Generator().manual_seed(seed)) for seed in (0, index + 1))
    like: Tensor = decoder.embed([0])
    tokens = (static + 0.3 * noise).to(like.device, like.dtype)
    return VisualTokens.full(tokens, (isqrt(num_tokens), isqrt(num_tokens)), float(index))
