"""Stage times add up, stay apart, and stages do not nest."""

from __future__ import annotations

import pytest
import torch

from stc_lab.measure import StageTimer, peak_mem_gib


def test_drain_returns_each_stage_once_and_empties_the_timer() -> None:
    timer = StageTimer("cpu")
    for name in ("vision", "prune", "vision"):
        with timer.stage(name):
            torch.ones(4).sum()
    times = timer.drain()
    assert list(times) == ["vision", "prune"]
    assert all(ms > 0 for ms in times.values())
    assert timer.drain() == {}


def test_a_failed_stage_is_closed_and_counted() -> None:
    timer = StageTimer()
    with pytest.raises(ZeroDivisionError), timer.stage("vision"):
        1 / 0  # noqa: B018
    with timer.stage("prune"):
        pass
    assert set(timer.drain()) == {"vision", "prune"}


def test_stages_do_not_nest() -> None:
    timer = StageTimer()
    refused = pytest.raises(RuntimeError, match="'prune' entered inside stage 'vision'")
    with refused, timer.stage("vision"), timer.stage("prune"):
        pass


def test_elapsed_covers_the_stages_in_between() -> None:
    timer = StageTimer()
    mark = timer.mark()
    with timer.stage("question"):
        torch.randn(64, 64) @ torch.randn(64, 64)
    assert timer.elapsed_ms(mark) >= timer.drain()["question"]


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_cuda_stages_are_read_from_events() -> None:
    timer = StageTimer("cuda")
    matrix = torch.randn(512, 512, device="cuda")
    with timer.stage("vision"):
        for _ in range(20):
            matrix = matrix @ matrix.T / 512
    assert timer.drain()["vision"] > 0
    assert peak_mem_gib("cuda") > 0


def test_peak_memory_of_a_process_is_plausible() -> None:
    assert 0.01 < peak_mem_gib("cpu") < 1000
