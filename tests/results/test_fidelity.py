"""Fidelity of a run from its records: means, worst cases, intervals over videos."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from stc_lab.report.tables import _fidelity_rows
from stc_lab.results.records import Record
from stc_lab.results.summary import check_measured, fidelity_summary


def record(stream: int, cosines: list[float], kl: float = 0.0, agrees: bool = True, number: int = 0) -> Record:
    frames = {"fidelity": {"feature_cosine": cosines, "worst_token_cosine": [c - 0.1 for c in cosines]}}
    fidelity = {"kl_divergence": kl, "top1_agrees": agrees, "over": "choices"}
    return Record(
        "f", f"s{stream}", f"q{number}", "", "", 1.0, "?", [], "", "answered", frames=frames, fidelity=fidelity,
        ttft_ms=1.0,
    )  # fmt: skip


def test_means_and_worst_cases() -> None:
    records = [record(0, [1.0, 0.8], 0.2), record(0, [], 0.4, False, 1), record(1, [0.6], 0.0)]
    found = fidelity_summary(records)
    cosine, kl, top1 = found["feature_cosine"], found["kl_divergence"], found["top1_agreement"]
    assert (cosine["mean"], cosine["worst_frame"], cosine["num"]) == (pytest.approx(0.8), 0.6, 3)
    assert cosine["worst_token"] == pytest.approx(0.5)
    assert (kl["mean"], kl["worst"], kl["num"]) == (pytest.approx(0.2), 0.4, 3)
    assert (top1["mean"], top1["num"]) == (pytest.approx(2 / 3), 3)
    assert found["over"] == {"choices": 3}


def test_intervals_come_from_whole_videos() -> None:
    values = np.random.default_rng(2).uniform(0.5, 1.0, 24)
    few_questions = fidelity_summary([record(i, [v] * 2, v, v > 0.7) for i, v in enumerate(values)])
    many_questions = fidelity_summary(
        [record(i, [v] * 2, v, v > 0.7, n) for i, v in enumerate(values) for n in range(5)]
    )
    for key in ("feature_cosine", "kl_divergence", "top1_agreement"):
        low, high = few_questions[key]["ci95"]
        assert low < few_questions[key]["mean"] < high
        assert few_questions[key]["ci_method"] == "stream_bootstrap"
        assert many_questions[key]["ci95"] == pytest.approx([low, high])
    half_width = 1.96 * values.std() / 24**0.5
    assert few_questions["kl_divergence"]["ci95"] == pytest.approx(
        [values.mean() - half_width, values.mean() + half_width], abs=0.01
    )


def test_one_video_has_no_interval_and_equal_videos_a_point() -> None:
    one = fidelity_summary([record(0, [0.9, 0.8], 0.1), record(0, [0.7], 0.3, number=1)])
    assert one["feature_cosine"]["ci95"] is None and one["kl_divergence"]["ci95"] is None
    low, high = one["top1_agreement"]["ci95"]  # a share has an interval by itself
    assert low < high == 1.0
    equal = fidelity_summary([record(i, [1.0, 1.0]) for i in range(3)])
    assert equal["feature_cosine"]["ci95"] == [1.0, 1.0] and equal["kl_divergence"]["ci95"] == [0.0, 0.0]


def test_nothing_was_measured_or_nothing_was_asked() -> None:
    plain = Record("f", "s", "q", "", "", 1.0, "?", [], "", "answered", ttft_ms=1.0)
    assert fidelity_summary([plain]) is None
    assert list(_fidelity_rows([{"fidelity": None}, {}])) == []
    check_measured([record(0, [1.0]), Record("f", "s", "q", "", "", 1.0, "?", [], "", "failed")], Path("run"))
    with pytest.raises(ValueError, match="1 questions in run were answered without"):
        check_measured([record(0, [1.0]), plain], Path("run"))


def test_rows_of_the_table() -> None:
    summary = {"fidelity": fidelity_summary([record(0, [0.9, 0.75], 0.25), record(1, [0.9, 0.75], 0.25)])}
    rows = dict(_fidelity_rows([summary, {"fidelity": None}]))
    assert rows["cosine of features to uncompressed"] == ["0.825 [0.825, 0.825], worst frame 0.75", "-"]
    assert rows["KL of answers to uncompressed (nats)"] == ["0.25 [0.25, 0.25]", "-"]
    assert rows["same best answer as uncompressed"][0].startswith("1 [")
