"""Benchmarks' own averages, and intervals that resample whole streams."""

from __future__ import annotations

import numpy as np
import pytest

from stc_lab.results.statistics import Average, Cells, confidence_interval

GROUPS = {"past": ("a", "b"), "now": ("c",)}
HITS, SIZES, TASKS = np.array([1.0, 8.0, 3.0]), np.array([2.0, 10.0, 3.0]), ("a", "b", "c")


@pytest.mark.parametrize(
    ("kind", "value"), [("questions", 12 / 15), ("tasks", (0.5 + 0.8 + 1) / 3), ("groups", (0.65 + 1) / 2)]
)
def test_averages_by_hand(kind: str, value: float) -> None:
    assert Average(kind, GROUPS)(HITS, SIZES, TASKS) == pytest.approx(value)


def test_tasks_and_groups_without_questions_are_left_out() -> None:
    empty = np.array([2.0, 10.0, 0.0])
    assert Average("groups", GROUPS)(HITS * (empty > 0), empty, TASKS) == pytest.approx(0.65)
    assert Average("tasks")(HITS * (empty > 0), empty, TASKS) == pytest.approx(0.65)
    assert np.isnan(Average("groups", GROUPS)(np.zeros(3), np.zeros(3), TASKS))


def test_many_tables_are_averaged_at_once() -> None:
    tables = np.stack([HITS, HITS / 2])
    values = Average("groups", GROUPS)(tables, np.stack([SIZES, SIZES]), TASKS)
    assert values == pytest.approx([0.825, 0.4125])


def made(num_streams: int, seed: int = 0) -> tuple[np.ndarray, list[str], list[str]]:
    rng = np.random.default_rng(seed)
    streams = [f"s{i // 6}" for i in range(6 * num_streams)]
    tasks = [("a", "b", "c")[i % 3] for i in range(6 * num_streams)]
    skill = rng.random(num_streams).repeat(6)
    return (rng.random(6 * num_streams) < skill).astype(float), streams, tasks


def test_interval_of_the_plain_average_is_that_of_plain_accuracy() -> None:
    correct, streams, tasks = made(60)
    (low, high), method = Cells.of(correct, streams, tasks).interval(Average())
    (expected_low, expected_high), _ = confidence_interval(correct, streams)
    assert method == "stream_bootstrap"
    assert (low, high) == pytest.approx((expected_low, expected_high), abs=0.01)


def test_interval_covers_the_truth_about_as_often_as_it_says() -> None:
    average, inside = Average("groups", GROUPS), 0
    for seed in range(60):
        correct, streams, tasks = made(40, seed)
        (low, high), _ = Cells.of(correct, streams, tasks).interval(average, seed)
        inside += low <= 0.5 <= high
    assert 51 <= inside <= 60


def test_interval_is_reproducible_and_wider_when_answers_hang_together() -> None:
    correct, streams, tasks = made(40)
    cells = Cells.of(np.repeat(correct[::6], 6), streams, tasks)
    apart = Cells.of(np.repeat(correct[::6], 6), [str(i) for i in range(len(streams))], tasks)
    low, high = cells.resampled(Average("tasks"), 1)
    assert cells.resampled(Average("tasks"), 1) == (low, high)
    flat_low, flat_high = apart.resampled(Average("tasks"), 1)
    assert high - low > 1.7 * (flat_high - flat_low)


@pytest.mark.parametrize("num_streams", [1, 3])
def test_few_streams_fall_back_to_the_wilson_interval(num_streams: int) -> None:
    correct, streams, tasks = made(num_streams)
    (low, high), method = Cells.of(correct, streams, tasks).interval(Average("tasks"))
    assert method == ("wilson" if num_streams == 1 else "stream_bootstrap_and_wilson")
    assert 0 <= low <= correct.mean() <= high <= 1 and high - low > 0.2


def test_a_task_of_few_streams_does_not_spoil_the_resampling() -> None:
    correct, streams, tasks = made(12)
    tasks[:6] = ["rare"] * 6  # most resamples lack this stream at least once in a while
    (low, high), _ = Cells.of(correct, streams, tasks).interval(Average("tasks"))
    assert np.isfinite([low, high]).all() and low < high
