"""The way of a frame into the memory of each system, and of the memory into a prompt, at its dimensions."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor, nn
from transformers import AutoTokenizer, PreTrainedTokenizerBase

from stc_lab.backbones.checkpoints import POCKET_ROOT
from stc_lab.backbones.dispider.networks import Compressor, projector
from stc_lab.bench.rows import Row
from stc_lab.bench.sizes import BackboneSize, random_decoder
from stc_lab.bench.steps import NONE, Cost, FillingDecoder, Lane, Part, TimedDecoder, random_tokens, step_rows
from stc_lab.language.caches.growing import GrowingStore
from stc_lab.language.chat import VIDEO_PAD
from stc_lab.language.decoder import TextDecoder
from stc_lab.language.sequence import Axes, Cursor, Segment, TimeRowColumn, TokenSequence, sequence
from stc_lab.measure.flops import decoder_flops, projector_flops
from stc_lab.measure.timer import StageTimer
from stc_lab.memories.commentary import SpeakingMemory
from stc_lab.memories.dispider import ClipFrame
from stc_lab.memories.livecc import FIRST_TURN, LiveCC
from stc_lab.memories.streamforest import Forest, ForestSizes, ForestView, prune_units, unit_pruner
from stc_lab.memories.streamingvlm import StreamingVLM
from stc_lab.pruners import NoPruner, Pruner
from stc_lab.types import VisualTokens

FRAMES_PER_STEP = 8
"""Frames that are merged in one measurement: an event is cut off every few frames only."""
NUM_TEXT = 60
"""Tokens of a question with its options and the words around the video."""


class FrameStream:
    """A memory that is full, and random features of the tower to go on with."""

    def __init__(self, settings: ForestSizes, shape: tuple[int, int], num_heads: int, like: Tensor) -> None:
        self.memory = Forest(settings, num_heads)
        self._shape, self._like = shape, like
        frames_in_events = settings.quota // settings.event_tokens
        for _ in range(frames_in_events + settings.short_frames + 2 * settings.split_window):
            self.memory.push(self.frame())

    def frame(self) -> Tensor:
        """Features [T, C] of the next frame."""
        return random_tokens(self.memory.num_frames, self._shape, self._like)


class MergeLane(Lane):
    """Frames into the memory: no language model, and no pruner."""

    def __init__(self, stream: FrameStream, num_tokens: int, device: torch.device) -> None:
        super().__init__(device)
        self._stream, self.num_tokens = stream, num_tokens

    def step(self) -> Cost:
        """Some frames; the cost of one."""
        for _ in range(FRAMES_PER_STEP):
            frame = self._stream.frame()
            with self._stage("once"):
                self._stream.memory.push(frame)
        return self._cost(share=FRAMES_PER_STEP)


class QuestionLane(Lane):
    """The whole memory through the projector and, pruned or not, through the language model."""

    def __init__(self, stream: FrameStream, pruner: Pruner | None, projector: nn.Module, decoder: TextDecoder) -> None:
        super().__init__(decoder.device)
        self._memory, self._projector, self._decoder = stream.memory, projector, decoder
        settings = stream.memory.sizes
        self._pruner = None if pruner is None else unit_pruner(pruner, settings)
        self.num_tokens = settings.short_tokens if pruner is None else pruner.num_kept(settings.short_tokens)
        self.setting = repr(pruner)

    def step(self) -> Cost:
        """One question."""
        with self._stage("once"):
            view = self._memory.read()
            tokens = view.tokens
            projected = self._projector(tokens)
        if self._pruner is not None:
            with self._stage("prune"):
                units, _ = prune_units(self._pruner, _units(view, projected))
                projected = torch.cat([unit.tokens for unit in units])
        with self._stage("layers"):
            embeds = torch.cat((self._decoder.embed([0] * NUM_TEXT), projected))
            self._decoder(embeds, GrowingStore(self._decoder.shape))
        flops = projector_flops(*tokens.shape, projected.shape[1])
        return self._cost(decoder_flops(self._decoder.sizes, len(embeds)), flops)


def _units(view: ForestView, projected: Tensor) -> list[list[VisualTokens]]:
    """Shares of events, frames of the window, newest frames."""
    groups = view.unit_sizes
    parts = projected.split([sum(group) for group in groups])
    return [
        [VisualTokens.full(unit, (1, len(unit)), 0.0) for unit in part.split(group)]
        for part, group in zip(parts, groups, strict=True)
    ]


CLIP_FRAMES, TOPK = 16, 4
NUM_TIME_TEXT, NUM_TEXT = 12, 80
"""Tokens of a clip's time, and of a question with its options and the words around the video."""


class PerceptionLane(Lane):
    """Clips through the compressor, time per frame. A pruner leaves tokens out of its input too."""

    def __init__(
        self, pruner: Pruner | None, projector: nn.Sequential, decoder: TextDecoder, grid: tuple[int, int], width: int
    ) -> None:
        super().__init__(decoder.device)
        self._pruner, self._grid, self._width = pruner or NoPruner(), grid, width
        self._state = self._pruner.new_state()
        self._projector, self._decoder = projector, decoder
        self._num_frames = 0
        self.num_tokens = self._pruner.num_kept(grid[0] * grid[1])
        self.setting = f"{self._pruner!r}, prune_compressor" if pruner else ""
        timed = TimedDecoder(decoder, self._timer)
        self._compressor = Compressor(timed, lambda text: [0] * NUM_TIME_TEXT, projector)
        self._prunes = pruner is not None

    def step(self) -> Cost:
        """One clip; the cost of one of its frames."""
        like, num_tokens = self._decoder.embed([0]), self._grid[0] * self._grid[1]
        shape = (num_tokens, self._projector[0].in_features)
        indices = range(self._num_frames, self._num_frames + CLIP_FRAMES)
        mixed = [random_tokens(index, shape, like) for index in indices]
        read = [random_tokens(index, (num_tokens, self._width), like) for index in indices]
        self._num_frames += CLIP_FRAMES
        visual = [VisualTokens.full(tokens, self._grid, 0.0) for tokens in read]
        with self._stage("prune"):
            kept = self._pruner.compress(visual, self._state)
        with self._stage("once"):
            frames = [ClipFrame(*frame) for frame in zip(mixed, kept, strict=True)]
            self._compressor.perceive(frames, prune=self._prunes)
        num_visual = CLIP_FRAMES * (self.num_tokens + 1) + 1
        project = projector_flops(num_visual, shape[1], self._decoder.sizes.hidden_size)
        return self._cost(decoder_flops(self._decoder.sizes, NUM_TIME_TEXT + num_visual), project, CLIP_FRAMES)


