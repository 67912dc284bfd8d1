"""``memory=dispider``: clips become memories and indicators, and a question reads a few of them (arXiv:2501.03218)."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any, ClassVar, Literal, Protocol

import torch
from torch import Tensor
from torch.nn.functional import cosine_similarity, normalize

from stc_lab.cachers.base import Cacher
from stc_lab.language.caches.base import tensor_bytes
from stc_lab.language.caches.growing import GrowingStore
from stc_lab.language.context import Context, Generated
from stc_lab.language.decoder import TextDecoder
from stc_lab.language.sequence import Embedded
from stc_lab.measure import StageTimer
from stc_lab.measure.flops import decoder_flops
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

OFFICIAL = {"clip_frames": 16, "topk": 4}
CHOICES = {"clips": ("uniform", "scenes"), "question_place": ("start", "now", "offline", "summary")}
TEMPERATURE = 0.1
OFFLINE_COSINE, OFFLINE_MOST = 0.2, 28
"""Offline, as many clips are taken as have a cosine above the first, at most the second."""


@dataclass(frozen=True, kw_only=True)
class DispiderMemory(Memory):
    """Settings; ``None`` for a size: what the checkpoint suggests, else the official value.

    ``clip_frames``: frames of a clip; ``clips=scenes``: one also ends where the cosine of the mean features of
    neighbouring frames falls below ``scene_threshold``, if it has ``min_scene_frames`` by then (the exclusion window
    of section 3.2; there with SigLIP features, here with those of the model's own tower; the released code has uniform
    clips only). ``topk``: clips that the large model reads; ``question_place``: see :func:`question_sequence`;
    ``prune_compressor``: leave pruned tokens out of the small model's input as well; ``offload``: keep the tokens of
    complete clips in host memory (``None``: where the device is a GPU); ``indicator_mask``: the attention mask of the
    released code under SDPA.
    """

    name: str = "dispider"
    clip_frames: int | None = None
    clips: Literal["uniform", "scenes"] = "uniform"
    scene_threshold: float = 0.85
    min_scene_frames: int = 4
    topk: int | None = None
    question_place: Literal["start", "now", "offline", "summary"] = "start"
    prune_compressor: bool = False
    offload: bool | None = None
    indicator_mask: bool = False

    needs: ClassVar[frozenset[str]] = frozenset({"features", "clip_compressor"})

    def __post_init__(self) -> None:
        require_at_least_one("memory", self, ("clip_frames", "min_scene_frames", "topk"))
        for field, valid in CHOICES.items():
            if getattr(self, field) not in valid:
                raise ValueError(f"memory.{field}={getattr(self, field)}: must be one of {', '.join(valid)}")
        if not -1.0 <= self.scene_threshold <= 1.0:
            raise ValueError(f"memory.scene_threshold={self.scene_threshold}: a cosine, must lie in [-1, 1]")

    def size(self, field: Literal["clip_frames", "topk"], facts: ModelFacts) -> int:
        """The user's value, else the checkpoint's, else the official one."""
        return getattr(self, field) or facts.suggested.get("dispider", {}).get(field, OFFICIAL[field])

    def check(self, facts: ModelFacts, cacher: Cacher, pruner: Pruner) -> None:
        super().check(facts, cacher, pruner)
        window = pruner.window_frames
        if self.clips == "scenes" and window > 1:
            raise ValueError(
                f"memory.clips=scenes: pruner={getattr(pruner, 'name', pruner)} looks at {window} frames together and "
                "could join two scenes; use memory.clips=uniform, or a pruner that looks at single frames"
            )

    def open(self, model: ClipModel, timer: StageTimer) -> DispiderState:
        return DispiderState(self, model, timer)


# What is kept of a clip, and what makes it (section 3.2)


@dataclass(frozen=True)
class ClipFrame:
    """A frame on its way into a clip: all tokens of four patches [N, 4C], and those for the language model."""

    mixed: Tensor
    kept: VisualTokens

    @property
    def time_s(self) -> float:
        """Stream time."""
        return self.kept.timestamp_s


@dataclass(frozen=True)
class Clip:
    """All that questions need of a clip; never changed, so that it can be handed to another thread.

    ``tokens`` [T, H] for the language model; ``memory`` [frames * pool_num, C] and ``indicator`` [C]: states of the
    compressor. ``start_s`` and ``end_s``: what the compressor was told; ``last_s``: time of its last frame.
    """

    start_s: float
    end_s: float
    last_s: float
    num_frames: int
    tokens: Tensor
    memory: Tensor
    indicator: Tensor


def time_span(frames: Sequence[ClipFrame]) -> tuple[float, float]:
    """Start and end of a clip in seconds; the last frame lasts as long as the frames stand apart."""
    start, last = frames[0].time_s, frames[-1].time_s
    return start, last + (last - start) / max(1, len(frames) - 1)


class ClipCompressor(Protocol):
    """The small model. ``decoder`` has the score of responding in place of logits over words."""

    decoder: TextDecoder

    def mix(self, features: Tensor) -> Tensor:
        """Features [T, C] of the tower -> tokens [N, 4C], each of two by two neighbours."""
        ...

    def perceive(self, frames: Sequence[ClipFrame], prune: bool, indicator_mask: bool) -> tuple[Clip, int]:
        """The clip that ``frames`` make, and the FLOPs it took."""
        ...

    def embeds(self, pieces: Sequence[Piece], text: str, clips: Sequence[Clip]) -> tuple[Tensor, int]:
        """Embeddings [T, C] of a sequence about the question ``text``, and the FLOPs of the summaries in it."""
        ...

    def summary(self, clips: Sequence[Clip]) -> tuple[Tensor, int]:
        """One summarising state per clip [clips, C] (the global memory), and the FLOPs it took."""
        ...

    def for_language(self, states: Tensor) -> Tensor:
        """States [n, C] -> embeddings [n, H] of the large model."""
        ...


class ClipModel(Model, Protocol):
    """A model that was trained for this memory. ``silent_id``: the answer that says there is none."""

    compressor: ClipCompressor
    silent_id: int | None


# In which order the compressor reads memories, question and markers to decide (sections 3.3 and 3.4)


@dataclass(frozen=True)
class Memories:
    """Clip memories of the clips ``start .. stop - 1``."""

    start: int
    stop: int


@dataclass(frozen=True)
class Summary(Memories):
    """One summarising state per clip of ``start .. stop - 1``, made from their memories and indicators."""


QUESTION, ANSWERED, TO_DO = "question", "<has_answer>", "<to_do>"
Piece = str | Memories
"""``QUESTION`` (with its own trailing to-do marker), a marker, or memories."""


def streaming_sequence(num_clips: int, asked_at: int = 0, answered_at: Sequence[int] = ()) -> list[Piece]:
    """For a question that came after ``asked_at`` clips and was answered after each of ``answered_at`` clips.

    What lies before the question and before every answer is read in summarised form, only what came since in full.
    Raises ``ValueError`` for points that are not in order.
    """
    points = list(answered_at)
    if points != sorted(set(points)) or any(not max(1, asked_at) <= point <= num_clips for point in points):
        raise ValueError(f"answered_at={points}: must ascend from asked_at={asked_at} (at least 1) to {num_clips}")
    if not 0 <= asked_at <= num_clips:
        raise ValueError(f"asked_at={asked_at}: must lie between 0 and the {num_clips} clips")
    if asked_at == num_clips:
        return [ANSWERED, *_memories(0, num_clips), QUESTION, TO_DO]
    pieces: list[Piece] = opening(asked_at)
    if asked_at in points:
        pieces.append(ANSWERED)
    last = asked_at
    for point in points:
        if last < point < num_clips:
            pieces += [Summary(last, point), ANSWERED]
            last = point
    return [*pieces, *_memories(last, num_clips), QUESTION, TO_DO]


def opening(asked_at: int) -> list[Piece]:
    """What stands in front of the clips that come after the question."""
    return [ANSWERED, *([Summary(0, asked_at)] if asked_at else []), QUESTION]


def question_sequence(place: str, num_clips: int) -> list[Piece]:
    """For a question that is answered at once.

    ``start``: as if it had been asked before the first clip (official inference, OVO-Bench); ``now``: asked after
    the last; ``offline``: as for videos seen in full; ``summary``: over summaries (a scoring routine of the release).
    """
    if place == "offline":
        return [ANSWERED, *_memories(0, num_clips), QUESTION]
    if place == "summary":
        return [ANSWERED, *([Summary(0, num_clips)] if num_clips else []), QUESTION]
    return streaming_sequence(num_clips, num_clips if place == "now" else 0)


def _memories(start: int, stop: int) -> list[Piece]:
    return [Memories(start, stop)] if stop > start else []


@dataclass(frozen=True)
class Judgement:
    """What the compressor says about a question: ``score`` above 0 means respond; ``selected`` clips in time order.

    ``cosine`` and ``similarity`` (softmax of cosine / 0.1) [clips]: closeness of the question to each indicator.
    """

    state: Tensor
    score: float
    cosine: Tensor
    similarity: Tensor
    selected: tuple[int, ...]
    flops: int

    @property
    def responds(self) -> bool:
        """Whether it is time to respond."""
        return self.score > 0


@dataclass(frozen=True)
class Judge:
    """The compressor reads memories and a question; its last state decides, and retrieves ``topk`` clips."""

    compressor: ClipCompressor
    topk: int

    def ask(self, text: str, clips: Sequence[Clip], place: str) -> Judgement:
        """Judge a question that is to be answered at once; ``place``: see :func:`question_sequence`."""
        decoder = self.compressor.decoder
        embeds, flops = self.compressor.embeds(question_sequence(place, len(clips)), text, clips)
        state = decoder(embeds, GrowingStore(decoder.shape))[-1]
        flops += decoder_flops(decoder.sizes, len(embeds))
        return self.judge(state, clips, flops, is_offline=place == "offline")

    def judge(self, state: Tensor, clips: Sequence[Clip], flops: int = 0, is_offline: bool = False) -> Judgement:
        """Judgement from the last ``state`` [C] of a sequence."""
        # Section 3.3: the head says whether to respond now.
        score = self.compressor.decoder.logits(state).item()
        # Section 3.4: clips whose indicators are closest to the state are read.
        cosine = _cosine(state, clips)
        similarity = (cosine / TEMPERATURE).softmax(dim=0)
        count = self.topk
        if is_offline:
            count = min(max(count, int((cosine > OFFLINE_COSINE).sum())), max(OFFLINE_MOST, count))
        best = similarity.argsort(descending=True, stable=True)[:count]
        return Judgement(state, score, cosine, similarity, tuple(sorted(best.tolist())), flops)


def _cosine(state: Tensor, clips: Sequence[Clip]) -> Tensor:
    """Cosine [clips] of a state [C] and the clips' indicators, float32."""
    if not clips:
        return state.new_zeros(0, dtype=torch.float32)
    indicators = torch.stack([clip.indicator for clip in clips])
    return (normalize(indicators, dim=1) @ normalize(state, dim=0)).float()


