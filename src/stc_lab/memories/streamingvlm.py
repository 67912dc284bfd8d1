"""``memory=streamingvlm``: rounds of one second in a cache of constant size (StreamingVLM, arXiv:2510.09608).

The cache keeps a sink and a window of text, and a window of vision. The file follows the life of a round: settings and
windows, what leaves before a round begins, the sequence in step with its cache, then the rounds themselves.

The released code differs in four ways, which ``upstream_quirks`` copies: it cuts the last token of a moving answer,
whether it is `` ...`` or not; it keeps one token of the previous text less than configured, and cuts when the limit is
reached, not exceeded; the query goes with the first user turn, here it moves to the oldest one that is left; and it
counts windows of seconds in rounds.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Literal

import torch
from torch import Tensor

from stc_lab.language.caches.growing import EvictingStore
from stc_lab.language.chat import ASSISTANT, CLOSE, IM_START, SYSTEM, USER, VISION_END, VISION_START, time_text
from stc_lab.language.context import Generated, SamplingParams, generate
from stc_lab.language.sequence import Clip, Cursor, Segment, joined
from stc_lab.measure import StageTimer
from stc_lab.measure.flops import decoder_flops
from stc_lab.memories.base import PruneOnRead, Query, Reading, require_at_least_one
from stc_lab.memories.commentary import SpeakingMemory, SpeakingModel, SpeakingState, store_stats
from stc_lab.types import VisualTokens

POSITIONS = ("shrink", "append")


@dataclass(frozen=True)
class Windows:
    """What the cache keeps, in rounds and tokens. ``patches_per_round``: temporal patches that make a round."""

    text_rounds: int
    vision_rounds: int
    text_sink: int
    text_window: int
    patches_per_round: int


@dataclass(frozen=True, kw_only=True)
class StreamingVLM(SpeakingMemory):
    """One round per second: what the user shows, what the model says. Before each round, what is old leaves.

    ``previous_text``: what was said before the stream; ``positions=shrink``: whenever tokens leave, all are placed
    again without gaps, from 0 on; ``append``: they stay where they first were. ``round_s``, ``vision_window_s``,
    ``text_window_s`` in seconds; ``text_sink``, ``text_window``: first and last tokens that stay of what was said
    before the window. ``fps``: frames a second that are pushed. A question is a turn of text at the end and leaves
    no trace.
    """

    name: str = "streamingvlm"
    query: str = "Commentate on this match"
    commentary_tokens: int = 20
    previous_text: str = ""
    positions: Literal["shrink", "append"] = "shrink"
    round_s: int = 1
    vision_window_s: int = 16
    text_window_s: int = 16
    text_sink: int = 512
    text_window: int = 512
    fps: float = 2.0

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.positions not in POSITIONS:
            raise ValueError(f"memory.positions={self.positions}: must be one of {', '.join(POSITIONS)}")
        require_at_least_one("memory", self, ("round_s", "vision_window_s", "text_window_s"), " second")
        for field in ("text_sink", "text_window"):
            if getattr(self, field) < 0:
                raise ValueError(f"memory.{field}={getattr(self, field)}: must be 0 tokens or more")

    @property
    def windows(self) -> Windows:
        """Windows in rounds. A round takes at least one temporal patch, whatever the frame rate is; the released code
        takes seconds for rounds, which ``upstream_quirks`` does as well."""
        patches = max(1, round(self.round_s * self.fps / 2))
        seconds = 1.0 if self.upstream_quirks else patches * 2 / self.fps
        text, vision = (max(1, math.ceil(s / seconds - 1e-9)) for s in (self.text_window_s, self.vision_window_s))
        return Windows(text, vision, self.text_sink, self.text_window, patches)

    def open(self, model: SpeakingModel, timer: StageTimer) -> StreamingVLMState:
        return StreamingVLMState(self, model, timer)


# 1. The sequence as spans of tokens that belong together.

START = -1
"""Round of what stands before the first round."""
PREVIOUS, PREVIOUS_TAIL = "previous.text", "previous.tail"
QUERY, TAIL = "user.query", "user.tail"
CLIP, TIME = "user.clip", "user.time"
REPLY, REPLY_TAIL = "reply.text", "reply.tail"
QUESTION = "question"


@dataclass
class Span:
    """Tokens that belong together: ``kind`` says what they are, ``round`` of which turn.

    ``clip`` is the geometry of visual tokens. ``embeds`` [T, H]: theirs, until the decoder has read them. ``first``:
    where the span began when the sequence was last numbered.
    """

    kind: str
    round: int
    ids: list[int]
    clip: Clip | None = None
    embeds: Tensor | None = None
    first: int = 0

    def part(self, start: int, stop: int) -> Span:
        """Tokens ``start .. stop - 1`` of a text span."""
        return replace(self, ids=self.ids[start:stop], first=self.first + start)

    def continues(self, other: Span) -> bool:
        """Whether ``other`` and, right behind it, this one are text of the same kind and round."""
        is_text = self.clip is None and other.clip is None
        return is_text and (self.kind, self.round) == (other.kind, other.round)


class TurnWriter:
    """Turns of the chat template as spans."""

    def __init__(self, token_ids: Callable[[str], list[int]], placeholder_id: int) -> None:
        self._token_ids, self._placeholder_id = token_ids, placeholder_id

    def text(self, kind: str, number: int, text: str) -> Span:
        """A span of text."""
        return Span(kind, number, self._token_ids(text))

    def clip(self, kind: str, number: int, clip: Clip) -> Span:
        """A span of visual tokens."""
        return Span(kind, number, [self._placeholder_id] * clip.num_tokens, clip.shape_only(), clip.tokens)

    def opening(self, previous_text: str) -> list[Span]:
        """System prompt, and the block that will take up what was said."""
        return [
            self.text("system", START, SYSTEM),
            self.text("previous.head", START, f"{IM_START}previous text\n"),
            self.text(PREVIOUS, START, previous_text),
            self.text(PREVIOUS_TAIL, START, CLOSE),
        ]

    def shown(self, number: int, frames: Sequence[VisualTokens], last: Span) -> list[Span]:
        """A user turn with a clip of ``frames`` (if any), up to the words behind it; ``last``: the span before."""
        spans = [self.text("user.head", number, USER)]
        if last.kind == REPLY_TAIL:
            spans.insert(0, self.text(REPLY_TAIL, last.round, "\n"))
        if not frames:
            return spans
        return [
            *spans,
            self.text(TIME, number, time_text(frames[0].start_s, frames[-1].stop_s)),
            self.text(CLIP, number, VISION_START),
            self.clip(CLIP, number, Clip(tuple(frames))),
            self.text(CLIP, number, VISION_END),
        ]

    def asked(self, number: int, words: str) -> list[Span]:
        """What the user says (if anything), up to where the model speaks."""
        spans = [self.text(QUERY, number, words)] if words else []
        return [*spans, self.text(TAIL, number, CLOSE), self.text("reply.head", number, ASSISTANT)]


# 2. Section 3: what leaves before a round, and what moves into the previous text.


def evicted(spans: Sequence[Span], num_rounds: int, windows: Windows, silence_id: int, quirks: bool) -> list[Span]:
    """The spans that are left before round ``num_rounds`` (counted from 0) begins, in their new order."""
    text, vision = windows.text_rounds, windows.vision_rounds
    spans = list(spans)
    if num_rounds >= text:
        # The answer of the oldest round in the text window becomes previous text, and its frame goes.
        spans = _moved_text(spans, num_rounds - text, silence_id, quirks)
        if vision > text:
            spans = [span for span in spans if (span.kind, span.round) != (TIME, num_rounds - text)]
    if vision <= num_rounds and vision < text:
        # The vision window is the shorter one: its oldest clip goes while the words about it stay.
        spans = [span for span in spans if (span.kind, span.round) != (CLIP, num_rounds - vision)]
    if num_rounds >= max(text, vision):
        # Neither window holds the round any more: its user turn goes.
        spans = _without_user(spans, num_rounds - max(text, vision), quirks)
    # Of the previous text a sink and a window are kept.
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


# 3. The sequence in step with a cache from which tokens are removed and in which they are moved.


@dataclass(frozen=True)
class Bookmark:
    """A point to which a sequence can be taken back as long as only text and clips were added."""

    spans: tuple[Span, ...]
    num_read: int
    cursor: Cursor


class EditableSequence:
    """A sequence of which the decoder has read the first ``len(store)`` tokens; a context that words are read into.

    ``shrinks``: whenever spans were removed or moved, all tokens are placed again, without gaps, from 0 on; otherwise
    tokens stay where they were first placed.
    """

    def __init__(self, model: SpeakingModel, writer: TurnWriter, shrinks: bool) -> None:
        self.model, self.writer, self.shrinks = model, writer, shrinks
        self.spans: list[Span] = []
        self.store = EvictingStore(model.decoder.shape)
        self.positions = torch.empty(3, 0, dtype=torch.double)
        self.flops = 0
        self._cursor = Cursor()

    @property
    def ids(self) -> list[int]:
        """Token ids of the whole sequence, a placeholder for visual tokens."""
        return [token for span in self.spans for token in span.ids]

    @property
    def num_visual(self) -> int:
        """Visual tokens of the sequence."""
        return sum(len(span.ids) for span in self.spans if span.clip is not None)

    def numbered(self) -> list[Span]:
        """The spans, each with its place in the sequence."""
        first = 0
        for span in self.spans:
            span.first = first
            first += len(span.ids)
        return list(self.spans)

    def rearrange(self, spans: Sequence[Span]) -> None:
        """``spans``, made of those of :meth:`numbered`, become the sequence; what is not among them is forgotten."""
        order = torch.tensor([i for span in spans for i in range(span.first, span.first + len(span.ids))])
        read = order[order < len(self.store)]
        self.spans = _joined(spans)
        if torch.equal(read, torch.arange(len(self.store))):
            return
        self.store.keep(read)
        self.positions = self.positions[:, read]
        if self.shrinks:
            # Contiguous positions (section 3.2): what is left moves together, so no position passes the trained range.
            self.positions, self._cursor = self._placed(0, len(read), Cursor())

    def read(self, segments: Sequence[Segment] = ()) -> Tensor:
        """Append ``segments`` to the end, to the last span where they are words, and read all that was not read yet.

        Returns the logits [V] of the last token.
        """
        for segment in joined(segments):
            if isinstance(segment, Clip):
                self.spans.append(self.writer.clip(QUESTION, START, segment))
                continue
            ids = list(segment.ids) if segment.ids is not None else self.model.token_ids(segment.text)
            if self.spans[-1].kind in (REPLY, QUESTION) and self.spans[-1].clip is None:
                self.spans[-1].ids += ids
            else:
                self.spans.append(Span(QUESTION, START, ids))
        decoder, num_read = self.model.decoder, len(self.store)
        embeds = torch.cat([self._embeds(span, start) for span, start in self._unread()])
        new, self._cursor = self._placed(num_read, num_read + len(embeds), self._cursor)
        self.positions = torch.cat((self.positions, new), dim=1)
        hidden = decoder(embeds, self.store, self.positions)
        for span in self.spans:
            span.embeds = None
        self.flops += decoder_flops(decoder.sizes, len(embeds), num_read, with_lm_head=1)
        return decoder.logits(hidden[-1])

    def mark(self) -> Bookmark:
        """The present point."""
        spans = tuple(replace(span, ids=list(span.ids)) for span in self.spans)
        return Bookmark(spans, len(self.store), self._cursor)

    def rewind(self, mark: Bookmark) -> None:
        """Forget what was added since ``mark``."""
        self.spans, self._cursor = list(mark.spans), mark.cursor
        self.store.rewind(mark.num_read)
        self.positions = self.positions[:, : mark.num_read]

    def _unread(self) -> list[tuple[Span, int]]:
        """Spans with unread tokens, and how many of their tokens have been read."""
        left, rest = len(self.store), []
        for span in self.spans:
            if left < len(span.ids):
                rest.append((span, max(0, left)))
            left -= len(span.ids)
        return rest

    def _embeds(self, span: Span, start: int) -> Tensor:
        return self.model.decoder.embed(span.ids[start:]) if span.embeds is None else span.embeds[start:]

    def _placed(self, start: int, stop: int, cursor: Cursor) -> tuple[Tensor, Cursor]:
        """Positions [3, stop - start] of those tokens of the sequence, and where the next one stands."""
        axes, parts, index = self.model.axes, [torch.empty(3, 0, dtype=torch.double)], 0
        for span in self.spans:
            first, last = max(start, index), min(stop, index + len(span.ids))
            index += len(span.ids)
            if first >= last:
                continue
            placed, cursor = axes.text(cursor, last - first) if span.clip is None else axes.clip(cursor, span.clip)
            parts.append(placed)
        return torch.cat(parts, dim=1), cursor


def _joined(spans: Sequence[Span]) -> list[Span]:
    """Text of one kind and round as one span: the previous text must not become hundreds of them."""
    done: list[Span] = []
    for span in spans:
        if done and span.continues(done[-1]):
            done[-1] = replace(done[-1], ids=done[-1].ids + span.ids)
        else:
            done.append(span)
    return done


# 4. The rounds of a stream.


class StreamingVLMState(SpeakingState):
    """The sequence of a stream, round after round."""

    settings: StreamingVLM

    def __init__(self, settings: StreamingVLM, model: SpeakingModel, timer: StageTimer) -> None:
        super().__init__(settings, model, timer)
        self._windows = settings.windows
        self._num_rounds = 0
        self._query = self._news = settings.query
        self._writer = TurnWriter(model.token_ids, model.placeholder_id)
        self.sequence = EditableSequence(model, self._writer, settings.positions == "shrink")
        self.sequence.spans = self._writer.opening(settings.previous_text)

    def tell(self, message: str) -> None:
        self._query = self._news = message

    def read(self, query: Query, waiting: Sequence[VisualTokens], prune: PruneOnRead) -> Reading:
        """The question is a turn of text at the end, with the frames that have not been shown yet."""
        mark = self.sequence.mark()
        frames = [*self.waiting, *waiting]
        self.sequence.spans += self._writer.shown(self._num_rounds, frames, self.sequence.spans[-1])

        def release() -> None:
            self.sequence.rewind(mark)

        details = {"num_context_tokens": len(self.sequence.store)}
        return Reading(self.sequence, [], details=details, release=release)

    def stats(self) -> dict[str, int]:
        """``num_tokens`` in the cache, words included; ``num_rounds``."""
        return store_stats(self.sequence.store) | {"num_rounds": self._num_rounds}

    def close(self) -> None:
        self.sequence = None

    def is_turn(self) -> bool:
        return len(self.waiting) == self._windows.patches_per_round

    def begin_round(self) -> None:
        """Let go of what is old, before a round is shown."""
        quirks = self.settings.upstream_quirks
        if self._windows.text_rounds == 1 and self._num_rounds and not quirks:
            self.sequence.read()  # the answer that moves must have been read to its end
        spans = evicted(self.sequence.numbered(), self._num_rounds, self._windows, self.model.silence_id, quirks)
        self.sequence.rearrange(spans)

    def take_turn(self) -> int:
        frames, self.waiting = self.waiting, []
        self.begin_round()
        sequence, number = self.sequence, self._num_rounds
        is_lost = not self.settings.upstream_quirks and all(span.kind != QUERY for span in sequence.spans)
        words, self._news = self._news or (self._query if is_lost else ""), ""
        sequence.spans += self._writer.shown(number, frames, sequence.spans[-1])
        sequence.spans += self._writer.asked(number, words)
        flops_before = sequence.flops
        logits = sequence.read()
        flops = sequence.flops - flops_before
        sequence.spans.append(Span(REPLY, number, []))
        with self.timer.attribute_to("speak"):
            self._comment(logits, frames)
        sequence.spans.append(Span(REPLY_TAIL, number, [self.model.end_of_turn_id]))
        self._num_rounds += 1
        return flops

    def _comment(self, logits: Tensor, frames: Sequence[VisualTokens]) -> None:
        """Say something about a round, or stay silent."""
        if not self.settings.commentary:
            self.sequence.spans[-1].ids.append(self.model.silence_id)
            return
        flops_before = self.sequence.flops
        generated = self.say(logits, self.settings.commentary_tokens, self.sampling())
        self.note(frames, generated, self.sequence.flops - flops_before)

    def say(self, logits: Tensor, limit: int, sampling: SamplingParams) -> Generated:
        """Words into the last span; a stop token other than `` ...`` is none of them."""
        span = self.sequence.spans[-1]
        generated = generate(self.sequence, logits, limit, self.stop_ids, sampling, self.generator)
        if generated.ids[-1] not in self.model.stop_ids:
            span.ids.append(generated.ids[-1])
        return generated
