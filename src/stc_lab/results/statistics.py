"""Averages of answers with their uncertainty: videos are resampled, since questions about one video hang together."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
from scipy import stats

from stc_lab.results.records import Record

AVERAGES = {
    "questions": "every question counts the same",
    "tasks": "plain mean of the tasks",
    "groups": "plain mean of the groups, each the plain mean of its tasks",
}
LEVEL = 0.95
NUM_RESAMPLES = 9999
FEW_STREAMS = 10
BATCH = 500


@dataclass(frozen=True)
class Average:
    """One of :data:`AVERAGES`. ``groups`` are the tasks of each group; tasks of no group form one of their own."""

    kind: str = "questions"
    groups: Mapping[str, Sequence[str]] | None = None

    @property
    def in_words(self) -> str:
        """The rule as a phrase."""
        return AVERAGES[self.kind]

    def __call__(self, hits: np.ndarray, sizes: np.ndarray, tasks: Sequence[str]) -> np.ndarray:
        """Average [...] of ``hits`` [..., T] out of ``sizes`` [..., T] questions per task; NaN without any question.

        A task without questions is left out, and so is a group without tasks.
        """
        if self.kind == "questions":
            return _ratio(hits.sum(axis=-1), sizes.sum(axis=-1))
        # Tasks without questions are NaN here, and no part of any mean below.
        means = _ratio(hits, sizes)
        if self.kind == "groups":
            members = self._members(tasks)
            means = np.stack([_mean(means[..., columns]) for columns in members], axis=-1)
        return _mean(means)

    def within_group(self) -> Average:
        """How the tasks of one group are averaged."""
        return Average("questions" if self.kind == "questions" else "tasks")

    def _members(self, tasks: Sequence[str]) -> list[list[int]]:
        group_of = {task: name for name, names in (self.groups or {}).items() for task in names}
        names = [group_of.get(task, "") for task in tasks]
        return [[i for i, name in enumerate(names) if name == wanted] for wanted in dict.fromkeys(names)]


@dataclass(frozen=True)
class Cells:
    """Questions counted by stream and task: ``hits`` and ``sizes`` [S, T]."""

    hits: np.ndarray
    sizes: np.ndarray
    tasks: tuple[str, ...]

    @classmethod
    def of(cls, values: np.ndarray, streams: Sequence[str], tasks: Sequence[str]) -> Cells:
        """Count ``values`` [N] (0 or 1, or differences of such) of questions about ``streams`` [N] by ``tasks`` [N]."""
        names, rows = np.unique(np.asarray(streams), return_inverse=True)
        labels, columns = np.unique(np.asarray(tasks), return_inverse=True)
        hits, sizes = np.zeros((2, len(names), len(labels)))
        np.add.at(hits, (rows, columns), values)
        np.add.at(sizes, (rows, columns), 1)
        return cls(hits, sizes, tuple(labels.tolist()))

    @cached_property
    def num_streams(self) -> int:
        """S."""
        return len(self.sizes)

    def average(self, average: Average) -> float:
        """The number itself."""
        return float(average(self.hits.sum(axis=0), self.sizes.sum(axis=0), self.tasks))

    def resampled(self, average: Average, seed: int = 0) -> tuple[float, float] | None:
        """95 % interval of the average when whole streams are drawn again (percentile bootstrap).

        ``None`` where there is nothing to draw: one stream, or streams that all look alike.
        """
        if self.num_streams < 2 or self._all_alike(average):
            return None
        # A resample is how often each stream was drawn; its counts are those of the streams, so often added up.
        table = np.concatenate([self.hits, self.sizes], axis=1)
        num_tasks = len(self.tasks)

        def statistic(drawn: np.ndarray, axis: int = -1) -> np.ndarray:
            totals = _counts(drawn, self.num_streams) @ table
            return average(totals[..., :num_tasks], totals[..., num_tasks:], self.tasks)

        result = stats.bootstrap(
            (np.arange(self.num_streams),), statistic, vectorized=True, n_resamples=NUM_RESAMPLES, batch=BATCH,
            confidence_level=LEVEL, method="percentile", rng=np.random.default_rng(seed),
        )  # fmt: skip
        return float(result.confidence_interval.low), float(result.confidence_interval.high)

    def interval(self, average: Average, seed: int = 0) -> tuple[list[float], str]:
        """95 % interval [low, high] of an average of shares (0 or 1 per question), and how it was found.

        Questions about one video are not independent, so whole streams are resampled (``stream_bootstrap``). Few
        streams show too little of their variation: below ``FEW_STREAMS`` the interval is widened to hold the Wilson
        interval over questions too (``stream_bootstrap_and_wilson``). Where there is nothing to resample, the Wilson
        interval stands alone (``wilson``); it is too narrow where answers within a stream agree.
        """
        drawn = self.resampled(average, seed)
        if drawn is not None and self.num_streams >= FEW_STREAMS:
            return list(drawn), "stream_bootstrap"
        # Wilson over all questions; an average over tasks has its own centre, so the interval is moved there.
        num_right, num = self.hits.sum(), self.sizes.sum()
        pooled = stats.binomtest(int(num_right), int(num)).proportion_ci(LEVEL, method="wilson")
        moved = self.average(average) - num_right / num
        low, high = max(0.0, float(pooled.low + moved)), min(1.0, float(pooled.high + moved))
        if drawn is None:
            return [low, high], "wilson"
        return [min(low, drawn[0]), max(high, drawn[1])], "stream_bootstrap_and_wilson"

    def _all_alike(self, average: Average) -> bool:
        """Whether every stream shows the same in all that the average tells apart: its tasks, or all questions."""
        hits, sizes = self.hits, self.sizes
        if average.kind == "questions":
            hits, sizes = hits.sum(axis=1, keepdims=True), sizes.sum(axis=1, keepdims=True)
        return bool(np.all(hits * sizes.sum(axis=0) == sizes * hits.sum(axis=0)))


def accuracy_summary(records: Sequence[Record], seed: int = 0, average: Average | None = None) -> dict[str, Any]:
    """Accuracy, interval and coverage over all ``records``; without an ``average`` every question counts the same.

    Unanswered and failed questions count as wrong. Questions without a gold answer count for coverage only;
    without any scored question ``accuracy`` and its interval are ``None``.
    """
    average = average or Average()
    scored = [record for record in records if record.correct is not None]
    accuracy, interval, method = None, None, None
    if scored:
        correct = np.array([record.correct for record in scored], dtype=float)
        cells = Cells.of(correct, [record.stream_id for record in scored], [record.task for record in scored])
        accuracy = cells.average(average)
        interval, method = cells.interval(average, seed)
    return {
        "accuracy": accuracy,
        "accuracy_ci95": interval,
        "ci_method": method,
        "coverage": sum(record.status == "answered" for record in records) / len(records) if records else None,
        "num_questions": len(records),
        "num_scored": len(scored),
        "num_streams": len({record.stream_id for record in records}),
    }


def split_summary(records: Sequence[Record], label: Callable[[Record], str], seed: int = 0) -> dict[str, dict]:
    """:func:`accuracy_summary` per label in alphabetical order; records with an empty label are left out."""
    labels = sorted({label(record) for record in records} - {""})
    return {name: accuracy_summary([r for r in records if label(r) == name], seed) for name in labels}


def confidence_interval(values: np.ndarray, streams: Sequence[str], seed: int = 0) -> tuple[list[float], str]:
    """:meth:`Cells.interval` of the plain mean of ``values`` [N] (0 or 1) of questions about ``streams`` [N]."""
    return Cells.of(values, streams, [""] * len(streams)).interval(Average(), seed)


def distribution(values: Sequence[float]) -> dict[str, float] | None:
    """Median, quartiles, p90, interquartile range, mean and number of ``values``; ``None`` when there are none."""
    if len(values) == 0:
        return None
    p25, median, p75, p90 = np.percentile(np.asarray(values, dtype=float), [25, 50, 75, 90])
    return {
        "median": float(median),
        "p25": float(p25),
        "p75": float(p75),
        "p90": float(p90),
        "iqr": float(p75 - p25),
        "mean": float(np.mean(values)),
        "num": len(values),
    }


def _ratio(hits: np.ndarray, sizes: np.ndarray) -> np.ndarray:
    return np.divide(hits, sizes, out=np.full(np.shape(hits), np.nan), where=np.asarray(sizes) > 0)


def _mean(values: np.ndarray) -> np.ndarray:
    """Mean over the last axis without NaN; NaN where nothing else is there."""
    known = ~np.isnan(values)
    return _ratio(np.where(known, values, 0).sum(axis=-1), known.sum(axis=-1))


def _counts(drawn: np.ndarray, num: int) -> np.ndarray:
    """How often each of ``num`` streams was drawn, for ``drawn`` [..., num] indices."""
    # One bincount for all resamples: those of resample i are counted from i * num on.
    flat = drawn.reshape(-1, num)
    shifted = flat + num * np.arange(len(flat))[:, None]
    return np.bincount(shifted.ravel(), minlength=num * len(flat)).reshape(drawn.shape).astype(float)
