"""Records on the virtual clock."""

from __future__ import annotations

import csv
from pathlib import Path

import pytest

from stc_lab.compare import main
from stc_lab.results.clock import CLOCK_FILE, Clock, encoding_summary, prompt_summary, write_clock
from stc_lab.results.records import RECORDS_FILE, Record, write_records


def record(
    question_id: str, time_s: float | None, times_s: list[float], work_ms: float = 500.0, num_warmup: int = 0, **more
) -> Record:
    """A question after frames at ``times_s``, each of which took ``work_ms`` and was decoded in 10 s."""
    num = len(times_s)
    frames = {
        "timestamp_s": times_s, "num_tokens": [4] * num, "vision_batch_size": more.pop("batch", [1] * num),
        "latency_ms": {"decode": [1e4] * num, "vision": [work_ms / 2] * num, "prefill": [work_ms / 2] * num},
        "num_warmup": num_warmup,
    }  # fmt: skip
    given = {"latency_ms": {"question": 150.0, "generate": 50.0}, "ttft_ms": 160.0, "num_frames_seen": num, **more}
    stream_id = given.pop("stream_id", "s")
    return Record("f", stream_id, question_id, "", "", time_s, "?", [], "A", "answered", frames=frames, **given)


def test_delays_and_rates_of_a_stream_that_is_kept_up_with() -> None:
    clock = Clock([record("a", 2.2, [0.0, 1.0, 2.0]), record("b", 4.9, [3.0, 4.0])])
    summary = clock.summary(fps=1.0)
    first, second = clock.responses
    assert first.wait_s == pytest.approx(0.3)  # frame 2 is done at 2.5
    assert first.response_s == pytest.approx(0.5)
    assert first.first_token_s == pytest.approx(0.46)
    assert (first.backlog_frames, second.backlog_frames, second.wait_s) == (1, 0, 0.0)
    assert summary["sustainable_fps"] == pytest.approx(2.0)
    assert summary["sustainable_fps_with_questions"] == pytest.approx(2.0 * (1 - 0.4 / 4.9))
    assert summary["busy_ratio"] == pytest.approx((5 * 0.5 + 2 * 0.2) / 4.9)
    assert summary["response_delay_s"]["max"] == pytest.approx(0.5)


def test_every_stream_has_a_worker_of_its_own() -> None:
    records = [record("a", 1.0, [0.0, 1.0], 3000.0), record("a", 1.0, [0.0, 1.0], 3000.0, stream_id="t")]
    assert [response.wait_s for response in Clock(records).responses] == [pytest.approx(5.0)] * 2


def test_a_question_at_the_end_is_put_when_the_last_frame_has_come() -> None:
    (response,) = Clock([record("a", None, [0.0, 1.0, 2.0])]).responses
    assert (response.time_s, response.wait_s) == (2.0, pytest.approx(0.5))


def test_warm_up_counts_like_a_typical_frame_and_is_not_reported() -> None:
    slow = record("a", 1.0, [0.0, 1.0], 60_000.0, num_warmup=2, warmup=True, latency_ms={"question": 60_000.0})
    clock = Clock([slow, record("b", 4.0, [2.0, 3.0, 4.0])])
    assert clock.summary(1.0)["sustainable_fps"] == pytest.approx(2.0)
    assert clock.summary(1.0)["response_delay_s"]["num"] == 1
    assert clock.summary(1.0)["response_delay_s"]["max"] == pytest.approx(0.7)


def test_frames_that_pass_the_tower_together_wait_for_the_last_of_them() -> None:
    (response,) = Clock([record("a", 1.2, [0.0, 1.0], batch=[2, 2])]).responses
    assert response.wait_s == pytest.approx(2.0 - 1.2)


def test_an_entry_may_stand_for_several_video_frames() -> None:
    pairs = record("a", 4.0, [1.0, 3.0], 600.0, num_frames_seen=4)
    pairs.frames["num_source_frames"] = [2, 2]
    assert Clock([pairs]).summary(1.0)["sustainable_fps"] == pytest.approx(2 / 0.6)
    assert encoding_summary([pairs]) == {"num_frames": 4, "num_frames_anew": 4, "ratio": 1.0}


def test_polls_take_time_and_delay_what_comes_after() -> None:
    polls = {"time_s": [1.0, 2.0], "text": ["No", "Yes"], "num_frames_seen": [2, 3], "latency_ms": [400.0, 400.0]}
    asked = record("a", 0.0, [0.0, 1.0, 2.0], 100.0, polls=polls, details={"answered_s": 2.0})
    (response,) = Clock([asked]).responses
    assert response.time_s == 2.0
    assert response.response_s == pytest.approx(0.1 + 0.4 + 0.2)
    assert encoding_summary([asked]) == {"num_frames": 3, "num_frames_anew": 5, "ratio": 5 / 3}


def test_the_encoding_of_runs_is_printed(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write_records(tmp_path / RECORDS_FILE, [record("a", 2.0, [0.0, 1.0, 2.0]), record("b", 4.0, [3.0, 4.0])])
    main(["--encoding", str(tmp_path)])
    assert "2.50" in capsys.readouterr().out  # five frames of half a second
    with pytest.raises(SystemExit, match=r"no records\.jsonl"):
        main(["--encoding", str(tmp_path / "nowhere")])
    with pytest.raises(SystemExit, match="no run folder given"):
        main(["--encoding"])


def test_what_was_never_asked_is_not_on_the_clock(tmp_path: Path) -> None:
    failed = Record("f", "s", "x", "", "", 1.0, "?", [], "A", "failed")
    clock = Clock([failed])
    assert clock.responses == []
    assert clock.summary(1.0)["response_delay_s"] is None
    assert encoding_summary([failed])["ratio"] is None
    assert prompt_summary("bare", [failed]) == {"style": "bare", "chat_template": None}
    write_clock(tmp_path, Clock([record("a", 2.2, [0.0, 1.0, 2.0])]).responses)
    (row,) = csv.DictReader((tmp_path / CLOCK_FILE).open())
    assert (row["stream_id"], row["question_id"], row["backlog_frames"], row["wait_s"]) == ("s", "a", "1", "0.3")
