"""The contract of a memory: frozen settings, a state per stream, and a reading per question.

A memory decides what is kept of the frames and what a question sees of it. It makes no answer and
imports no model: it gets what it needs of a model when a stream is opened.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, ClassVar, Protocol

import torch
from torch import Tensor

from stc_lab.cachers.base import Cacher
from stc_lab.language.context import Generated, ReadableContext
from stc_lab.language.decoder import TextDecoder
from stc_lab.language.sequence import Axes, Cursor, Segment, TokenSequence
from stc_lab.measure import StageTimer
from stc_lab.pruners.base import Pruner
from stc_lab.types import Question, TimedText, VisualTokens


def require_at_least_one(group: str, settings: object, fields: Sequence[str], unit: str = "") -> None:
    """Raise ``ValueError`` when one of these ``fields`` is given and below 1 (``unit``: words behind the number)."""
    for field_name in fields:
        value = getattr(settings, field_name)
        if value is not None and value < 1:
            raise ValueError(f"{group}.{field_name}={value}: must be at least 1{unit}")


NEEDS = {
    "kv": "a decoder whose keys and values can be kept between frames",
    "features": "the features of the vision tower",
    "views": "frames at another resolution",
    "places": "the place of every token in its frame",
    "equal_counts": "the same number of tokens from every frame",
    "turns": "turns of a chat in which the model may say something about every second, or nothing",
}
"""What a memory may need, in words for the message that refuses a pair."""


@dataclass(frozen=True)
class ModelFacts:
    """What a checkpoint's ``config.json`` says, without weights.

    ``checkpoint``: as the user named it; ``tokens_per_frame``: visual tokens of a frame before pruning, the most there
    can be where they depend on the video; ``max_positions``: the model was trained up to this length (``None``: not
    known); ``num_axes`` of rotary positions; ``frames_per_patch``: video frames that the tower takes as one;
    ``features_per_frame``: tokens of the tower, for memories that keep those;
    ``offers``: what memories may ask for (see ``NEEDS``), and ``merged_tokens``, ``bare_prompts`` where a model takes
    these; ``suggested``: sizes that suit the checkpoint, by memory (its ``stc_lab.json``).
    """

    checkpoint: str
    tokens_per_frame: int
    offers: frozenset[str]
    max_positions: int | None = None
    num_axes: int = 1
    frames_per_patch: int = 1
    features_per_frame: int | None = None
    suggested: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)


class Layout(Protocol):
    """Where frames, marks and words stand in the prompt of a model."""

    def opening(self) -> list[Segment]:
        """What stands before the first frame."""
        ...

    def frames(self, frames: Sequence[VisualTokens], continues: bool = False) -> list[Segment]:
        """Frames in time order, with the text that the model expects between them; ``continues``: more of a video."""
        ...

    def closing(self) -> list[Segment]:
        """What ends the video."""
        ...

    def question(self, question: Question, reader: str, message: str = "") -> list[Segment]:
        """The question, up to where the answer starts; ``message``: what is told about the video in front of it."""
        ...


class Model(Protocol):
    """What a memory may use of a model."""

    decoder: TextDecoder
    layout: Layout
    facts: ModelFacts
    device: torch.device

    stop_ids: frozenset[int]

    def sequence(
        self, segments: Sequence[Segment], cursor: Cursor | None = None, axes: Axes | None = None
    ) -> TokenSequence: ...

    def token_ids(self, text: str) -> list[int]: ...

    def text(self, token_ids: Sequence[int]) -> str: ...


@dataclass(frozen=True)
class Query:
    """A question as a memory sees it. ``text``: what memories search by; ``reader``: how the answer will be read."""

    question: Question
    text: str
    reader: str = "generate"


@dataclass(frozen=True)
class PruneOnRead:
    """For memories that keep features of the tower: the projector and the pruner of the session.

    ``project``: features [N, C] -> visual tokens [N, H] of the language model.
    """

    project: Callable[[Tensor], Tensor]
    pruner: Pruner


@dataclass
class Reading:
    """What a question sees: a context, and ``segments`` that are read in front of the question.

    ``tokens_read``: visual tokens that the question sees, per layer or once for all of them; ``None`` until the
    segments are read (then those of the context). ``message``: told about the video in front of the question.
    ``flops`` of the work so far by stage, ``details`` for the record; ``describe``: more details, once the answer is
    there. ``release``: undo what reading did to the stream's own context. ``commit``: for models whose own words
    belong to the stream: what was generated becomes part of it (called in place of ``release``).
    """

    context: ReadableContext
    segments: list[Segment] = field(default_factory=list)
    tokens_read: Sequence[int] | None = None
    message: str = ""
    flops: dict[str, int] = field(default_factory=dict)
    details: dict[str, Any] = field(default_factory=dict)
    describe: Callable[[Generated | None], dict[str, Any]] | None = None
    release: Callable[[], None] | None = None
    commit: Callable[[list[int]], None] | None = None

    def close(self) -> None:
        """The question is over, answered or not; a second call does nothing."""
        release, self.release = self.release, None
        if release is not None:
            release()


@dataclass(frozen=True, kw_only=True)
class Memory(ABC):
    """Settings of a memory, the ``_target_`` of ``conf/memory/NAME.yaml``. All that changes lives in the state.

    ``needs``: what it asks of a model and of the methods before it (``NEEDS``, or a format that only some models are
    trained for). ``takes``: ``tokens`` of the language model, pruned as they come, or ``features`` of the tower, which
    are projected and pruned when a question reads them. ``changes_stream``: whether a question becomes part of the
    stream, so that a resumed stream must be asked it again.
    """

    needs: ClassVar[frozenset[str]] = frozenset()
    takes: ClassVar[str] = "tokens"

    name: str = ""

    @property
    def changes_stream(self) -> bool:
        """Whether a question leaves something behind in the stream."""
        return False

    def check(self, facts: ModelFacts, cacher: Cacher, pruner: Pruner) -> None:
        """Raise ``ValueError`` where these cannot work together, naming field, value and fix; loads nothing."""
        missing = sorted(need for need in self.needs if need not in facts.offers)
        # What the model cannot give is refused before anything loads.
        if missing:
            wanted = ", ".join(NEEDS.get(need, need) for need in missing)
            raise ValueError(f"memory={self.name}: needs {wanted}, not in backbone.checkpoint={facts.checkpoint}")
        if "places" in self.needs and cacher.merged_tokens is not None:
            raise ValueError(f"memory={self.name}: needs {NEEDS['places']}; cacher.output=merged leaves none, use grid")

    @abstractmethod
    def open(self, model: Model, timer: StageTimer) -> MemoryState:
        """The memory of one stream."""


class MemoryState(ABC):
    """The memory of one stream.

    Frames that wait in a chunk of the memory's own are part of it: :meth:`read` shows them as they are.
    """

    @abstractmethod
    def remember(self, frames: Sequence[VisualTokens]) -> list[int]:
        """Take the next frames, in time order; returns the FLOPs of each."""

    @abstractmethod
    def read(self, query: Query, waiting: Sequence[VisualTokens], prune: PruneOnRead) -> Reading:
        """What a question sees now. Changes nothing that outlives the reading.

        ``waiting``: frames of the stream that wait for others in the pruner, seen by this question as the newest ones;
        they will be remembered later. Raises ``ValueError`` with the reason where nothing can be read.
        """

    @abstractmethod
    def stats(self) -> dict[str, int]:
        """Sizes: ``num_tokens``, ``kv_bytes_device``, ``kv_bytes_host`` and what else there is to say."""

    def next_window(self, pruner: Pruner) -> int:
        """Frames that pass the pruner together next; a memory may end a window where it needs it."""
        return pruner.window_frames

    def tell(self, message: str) -> None:
        """What the viewer says with the next turn. Raises ``ValueError`` for memories that take no turns."""
        raise ValueError("this memory takes no messages between questions: ask a question instead")

    def events(self) -> tuple[list[TimedText], int]:
        """What was said about the stream since the last call, and the FLOPs of saying it."""
        return [], 0

    def finish(self) -> None:
        """The stream is over: take in what waits for more."""

    def close(self) -> None:
        """Let go of everything that is kept."""
