"""The virtual clock: arrivals, waiting, delays, and the frame rate that is kept up with."""

from __future__ import annotations

import pytest

from stc_lab.measure.clock import FrameJob, QuestionJob, replay, sustainable_fps


def question(time_s: float, work_s: float = 0.5) -> QuestionJob:
    return QuestionJob(("s", f"q{time_s:g}"), time_s, work_s, first_token_s=0.2)


def test_a_fast_worker_answers_at_once() -> None:
    frames = [FrameJob(float(t), 0.1) for t in range(5)]
    (response,) = replay(frames, [question(3.5)])
    assert (response.backlog_frames, response.wait_s) == (0, 0.0)
    assert (response.first_token_s, response.response_s) == (0.2, 0.5)


def test_a_frame_of_the_same_moment_comes_first() -> None:
    (response,) = replay([FrameJob(2.0, 0.25)], [question(2.0)])
    assert response.backlog_frames == 1
    assert response.wait_s == pytest.approx(0.25)
    assert response.response_s == pytest.approx(0.75)


def test_a_slow_worker_falls_behind_by_what_it_lacks() -> None:
    """One frame a second, 1.5 s of work each: frame k is done at 1.5 (k + 1)."""
    frames = [FrameJob(float(t), 1.5) for t in range(10)]
    early, late = replay(frames, [question(3.0, 0.0), question(9.0, 0.0)])
    assert early.wait_s == pytest.approx(6.0 - 3.0)
    assert late.wait_s == pytest.approx(15.0 - 9.0)
    assert (early.backlog_frames, late.backlog_frames) == (2, 4)


def test_an_answer_delays_frames_and_later_questions() -> None:
    frames = [FrameJob(float(t), 0.1) for t in range(6)]
    _, second = replay(frames, [question(1.0, 3.0), question(2.0, 0.5)])
    assert second.backlog_frames == 1  # frame 2 is not begun before the first answer ends at 4.1
    assert second.wait_s == pytest.approx(4.2 - 2.0)


def test_frames_of_the_future_do_not_delay_an_answer() -> None:
    (response,) = replay([FrameJob(5.0, 100.0)], [question(4.0)])
    assert response.wait_s == 0.0


def test_order_of_the_input_does_not_matter() -> None:
    frames, questions = [FrameJob(float(t), 0.9) for t in range(8)], [question(2.2), question(6.0)]
    assert replay(frames[::-1], questions[::-1]) == replay(frames, questions)


def test_sustainable_rate() -> None:
    assert sustainable_fps(0.25) == 4.0
    assert sustainable_fps(0.25, answer_s=5.0, stream_s=20.0) == pytest.approx(3.0)
    assert sustainable_fps(0.25, answer_s=30.0, stream_s=20.0) == 0.0
    assert sustainable_fps(0.0) is None


@pytest.mark.parametrize("rate", [0.98, 1.02])
def test_the_sustainable_rate_is_where_the_backlog_begins_to_grow(rate: float) -> None:
    fps = sustainable_fps(0.3) * rate
    frames = [FrameJob(number / fps, 0.3) for number in range(1000)]
    waits = [response.wait_s for response in replay(frames, [question(200.0, 0.0), question(999 / fps, 0.0)])]
    grows = waits[1] > waits[0] + 0.5
    assert grows is (rate > 1)
