"""``memory=streamforest``: a window of detailed frames and a forest of merged events (arXiv:2509.24871)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import pairwise
from math import ceil
from typing import ClassVar, Literal, Protocol

import torch
from torch import Tensor
from torch.nn.functional import cosine_similarity

from stc_lab.cachers.base import Cacher
from stc_lab.cachers.merging import mean_match, merge_flops, merge_tokens
from stc_lab.language.caches.growing import GrowingStore
from stc_lab.language.context import Context, Generated
from stc_lab.measure import StageTimer
from stc_lab.measure.flops import projector_flops
from stc_lab.memories.base import (
    Memory,
    MemoryState,
    Model,
    ModelFacts,
    PruneOnRead,
    Query,
    Reading,
    require_at_least_one,
)
from stc_lab.pruners.base import Pruner
from stc_lab.types import VisualTokens
from stc_lab.vision.tower import VisionTower

MODES = ("online", "lazy")
SIZES = ("now_frames", "now_tokens", "short_frames", "split_window", "event_tokens", "quota")
_SPAN = "frames sampled from the past {span:.1f} seconds ago"
TIME_MESSAGES = {
    "short_online_v2": f"\nThe video contains {{count}} {_SPAN} ({{first:.1f}}s of the entire video) up to the present "
    "moment ({last:.1f}s of the entire video). ",
    "short_online": f"\nThe video segment contains {{count}} {_SPAN} up to the present moment. ",
    "none": "",
}
"""By name: what the model is told about the frames; ``short_online_v2`` is the one of the official evaluation."""


@dataclass(frozen=True, kw_only=True)
class ForestSizes:
    """Sizes and weights behind a tower; official values by default.

    Tokens are those of one frame at each age: now, in the window, in an event. ``now_frames``: newest frames kept in
    full; ``short_frames``: frames kept in the window at least, an event is cut off its old end once there are
    ``split_window`` more; ``quota``: tokens of all events together. ``mode``: ``online`` merges events as soon as they
    exceed the quota, ``lazy`` keeps them all and merges a copy per question. ``upstream_quirks``: weigh the time of an
    event by its size after merging instead of by its frames.

    Raises ``ValueError`` for sizes that cannot work.
    """

    now_frames: int = 1
    now_tokens: int = 729
    short_frames: int = 18
    short_tokens: int = 128
    split_window: int = 8
    event_tokens: int = 64
    quota: int = 5120
    similarity_weight: float = 0.4
    time_weight: float = 0.2
    merge_weight: float = 0.4
    mode: Literal["online", "lazy"] = "online"
    upstream_quirks: bool = False

    def __post_init__(self) -> None:
        counts = ("now_frames", "short_frames", "split_window", "event_tokens", "quota")
        require_at_least_one("memory", self, counts)
        for field in ("similarity_weight", "time_weight", "merge_weight"):
            if getattr(self, field) < 0:
                raise ValueError(f"memory.{field}={getattr(self, field)}: must be 0 or more")
        if self.mode not in MODES:
            raise ValueError(f"memory.mode={self.mode}: must be one of {', '.join(MODES)}")
        if not self.event_tokens <= self.short_tokens <= self.now_tokens:
            raise ValueError(
                f"memory.event_tokens={self.event_tokens}: a frame only shrinks, from memory.now_tokens="
                f"{self.now_tokens} to backbone.tokens_per_frame={self.short_tokens} to event_tokens"
            )

    def most_tokens(self) -> int:
        """Tokens that the ``online`` memory hands over at most, however long the stream: events, window, now.

        No event is larger than the longest that can be cut off, so a quota below that means one event of that size.
        """
        events = max(self.quota, self.split_window * self.event_tokens)
        window = self.short_frames + self.split_window - 1
        return events + window * self.short_tokens + self.now_frames * self.now_tokens


@dataclass(frozen=True, kw_only=True)
class StreamForestMemory(Memory):
    """Settings; ``None`` for a size: what the checkpoint suggests, else the official value (see :class:`ForestSizes`).

    Frames are kept as features of the tower. A question reads all of it: projected, then pruned. A pruner's budget is a
    share of a frame in the window (``backbone.tokens_per_frame``) that holds for every part of the memory.
    """

    name: str = "streamforest"
    mode: Literal["online", "lazy"] = "online"
    now_frames: int | None = None
    now_tokens: int | None = None
    short_frames: int | None = None
    split_window: int | None = None
    event_tokens: int | None = None
    quota: int | None = None
    similarity_weight: float = 0.4
    time_weight: float = 0.2
    merge_weight: float = 0.4
    time_message: str = "short_online_v2"
    upstream_quirks: bool = False

    needs: ClassVar[frozenset[str]] = frozenset({"frame_positions"})
    takes: ClassVar[str] = "features"

    def __post_init__(self) -> None:
        if self.time_message not in TIME_MESSAGES:
            raise ValueError(f"memory.time_message={self.time_message}: must be one of {', '.join(TIME_MESSAGES)}")

    def sizes(self, facts: ModelFacts) -> ForestSizes:
        """Sizes for a checkpoint. Raises ``ValueError`` where they do not fit."""
        suggested, num_tower = facts.suggested.get("streamforest", {}), facts.features_per_frame
        chosen = {"now_tokens": num_tower} | {name: suggested[name] for name in SIZES if name in suggested}
        chosen |= {name: getattr(self, name) for name in SIZES if getattr(self, name) is not None}
        sizes = ForestSizes(
            short_tokens=facts.tokens_per_frame,
            similarity_weight=self.similarity_weight,
            time_weight=self.time_weight,
            merge_weight=self.merge_weight,
            mode=self.mode,
            upstream_quirks=self.upstream_quirks,
            **chosen,
        )
        if sizes.now_tokens > num_tower:
            raise ValueError(
                f"memory.now_tokens={sizes.now_tokens}: the tower of backbone.checkpoint={facts.checkpoint} makes "
                f"{num_tower} tokens of a frame"
            )
        return sizes

    def check(self, facts: ModelFacts, cacher: Cacher, pruner: Pruner) -> None:
        super().check(facts, cacher, pruner)
        unit_pruner(pruner, self.sizes(facts))

    def open(self, model: ForestModel, timer: StageTimer) -> StreamForestState:
        return StreamForestState(self, model, timer)


class ForestModel(Model, Protocol):
    """A model that was trained for this memory."""

    tower: VisionTower

    def frame_positions(self, features: Tensor, first_index: int) -> Tensor:
        """Features [F, T, C] of the frames ``first_index ...`` of a stream -> the same with place and time added."""
        ...


# Fine-grained spatio-temporal window: the last frames in detail, and where an event ends


@dataclass(frozen=True)
class Cut:
    """Frames that leave the window together, [n, short tokens, C]: an event.

    ``similarities``: those between neighbours among which the lowest was looked for.
    """

    frames: Tensor
    similarities: Tensor


class FineWindow:
    """``now``: newest frames, [now tokens, C] each; ``short``: those before them, [short tokens, C] each.

    ``similarities``: cosines (0-d) of each frame to the one after it, as whole frames before any merging.
    """

    def __init__(self, sizes: ForestSizes, num_heads: int) -> None:
        self._sizes, self._num_heads = sizes, num_heads
        self.now: list[Tensor] = []
        self.short: list[Tensor] = []
        self.similarities: list[Tensor] = []
        self.last_frame: Tensor | None = None

    def __len__(self) -> int:
        return len(self.now) + len(self.short)

    def push(self, frame: Tensor) -> list[Cut]:
        """Take the next frame [T, C]; returns the events that this ends."""
        if self.last_frame is not None:
            pair = (self.last_frame.flatten().float(), frame.flatten().float())
            self.similarities.append(cosine_similarity(*pair, dim=0))
        self.last_frame = frame
        self.now.append(self._merged(frame, self._sizes.now_tokens))
        # A frame that is no longer among the newest goes on with fewer tokens.
        while len(self.now) > self._sizes.now_frames:
            self.short.append(self._merged(self.now.pop(0), self._sizes.short_tokens))
        cuts = []
        while len(self.short) >= self._sizes.short_frames + self._sizes.split_window:
            cuts.append(self.cut())
        return cuts

    def push_flops(self, num_tokens: int, width: int) -> int:
        """FLOPs of taking one frame: its cosine to the last one, and its merging on the way to the short window."""
        sizes = self._sizes
        down = ((num_tokens, sizes.now_tokens), (sizes.now_tokens, sizes.short_tokens))
        merging = sum(merge_flops(*step, width, self._num_heads) for step in down)
        return 6 * num_tokens * width + merging

    def cut(self) -> Cut:
        """The oldest frames up to the least similar pair of neighbours among the first ``split_window`` pairs."""
        looked_at = torch.stack(self.similarities[: self._sizes.split_window])
        num_frames = int(looked_at.argmin()) + 1
        frames = torch.stack(self.short[:num_frames])
        del self.short[:num_frames], self.similarities[:num_frames]
        return Cut(frames, looked_at)

    def _merged(self, frame: Tensor, num_tokens: int) -> Tensor:
        return merge_tokens(frame[None], num_tokens, self._num_heads)[0] if len(frame) > num_tokens else frame


# Persistent event memory forest: events of the past, the least worth keeping apart merged first


@dataclass(frozen=True)
class Event:
    """A tree: ``tokens`` [n, event tokens, C], n its size in frames after merging; ``frames`` it was made of.

    ``time``: index of its centre in the stream; ``num_leaves``: events as they were cut off that it consists of.
    """

    tokens: Tensor
    frames: range
    time: float
    num_leaves: int = 1

    @property
    def size(self) -> int:
        """Size in frames after merging."""
        return len(self.tokens)


class EventForest:
    """Events in time order; ``similarities``: of each to the one after it."""

    def __init__(self, sizes: ForestSizes, num_heads: int) -> None:
        self._sizes, self._num_heads = sizes, num_heads
        self.events: list[Event] = []
        self.similarities: list[float] = []

    @property
    def num_tokens(self) -> int:
        """Tokens of all events."""
        return sum(event.size for event in self.events) * self._sizes.event_tokens

    @property
    def num_frames(self) -> int:
        """Frames of the stream that the events cover, from its start."""
        return self.events[-1].frames.stop if self.events else 0

    def copy(self) -> EventForest:
        """One that can be merged further while this one stays as it is; events are shared."""
        copied = EventForest(self._sizes, self._num_heads)
        copied.events, copied.similarities = list(self.events), list(self.similarities)
        return copied

    def add(self, frames: Tensor) -> int:
        """Append the next frames [n, short tokens, C] as an event; returns the FLOPs of merging their tokens."""
        start, size = self.num_frames, len(frames)
        tokens, flops = self._merged(frames.flatten(0, 1), size)
        self.events.append(Event(tokens, range(start, start + size), start + (size - 1) / 2))
        if len(self.events) > 1:
            self.similarities.append(self._similarity(len(self.events) - 2))
        return flops

    def shrink(self, newest: int) -> int:
        """Merge until the quota is met or one event is left; ``newest``: index of the stream's newest frame.

        Returns the FLOPs of merging.
        """
        flops = 0
        while self.num_tokens > self._sizes.quota and len(self.events) > 1:
            flops += self.merge(int(self.penalties(newest).argmin()))
        return flops

    def penalties(self, newest: int) -> Tensor:
        """[E - 1]: what merging each event with the one after it would cost, float32 on the CPU.

        Events that differ, that are recent, and that were merged often already, cost more.
        """
        sizes = self._sizes
        time = _pair_means([event.time for event in self.events])
        leaves = _pair_means([event.num_leaves for event in self.events])
        merging = leaves / leaves.max()
        if sizes.upstream_quirks:
            merging = merging + 1e-6  # the released code adds it after the division: an offset without effect
        unlike = 1 - torch.tensor(self.similarities)
        recency = sizes.time_weight * time / newest
        return sizes.similarity_weight * unlike + recency + sizes.merge_weight * merging

    def merge(self, index: int) -> int:
        """Merge event ``index`` with the one after it; returns the FLOPs."""
        first, second = self.events[index : index + 2]
        # Two events become one of half their size, as tokens of one long frame.
        both = torch.cat((first.tokens, second.tokens)).flatten(0, 1)
        tokens, flops = self._merged(both, ceil((first.size + second.size) / 2))
        frames = range(first.frames.start, second.frames.stop)
        leaves = first.num_leaves + second.num_leaves
        # Its time is the mean over its frames; over its merged size in the released code.
        weights = [event.size if self._sizes.upstream_quirks else len(event.frames) for event in (first, second)]
        time = (first.time * weights[0] + second.time * weights[1]) / sum(weights)
        self.events[index : index + 2] = [Event(tokens, frames, time, leaves)]
        # Only its neighbours have to be compared anew.
        del self.similarities[index]
        for pair in (index - 1, index):
            if 0 <= pair < len(self.similarities):
                self.similarities[pair] = self._similarity(pair)
        return flops

    def _similarity(self, index: int) -> float:
        """Mean cosine of the matches that merging the events ``index`` and ``index + 1`` would use."""
        tokens = torch.cat([event.tokens for event in self.events[index : index + 2]])
        num_merged = (len(tokens) - ceil(len(tokens) / 2)) * self._sizes.event_tokens
        return mean_match(tokens.flatten(0, 1), num_merged, self._num_heads)

    def _merged(self, tokens: Tensor, size: int) -> tuple[Tensor, int]:
        """All tokens [T, C] of an event together -> [size, event tokens, C], and the FLOPs."""
        target = size * self._sizes.event_tokens
        merged = merge_tokens(tokens[None], target, self._num_heads)
        flops = merge_flops(len(tokens), target, tokens.shape[1], self._num_heads)
        return merged.view(size, self._sizes.event_tokens, -1), flops


def _pair_means(values: Sequence[float]) -> Tensor:
    return torch.tensor([(a + b) / 2 for a, b in pairwise(values)], dtype=torch.float32)


# Window and forest together


@dataclass(frozen=True)
class ForestView:
    """What a question gets to see, oldest first: events, window, now; in the space of the tower.

    ``events`` [n, event tokens, C] per event, ``short`` [short tokens, C] and ``now`` [now tokens, C] per frame;
    ``times``: index in the stream for each of them, in that order.
    """

    events: list[Tensor]
    short: list[Tensor]
    now: list[Tensor]
    times: list[float]
    flops: int = 0

    @property
    def tokens(self) -> Tensor:
        """All tokens [N, C] in the order of the prompt."""
        return torch.cat([*(event.flatten(0, 1) for event in self.events), *self.short, *self.now])

    @property
    def unit_sizes(self) -> tuple[list[int], list[int], list[int]]:
        """Tokens of each unit by its age: a frame's share of an event, a frame of the window, a newest frame."""
        shares = [event.shape[1] for event in self.events for _ in range(len(event))]
        return shares, list(map(len, self.short)), list(map(len, self.now))

    @property
    def unit_times(self) -> list[float]:
        """Index in the stream of each unit; all shares of an event have the event's."""
        shares = [time for time, event in zip(self.times, self.events, strict=False) for _ in range(len(event))]
        return shares + self.times[len(self.events) :]


