"""The sampling grid: the frame on screen at k / fps, and nothing that depends on what comes later."""

from __future__ import annotations

from collections.abc import Iterator
from fractions import Fraction

import numpy as np
import pytest

from stc_lab.video.sampling import TimedFrame, exact_fps, sample_grid

MILLISECOND = Fraction(1, 1000)


def timed(ticks: list[int]) -> list[TimedFrame]:
    return [TimedFrame(index, tick) for index, tick in enumerate(ticks)]


def sampled(ticks: list[int], fps: float, time_base: Fraction = MILLISECOND) -> list[tuple[int, int]]:
    return [(point, frame.index) for point, frame in sample_grid(timed(ticks), exact_fps(fps), time_base)]


def test_constant_rate() -> None:
    ticks = [512 * number for number in range(100)]  # 25 frames a second
    assert sampled(ticks, 1.0, Fraction(1, 12800)) == [(0, 0), (1, 25), (2, 50), (3, 75)]
    assert sampled(ticks, 5.0, Fraction(1, 12800))[:3] == [(0, 0), (1, 5), (2, 10)]


def test_variable_rate_repeats_a_frame_that_stays_on_screen() -> None:
    assert sampled([0, 400, 2500, 2600, 4000], 1.0) == [(0, 0), (1, 1), (2, 1), (3, 3), (4, 4)]


def test_faster_than_the_video_repeats_frames() -> None:
    assert sampled([0, 500, 1000], 4.0) == [(0, 0), (1, 0), (2, 1), (3, 1), (4, 2)]


@pytest.mark.parametrize("ticks", [[0], [0, 40, 80]])
def test_shorter_than_one_period_gives_the_first_frame(ticks: list[int]) -> None:
    assert sampled(ticks, 1.0) == [(0, 0)]


def test_no_frames_give_no_samples() -> None:
    assert sampled([], 1.0) == []


def test_times_rounded_to_ticks_count_as_there() -> None:
    """30 frames a second in milliseconds: frame 20 is at 0.667, a third of a tick after 2/3."""
    ticks = [round(1000 * number / 30) for number in range(61)]
    assert sampled(ticks, 3.0) == [(point, 10 * point) for point in range(7)]


def test_decimal_rates_do_not_drift() -> None:
    ticks = list(range(0, 1_000_000, 100))  # 10 frames a second for 1000 s
    assert sampled(ticks, 0.1) == [(point, 100 * point) for point in range(100)]


def test_frames_that_go_back_in_time_are_passed_over() -> None:
    assert sampled([0, 900, 100, 2000], 1.0) == [(0, 0), (1, 1), (2, 3)]


def test_samples_do_not_depend_on_what_follows() -> None:
    rng = np.random.default_rng(0)
    ticks = np.concatenate([[0], np.cumsum(rng.integers(1, 400, size=80))]).tolist()
    whole = sampled(ticks, 2.0)
    for length in range(1, len(ticks)):
        part = sampled(ticks[:length], 2.0)
        assert part == whole[: len(part)]
        last_point = ticks[length - 1] // 500
        assert [point for point, _ in part] == list(range(last_point + 1))


def test_reads_no_further_than_one_frame_past_the_grid_point() -> None:
    pulled: list[int] = []

    def watched() -> Iterator[TimedFrame]:
        for frame in timed(list(range(0, 5000, 100))):
            pulled.append(frame.ticks)
            yield frame

    samples = sample_grid(watched(), Fraction(1), MILLISECOND)
    for point in range(4):
        assert next(samples)[0] == point
        assert pulled[-1] == 1000 * point + 100
