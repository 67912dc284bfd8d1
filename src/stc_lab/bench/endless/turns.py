"""Tokens of a conversation about a stream: text is known but for what the model says, which has a longest length."""

from __future__ import annotations

from collections.abc import Callable

from stc_lab.backbones.livecc import LiveCC
from stc_lab.backbones.livecc.memory import FIRST_TURN
from stc_lab.backbones.qwen_vl.prompts import (
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
from stc_lab.backbones.streamingvlm import StreamingVLM
from stc_lab.bench.endless.sizes import Range

Count = Callable[[str], int]


def conversation_tokens(model: LiveCC, num_frames: int, kept: int) -> Range:
    """LiveCC: every turn stays. A comment has up to ``commentary_tokens`` tokens, the last of which is read with the
    next turn (an end token is not); silence is one token."""
    options, count = model.options, _counter(model)
    num_patches, patch_s = num_frames // 2, 2 / options.fps
    if num_patches < FIRST_TURN:
        return Range.exactly(0)
    first = count(SYSTEM + USER + time_text(0.0, FIRST_TURN * patch_s) + VISION_START) + count(
        VISION_END + options.query + CLOSE + ASSISTANT
    )
    starts_s = [patch_s * index for index in range(FIRST_TURN, num_patches)]
    heads = sum(count(CLOSE + USER + time_text(start, start + patch_s) + VISION_START) for start in starts_s)
    tails = len(starts_s) * count(VISION_END + CLOSE + ASSISTANT)
    fixed = Range.exactly(first + heads + tails + num_patches * kept)
    if not options.commentary:
        return fixed + len(starts_s)
    return Range(fixed.low, fixed.high + (len(starts_s) + 1) * options.commentary_tokens - 1)


def round_tokens(model: StreamingVLM, num_frames: int, kept: int) -> Range:
    """StreamingVLM after its last whole round: the windows of vision and text, sink and window of the previous text.

    The last answer and the end of its turn have not been read to their ends. Raises ``ValueError`` for
    ``upstream_quirks``.
    """
    options, windows, count = model.options, model.options.windows, _counter(model)
    if options.upstream_quirks:
        raise ValueError("backbone.upstream_quirks=true: the formula is that of the windows as they are meant")
    patches = windows.patches_per_round
    num_rounds, round_s = num_frames // (2 * patches), 2 * patches / options.fps
    if num_rounds == 0:
        return Range.exactly(0)
    with_text, with_clip = min(num_rounds, windows.text_rounds), min(num_rounds, windows.vision_rounds)
    starts_s = [round_s * index for index in range(num_rounds - with_text, num_rounds)]
    user = max(with_text, with_clip) * (count(USER) + count(CLOSE))
    user += sum(count(time_text(start, start + round_s)) for start in starts_s) + count(options.query)
    clips = with_clip * (count(VISION_START) + count(VISION_END) + patches * kept)
    ends = (with_text - 1) * (count(IM_END) + count("\n"))
    fixed = _opening(count) + user + clips + with_text * count(ASSISTANT) + ends
    previous = count(options.previous_text)
    if not options.commentary:
        return Range.exactly(fixed + previous + with_text - 1)
    longest = options.commentary_tokens
    moved = (num_rounds - with_text) * longest
    previous = Range(previous, min(previous + moved, max(previous, windows.text_sink + windows.text_window)))
    return Range(fixed + previous.low, fixed + previous.high + with_text * longest - 1)


def _opening(count: Count) -> int:
    return count(SYSTEM) + count(f"{IM_START}previous text\n") + count(CLOSE)


def _counter(model: LiveCC | StreamingVLM) -> Count:
    return lambda text: len(model.loaded.token_ids(text)) if text else 0