class Forest:
    """Frames go in with their positions added; reading it changes nothing.

    ``online``: the events are merged to the quota with every frame, so the memory is bounded. ``lazy``: they wait,
    and each question merges a copy, as the official evaluation does when it builds its memory anew; the result
    differs, since penalties are then computed once, at the end.
    """

    def __init__(self, sizes: ForestSizes, num_heads: int) -> None:
        self.sizes, self._num_heads = sizes, num_heads
        self.window = FineWindow(sizes, num_heads)
        self.forest = EventForest(sizes, num_heads)

    @property
    def num_frames(self) -> int:
        """Frames pushed so far."""
        return self.forest.num_frames + len(self.window)

    def push(self, frame: Tensor) -> int:
        """Take the next frame [T, C] of the stream; returns the FLOPs of merging."""
        cuts = self.window.push(frame)
        flops = self.window.push_flops(*frame.shape) + sum(self.forest.add(cut.frames) for cut in cuts)
        if self.sizes.mode == "online":
            flops += self.forest.shrink(self.num_frames - 1)
        return flops

    def read(self) -> ForestView:
        """The memory as a question sees it now. Raises ``ValueError`` before the first frame."""
        if not self.num_frames:
            raise ValueError("the memory is empty")
        forest, flops = self.forest, 0
        if self.sizes.mode == "lazy":
            forest = forest.copy()
            flops = forest.shrink(self.num_frames - 1)
        times = [event.time for event in forest.events]
        times += [float(index) for index in range(forest.num_frames, self.num_frames)]
        events = [event.tokens for event in forest.events]
        return ForestView(events, list(self.window.short), list(self.window.now), times, flops)

    @property
    def num_tokens(self) -> int:
        """Tokens kept for questions; in ``lazy`` mode a question sees fewer of the events."""
        window = sum(len(frame) for frame in (*self.window.short, *self.window.now))
        return self.forest.num_tokens + window

    @property
    def num_bytes(self) -> int:
        """Bytes kept on the device: the tokens, and the newest frame where ``now`` does not hold it in full."""
        last = self.window.last_frame
        if last is None:
            return 0
        is_shared = any(last is frame for frame in self.window.now)
        kept = self.num_tokens + (0 if is_shared else len(last))
        return kept * last.shape[1] * last.element_size()


