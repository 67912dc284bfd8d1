"""Sessions whose model decides by itself when to respond."""

from __future__ import annotations

from abc import ABC, abstractmethod
from concurrent.futures import Future

from stc_lab.types import Answer, Decision, Question


class Proactive(ABC):
    """What such a session offers besides ``push`` and ``ask``; test with ``isinstance(session, Proactive)``.

    A question is watched from the moment it is given; from then on the reports that ``push`` and ``flush`` return
    carry the decisions about it, in the report of the frame with which a decision was made. A loop that answers in
    time is::

        session.watch(question)
        for report in session.push(frames, times_s):
            for decision in report.decisions:
                if decision.responds:
                    answers.append(session.submit(decision))

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
