"""LiveCC's growing turns and StreamingVLM's windowed rounds, silent, some time into a stream."""

from __future__ import annotations

from dataclasses import dataclass

import torch

from stc_lab.backbones.livecc.memory import FIRST_TURN, LiveCCMemory
from stc_lab.backbones.livecc.options import LiveCCOptions
from stc_lab.backbones.qwen_vl.layout import Axes
from stc_lab.backbones.qwen_vl.loading import LoadedQwen
from stc_lab.backbones.qwen_vl.memory import Memory, Patch
from stc_lab.backbones.qwen_vl.options import QwenOptions
from stc_lab.training.models.qwen_vl import pocket_tokenizer
from stc_lab.backbones.qwen_vl.prompts import VIDEO_PAD
from stc_lab.backbones.streamingvlm.memory import StreamingMemory
from stc_lab.backbones.streamingvlm.options import StreamingVLMOptions
from stc_lab.bench.steps.lane import Cost, FillingDecoder, Lane, random_tokens
from stc_lab.language import TextDecoder
from stc_lab.measure.timer import StageTimer
from stc_lab.pruners import NoPruner, Pruner
from stc_lab.types import VisualTokens


@dataclass
class BareModel:
    """The part of a backbone that its memory uses. Words are those of the pocket model: only their number counts."""

    decoder: TextDecoder | FillingDecoder
    options: QwenOptions
    loaded: LoadedQwen
    device: torch.device


FULL_AFTER = 20
"""Seconds after which StreamingVLM's windows are full: its rounds all cost the same from then on."""


class TurnLane(Lane):
    """A temporal patch a second, after ``stream_s`` seconds; what was before is filled in, not computed."""

    def __init__(
        self, backbone: str, pruner: Pruner | None, decoder: TextDecoder, grid: tuple[int, int], stream_s: int
    ) -> None:
        super().__init__(decoder.device)
        self._decoder, self._grid = decoder, grid
        self._pruner = pruner or NoPruner()
        self._state = self._pruner.new_state()
        self.num_tokens = self._pruner.num_kept(grid[0] * grid[1])
        self.setting = repr(self._pruner) if pruner else ""
        self._model = BareModel(FillingDecoder(decoder), *_talk(backbone), decoder.device)
        self._memory = _memory(backbone, self._model)
        self._num_patches = 0
        for _ in range(max(FIRST_TURN, stream_s if backbone == "livecc" else min(stream_s, FULL_AFTER))):
            self._memory.watch([self._patch(self._frame())])
        self._model.decoder = decoder

    def step(self) -> Cost:
        """One turn."""
        frame = self._frame()
        with self._stage("prune"):
            patch = self._patch(frame)
        with self._stage("layers"):
            (flops,) = self._memory.watch([patch])
        return self._cost(flops)

    def _frame(self) -> VisualTokens:
        """The next temporal patch, unpruned."""
        shape = (self._grid[0] * self._grid[1], self._decoder.sizes.hidden_size)
        tokens = random_tokens(self._num_patches, shape, self._decoder.embed([0]))
        return VisualTokens.full(tokens, self._grid, float(self._num_patches))

    def _patch(self, frame: VisualTokens) -> Patch:
        (kept,) = self._pruner.compress([frame], self._state)
        self._num_patches += 1
        return Patch(kept, frame.timestamp_s, frame.timestamp_s + 1.0)


def vocabulary_size() -> int:
    """Words that the decoders must know."""
    return len(pocket_tokenizer())


def _talk(backbone: str) -> tuple[QwenOptions, LoadedQwen]:
    """Options and tokens of a silent session; StreamingVLM's previous text is as long as it may become."""
    tokenizer = pocket_tokenizer()
    end, video, silence = tokenizer.convert_tokens_to_ids(["<|im_end|>", VIDEO_PAD, "..."])
    loaded = LoadedQwen(None, tokenizer, None, frozenset({end}), end, video, silence)
    if backbone == "livecc":
        return LiveCCOptions(commentary=False), loaded
    options = StreamingVLMOptions(commentary=False)
    return StreamingVLMOptions(commentary=False, previous_text="a " * (options.text_sink + options.text_window)), loaded


def _memory(backbone: str, model: BareModel) -> Memory:
    timer = StageTimer(model.device)
    return LiveCCMemory(model, timer) if backbone == "livecc" else StreamingMemory(model, Axes(), timer)