# A frame pruner on a memory that has no frames: every unit of the memory is treated as one


def unit_pruner(pruner: Pruner, sizes: ForestSizes) -> Pruner:
    """``pruner`` with its budget as a share of each unit, so that merging and pruning multiply.

    Raises ``ValueError`` where it cannot work on a memory.
    """
    wanted = [*sorted(pruner.needs), *(["places"] if pruner.uses_places else [])]
    if wanted:
        raise ValueError(
            f"pruner={getattr(pruner, 'name', type(pruner).__name__)} needs {', '.join(wanted)} of each patch of a "
            "frame, but backbone=streamforest prunes its memory, where patches are merged across places and frames; "
            "choose a pruner that looks at the tokens alone, such as pruner=stc"
        )
    share = pruner.num_kept(sizes.short_tokens) / sizes.short_tokens
    shared = replace(pruner, budget=None, keep_ratio=share)
    for num_tokens in (sizes.event_tokens, sizes.short_tokens, sizes.now_tokens):
        shared.check(num_tokens)
    return shared


def prune_units(pruner: Pruner, groups: Sequence[Sequence[VisualTokens]]) -> tuple[list[VisualTokens], int]:
    """What is kept of each unit, and the method's FLOPs.

    ``groups``: units of equal size, in time order throughout; the pruner's history runs from the oldest unit to
    the newest one and starts anew with each question.
    """
    state, kept, flops = pruner.new_state(), [], 0
    for units in groups:
        if units:
            kept += pruner.compress(units, state)
            flops += len(units) * pruner.flops(*units[0].tokens.shape)
    return kept, flops


