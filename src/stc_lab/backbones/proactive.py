"""Sessions whose model decides by itself when to respond."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections import deque
from collections.abc import Iterable, Iterator
from concurrent.futures import Future
from typing import TYPE_CHECKING, cast

import numpy as np

from stc_lab.types import Answer, Decision, Question

if TYPE_CHECKING:
    from stc_lab.backbones.session import StreamSession


class Proactive(ABC):
    """What such a session offers besides ``push`` and ``ask``; test with ``isinstance(session, Proactive)``.

    A question is watched from the moment it is given; from then on the reports that ``push`` and ``flush`` return
    carry the decisions about it, in the report of the frame with which a decision was made. Those that respond can
    be handed to ``submit`` at any later time; :func:`follow` does so at once.

    ``submit`` returns at once where the session works asynchronously, and the stream goes on meanwhile; otherwise
    the future is done when it is returned. Watching changes no answer to ``ask``.
    """

    @abstractmethod
    def watch(self, question: Question) -> None:
        """Decide from now on when to answer ``question``. Raises ``ValueError`` if it is empty or watched already."""

    @abstractmethod
    def unwatch(self, question_id: str) -> None:
        """Make no more decisions about a question; one that is not watched is no error."""

    @abstractmethod
    def submit(self, request: Question | Decision) -> Future[Answer]:
        """Begin to answer a question now, or to respond to a decision from what it was based on.

        Answers come in the order of submission. Raises ``ValueError`` for a decision that is not from this session's
        watched questions.
        """

    def respond(self, decision: Decision) -> Answer:
        """The response to a decision, waited for."""
        return self.submit(decision).result()


def follow(
    session: Proactive, question: Question, frames: Iterable[tuple[float, np.ndarray]]
) -> Iterator[tuple[Decision, Answer]]:
    """Watch for ``question`` while ``frames`` (time in seconds, uint8 [H, W, 3]) come in, and respond in time.

    Yields every response with its decision, in time order: as soon as it is there while the stream goes on, and what
    is left at its end.
    """
    session.watch(question)
    waiting: deque[tuple[Decision, Future[Answer]]] = deque()
    for time_s, frame in frames:
        for report in cast("StreamSession", session).push([frame], [time_s]):
            responses = [decision for decision in report.decisions if decision.responds]
            waiting.extend((decision, session.submit(decision)) for decision in responses)
        while waiting and waiting[0][1].done():
            decision, future = waiting.popleft()
            yield decision, future.result()
    session.unwatch(question.question_id)
    for decision, future in waiting:
        yield decision, future.result()
