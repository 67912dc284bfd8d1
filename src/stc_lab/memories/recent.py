"""``memory=recent``: the last frames into the model, and no memory (SimpleStream, arXiv:2604.02317)."""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

from stc_lab.cachers.base import Cacher
from stc_lab.language.caches.base import tensor_bytes
from stc_lab.language.caches.growing import GrowingStore
from stc_lab.language.context import Context, Generated
from stc_lab.measure import StageTimer
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


@dataclass(frozen=True, kw_only=True)
class Recent(Memory):
    """The sliding window that every streaming memory has to beat.

    A question is answered from the last ``num_frames`` frames before it, or from as many as fit into ``budget`` visual
    tokens, as an offline model answers about a clip of that length; what is older is gone. Give one of the two.
    """

    name: str = "recent"
    num_frames: int | None = 4
    budget: int | None = None

    needs: ClassVar[frozenset[str]] = frozenset()

    def __post_init__(self) -> None:
        require_at_least_one("memory", self, ("num_frames", "budget"))
        if self.num_frames is None and self.budget is None:
            raise ValueError("memory.num_frames=null and memory.budget=null: give one of them")

    @property
    def keeps_by_budget(self) -> bool:
        """Whether visual tokens are counted, not frames: a budget that is given holds, whatever ``num_frames`` says."""
        return self.budget is not None

    def check(self, facts: ModelFacts, cacher: Cacher, pruner: Pruner) -> None:
        super().check(facts, cacher, pruner)
        kept = pruner.max_kept(num_to_prune(facts, cacher))
        if self.keeps_by_budget and self.budget < kept:
            raise ValueError(
                f"memory.budget={self.budget}: a single frame has {kept} tokens; raise it to at least {kept}, or lower "
                "pruner.budget"
            )
        limit, num_read = facts.max_positions, self.budget if self.keeps_by_budget else self.num_frames * kept
        # Models with three axes place a frame at as many positions as its longer side, far fewer than its tokens.
        if limit is None or facts.num_axes == 3 or num_read < limit:
            return
        fix = f"lower memory.budget to at most {limit - 1}"
        if not self.keeps_by_budget:
            fix = f"lower memory.num_frames to at most {(limit - 1) // kept}, or lower pruner.budget"
        field = "budget" if self.keeps_by_budget else "num_frames"
        raise ValueError(
            f"memory.{field}={getattr(self, field)}: frames of {kept} tokens do not fit the {limit} positions of "
            f"backbone.checkpoint={facts.checkpoint}; {fix}"
        )

    def open(self, model: Model, timer: StageTimer) -> RecentState:
        return RecentState(self, model, timer)

    def answer_settings(self) -> dict:
        """What can change an answer: the number of frames does not where a budget is given."""
        return {"budget": self.budget} if self.keeps_by_budget else {"num_frames": self.num_frames}


class RecentState(MemoryState):
    """Tokens of the last frames wait for a question; its prompt has them at the positions 0, 1, ... of a clip."""

    def __init__(self, settings: Recent, model: Model, timer: StageTimer) -> None:
        self._settings, self._model, self._timer = settings, model, timer
        self.window: deque[VisualTokens] = deque()

    def remember(self, frames: Sequence[VisualTokens]) -> list[int]:
        # A copy of its own: a view would keep all frames alive that passed the tower together.
        self.window.extend(frame.owned() for frame in frames)
        self.window = self._newest(self.window)
        return [0] * len(frames)

    def read(self, query: Query, waiting: Sequence[VisualTokens], prune: PruneOnRead) -> Reading:
        with self._timer.stage("retrieve"):
            frames = list(self._newest([*self.window, *waiting]))
        return prompt_reading(self._model, frames, {"retrieve": 0})

    def stats(self) -> dict[str, int]:
        """``num_tokens``, ``num_blocks``: visual tokens and frames in the window; ``kv_bytes_device``: bytes kept
        between two frames, here embeddings. A question's prompt is in its own record."""
        return token_stats(self.window)

    def close(self) -> None:
        self.window.clear()

    def _newest(self, frames: Sequence[VisualTokens]) -> deque[VisualTokens]:
        """The last frames of ``frames`` that the settings allow."""
        if not self._settings.keeps_by_budget:
            return deque(frames, maxlen=self._settings.num_frames)
        kept, num_tokens = deque(), 0
        for frame in reversed(frames):
            num_tokens += frame.num_tokens
            if num_tokens > self._settings.budget:
                break
            kept.appendleft(frame)
        return kept


def num_to_prune(facts: ModelFacts, cacher: Cacher) -> int:
    """Tokens of a frame that reach the pruner: merged ones where the cacher merges in the tower."""
    return facts.tokens_per_frame if cacher.merged_tokens is None else cacher.merged_tokens


def prompt_reading(model: Model, frames: Sequence[VisualTokens], flops: dict[str, int], message: str = "") -> Reading:
    """One fresh prompt with ``frames`` as its video; nothing of it outlives the question."""
    store = GrowingStore(model.decoder.shape)
    context = Context(model, store)
    segments = model.layout.opening()
    if frames:
        segments = [*segments, *model.layout.frames(frames), *model.layout.closing()]
    num_visual = sum(frame.num_tokens for frame in frames)

    def describe(generated: Generated | None) -> dict[str, int]:
        return {"num_visual_tokens": num_visual, "prompt_kv_bytes": store.num_bytes}

    details = {
        "num_frames_used": len(frames),
        "first_frame_time_s": frames[0].timestamp_s if frames else None,
    }
    return Reading(context, segments, [num_visual], message, flops, details, describe)


def token_stats(frames: Sequence[VisualTokens]) -> dict[str, int]:
    """Sizes of frames that are kept as visual tokens."""
    num_bytes = sum(tensor_bytes(frame.tokens, frame.per_layer) for frame in frames)
    return {
        "num_tokens": sum(frame.num_tokens for frame in frames),
        "num_blocks": len(frames),
        "kv_bytes_device": num_bytes,
        "kv_bytes_host": 0,
    }