class StreamForestState(MemoryState):
    """``forest``: the memory; nothing waits for the pruner, which sees the memory and not the frames."""

    def __init__(self, settings: StreamForestMemory, model: ForestModel, timer: StageTimer) -> None:
        self._settings, self._model, self._timer = settings, model, timer
        self.forest = Forest(settings.sizes(model.facts), model.tower.facts.num_heads)
        self.first_s = self.last_s = 0.0

    def remember(self, frames: Sequence[VisualTokens]) -> list[int]:
        flops = []
        for frame in frames:
            index = self.forest.num_frames
            self.first_s = self.first_s if index else frame.timestamp_s
            self.last_s = frame.timestamp_s
            flops.append(self.forest.push(self._model.frame_positions(frame.tokens[None], index)[0]))
        return flops

    def read(self, query: Query, waiting: Sequence[VisualTokens], prune: PruneOnRead) -> Reading:
        model, sizes = self._model, self.forest.sizes
        store = GrowingStore(model.decoder.shape)
        units, details, message, flops = [], {}, "", {"retrieve": 0, "prune": 0}
        if num_frames := self.forest.num_frames:
            with self._timer.stage("retrieve"):
                # 1. All of the memory, in the space of the language model.
                view = self.forest.read()
                tokens = view.tokens
                projected = prune.project(tokens)
            with self._timer.stage("prune"):
                # 2. The same share of every part of it.
                pruner = unit_pruner(prune.pruner, sizes)
                units, flops["prune"] = prune_units(pruner, self._units(view, projected))
            flops["retrieve"] = view.flops + projector_flops(*tokens.shape, projected.shape[1])
            message = time_message(self._settings.time_message, num_frames, self.first_s, self.last_s)
            details = {
                "num_frames_used": num_frames,
                "num_events": len(view.events),
                "num_event_tokens": sum(event.shape[0] * event.shape[1] for event in view.events),
                "num_short_tokens": sum(map(len, view.short)),
                "num_now_tokens": sum(map(len, view.now)),
            }
        num_visual = sum(unit.num_tokens for unit in units)

        def describe(generated: Generated | None) -> dict[str, int]:
            return {"num_visual_tokens": num_visual, "prompt_kv_bytes": store.num_bytes}

        # 3. One fresh prompt, of which nothing outlives the question.
        segments = [*model.layout.opening(), *(model.layout.frames(units) if units else [])]
        return Reading(Context(model, store), segments, [num_visual], message, flops, details, describe)

    def stats(self) -> dict[str, int]:
        """``num_tokens``: visual tokens kept; ``num_blocks``: events; ``kv_bytes_device``: bytes kept between two
        frames, here features of the tower; ``kv_bytes_host``: none. A question's prompt is in its own record."""
        return {
            "num_tokens": self.forest.num_tokens,
            "num_blocks": len(self.forest.forest.events),
            "kv_bytes_device": self.forest.num_bytes,
            "kv_bytes_host": 0,
        }

    def close(self) -> None:
        self.forest = None

    def _units(self, view: ForestView, projected: Tensor) -> list[list[VisualTokens]]:
        """The projected tokens [N, H] as units, by age. A unit has no grid: its tokens are in the order in which
        merging left them."""
        groups, start, times = [], 0, iter(view.unit_times)
        for sizes in view.unit_sizes:
            parts = projected[start : start + sum(sizes)].split(sizes) if sizes else ()
            groups.append([VisualTokens.full(part, (1, len(part)), self._time_s(next(times))) for part in parts])
            start += sum(sizes)
        return groups

    def _time_s(self, index: float) -> float:
        """Stream time of an index in the stream, which may lie between two frames."""
        return self.first_s + (self.last_s - self.first_s) * index / max(1, self.forest.num_frames - 1)


def time_message(kind: str, num_frames: int, first_s: float, last_s: float) -> str:
    """What stands before the question about ``num_frames`` frames of the times ``first_s .. last_s``.

    Times are rounded to a tenth before the span is taken, as in the released code.
    """
    first_s, last_s = round(first_s, 1), round(last_s, 1)
    return TIME_MESSAGES[kind].format(count=num_frames, span=last_s - first_s, first=first_s, last=last_s)