class ReactionLane(Lane):
    """A question: tokens and memories of the chosen clips, a summary of all ``num_clips``, text."""

    def __init__(self, pruner: Pruner | None, decoder: TextDecoder, num_tokens: int, num_clips: int) -> None:
        super().__init__(decoder.device)
        self._decoder = decoder
        self.num_tokens = num_tokens if pruner is None else pruner.num_kept(num_tokens)
        self.setting = repr(pruner)
        self._num_read = min(TOPK, num_clips) * CLIP_FRAMES * (self.num_tokens + 1) + num_clips + NUM_TEXT

    def step(self) -> Cost:
        """One question, up to its first answer token."""
        like = self._decoder.embed([0])
        embeds = torch.randn(self._num_read, like.shape[1], device=like.device, dtype=like.dtype)
        with self._stage("layers"):
            self._decoder(embeds, GrowingStore(self._decoder.shape))
        return self._cost(decoder_flops(self._decoder.sizes, self._num_read))


class TalkingModel:
    """The part of a Qwen-VL model that its memories use. Words are the pocket model's: only their number counts."""

    def __init__(self, decoder: TextDecoder | FillingDecoder) -> None:
        self.decoder, self.device = decoder, decoder.device
        self._tokenizer = pocket_tokenizer()
        names = ["<|im_end|>", VIDEO_PAD, "..."]
        self.end_of_turn_id, self.placeholder_id, self.silence_id = self._tokenizer.convert_tokens_to_ids(names)
        self.stop_ids, self.axes = frozenset({self.end_of_turn_id}), TimeRowColumn()

    def sequence(
        self, segments: Sequence[Segment], cursor: Cursor | None = None, axes: Axes | None = None
    ) -> TokenSequence:
        """Segments as the decoder takes them."""
        place = axes or self.axes
        return sequence(segments, self.decoder.embed, self.token_ids, self.placeholder_id, place, cursor)

    def token_ids(self, text: str) -> list[int]:
        """Ids of ``text``, nothing added."""
        return self._tokenizer(text, add_special_tokens=False)["input_ids"]


FULL_AFTER = 20
"""Seconds after which StreamingVLM's windows are full: its rounds all cost the same from then on."""


class TurnLane(Lane):
    """A temporal patch a second, after ``stream_s`` seconds; what was before is filled in, not computed."""

    def __init__(
        self, system: str, pruner: Pruner | None, decoder: TextDecoder, grid: tuple[int, int], stream_s: int
    ) -> None:
        super().__init__(decoder.device)
        self._decoder, self._grid = decoder, grid
        self._pruner = pruner or NoPruner()
        self._state = self._pruner.new_state()
        self.num_tokens = self._pruner.num_kept(grid[0] * grid[1])
        self.setting = repr(self._pruner) if pruner else ""
        # What lies behind is filled in without the layers: only its size matters to what comes.
        model = TalkingModel(FillingDecoder(decoder))
        self.memory = silent_memory(system).open(model, StageTimer(decoder.device))
        self._num_patches = 0
        for _ in range(max(FIRST_TURN, stream_s if system == "livecc" else min(stream_s, FULL_AFTER))):
            self.memory.remember([self._kept(self._frame())])
        # From now on turns are computed.
        model.decoder = decoder

    def step(self) -> Cost:
        """One turn."""
        frame = self._frame()
        with self._stage("prune"):
            kept = self._kept(frame)
        with self._stage("layers"):
            (flops,) = self.memory.remember([kept])
        return self._cost(flops)

    def _frame(self) -> VisualTokens:
        """The next temporal patch, unpruned."""
        shape = (self._grid[0] * self._grid[1], self._decoder.sizes.hidden_size)
        tokens = random_tokens(self._num_patches, shape, self._decoder.embed([0]))
        start_s = float(self._num_patches)
        return VisualTokens.full(tokens, self._grid, start_s, start_s=start_s, stop_s=start_s + 1.0)

    def _kept(self, frame: VisualTokens) -> VisualTokens:
        (kept,) = self._pruner.compress([frame], self._state)
        self._num_patches += 1
        return kept


def vocabulary_size() -> int:
    """Words that the decoders must know."""
    return len(pocket_tokenizer())


def pocket_tokenizer() -> PreTrainedTokenizerBase:
    """Of the pocket model on Qwen2-VL."""
    return AutoTokenizer.from_pretrained(POCKET_ROOT / "livecc")


def silent_memory(system: str) -> SpeakingMemory:
    """Settings of a silent session; StreamingVLM's previous text is as long as it may become."""
    if system == "livecc":
        return LiveCC(commentary=False)
    windows = StreamingVLM(commentary=False)
    return replace(windows, previous_text="a " * (windows.text_sink + windows.text_window))


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
