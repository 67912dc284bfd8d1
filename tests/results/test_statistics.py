"""Strict accounting, and intervals that know that questions about one video hang together."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from stc_lab.results.records import Record
from stc_lab.results.statistics import accuracy_summary, confidence_interval, distribution, split_summary

BASE = Record(
    fingerprint="f", stream_id="s0", question_id="q0", task="now", group="", time_s=1.0, question="?",
    options=["x", "y"], answer="A", status="answered", prediction="A", correct=True,
)  # fmt: skip


def records_of(outcomes: list[tuple[str, bool | None]]) -> list[Record]:
    return [replace(BASE, question_id=f"q{i}", status=s, correct=c) for i, (s, c) in enumerate(outcomes)]


def test_unanswered_and_failed_questions_count_as_wrong() -> None:
    summary = accuracy_summary(
        records_of([("answered", True), ("answered", True), ("unanswered", False), ("failed", False)])
    )
    assert summary["accuracy"] == 0.5
    assert summary["coverage"] == 0.5
    assert summary["num_questions"] == summary["num_scored"] == 4


def test_questions_without_gold_answer_are_not_scored() -> None:
    summary = accuracy_summary(records_of([("answered", None), ("failed", None)]))
    assert summary["accuracy"] is None
    assert summary["accuracy_ci95"] is None
    assert summary["coverage"] == 0.5


def test_splits_leave_empty_labels_out() -> None:
    wrong, other = replace(BASE, question_id="q1", task="past", correct=False), replace(BASE, question_id="q2", task="")
    records = [BASE, wrong, other]
    by_task = split_summary(records, lambda record: record.task)
    assert {task: part["accuracy"] for task, part in by_task.items()} == {"now": 1.0, "past": 0.0}


def test_interval_contains_the_mean_and_is_reproducible() -> None:
    rng = np.random.default_rng(0)
    correct = (rng.random(200) < 0.7).astype(float)
    streams = [f"s{i // 5}" for i in range(200)]
    (low, high), method = confidence_interval(correct, streams, seed=3)
    assert method == "stream_bootstrap"
    assert low < correct.mean() < high
    assert confidence_interval(correct, streams, seed=3)[0] == [low, high]


def test_interval_agrees_with_theory_for_independent_questions() -> None:
    rng = np.random.default_rng(1)
    correct = (rng.random(1000) < 0.8).astype(float)
    (low, high), _ = confidence_interval(correct, [f"s{i}" for i in range(1000)])
    assert high - low == pytest.approx(2 * 1.96 * np.sqrt(0.8 * 0.2 / 1000), rel=0.1)


def test_questions_that_agree_within_a_stream_widen_the_interval() -> None:
    per_stream = np.repeat((np.random.default_rng(2).random(40) < 0.7).astype(float), 10)
    (low, high), _ = confidence_interval(per_stream, [f"s{i // 10}" for i in range(400)])
    (flat_low, flat_high), _ = confidence_interval(per_stream, [f"s{i}" for i in range(400)])
    assert high - low > 2 * (flat_high - flat_low)


@pytest.mark.parametrize("streams", [["s0"] * 10, [f"s{i}" for i in range(10)]])
def test_one_stream_or_no_variation_gives_the_wilson_interval(streams: list[str]) -> None:
    (low, high), method = confidence_interval(np.ones(10), streams)
    assert method == "wilson"
    assert high == pytest.approx(1.0)
    assert 0.65 < low < 0.75


def test_few_streams_never_look_more_certain_than_independent_questions() -> None:
    correct = np.array([1, 0, 0, 0, 1, 0, 1, 0, 0, 0, 0, 0], dtype=float)
    (low, high), method = confidence_interval(correct, ["a"] * 6 + ["b"] * 6)
    (wilson_low, wilson_high), _ = confidence_interval(correct, ["a"] * 12)
    assert method == "stream_bootstrap_and_wilson"
    assert low <= wilson_low and high >= wilson_high


def test_distribution() -> None:
    values = distribution(list(range(1, 102)))
    assert values == {"median": 51, "p25": 26, "p75": 76, "p90": 91, "iqr": 50, "mean": 51, "num": 101}
    assert distribution([]) is None
