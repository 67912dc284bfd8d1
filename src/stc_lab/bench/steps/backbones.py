"""The steps of each backbone at its dimensions."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import torch
from torch import nn

from stc_lab.backbones.dispider.networks import projector
from stc_lab.bench.rows import Row
from stc_lab.bench.sizes import BackboneSize, random_decoder
from stc_lab.bench.steps.dispider import CLIP_FRAMES, PerceptionLane, ReactionLane
from stc_lab.bench.steps.lane import Lane
from stc_lab.bench.steps.qwen import TurnLane, vocabulary_size
from stc_lab.bench.steps.rows import NONE, Part, step_rows
from stc_lab.bench.steps.streamforest import FrameStream, MergeLane, QuestionLane
from stc_lab.language import TextDecoder
from stc_lab.pruners import Pruner

Lanes = Callable[[Pruner | None], Lane]


@dataclass(frozen=True)
class StepBench:
    """Settings of all steps. ``stream_s``: seconds of stream that lie behind where the memory grows with it."""

    device: torch.device
    dtype: torch.dtype
    num_layers: int | None
    repeats: int
    stream_s: int
    limit_s: float | None

    @torch.inference_mode()
    def rows(self, name: str, size: BackboneSize, pruners: Mapping[str, Pruner]) -> list[Row]:
        """Rows of backbone ``name``."""
        return _STEPS[name](self, name, size, pruners)

    def decoder(self, size: BackboneSize, **more: int) -> TextDecoder:
        """The large language model."""
        return random_decoder(size.text, self.num_layers, self.device, self.dtype, size.text_kind, **more)

    def compare(self, part: str, unit: str, name: str, full: int, run: int, lanes: Mapping[str, Lane]) -> list[Row]:
        """Rows of ``lanes``: ``run`` of ``full`` layers."""
        return step_rows(Part(part, unit, name, run, full), lanes, self.repeats, self.limit_s)


def _streamforest(bench: StepBench, name: str, size: BackboneSize, pruners: Mapping[str, Pruner]) -> list[Row]:
    decoder = bench.decoder(size)
    like, (run, full) = decoder.embed([0]), _layers(decoder, size.text)
    width, hidden = size.tower.shape["hidden_size"], size.text["hidden_size"]
    mlp = nn.Sequential(nn.Linear(width, hidden), nn.GELU(), nn.Linear(hidden, hidden)).to(like.device, like.dtype)
    stream = FrameStream(size.memory, (size.num_tokens, width), size.tower.shape["num_attention_heads"], like)
    lanes = _lanes(pruners, lambda pruner: QuestionLane(stream, pruner, mlp, decoder))
    rows = bench.compare("question", "question", name, full, run, lanes)
    merge = {NONE: MergeLane(stream, size.num_tokens, bench.device)}
    return bench.compare("prefill", "frame", name, full, full, merge) + rows


def _dispider(bench: StepBench, name: str, size: BackboneSize, pruners: Mapping[str, Pruner]) -> list[Row]:
    small = random_decoder(size.compressor, bench.num_layers, bench.device, bench.dtype)
    mixed = 4 * size.tower.shape["hidden_size"]
    mlp = projector(mixed, size.compressor["hidden_size"], 2).to(bench.device, bench.dtype).requires_grad_(False)
    width, (run, full) = size.text["hidden_size"], _layers(small, size.compressor)
    lanes = _lanes(pruners, lambda pruner: PerceptionLane(pruner, mlp, small, size.grid, width))
    rows = bench.compare("prefill", "frame", name, full, run, lanes)
    decoder, num_clips = bench.decoder(size), -(-bench.stream_s // CLIP_FRAMES)
    run, full = _layers(decoder, size.text)
    lanes = _lanes(pruners, lambda pruner: ReactionLane(pruner, decoder, size.num_tokens, num_clips))
    return rows + bench.compare("question", "question", name, full, run, lanes)


def _turns(bench: StepBench, name: str, size: BackboneSize, pruners: Mapping[str, Pruner]) -> list[Row]:
    decoder = bench.decoder(size, vocab_size=vocabulary_size())
    run, full = _layers(decoder, size.text)
    lanes = _lanes(pruners, lambda pruner: TurnLane(name, pruner, decoder, size.grid, bench.stream_s))
    return bench.compare("prefill", "pair", name, full, run, lanes)


_STEPS = {"streamforest": _streamforest, "dispider": _dispider, "livecc": _turns, "streamingvlm": _turns}


def _lanes(pruners: Mapping[str, Pruner], new_lane: Lanes) -> dict[str, Lane]:
    return {NONE: new_lane(None)} | {label: new_lane(pruner) for label, pruner in pruners.items()}


def _layers(decoder: TextDecoder, text: Mapping[str, int]) -> tuple[int, int]:
    """Layers that are run, and all there are."""
    return decoder.shape.num_layers, text["num_hidden_layers"]
