"""What the predict loop needs from a benchmark."""

from __future__ import annotations

from typing import ClassVar, Protocol, runtime_checkable

from stc_lab.types import Answer, Question, Stream


@runtime_checkable
class Benchmark(Protocol):
    """A set of streams and a scoring rule; implementations are frozen dataclasses of settings.

    ``fps`` is the rate at which frames are sampled from every stream. ``judges_texts``: the rule judges what was said;
    otherwise an answer that the backbone could not read is wrong without being judged.
    """

    name: str
    fps: float
    judges_texts: ClassVar[bool]

    def streams(self) -> list[Stream]:
        """All streams of the benchmark, always in the same order, with unique ids. Raises ``ValueError`` on user
        mistakes; a single broken video is no error here, its questions become failed records.
        """
        ...

    def score(self, question: Question, answer: Answer) -> bool | None:
        """Whether the answer is right; ``None`` when the question has no gold answer to compare with."""
        ...


def score_answer(question: Question, answer: Answer) -> bool | None:
    """The letter must equal the gold letter; without options the texts must be equal but for case and space."""
    if not question.answer:
        return None
    if question.options:
        return answer.prediction == question.answer
    return answer.text.strip().casefold() == question.answer.strip().casefold()


def check_limit_and_fps(limit: int | None, fps: float) -> None:
    """Raise ``ValueError`` for a ``dataset.limit`` below 1 or a ``dataset.fps`` that is not positive."""
    if limit is not None and limit < 1:
        raise ValueError(f"dataset.limit must be at least 1 (or null for all streams), got {limit}")
    if not fps > 0:
        raise ValueError(f"dataset.fps must be above 0 frames per second, got {fps}")
