"""Two runs on shared questions: matching, difference, test, verdict and sentence."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from stc_lab.compare import main, parse
from stc_lab.results.comparison import Side, compare, compare_sides, in_words, mcnemar, read_side, shared_pairs
from stc_lab.results.records import RECORDS_FILE, Record, short_names, write_records

BASE = Record(
    fingerprint="f", stream_id="s0", question_id="q0", task="now", group="", time_s=1.0, question="?",
    options=["x", "y"], answer="A", status="answered", prediction="A", correct=True, text="A",
)  # fmt: skip


def records_of(correct: list[bool], per_stream: int = 4) -> list[Record]:
    places = [(f"q{i}", f"s{i // per_stream}", ("now", "past")[i % 2]) for i in range(len(correct))]
    return [
        replace(BASE, question_id=question_id, stream_id=stream_id, task=task, correct=is_right)
        for (question_id, stream_id, task), is_right in zip(places, correct, strict=True)
    ]


def noisy(num: int, flips: float, seed: int = 0) -> tuple[list[Record], list[Record]]:
    """A run, and one that differs from it in a share ``flips`` of questions either way."""
    rng = np.random.default_rng(seed)
    first = rng.random(num) < 0.6
    second = np.where(rng.random(num) < flips, rng.random(num) < 0.6, first)
    return records_of(first.tolist()), records_of(second.tolist())


def test_shared_questions_are_matched_by_id_and_the_rest_left_out() -> None:
    first, second = records_of([True] * 4), records_of([False] * 6)[2:]
    moved = [replace(record, stream_id="elsewhere") for record in second]
    for others in (second, moved):
        assert [(a.question_id, b.question_id) for a, b in shared_pairs(first, others)] == [("q2", "q2"), ("q3", "q3")]
    assert shared_pairs(first, [replace(r, correct=None) for r in first]) == []


def test_ids_that_recur_between_streams_are_matched_within_their_stream() -> None:
    first = [replace(BASE, stream_id=s) for s in ("s0", "s1")]
    second = [replace(BASE, stream_id=s, correct=False) for s in ("s1", "s2")]
    assert [(a.stream_id, b.stream_id) for a, b in shared_pairs(first, second)] == [("s1", "s1")]


def test_mcnemar_by_hand() -> None:
    assert mcnemar(0, 0) == 1.0
    assert mcnemar(0, 5) == pytest.approx(2 / 2**5)
    assert mcnemar(3, 3) == 1.0


def test_a_clear_gain_is_better_and_the_other_way_round_worse() -> None:
    rng = np.random.default_rng(0)
    weak = rng.random(200) < 0.5
    strong = weak | (rng.random(200) < 0.4)
    gain = compare(shared_pairs(records_of(weak.tolist()), records_of(strong.tolist())))
    loss = compare(shared_pairs(records_of(strong.tolist()), records_of(weak.tolist())))
    assert (gain.verdict, loss.verdict) == ("better", "worse")
    assert gain.difference == pytest.approx(strong.mean() - weak.mean()) == pytest.approx(-loss.difference)
    assert gain.ci95[0] < gain.difference < gain.ci95[1] and gain.num_only_first == 0
    assert "B is better than A by" in in_words(gain, "A", "B") and "50 videos" in in_words(gain, "A", "B")


def test_noise_is_not_distinguishable_and_the_sentence_says_what_would_be() -> None:
    found = compare(shared_pairs(*noisy(120, 0.3, seed=2)))
    assert found.verdict == "not distinguishable" and found.ci95[0] <= 0 <= found.ci95[1]
    words = in_words(found, "A", "B")
    assert "B is not distinguishable from A at this size" in words and "would not show here" in words


def test_false_alarms_are_as_rare_as_they_should_be() -> None:
    verdicts = [compare(shared_pairs(*noisy(120, 0.4, seed))).verdict for seed in range(40)]
    assert sum(verdict in ("better", "worse") for verdict in verdicts) <= 6


def test_the_same_answers_are_called_the_same() -> None:
    records = records_of([True, False] * 10)
    found = compare(shared_pairs(records, records))
    assert (found.verdict, found.difference, found.p_value) == ("same", 0.0, 1.0)
    assert "right about the same questions" in in_words(found, "A", "B")


def test_few_videos_need_the_test_to_agree() -> None:
    first, second = records_of([False] * 8, per_stream=4), records_of([True, False, False, False] * 2, per_stream=4)
    assert compare(shared_pairs(first, second)).verdict == "not distinguishable"  # p = 0.5
    first, second = records_of([False] * 40, per_stream=20), records_of([True] * 40, per_stream=20)
    assert compare(shared_pairs(first, second)).verdict == "better"
    one = compare(shared_pairs(records_of([False] * 4), records_of([True] * 4)))
    assert one.ci95 is None and one.verdict == "not distinguishable" and "no interval" in in_words(one, "A", "B")


def test_comparison_uses_the_average_of_the_benchmark_and_says_what_it_left_out() -> None:
    first = [replace(r, task="REC" if i % 4 else "EPM", group="forward" if i % 4 else "backward")
             for i, r in enumerate(records_of([True] * 40))]  # fmt: skip
    second = [replace(r, correct=r.task == "EPM", status="answered" if i else "unanswered")
              for i, r in enumerate(first[:36])]  # fmt: skip
    summary = {"benchmark": "ovobench"}
    result = compare_sides(Side("a", first, summary), Side("b", second, summary))
    assert result.overall.difference == pytest.approx(-0.5)  # of the two groups, one is lost
    assert result.by_group["forward"].difference == -1.0 and result.by_task["EPM"].difference == 0.0
    assert result.both_answered.num_questions == 35 and "Where both have an answer" in result.sentence
    assert any("4 questions of a are not in the other run" in remark for remark in result.remarks)
    assert any("b answers 35 of 36 questions" in remark for remark in result.remarks)
    json.dumps(result.as_dict(), allow_nan=False)


def test_unequal_budgets_and_gold_answers_are_pointed_out() -> None:
    records = records_of([True, False] * 8)
    sides = [Side(name, records, {"tokens_per_frame": {"achieved": tokens}}) for name, tokens in (("a", 64), ("b", 49))]
    assert "not at equal budget: 64.0 and 49.0 visual tokens per frame" in compare_sides(*sides).remarks
    other = [replace(record, answer="B") for record in records]
    remarks = compare_sides(Side("a", records, {}), Side("b", other, {})).remarks
    assert any("16 shared questions have different gold answers" in remark for remark in remarks)


def write_run(folder: Path, records: list[Record]) -> Path:
    folder.mkdir(parents=True)
    write_records(folder / RECORDS_FILE, records)
    (folder / "summary.json").write_text(json.dumps({"run": {"dataset": "pocket"}}))
    return folder


def test_command_line_compares_folders_with_equals_signs(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    first, second = noisy(40, 0.3)
    runs = [write_run(tmp_path / name, r) for name, r in (("pruner=stc", first), ("pruner=random", second))]
    main([*map(str, runs), f"out={tmp_path / 'c.json'}"])
    printed = capsys.readouterr().out
    assert "pruner=random against pruner=stc" in printed and "McNemar" in printed
    result = json.loads((tmp_path / "c.json").read_text())
    assert result["sentence"] in printed and result["overall"]["num_questions"] == 40


def test_a_run_that_was_taken_over_is_read_from_its_twin(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    twin, other = noisy(40, 0.3)
    write_run(tmp_path / "twin", twin), write_run(tmp_path / "other", other)
    (tmp_path / "copy").mkdir()
    (tmp_path / "copy" / "duplicate_of.json").write_text(json.dumps({"run": "../twin"}))
    main([str(tmp_path / "copy"), str(tmp_path / "twin")])
    assert "right about the same questions" in capsys.readouterr().out


def test_mistakes_on_the_command_line(tmp_path: Path) -> None:
    run = write_run(tmp_path / "a", records_of([True] * 4))
    other = write_run(tmp_path / "b", [replace(r, question_id=f"b{i}") for i, r in enumerate(records_of([True] * 4))])
    (tmp_path / "empty").mkdir()
    mistakes = [
        ([str(run)], "two runs are compared, 1 given"),
        ([str(run), str(tmp_path / "c")], "no such folder or file"),
        ([str(run), str(tmp_path / "empty")], "no JSON file in it"),
        ([str(run), str(run), "sed=1"], "settings are out, seed, benchmark, model"),
        ([str(run), str(other)], "share no scored question"),
    ]
    for arguments, message in mistakes:
        with pytest.raises(SystemExit, match=message):
            main(arguments)
    (tmp_path / "half").mkdir()
    (tmp_path / "half" / "records.rank0.jsonl").write_text("")
    with pytest.raises(ValueError, match="its run has not ended"):
        read_side(tmp_path / "half", "half")


def test_settings_and_names() -> None:
    assert parse([".", "..", "seed=3"])[1].seed == 3
    assert short_names([Path("/x/a/run"), Path("/x/b/run")]) == ["a/run", "b/run"]
    assert short_names([Path("/x/a"), Path("/x/b")]) == ["a", "b"]
