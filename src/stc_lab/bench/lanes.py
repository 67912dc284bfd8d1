"""What happens to the same stream of frames side by side: memories of different length, pruners."""

from __future__ import annotations

import torch

from stc_lab.bench.probing import Probed
from stc_lab.language import TextDecoder
from stc_lab.language.caches.rekv import ReKVStore
from stc_lab.language.caches.retrieval import ReKVSettings
from stc_lab.measure.flops import decoder_flops
from stc_lab.measure.timer import StageTimer
from stc_lab.pruners import FrameContext, Pruner
from stc_lab.types import VisualTokens

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
