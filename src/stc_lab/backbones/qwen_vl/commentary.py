"""What memories that speak about the stream share: the lines said, and how silence is told from speech."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Sequence
from typing import TYPE_CHECKING

import torch

from stc_lab.backbones.qwen_vl.memory import Memory, Patch
from stc_lab.backbones.qwen_vl.speaking import Spoken
from stc_lab.types import TimedText

if TYPE_CHECKING:
    from stc_lab.backbones.qwen_vl.backbone import QwenVL
    from stc_lab.language.caches.growing import GrowingStore
    from stc_lab.language.kv.replaced import ReplacedStore
    from stc_lab.measure import StageTimer


class SpeakingMemory(Memory):
    """``waiting``: temporal patches that do not make a whole turn yet; a leaf speaks after each turn."""

    def __init__(self, model: QwenVL, timer: StageTimer) -> None:
        self._model = model
        self._timer = timer
        self._options = model.options
        self._waiting: list[Patch] = []
        self._lines: list[TimedText] = []
        self._line_flops = 0
        self._generator = torch.Generator().manual_seed(model.options.seed)
        self.last_spoken: Spoken | None = None

    def watch(self, patches: Sequence[Patch]) -> list[int]:
        flops = []
        for patch in patches:
            self._waiting.append(patch)
            flops.append(self._take_turn() if self._is_turn() else 0)
        return flops

    def finish(self) -> None:
        if self._waiting:
            self._take_turn()

    def take_lines(self) -> tuple[list[TimedText], int]:
        lines, flops = self._lines, self._line_flops
        self._lines, self._line_flops = [], 0
        return lines, flops

    @abstractmethod
    def _is_turn(self) -> bool:
        """Whether what waits makes a whole turn."""

    @abstractmethod
    def _take_turn(self) -> int:
        """Show what waits, and speak. Returns the FLOPs of reading it."""

    @property
    def _stops(self) -> frozenset[int]:
        """Tokens that end a comment: the official loop ends one at the end of the turn alone."""
        loaded = self._model.loaded
        return loaded.stop_ids if self._options.upstream_quirks else loaded.stop_ids | {loaded.silence_id}

    def _note(self, patches: Sequence[Patch], spoken: Spoken, flops: int) -> None:
        """Keep a comment on ``patches`` until it is taken."""
        loaded = self._model.loaded
        text = loaded.text([token for token in spoken.ids if token != loaded.silence_id])
        self._lines.append(TimedText(patches[0].start_s, patches[-1].stop_s, text))
        self._line_flops += flops
        self.last_spoken = spoken


def store_stats(store: GrowingStore | ReplacedStore) -> dict[str, int]:
    """Sizes of a cache on the device."""
    return {
        "num_tokens": len(store),
        "kv_bytes_device": store.num_bytes,
        "kv_bytes_host": 0,
        "kv_bytes_reserved": store.reserved_bytes,
    }