# One stream


@dataclass(frozen=True)
class Moment:
    """All clips up to a moment, the open one included, and one summarising state per clip; FLOPs of both."""

    clips: tuple[Clip, ...]
    summary: Tensor
    flops: int


class DispiderState(MemoryState):
    """``clips`` that are complete, each perceived once, and ``open_frames`` of the one that is not.

    A question in the middle of a clip sees its frames so far, those that wait for the pruner included, as a shorter
    clip. What it sees is kept until the next frame, for further questions at that moment. Its FLOPs are reported to
    each of these, and sizes leave it out: what was asked before does not show.
    """

    def __init__(self, settings: DispiderMemory, model: ClipModel, timer: StageTimer) -> None:
        self._settings, self._model, self._timer = settings, model, timer
        self.clip_frames = settings.size("clip_frames", model.facts)
        self.judge = Judge(model.compressor, settings.size("topk", model.facts))
        self.offloads = model.device.type != "cpu" if settings.offload is None else settings.offload
        self.clips: list[Clip] = []
        self.open_frames: list[ClipFrame] = []
        self._seen: tuple[int, Moment] | None = None

    def next_window(self, pruner: Pruner) -> int:
        """A pruner's window ends with the clip: a decision waits for no frame after it."""
        return min(pruner.window_frames, self.clip_frames - len(self.open_frames))

    def remember(self, frames: Sequence[VisualTokens]) -> list[int]:
        self._seen = None
        return [self._take(frame) for frame in frames]

    def read(self, query: Query, waiting: Sequence[VisualTokens], prune: PruneOnRead) -> Reading:
        with self._timer.stage("retrieve"):
            moment = self.moment(waiting)
            judgement = self.judge.ask(query.text, moment.clips, self._settings.question_place)
            return self.reading(moment, judgement, moment.flops + judgement.flops)

    def reading(self, moment: Moment, judgement: Judgement, flops: int) -> Reading:
        """What the large model reads (section 3.4): the tokens and the memory of each selected clip, then the summary
        of all clips. ``flops``: what it took so far."""
        model, compressor = self._model, self._model.compressor
        visual = []
        for index in judgement.selected:
            clip = moment.clips[index]
            visual += [clip.tokens.to(clip.memory.device), compressor.for_language(clip.memory)]
        visual.append(compressor.for_language(moment.summary))
        details = {
            "num_clips": len(moment.clips),
            "selected_clips": list(judgement.selected),
            "num_frames": sum(clip.num_frames for clip in moment.clips),
            "response_score": judgement.score,
        }

        def describe(generated: Generated | None) -> dict[str, Any]:
            return {"kept_silent": generated is not None and model.silent_id in generated.text_ids}

        return Reading(
            Context(model, GrowingStore(model.decoder.shape)),
            [*model.layout.opening(), *map(Embedded, visual), *model.layout.closing()],
            [sum(map(len, visual))],
            flops={"retrieve": flops},
            details=details,
            describe=describe,
        )

    def moment(self, waiting: Sequence[VisualTokens] = ()) -> Moment:
        """What there is to see with the frames that wait, which are taken on a copy."""
        if self._seen is None or self._seen[0] != len(waiting):
            ahead = self.copy()
            flops = sum(ahead.remember(waiting))
            if ahead.open_frames:
                clip, cost = ahead._perceive()
                ahead.clips.append(clip)
                flops += cost
            summary, cost = self._model.compressor.summary(ahead.clips)
            self._seen = len(waiting), Moment(tuple(ahead.clips), summary, flops + cost)
        return self._seen[1]

    def copy(self) -> DispiderState:
        """One that can go on while this one stays as it is; clips are shared."""
        copied = copy.copy(self)
        copied.clips, copied.open_frames = list(self.clips), list(self.open_frames)
        return copied

    def stats(self) -> dict[str, int]:
        """``num_tokens``: tokens kept for the language model; ``num_blocks``: complete clips; ``num_open_frames``:
        those of the clip that is not. ``kv_bytes_device``: tokens, clip memories, indicators, frames of the open clip;
        ``kv_bytes_host``: tokens in host memory."""
        open_bytes = sum(tensor_bytes(frame.mixed, frame.kept.tokens) for frame in self.open_frames)
        state_bytes = sum(tensor_bytes(clip.memory, clip.indicator) for clip in self.clips)
        token_bytes = sum(tensor_bytes(clip.tokens) for clip in self.clips)
        num_open = sum(frame.kept.num_tokens for frame in self.open_frames)
        return {
            "num_tokens": sum(len(clip.tokens) for clip in self.clips) + num_open,
            "num_blocks": len(self.clips),
            "num_open_frames": len(self.open_frames),
            "kv_bytes_device": open_bytes + state_bytes + (0 if self.offloads else token_bytes),
            "kv_bytes_host": token_bytes if self.offloads else 0,
        }

    def close(self) -> None:
        self.clips, self.open_frames, self._seen = [], [], None

    def _take(self, tokens: VisualTokens) -> int:
        """The next frame as the pruner left it; returns the FLOPs of perceiving the clips that it completes."""
        frame = ClipFrame(self._model.compressor.mix(tokens.features), replace(tokens, features=None))
        flops = self._close_clip() if self._starts_scene(frame) else 0
        self.open_frames.append(frame)
        if len(self.open_frames) >= self.clip_frames:
            flops += self._close_clip()
        return flops

    def _starts_scene(self, frame: ClipFrame) -> bool:
        """Whether ``frame`` shows another scene than the open clip."""
        settings = self._settings
        if settings.clips == "uniform" or len(self.open_frames) < settings.min_scene_frames:
            return False
        means = [each.mixed.float().mean(0) for each in (self.open_frames[-1], frame)]
        return bool(cosine_similarity(*means, dim=0) < settings.scene_threshold)

    def _close_clip(self) -> int:
        clip, flops = self._perceive()
        # Only a few clips are read for a question.
        self.clips.append(replace(clip, tokens=clip.tokens.to("cpu")) if self.offloads else clip)
        self.open_frames = []
        return flops

    def _perceive(self) -> tuple[Clip, int]:
        settings = self._settings
        return self._model.compressor.perceive(self.open_frames, settings.prune_compressor, settings.indicator_mask)
