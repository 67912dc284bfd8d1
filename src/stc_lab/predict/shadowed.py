"""A session with an uncompressed one beside it: the first answers, the second is what it is compared with."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext

import numpy as np
from torch import Tensor

from stc_lab.backbones.session import StreamSession
from stc_lab.measure.fidelity import answer_fidelity, feature_fidelity
from stc_lab.types import Answer, FrameReport, Question


class Shadowed:
    """Reports, answers and sizes are those of ``measured``; reports and answers also say their ``fidelity``.

    ``reference`` is shown the same frames and asked the same questions, each time after ``measured`` is through.
    Nothing of it enters a time of ``measured``: it has a timer of its own, and runs inside ``aside()``, by which the
    caller leaves it out of wall times. Features wait here for frames that wait for a pruner's window.
    """

    def __init__(
        self,
        measured: StreamSession,
        reference: StreamSession,
        aside: Callable[[], AbstractContextManager[None]] = nullcontext,
    ) -> None:
        self._measured = measured
        self._reference = reference
        self._aside = aside
        self._features: deque[Tensor] = deque()
        measured.shows_features = reference.shows_features = True

    def push(self, frames: Sequence[np.ndarray], timestamps_s: Sequence[float]) -> list[FrameReport]:
        """See :meth:`StreamSession.push`."""
        reports = self._measured.push(frames, timestamps_s)
        with self._aside():
            self._compare(reports, self._reference.push(frames, timestamps_s))
        return reports

    def flush(self) -> list[FrameReport]:
        """See :meth:`StreamSession.flush`."""
        reports = self._measured.flush()
        with self._aside():
            self._compare(reports, self._reference.flush())
        return reports

    def ask(self, question: Question) -> Answer:
        """See :meth:`StreamSession.ask`."""
        answer = self._measured.ask(question)
        with self._aside():
            answer.fidelity = answer_fidelity(answer, self._reference.ask(question))
        return answer

    def stats(self) -> dict[str, int]:
        """Sizes of the measured session alone."""
        return self._measured.stats()

    def close(self) -> None:
        """Free both."""
        self._features.clear()
        self._measured.close()
        self._reference.close()

    def _compare(self, reports: Sequence[FrameReport], references: Sequence[FrameReport]) -> None:
        """Reports come in time order, one per frame from each session, those of the reference first or at once."""
        self._features.extend(report.features for report in references)
        assert len(reports) <= len(self._features), "the uncompressed session waits for no window"
        for report in reports:
            report.fidelity = feature_fidelity(report.features, self._features.popleft())
            report.features = None
