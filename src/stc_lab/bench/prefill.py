"""Time to take a stream of frames into ReKV's memory, pruned against unpruned."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass
from math import isqrt

import torch
from torch import Tensor

from stc_lab.bench.rows import Deadline, Row, median, quartiles, saved_shares, time_ms
from stc_lab.cachers import NoCacher
from stc_lab.language import TextDecoder
from stc_lab.language.caches.rekv import ReKVStore
from stc_lab.language.caches.retrieval import ReKVSettings
from stc_lab.measure.flops import decoder_flops
from stc_lab.measure.timer import StageTimer
from stc_lab.pruners import FrameContext, Pruner
from stc_lab.types import VisualTokens
from stc_lab.vision import TokenSaliency, VisionTower

REPEATS = 3


@dataclass(frozen=True)
class Probed:
    """``context`` of one frame, with what was asked for; ``time_ms`` it takes per frame (median of several)."""

    context: FrameContext
    time_ms: float


@torch.inference_mode()
def probe(tower: VisionTower, needs: Collection[str], grid: tuple[int, int], device: torch.device) -> Probed:
    """Ask the last layer of ``tower`` for ``needs`` of visual tokens on ``grid``, after frames that it computed."""
    facts, times, readings = tower.facts, [], []
    for seed in range(REPEATS):
        pixels = torch.randn(1, facts.num_channels, facts.image_size, facts.image_size)
        pixels = pixels.normal_(generator=torch.Generator().manual_seed(seed))
        probing = TokenSaliency(needs)
        view = probing.view(tower)
        # Recorded while the tower runs; measured is what the pruner asks afterwards.
        encoded = NoCacher().run(view, tower.embed(pixels.to(device)), None)
        (saliency,) = probing.collect(encoded.traces)
        times.append(time_ms(device, lambda saliency=saliency: readings.append(saliency.read(grid))))
    reading = readings[-1]
    return Probed(FrameContext(grid, 0.0, reading.attention_received, reading.keys), median(times))


NUM_INIT_TOKENS = 14


class MemoryLane:
    """A memory that takes ``num_tokens`` of every frame; ``prefill_ms`` per frame, for the layers that are run."""

    def __init__(self, decoder: TextDecoder, n_local: int, num_tokens: int) -> None:
        self.num_tokens = num_tokens
        self.prefill_ms: list[float] = []
        self.flops = 0
        self._decoder, self._n_local = decoder, n_local
        self._timer = StageTimer(decoder.device)
        self._memory = ReKVStore(decoder.shape, ReKVSettings(n_local=n_local), decoder.device)
        decoder(decoder.embed([0] * NUM_INIT_TOKENS), self._memory)

    def push(self, frame: VisualTokens) -> None:
        """Take the first tokens of ``frame`` into the memory: which ones does not matter for time."""
        context = min(self._memory.num_tokens, NUM_INIT_TOKENS + self._n_local)
        with self._timer.stage("prefill"):
            self._decoder(frame.tokens[: self.num_tokens], self._memory)
        self.prefill_ms.append(self._timer.drain()["prefill"])
        self.flops += decoder_flops(self._decoder.sizes, self.num_tokens, context)


class PrunerLane:
    """A pruner on the stream; frames wait until its window is full and share its time."""

    def __init__(self, pruner: Pruner, device: torch.device, probed: Probed | None = None) -> None:
        self.pruner = pruner
        self._probed = probed
        self._state = pruner.new_state()
        self._timer = StageTimer(device)
        self._waiting: list[VisualTokens] = []
        self._done_ms: list[float] = []

    def push(self, frame: VisualTokens) -> None:
        """The next frame."""
        self._waiting.append(frame)
        if len(self._waiting) == self.pruner.window_frames:
            self._prune()

    def finish(self) -> list[float]:
        """Prune what still waits; milliseconds per frame, what was asked of the tower included."""
        if self._waiting:
            self._prune()
        return self._done_ms

    def _prune(self) -> None:
        frames, self._waiting = self._waiting, []
        context = self._probed.context if self._probed else FrameContext(frames[0].grid)
        with self._timer.stage("prune"):
            self.pruner.compress(frames, self._state, [context] * len(frames))
        probing_ms = self._probed.time_ms if self._probed else 0.0
        self._done_ms += [probing_ms + self._timer.drain()["prune"] / len(frames)] * len(frames)


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
    # Frame by frame through all memories and all pruners, so that they meet the same machine.
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
    # Layers that were run stand for all; pruning happens once per frame.
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
