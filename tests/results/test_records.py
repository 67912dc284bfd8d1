"""The record file survives kills, and refuses what it does not understand."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest

from stc_lab.results.records import (
    RECORDS_FILE,
    Record,
    answer_view,
    check_schema,
    collect_records,
    drop_torn_line,
    read_records,
    shard_path,
    write_records,
)
from stc_lab.results.summary import summarize


def make_record(question_id: str = "q0", stream_id: str = "s0", **changes) -> Record:
    record = Record(
        fingerprint="f", stream_id=stream_id, question_id=question_id, task="now", group="", time_s=1.0,
        question="?", options=["x", "y"], answer="A", status="answered", prediction="A", correct=True,
    )  # fmt: skip
    return replace(record, **changes)


def test_a_record_is_the_same_after_writing_and_reading(tmp_path: Path) -> None:
    records = [make_record("q0"), make_record("q1", time_s=None, frames={"num_tokens": [3, 3]})]
    write_records(tmp_path / RECORDS_FILE, records)
    assert read_records(tmp_path / RECORDS_FILE) == records


def test_a_torn_last_line_is_left_out_and_can_be_cut_off(tmp_path: Path) -> None:
    path = tmp_path / RECORDS_FILE
    write_records(path, [make_record("q0")])
    whole = path.read_bytes()
    path.write_bytes(whole + make_record("q1").to_line()[:40].encode())
    assert [record.question_id for record in read_records(path)] == ["q0"]
    drop_torn_line(path)
    assert path.read_bytes() == whole


def test_a_broken_line_in_the_middle_is_an_error_with_its_number(tmp_path: Path) -> None:
    path = tmp_path / RECORDS_FILE
    path.write_text(make_record("q0").to_line() + "\n{broken\n" + make_record("q1").to_line() + "\n")
    with pytest.raises(ValueError, match="line 2 is not JSON"):
        read_records(path)


def test_records_of_another_schema_are_refused(tmp_path: Path) -> None:
    path = tmp_path / RECORDS_FILE
    path.write_text(json.dumps({**json.loads(make_record().to_line()), "schema": 99}) + "\n")
    with pytest.raises(ValueError, match="schema 99"):
        read_records(path)


def test_a_question_recorded_twice_is_an_error(tmp_path: Path) -> None:
    write_records(tmp_path / RECORDS_FILE, [make_record("q0"), make_record("q0", prediction="B")])
    with pytest.raises(ValueError, match="'q0' of 's0' is recorded twice"):
        read_records(tmp_path / RECORDS_FILE)


def test_shards_are_merged_and_removed(tmp_path: Path) -> None:
    write_records(tmp_path / RECORDS_FILE, [make_record("q0")])
    for rank in range(2):
        write_records(shard_path(tmp_path, rank, 2), [make_record(f"r{rank}")])
    assert [record.question_id for record in collect_records(tmp_path)] == ["q0", "r0", "r1"]
    assert [path.name for path in tmp_path.iterdir()] == [RECORDS_FILE]
    assert len(read_records(tmp_path / RECORDS_FILE)) == 3


def test_two_answers_to_one_question_in_two_shards_are_an_error(tmp_path: Path) -> None:
    write_records(shard_path(tmp_path, 0, 2), [make_record("q0")])
    write_records(shard_path(tmp_path, 1, 2), [make_record("q0", prediction="B")])
    with pytest.raises(ValueError, match="recorded twice"):
        collect_records(tmp_path)


def test_a_merge_that_was_cut_off_can_be_repeated(tmp_path: Path) -> None:
    write_records(tmp_path / RECORDS_FILE, [make_record("q0"), make_record("q1")])
    write_records(shard_path(tmp_path, 0, 2), [make_record("q1")])
    assert [record.question_id for record in collect_records(tmp_path)] == ["q0", "q1"]


def test_the_answer_view_ignores_time_and_nothing_else() -> None:
    frames = {"num_tokens": [4], "latency_ms": {"vision": [1.0]}, "num_warmup": 1}
    slow = make_record(ttft_ms=9.0, wall_ms=9.0, warmup=True, latency_ms={"question": 9.0}, memory={"peak": 1.0},
                       frames={**frames, "latency_ms": {"vision": [7.0]}})  # fmt: skip
    assert answer_view(slow) == answer_view(make_record(frames=frames))
    assert answer_view(make_record(frames={**frames, "num_tokens": [5]})) != answer_view(make_record(frames=frames))
    assert answer_view(make_record(prediction="B")) != answer_view(make_record())


def test_records_of_schema_1_are_read_and_not_resumed(tmp_path: Path) -> None:
    line = json.loads(make_record().to_line())
    for name in ("tokens_read", "tokens_read_max", "bytes_kept"):
        del line[name]
    path = tmp_path / RECORDS_FILE
    path.write_text(json.dumps({**line, "schema": 1}) + "\n")
    (record,) = read_records(path)
    assert (record.schema, record.tokens_read, record.bytes_kept) == (1, None, None)
    check_schema([make_record()], tmp_path)
    with pytest.raises(ValueError, match="holds records of schema 1, and this version writes schema 2"):
        check_schema([make_record(), record], tmp_path)


def test_the_three_budgets_of_a_run() -> None:
    first, second = make_record(), replace(make_record(), question_id="q9")
    first.tokens_read, first.tokens_read_max, first.bytes_kept = 100.0, 196, 1000
    second.tokens_read, second.tokens_read_max, second.bytes_kept = 200.0, 392, 3000
    budgets = summarize([first, second], 64, requested_read=400)["budgets"]
    assert budgets["tokens_per_frame"]["requested"] == 64
    assert budgets["tokens_read"] == {"requested": 400, "mean": 150.0, "p90": pytest.approx(190.0), "max_layer": 392}
    assert budgets["bytes_kept"] == {"mean": 2000.0, "max": 3000}
    unknown = summarize([make_record()], 64)["budgets"]
    assert unknown["tokens_read"] == dict.fromkeys(("requested", "mean", "p90", "max_layer"))
