"""Size of every backbone's memory after a number of frames, from settings and dimensions alone.

Nothing here looks at a session. A frame is a video frame; ``kept``: tokens that the pruner leaves of a frame, for
LiveCC and StreamingVLM of a temporal patch (two frames). No question was asked, and no proactive one is watched.
"""

from __future__ import annotations

from functools import singledispatch

from stc_lab.backbones.base import Backbone
from stc_lab.backbones.dispider import Dispider
from stc_lab.backbones.livecc import LiveCC
from stc_lab.backbones.prompts import INIT
from stc_lab.backbones.recent import Recent
from stc_lab.backbones.rekv import ReKV
from stc_lab.backbones.streamforest import StreamForest
from stc_lab.backbones.streamingvlm import StreamingVLM
from stc_lab.bench.endless.sizes import Range, Sizes
from stc_lab.bench.endless.turns import conversation_tokens, round_tokens


@singledispatch
def predicted(backbone: Backbone, num_frames: int, kept: int) -> Sizes:
    """Sizes after ``num_frames`` frames. Raises ``ValueError`` where there is no formula."""
    raise ValueError(f"backbone={type(backbone).__name__}: no formula for its memory")


@predicted.register
def _(backbone: Recent, num_frames: int, kept: int) -> Sizes:
    """Embeddings of the last frames."""
    tokens = min(num_frames, backbone.options.num_frames) * kept
    width = backbone.decoder.sizes.hidden_size
    return Sizes(Range.exactly(tokens), Range.exactly(tokens * width * backbone.dtype.itemsize))


@predicted.register
def _(backbone: ReKV, num_frames: int, kept: int) -> Sizes:
    """Window (rotated), init tokens (keys, values, far keys), a float32 mean key per block, and the blocks, which are
    on the host from when on they hold as many tokens as the window."""
    settings, shape = backbone.memory_settings, backbone.decoder.shape
    num_init, tokens = len(backbone.loaded.token_ids(INIT)), num_frames * kept
    row = shape.num_layers * shape.num_kv_heads * shape.head_dim
    window = 2 * min(num_init + tokens, settings.n_local) + 3 * num_init
    blocks = 2 * tokens * row * backbone.dtype.itemsize
    is_offloaded = tokens >= settings.n_local
    device = window * row * backbone.dtype.itemsize + num_frames * row * 4 + (0 if is_offloaded else blocks)
    return Sizes(Range.exactly(tokens), Range.exactly(device), Range.exactly(blocks if is_offloaded else 0))


@predicted.register
def _(backbone: StreamForest, num_frames: int, kept: int) -> Sizes:
    """Newest frames, window, events: where events are cut off, and how they merge, depends on the frames."""
    sizes, itemsize = backbone.memory_settings, backbone.dtype.itemsize
    now = min(num_frames, sizes.now_frames)
    older, most = num_frames - now, sizes.short_frames + sizes.split_window - 1
    window = Range.exactly(older) if older <= most else Range(sizes.short_frames, most)
    events, short = _forest(backbone, older - window.low), window * sizes.short_tokens
    tokens = Range(short.low + events.low, short.high + events.high) + now * sizes.now_tokens
    whole = backbone.tower.facts.num_tokens  # of the newest frame, for its likeness to the next one
    extra = whole if num_frames and sizes.now_tokens < whole else 0
    return Sizes(tokens, (tokens + extra) * (backbone.tower.facts.hidden_size * itemsize))


def _forest(backbone: StreamForest, num_frames: int) -> Range:
    """Tokens of the events made of ``num_frames`` frames, or of as many less as the window can hold more.

    Above the quota two events of at most ``split_window`` frames become one of half their size.
    """
    sizes = backbone.memory_settings
    fewest = max(0, num_frames - (sizes.split_window - 1)) * sizes.event_tokens
    unmerged = Range(fewest, num_frames * sizes.event_tokens)
    if sizes.mode == "lazy":
        return unmerged
    largest = sizes.split_window * sizes.event_tokens
    return Range(min(fewest, max(0, sizes.quota - largest)), min(unmerged.high, max(sizes.quota, largest)))


@predicted.register
def _(backbone: Dispider, num_frames: int, kept: int) -> Sizes:
    """Per complete clip kept tokens, memory and indicator; per frame of the open clip kept and mixed tokens."""
    if backbone.options.clips != "uniform":
        raise ValueError("backbone.clips=scenes: how many clips there are depends on the video")
    sizes, length, itemsize = backbone.loaded.sizes, backbone.borders.clip_frames, backbone.dtype.itemsize
    num_clips, num_open = divmod(num_frames, length)
    width, inner = backbone.decoder.sizes.hidden_size, backbone.model.compressor["model"].config.hidden_size
    states = num_clips * (length * sizes.pool_num + 1) * inner
    open_frames = num_open * (sizes.tokens_per_frame * sizes.mixed_size + kept * width)
    tokens = num_clips * length * kept * width
    on_device = states + open_frames + (0 if backbone.offloads else tokens)
    host = tokens if backbone.offloads else 0
    device, host = (Range.exactly(numbers * itemsize) for numbers in (on_device, host))
    return Sizes(Range.exactly(num_frames * kept), device, host)


@predicted.register
def _(backbone: LiveCC, num_frames: int, kept: int) -> Sizes:
    """Keys and values of the conversation."""
    tokens = conversation_tokens(backbone, num_frames, kept)
    return Sizes(tokens, tokens * (2 * _key_bytes(backbone)))


@predicted.register
def _(backbone: StreamingVLM, num_frames: int, kept: int) -> Sizes:
    """Keys, rotated keys and values of what the windows hold."""
    tokens = round_tokens(backbone, num_frames, kept)
    return Sizes(tokens, tokens * (3 * _key_bytes(backbone)))


def _key_bytes(backbone: LiveCC | StreamingVLM) -> int:
    """Bytes of the keys of one token in all layers."""
    shape = backbone.decoder.shape
    return shape.num_layers * shape.num_kv_heads * shape.head_dim * backbone.dtype.itemsize
