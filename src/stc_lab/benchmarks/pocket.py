"""``dataset=pocket``: held-out streams of the procedural pocket world, as mp4 files on disk."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

from stc_lab.benchmarks.base import check_limit_and_fps, score_answer
from stc_lab.benchmarks.rules import Rule
from stc_lab.pocket.dataset import ensure_streams
from stc_lab.types import Answer, Question, Stream


@dataclass(frozen=True)
class PocketBenchmark:
    """The first ``limit`` streams of a split, made once under ``root`` from fixed seeds.

    The world has no last stream, so ``limit`` is required. The result ranks methods on the pocket world; it says
    nothing about large checkpoints.
    """

    root: str
    split: str = "test"
    limit: int = 32
    fps: float = 1.0
    name: str = "pocket"

    rule: ClassVar[Rule | None] = None
    judges_texts: ClassVar[bool] = False

    def __post_init__(self) -> None:
        check_limit_and_fps(self.limit, self.fps)

    def streams(self) -> list[Stream]:
        """``limit`` streams; the same seeds always give the same streams, a larger limit only adds to them."""
        return ensure_streams(Path(self.root).expanduser(), self.split, self.limit)

    def score(self, question: Question, answer: Answer) -> bool | None:
        """Exact letter."""
        return score_answer(question, answer)
