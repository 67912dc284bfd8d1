"""Size of every memory after a number of frames, from settings and dimensions alone."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import singledispatch

from stc_lab.backbones.base import VideoModel
from stc_lab.language.chat import (
    ASSISTANT,
    CLOSE,
    IM_END,
    IM_START,
    SYSTEM,
    USER,
    VISION_END,
    VISION_START,
    time_text,
)
from stc_lab.memories.base import Memory
from stc_lab.memories.dispider import DispiderMemory
from stc_lab.memories.livecc import FIRST_TURN, LiveCC
from stc_lab.memories.recent import Recent
from stc_lab.memories.rekv import ReKV
from stc_lab.memories.streamforest import ForestSizes, StreamForestMemory
from stc_lab.memories.streamingvlm import StreamingVLM


@dataclass(frozen=True)
class Range:
    """From ``low`` to ``high``, both included."""

    low: int
    high: int

    @classmethod
    def exactly(cls, number: int) -> Range:
        """One number."""
        return cls(number, number)

    def __contains__(self, number: int) -> bool:
        return self.low <= number <= self.high

    def __mul__(self, factor: int) -> Range:
        return Range(self.low * factor, self.high * factor)

    def __add__(self, number: int) -> Range:
        return Range(self.low + number, self.high + number)

    @property
    def is_exact(self) -> bool:
        """Whether it is one number."""
        return self.low == self.high


@dataclass(frozen=True)
class Sizes:
    """Tokens in the memory, and its bytes on the device and on the host, between two frames."""

    tokens: Range
    device: Range
    host: Range = Range(0, 0)

    def misses(self, stats: Mapping[str, int]) -> list[str]:
        """Which of these numbers in a session's ``stats`` are not as predicted, in words."""
        pairs = (
            ("num_tokens", self.tokens),
            ("kv_bytes_device", self.device),
            ("kv_bytes_host", self.host),
        )
        return [
            f"{key}={stats[key]}, predicted {wanted.low} to {wanted.high}"
            for key, wanted in pairs
            if stats[key] not in wanted
        ]


@singledispatch
def predicted(memory: Memory, model: VideoModel, num_frames: int, kept: int) -> Sizes:
    """Sizes after ``num_frames`` frames that were pushed, from settings and dimensions alone: no session is looked at.

    ``kept``: tokens that the pruner leaves of a frame, for LiveCC and StreamingVLM of a temporal patch (two frames). No
    question was asked, and no proactive one is watched. Raises ``ValueError`` where there is no formula.
    """
    raise ValueError(f"memory={type(memory).__name__}: no formula for its size")


@predicted.register
def _(memory: Recent, model: VideoModel, num_frames: int, kept: int) -> Sizes:
    """Embeddings of the last frames."""
    tokens = min(num_frames, memory.num_frames) * kept
    width = model.decoder.sizes.hidden_size
    return Sizes(Range.exactly(tokens), Range.exactly(tokens * width * model.dtype.itemsize))


@predicted.register
def _(memory: ReKV, model: VideoModel, num_frames: int, kept: int) -> Sizes:
    """Window (rotated), init tokens (keys, values, far keys), a float32 mean key per block, and the blocks, which are
    on the host from when on they hold as many tokens as the window."""
    n_local, shape, itemsize = memory.sizes(model.facts).n_local, model.decoder.shape, model.dtype.itemsize
    num_init = sum(len(model.token_ids(segment.text)) for segment in model.layout.opening())
    tokens = num_frames * kept
    row = shape.num_layers * shape.num_kv_heads * shape.head_dim
    window = 2 * min(num_init + tokens, n_local) + 3 * num_init
    blocks = 2 * tokens * row * itemsize
    is_offloaded = tokens >= n_local
    device = window * row * itemsize + num_frames * row * 4 + (0 if is_offloaded else blocks)
    return Sizes(Range.exactly(tokens), Range.exactly(device), Range.exactly(blocks if is_offloaded else 0))


@predicted.register
def _(memory: StreamForestMemory, model: VideoModel, num_frames: int, kept: int) -> Sizes:
    """Newest frames, window, events: where events are cut off, and how they merge, depends on the frames."""
    sizes, facts = memory.sizes(model.facts), model.tower.facts
    now = min(num_frames, sizes.now_frames)
    older, most = num_frames - now, sizes.short_frames + sizes.split_window - 1
    # Until the window is full everything is known; then an event is cut off every few frames.
    window = Range.exactly(older) if older <= most else Range(sizes.short_frames, most)
    events, short = _forest(sizes, older - window.low), window * sizes.short_tokens
    tokens = Range(short.low + events.low, short.high + events.high) + now * sizes.now_tokens
    whole = facts.num_tokens  # of the newest frame, for its likeness to the next one
    extra = whole if num_frames and sizes.now_tokens < whole else 0
    return Sizes(tokens, (tokens + extra) * (facts.hidden_size * model.dtype.itemsize))


def _forest(sizes: ForestSizes, num_frames: int) -> Range:
    """Tokens of the events made of ``num_frames`` frames, or of as many less as the window can hold more.

    Above the quota two events of at most ``split_window`` frames become one of half their size.
    """
    fewest = max(0, num_frames - (sizes.split_window - 1)) * sizes.event_tokens
    unmerged = Range(fewest, num_frames * sizes.event_tokens)
    if sizes.mode == "lazy":
        return unmerged
    largest = sizes.split_window * sizes.event_tokens
    return Range(min(fewest, max(0, sizes.quota - largest)), min(unmerged.high, max(sizes.quota, largest)))


