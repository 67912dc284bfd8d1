"""When a stream is asked what: one entry per question, several for a question that is polled for."""

from __future__ import annotations

from dataclasses import dataclass, replace

from stc_lab.predict.tasks import StreamTask
from stc_lab.types import Question


@dataclass(frozen=True)
class Ask:
    """Question ``question`` is due at stream time ``time_s`` (``inf``: at the end of the video).

    ``is_poll``: it is first asked whether it is time to answer; ``is_last``: there is no later entry for it;
    ``is_notice``: nothing is asked, but a model that decides by itself when to respond gets to know the question.
    """

    time_s: float
    question: Question
    is_poll: bool = False
    is_last: bool = True
    is_notice: bool = False

    @property
    def at_that_time(self) -> Question:
        """The question as it is put to a session at that moment."""
        return replace(self.question, time_s=self.time_s)


def agenda(task: StreamTask) -> list[Ask]:
    """All that is asked of a stream, questions with a record included, in time order; ties in question order."""
    asks = [ask for question in task.stream.questions for ask in _asks(question)]
    return sorted(asks, key=lambda ask: ask.time_s)


def _asks(question: Question) -> list[Ask]:
    if question.polling is None:
        return [Ask(question.time_s, question)]
    times_s = question.polling.times_s
    polls = [Ask(time_s, question, True, time_s == times_s[-1]) for time_s in times_s]
    if question.polling.decided_by == "polls":
        return polls
    return [Ask(question.time_s, question, is_last=False, is_notice=True), *polls]
