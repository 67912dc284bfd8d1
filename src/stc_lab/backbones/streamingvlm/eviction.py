"""What leaves the cache before a round, and what moves into the previous text (arXiv:2510.09608, section 3).

The released code differs in four ways, which ``quirks`` copies: it cuts the last token of an answer that moves, whether
it is `` ...`` or not; it keeps one token of the previous text less than configured, and cuts when the limit is reached,
not exceeded; the query goes with the first user turn, while here it moves to the oldest one that is left; and it counts
windows of seconds in rounds (see ``StreamingVLMOptions.windows``).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from stc_lab.backbones.streamingvlm.options import Windows
from stc_lab.backbones.streamingvlm.spans import START, Span

PREVIOUS, PREVIOUS_TAIL = "previous.text", "previous.tail"
QUERY, TAIL = "user.query", "user.tail"
CLIP, TIME = "user.clip", "user.time"
REPLY, REPLY_TAIL = "reply.text", "reply.tail"


def evicted(spans: Sequence[Span], num_rounds: int, windows: Windows, silence_id: int, quirks: bool) -> list[Span]:
    """The spans that are left before round ``num_rounds`` (counted from 0) begins, in their new order."""
    text, vision = windows.text_rounds, windows.vision_rounds
    spans = list(spans)
    if num_rounds >= text:
        spans = _moved_text(spans, num_rounds - text, silence_id, quirks)
        if vision > text:
            spans = [span for span in spans if (span.kind, span.round) != (TIME, num_rounds - text)]
    if vision <= num_rounds and vision < text:
        spans = [span for span in spans if (span.kind, span.round) != (CLIP, num_rounds - vision)]
    if num_rounds >= max(text, vision):
        spans = _without_user(spans, num_rounds - max(text, vision), quirks)
    return _trimmed(spans, windows.text_sink, windows.text_window, quirks) if num_rounds else spans


def _moved_text(spans: list[Span], number: int, silence_id: int, quirks: bool) -> list[Span]:
    """The answer of a round goes to the end of the previous text, and its frame with it."""
    reply = next(span for span in spans if (span.kind, span.round) == (REPLY, number))
    ends = quirks or reply.ids[-1:] == [silence_id]
    moved = replace(reply.part(0, max(0, len(reply.ids) - ends)), kind=PREVIOUS, round=START)
    rest = [span for span in spans if not (span.kind.startswith("reply.") and span.round == number)]
    end = next(index for index, span in enumerate(rest) if span.kind == PREVIOUS_TAIL)
    return [*rest[:end], moved, *rest[end:]] if moved.ids else rest


def _without_user(spans: list[Span], number: int, quirks: bool) -> list[Span]:
    """The user's part of a round goes; the query stays with the oldest round that is left."""
    rest = [span for span in spans if not (span.kind.startswith("user.") and span.round == number)]
    query = [span for span in spans if (span.kind, span.round) == (QUERY, number)]
    tails = [index for index, span in enumerate(rest) if span.kind == TAIL]
    if quirks or not query or not tails:
        return rest
    heir = rest[tails[0]].round
    if any(span.kind == QUERY and span.round == heir for span in rest):
        return rest
    return [*rest[: tails[0]], replace(query[0], round=heir), *rest[tails[0] :]]


def _trimmed(spans: list[Span], sink: int, window: int, quirks: bool) -> list[Span]:
    """The previous text keeps its first ``sink`` and its last ``window`` tokens."""
    length = sum(len(span.ids) for span in spans if span.kind == PREVIOUS)
    if length < sink + window + (not quirks):
        return spans
    resume = length - window + quirks
    kept, offset = [], 0
    for span in spans:
        if span.kind != PREVIOUS:
            kept.append(span)
            continue
        start, stop = offset, offset + len(span.ids)
        offset = stop
        head, tail = span.part(0, max(0, sink - start)), span.part(max(0, resume - start), stop - start)
        kept += [part for part in (head, tail) if part.ids]
    return kept
