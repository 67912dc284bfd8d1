"""Values that travel between the rooms of the lab (see ``docs/architecture.md``)."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from math import floor
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

if TYPE_CHECKING:
    from torch import Tensor

FRAME_STAGES = ("decode", "preprocess", "vision", "project", "prune", "prefill", "decide")
QUESTION_STAGES = ("retrieve", "question", "generate")
"""Names under which the time of a frame and of a question is kept."""


@dataclass(frozen=True)
class Question:
    """One timed question about a stream.

    ``time_s`` is stream time: frames with ``timestamp_s <= time_s`` may be used, later ones may not.
    ``answer`` is the gold letter when there are ``options``, the gold text otherwise ("" when unknown).
    ``context_start_s``: frames before it are not shown (0: the whole past is). ``meta``: plain facts for scoring
    rules and records, which no model sees.

    ``prompt`` is the text of a benchmark's official protocol, options and instructions included; a backbone puts
    it into its chat template in place of its own form of the question ("": its own form). ``answer_start``: the
    official first words of the answer. ``chat_template=False``: the prompt alone, without any template.
    """

    question_id: str
    time_s: float
    text: str
    options: tuple[str, ...] = ()
    answer: str = ""
    task: str = ""
    group: str = ""
    context_start_s: float = 0.0
    meta: Mapping[str, Any] = field(default_factory=dict, hash=False)
    prompt: str = ""
    answer_start: str = ""
    chat_template: bool = True
    polling: Polling | None = None

    @property
    def query(self) -> str:
        """What memories search by: the raw question, or all that is said where there is no chat template."""
        return self.text if self.chat_template else self.prompt

    @property
    def last_time_s(self) -> float:
        """Stream time after which nothing is read for this question."""
        return self.polling.last_s if self.polling else self.time_s

    @property
    def letters(self) -> tuple[str, ...]:
        """Letters of the options: ``("A", "B", ...)``."""
        return tuple("ABCDEFGHIJKLMNOPQRSTUVWXYZ"[: len(self.options)])


@dataclass(frozen=True)
class Polling:
    """Asks every ``interval_s`` from ``first_s`` to ``last_s`` whether it is time to answer.

    ``ask`` is the question about that; a reply with ``trigger`` in it (in any case) means yes. Only then, and at
    that moment, the question that is polled for is asked itself.

    ``decided_by``: ``polls``; ``model``: nothing is asked, a session that decides by itself when to respond watches for
    the question (see ``stc_lab.triggers``); ``auto``: the model where it can, else polls.
    """

    ask: Question
    first_s: float
    last_s: float
    interval_s: float = 1.0
    trigger: str = "yes"
    decided_by: Literal["auto", "model", "polls"] = "auto"

    @property
    def times_s(self) -> tuple[float, ...]:
        """Stream times of the polls."""
        count = int((self.last_s - self.first_s) / self.interval_s + 1e-6) + 1
        return tuple(self.first_s + number * self.interval_s for number in range(count))


@dataclass(frozen=True)
class Stream:
    """One video and all questions about it, in time order."""

    stream_id: str
    video: Path
    questions: tuple[Question, ...]

    def __post_init__(self) -> None:
        ordered = tuple(sorted(self.questions, key=lambda q: (q.time_s, q.question_id)))
        object.__setattr__(self, "questions", ordered)


@dataclass(frozen=True)
class VisualTokens:
    """Visual tokens of one frame on their way to the language model, with all that must travel with them.

    ``tokens`` [T, D]; ``positions`` [T] row-major indices into ``grid`` (rows, columns), ascending for methods that
    drop; ``sizes`` [T]: how many input tokens each one stands for (``None``: one each); ``per_layer`` [E, T, D]: what
    the first E layers of the language model add to each token (deepstack), ``None`` where a model has none.
    ``start_s`` and ``stop_s``: the time that a temporal patch of several video frames covers.

    Of the whole frame, whatever tokens are left of it, and only where a memory asks for it (``Memory.needs``):
    ``features`` [T0, C] of the tower, special tokens included; ``views``: by name, the same frame at another
    resolution, encoded when it is called.
    """

    tokens: Tensor
    positions: Tensor
    grid: tuple[int, int]
    timestamp_s: float
    sizes: Tensor | None = None
    per_layer: Tensor | None = None
    start_s: float | None = None
    stop_s: float | None = None
    features: Tensor | None = None
    views: Mapping[str, Callable[[], VisualTokens]] = field(default_factory=dict)

    @classmethod
    def full(cls, tokens: Tensor, grid: tuple[int, int], timestamp_s: float, **more: Any) -> VisualTokens:
        """All ``rows * columns`` tokens of a frame, in row-major order; ``more``: other fields."""
        import torch  # here, so that questions can be read and scored without it

        positions = torch.arange(tokens.shape[0], device=tokens.device)
        return cls(tokens, positions, grid, timestamp_s, **more)

    @classmethod
    def cat(cls, parts: Sequence[VisualTokens]) -> VisualTokens:
        """Several parts of one frame as one, in the order given."""
        import torch

        first = parts[0]
        sizes = None
        if any(part.sizes is not None for part in parts):
            sizes = torch.cat([part._counts() for part in parts])
        extras = None if first.per_layer is None else torch.cat([part.per_layer for part in parts], dim=1)
        return replace(
            first,
            tokens=torch.cat([part.tokens for part in parts]),
            positions=torch.cat([part.positions for part in parts]),
            sizes=sizes,
            per_layer=extras,
        )

    @property
    def num_tokens(self) -> int:
        """Number of tokens that are left."""
        return self.tokens.shape[0]

    @property
    def num_full(self) -> int:
        """Number of places of the frame, those whose tokens were dropped included."""
        return self.grid[0] * self.grid[1]

    def keep(self, indices: Tensor) -> VisualTokens:
        """The tokens at ``indices`` [K] (indices into the present tokens), in the order given."""
        return replace(
            self,
            tokens=self.tokens[indices],
            positions=self.positions[indices],
            sizes=None if self.sizes is None else self.sizes[indices],
            per_layer=None if self.per_layer is None else self.per_layer[:, indices],
        )

    def merge(self, groups: Tensor, weights: Tensor | None = None) -> VisualTokens:
        """Weighted means of groups of tokens: token t goes into merged token ``groups[t]`` of 0 .. N - 1.

        ``groups`` [T] integers, every number from 0 to N - 1 at least once; ``weights`` [T] positive (default: sizes).
        Extras of layers are averaged alike, sizes are summed, and a merged token stands at the place of its heaviest
        part (of equal ones the first). Sums are products with a one-hot matrix, so that they are the same every time.
        """
        import torch

        counts = self._counts()
        weights = (counts if weights is None else weights).to(torch.promote_types(self.tokens.dtype, torch.float32))
        num_merged = int(groups.max()) + 1
        is_part = (groups == torch.arange(num_merged, device=groups.device)[:, None]).to(weights.dtype)
        shares = is_part * weights
        shares = shares / shares.sum(dim=1, keepdim=True)
        heaviest = (is_part * weights).argmax(dim=1)
        extras = None
        if self.per_layer is not None:
            extras = (shares @ self.per_layer.to(shares.dtype)).to(self.per_layer.dtype)
        return replace(
            self,
            tokens=(shares @ self.tokens.to(shares.dtype)).to(self.tokens.dtype),
            positions=self.positions[heaviest],
            sizes=(is_part @ counts.to(is_part.dtype)).to(counts.dtype),
            per_layer=extras,
        )

    def owned(self) -> VisualTokens:
        """With tensors that keep nothing of a larger batch alive."""
        extras = None if self.per_layer is None else self.per_layer.clone()
        return replace(self, tokens=self.tokens.clone(), per_layer=extras)

    def _counts(self) -> Tensor:
        import torch

        return torch.ones_like(self.positions) if self.sizes is None else self.sizes


@dataclass(frozen=True)
class Decision:
    """Whether it is time to answer a watched question: yes where ``score`` is above the model's threshold.

    ``time_s``: stream time of the last frame that it is based on.
    """

    question_id: str
    time_s: float
    score: float
    responds: bool


@dataclass
class FrameReport:
    """What happened to one frame: written into the records, drawn in the token maps.

    ``vision_batch_size``: frames that passed the tower together; above 1 the vision time is a share, not a latency.
    ``decisions``: those made with this frame about watched questions (see ``stc_lab.triggers``).
    ``num_source_frames``: video frames it stands for (2 where the tower takes pairs; the time is the last one's).
    ``commentary``: what the model said by itself once it had seen this frame.
    ``features`` [T, C]: those of the tower, where the session ``shows_features``. ``fidelity``: how like those of the
    uncompressed tower they are (see ``stc_lab.predict.fidelity``), where that is measured.
    """

    timestamp_s: float
    is_reference: bool
    update_ratio: float
    num_tokens_full: int
    num_tokens: int
    latency_ms: dict[str, float] = field(default_factory=dict)
    flops: dict[str, int] = field(default_factory=dict)
    vision_batch_size: int = field(default=1, compare=False)
    decisions: list[Decision] = field(default_factory=list)
    num_source_frames: int = 1
    commentary: list[TimedText] = field(default_factory=list)
    features: Tensor | None = field(default=None, compare=False, repr=False)
    fidelity: dict[str, float] = field(default_factory=dict)


@dataclass(frozen=True)
class TimedText:
    """What was said about the stream from ``start_s`` to ``stop_s``."""

    start_s: float
    stop_s: float
    text: str


@dataclass
class Answer:
    """The reply to a question, with its cost.

    ``prediction`` is what the answer reader made of ``text`` (a letter for multiple choice), ``None`` when
    it could not be read. ``ttft_ms`` runs from the call of ``ask`` to the first token. ``chat_template``: whether
    the prompt was put into the model's chat template. ``first_logits`` [V]: those from which the first token of the
    answer is taken. ``fidelity``: how like the uncompressed answer it is (see ``stc_lab.predict.fidelity``), where that
    is measured. ``tokens_read``: visual tokens that the question read, on average over layers, and in the layer that
    read most of them.
    """

    text: str
    prediction: str | None
    reader: str
    num_prompt_tokens: int = 0
    num_generated_tokens: int = 0
    ttft_ms: float = 0.0
    letter_logits: dict[str, float] | None = None
    latency_ms: dict[str, float] = field(default_factory=dict)
    flops: dict[str, int] = field(default_factory=dict)
    details: dict = field(default_factory=dict)
    chat_template: bool = True
    first_logits: Tensor | None = field(default=None, compare=False, repr=False)
    fidelity: dict[str, Any] = field(default_factory=dict)
    tokens_read: float | None = None
    tokens_read_max: int | None = None


def share(number: int, ratio: float) -> int:
    """``floor(ratio * number)``, undisturbed by binary fractions (0.29 of 100 is 29)."""
    return floor(number * ratio + 1e-9)


def precise(x: Tensor) -> Tensor:
    """``x`` in float32 at least: similarities and scores are compared in no less."""
    import torch  # here, so that questions can be read and scored without it

    return x.to(torch.promote_types(x.dtype, torch.float32))