@predicted.register
def _(memory: DispiderMemory, model: VideoModel, num_frames: int, kept: int) -> Sizes:
    """Per complete clip kept tokens, memory and indicator; per frame of the open clip kept and mixed tokens."""
    if memory.clips != "uniform":
        raise ValueError("memory.clips=scenes: how many clips there are depends on the video")
    sizes, length, itemsize = model.loaded.sizes, memory.size("clip_frames", model.facts), model.dtype.itemsize
    offloads = model.device.type != "cpu" if memory.offload is None else memory.offload
    # Complete clips, and the frames of the open one.
    num_clips, num_open = divmod(num_frames, length)
    width, inner = model.decoder.sizes.hidden_size, model.compressor.decoder.sizes.hidden_size
    states = num_clips * (length * sizes.pool_num + 1) * inner
    open_frames = num_open * (sizes.tokens_per_frame * sizes.mixed_size + kept * width)
    tokens = num_clips * length * kept * width
    on_device = states + open_frames + (0 if offloads else tokens)
    device, host = (Range.exactly(numbers * itemsize) for numbers in (on_device, tokens if offloads else 0))
    return Sizes(Range.exactly(num_frames * kept), device, host)


@predicted.register
def _(memory: LiveCC, model: VideoModel, num_frames: int, kept: int) -> Sizes:
    """Keys and values of the conversation."""
    tokens = conversation_tokens(model, memory, num_frames, kept)
    return Sizes(tokens, tokens * (2 * _key_bytes(model)))


@predicted.register
def _(memory: StreamingVLM, model: VideoModel, num_frames: int, kept: int) -> Sizes:
    """Keys, rotated keys and values of what the windows hold."""
    tokens = round_tokens(model, memory, num_frames, kept)
    return Sizes(tokens, tokens * (3 * _key_bytes(model)))


def _key_bytes(model: VideoModel) -> int:
    """Bytes of the keys of one token in all layers."""
    shape = model.decoder.shape
    return shape.num_layers * shape.num_kv_heads * shape.head_dim * model.dtype.itemsize


# Tokens of a conversation about a stream: text is known but for what the model says, which has a longest length.

Count = Callable[[str], int]


def conversation_tokens(model: VideoModel, memory: LiveCC, num_frames: int, kept: int) -> Range:
    """LiveCC: every turn stays. A comment has up to ``commentary_tokens`` tokens, the last of which is read with the
    next turn (an end token is not); silence is one token."""
    count, num_patches, patch_s = _counter(model), num_frames // 2, 2 / model.settings.fps
    if num_patches < FIRST_TURN:
        return Range.exactly(0)
    first = count(SYSTEM + USER + time_text(0.0, FIRST_TURN * patch_s) + VISION_START) + count(
        VISION_END + memory.query + CLOSE + ASSISTANT
    )
    starts_s = [patch_s * index for index in range(FIRST_TURN, num_patches)]
    heads = sum(count(CLOSE + USER + time_text(start, start + patch_s) + VISION_START) for start in starts_s)
    tails = len(starts_s) * count(VISION_END + CLOSE + ASSISTANT)
    fixed = Range.exactly(first + heads + tails + num_patches * kept)
    if not memory.commentary:
        return fixed + len(starts_s)
    return Range(fixed.low, fixed.high + (len(starts_s) + 1) * memory.commentary_tokens - 1)


def round_tokens(model: VideoModel, memory: StreamingVLM, num_frames: int, kept: int) -> Range:
    """StreamingVLM after its last whole round: the windows of vision and text, sink and window of the previous text.

    The last answer and the end of its turn have not been read to their ends. Raises ``ValueError`` for
    ``upstream_quirks``.
    """
    windows, count = memory.windows, _counter(model)
    if memory.upstream_quirks:
        raise ValueError("memory.upstream_quirks=true: the formula is that of the windows as they are meant")
    patches = windows.patches_per_round
    num_rounds, round_s = num_frames // (2 * patches), 2 * patches / memory.fps
    if num_rounds == 0:
        return Range.exactly(0)
    # Rounds whose text, and whose clip, the windows still hold.
    with_text, with_clip = min(num_rounds, windows.text_rounds), min(num_rounds, windows.vision_rounds)
    starts_s = [round_s * index for index in range(num_rounds - with_text, num_rounds)]
    user = max(with_text, with_clip) * (count(USER) + count(CLOSE))
    user += sum(count(time_text(start, start + round_s)) for start in starts_s) + count(memory.query)
    clips = with_clip * (count(VISION_START) + count(VISION_END) + patches * kept)
    ends = (with_text - 1) * (count(IM_END) + count("\n"))
    fixed = _opening(count) + user + clips + with_text * count(ASSISTANT) + ends
    previous = count(memory.previous_text)
    if not memory.commentary:
        return Range.exactly(fixed + previous + with_text - 1)
    longest = memory.commentary_tokens
    # What was said before the window moves to the previous text, whose ends are kept.
    moved = (num_rounds - with_text) * longest
    previous = Range(previous, min(previous + moved, max(previous, windows.text_sink + windows.text_window)))
    return Range(fixed + previous.low, fixed + previous.high + with_text * longest - 1)


def _opening(count: Count) -> int:
    return count(SYSTEM) + count(f"{IM_START}previous text\n") + count(CLOSE)


def _counter(model: VideoModel) -> Count:
    return lambda text: len(model.token_ids(text)) if text else 0
