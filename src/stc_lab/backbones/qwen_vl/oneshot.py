"""The official question answering: the whole clip so far in one prompt, for every question anew."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from stc_lab.backbones.qwen_vl.layout import Axes, Clip
from stc_lab.backbones.qwen_vl.memory import Cost, Memory, Patch, Request
from stc_lab.backbones.qwen_vl.prompts import ASSISTANT, CLOSE, SYSTEM, USER, VISION_END, VISION_START
from stc_lab.backbones.qwen_vl.speaking import Spoken, Voice
from stc_lab.backbones.qwen_vl.thread import Thread
from stc_lab.language.caches.base import tensor_bytes

if TYPE_CHECKING:
    from stc_lab.backbones.qwen_vl.backbone import QwenVL


class OneShotMemory(Memory):
    """Keeps visual tokens; a question reads those of at most ``max_patches`` temporal patches, evenly spread."""

    def __init__(self, model: QwenVL, axes: Axes, max_patches: int) -> None:
        self._model = model
        self._axes = axes
        self._max_patches = max_patches
        self._patches: list[Patch] = []
        self._thread: Thread | None = None

    def watch(self, patches: Sequence[Patch]) -> list[int]:
        self._patches += patches
        return [0] * len(patches)

    def ask(self, request: Request) -> tuple[Tensor, Cost]:
        token_ids = self._model.loaded.token_ids
        clip = Clip(tuple(patch.visual for patch in self._spread([*self._patches, *request.unseen])))
        self._thread = Thread(self._model, self._axes)
        before = f"{SYSTEM}{USER}{VISION_START}"
        after = f"{VISION_END}{request.text}{CLOSE}{ASSISTANT}{request.answer_start}"
        return self._thread.read([token_ids(before), clip, token_ids(after)])

    def say(self, voice: Voice, logits: Tensor, max_new_tokens: int) -> tuple[Spoken, int]:
        return self._thread.say(voice, logits, max_new_tokens, self._model.loaded.stop_ids)

    def settle(self, spoken: Spoken | None) -> None:
        self._thread = None

    def stats(self) -> dict[str, int]:
        tokens = [patch.visual.tokens for patch in self._patches]
        return {
            "num_tokens": sum(map(len, tokens)),
            "kv_bytes_device": 0,
            "kv_bytes_host": 0,
            "token_bytes_device": tensor_bytes(*tokens),
        }

    def _spread(self, patches: list[Patch]) -> list[Patch]:
        if len(patches) <= self._max_patches:
            return patches
        chosen = torch.linspace(0, len(patches) - 1, self._max_patches, dtype=torch.double).round().long()
        return [patches[index] for index in chosen.tolist()]
