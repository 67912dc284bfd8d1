"""Accuracy with its uncertainty, under strict accounting."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from scipy import stats

from stc_lab.results.records import Record

LEVEL = 0.95
NUM_RESAMPLES = 9999
FEW_STREAMS = 10


def accuracy_summary(records: Sequence[Record], seed: int = 0) -> dict[str, Any]:
    """Accuracy, interval and coverage over all ``records``.

    Unanswered and failed questions count as wrong. Questions without a gold answer count for coverage only;
    without any scored question ``accuracy`` and its interval are ``None``.
    """
    scored = [record for record in records if record.correct is not None]
    accuracy, interval, method = None, None, None
    if scored:
        correct = np.array([record.correct for record in scored], dtype=float)
        accuracy = float(correct.mean())
        interval, method = confidence_interval(correct, [record.stream_id for record in scored], seed)
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


def confidence_interval(correct: np.ndarray, streams: Sequence[str], seed: int = 0) -> tuple[list[float], str]:
    """95 % interval [low, high] of the mean of ``correct`` [N] (0 or 1), and the method used.

    Questions about one video are not independent, so whole streams are resampled (percentile bootstrap,
    ``stream_bootstrap``). Few streams show too little of their variation: below ``FEW_STREAMS`` the interval is
    widened to hold the Wilson interval over questions too (``stream_bootstrap_and_wilson``). With one stream, or
    when all streams have the same accuracy, there is nothing to resample and the Wilson interval stands alone
    (``wilson``); it is too narrow where answers within a stream agree.
    """
    _, cluster = np.unique(np.asarray(streams), return_inverse=True)
    hits = np.bincount(cluster, weights=correct)
    sizes = np.bincount(cluster).astype(float)
    if len(sizes) < 2 or np.all(hits * sizes.sum() == sizes * hits.sum()):
        return _wilson(correct), "wilson"
    result = stats.bootstrap(
        (hits, sizes), _pooled_mean, paired=True, vectorized=True, n_resamples=NUM_RESAMPLES, batch=1000,
        confidence_level=LEVEL, method="percentile", rng=np.random.default_rng(seed),
    )  # fmt: skip
    low, high = float(result.confidence_interval.low), float(result.confidence_interval.high)
    if len(sizes) >= FEW_STREAMS:
        return [low, high], "stream_bootstrap"
    wilson_low, wilson_high = _wilson(correct)
    return [min(low, wilson_low), max(high, wilson_high)], "stream_bootstrap_and_wilson"


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


def _pooled_mean(hits: np.ndarray, sizes: np.ndarray, axis: int = -1) -> np.ndarray:
    return hits.sum(axis=axis) / sizes.sum(axis=axis)


def _wilson(correct: np.ndarray) -> list[float]:
    interval = stats.binomtest(int(correct.sum()), len(correct)).proportion_ci(LEVEL, method="wilson")
    return [float(interval.low), float(interval.high)]
