"""The numbers of the paper are consistent with each other, with the corrections, and with published predictions."""

from __future__ import annotations

from statistics import fmean

import pytest

from stc_lab.benchmarks import rule_of
from stc_lab.benchmarks.ovobench import GROUPS
from stc_lab.report.paper import corrections, find_row, paper_rows


def test_every_table_has_its_rows_tasks_and_source() -> None:
    assert [len(paper_rows(name)) for name in ("ovobench", "streamingbench", "mlvu", "pocket")] == [12, 8, 8, 0]
    for name, table in (("ovobench", 1), ("streamingbench", 2)):
        for row in paper_rows(name):
            assert set(rule_of(name).sizes) | {"overall"} <= set(row.scores)
            assert row.source.endswith(f"Table {table}") and set(row.latency_ms) == {"vision_ms", "prefill_ms"}


def test_overall_agrees_with_its_tasks_except_where_a_note_says_so() -> None:
    for row in paper_rows("ovobench"):
        is_consistent = abs(row.overall("ovobench") - row.overall_recomputed) < 0.11
        assert is_consistent != (corrections()["rows"]["overall"] in row.notes), row.label
    assert find_row("ovobench", "rekv").overall_recomputed == pytest.approx(52.94, abs=0.005)
    assert find_row("ovobench", "streamforest + stc").overall_recomputed == pytest.approx(53.85, abs=0.005)


def test_groups_agree_with_their_tasks_except_where_a_note_says_so() -> None:
    for row in paper_rows("ovobench"):
        gaps = [abs(row.scores[name] - fmean(row.scores[task] for task in tasks)) for name, tasks in GROUPS.items()]
        assert (max(gaps) < 0.11) != (corrections()["rows"]["groups"] in row.notes), row.label


def test_columns_are_those_of_the_paper_not_of_secondary_sources() -> None:
    scores = find_row("ovobench", "rekv").scores
    assert (scores["realtime"], scores["backward"], scores["forward"], scores["overall"]) == (64.4, 46.7, 47.8, 52.6)
    assert scores["SSR"] == 64.6


def test_offline_averages_and_budgets() -> None:
    for row in paper_rows("egoschema"):
        offline = [row.overall(name) for name in ("egoschema", "mlvu", "videomme")]
        assert fmean(offline) == pytest.approx(row.scores["average"], abs=0.051)
    budgets = {row.method: row.settings["keep_ratio"] for row in paper_rows("streamingbench") if row.backbone == "rekv"}
    assert budgets.pop("STC-Cacher & Pruner") == 0.3 and budgets.pop("full") == 1.0 and set(budgets.values()) == {0.25}


def test_rows_are_found_by_what_is_switched_on() -> None:
    assert find_row("streamingbench", "ReKV+stc+stc").method == "STC-Cacher & Pruner"
    with pytest.raises(ValueError, match=r"paper=nothing: no such row in the paper; there are: .*rekv \+ visionzip"):
        find_row("ovobench", "nothing")
    with pytest.raises(ValueError, match="none for pocket"):
        find_row("pocket", "rekv")
