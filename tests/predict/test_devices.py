"""Points that run at the same time: devices are shared out, equal points wait for each other."""

from __future__ import annotations

import threading
from pathlib import Path

import pytest

from stc_lab.predict import resume
from stc_lab.predict.resume import alone_with, claim, own_device


def test_each_point_gets_a_free_device(tmp_path: Path) -> None:
    names = ["gpu0", "gpu1", "gpu2"]
    first, lock = claim(tmp_path, names, first=1)
    second, other = claim(tmp_path, names, first=1)
    third, last = claim(tmp_path, names, first=1)
    assert (first, second, third) == (1, 2, 0)
    other.release()
    again, other = claim(tmp_path, names, first=0)
    assert again == 2
    for held in (lock, other, last):
        held.release()


def test_with_more_workers_than_devices_the_last_one_waits(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(resume, "SECONDS_BETWEEN_TRIES", 0.01)
    _, held = claim(tmp_path, ["gpu0"], first=0)
    got = []
    worker = threading.Thread(target=lambda: got.append(claim(tmp_path, ["gpu0"], first=0)))
    worker.start()
    worker.join(timeout=0.1)
    assert worker.is_alive() and not got
    held.release()
    worker.join(timeout=20)
    ((index, lock),) = got
    assert index == 0
    lock.release()


def test_job_number_chooses_the_device(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(resume.torch.cuda, "device_count", lambda: 4)
    monkeypatch.setattr(resume, "_device_name", lambda index: f"gpu{index}")
    monkeypatch.setattr(resume, "_job_num", lambda: 6)
    with own_device("cuda", tmp_path) as first, own_device("cuda", tmp_path) as second:
        assert (first, second) == (2, 3)
    with own_device("cuda", tmp_path) as again:
        assert again == 2


@pytest.mark.parametrize(("accelerator", "in_a_sweep"), [("cpu", True), ("cuda", False)])
def test_nothing_to_choose(tmp_path: Path, accelerator: str, in_a_sweep: bool) -> None:
    with own_device(accelerator, tmp_path if in_a_sweep else None) as index:
        assert index is None


def test_equal_points_run_one_after_the_other(tmp_path: Path) -> None:
    events = []

    def second() -> None:
        with alone_with("same", tmp_path):
            events.append("second")

    worker = threading.Thread(target=second)
    with alone_with("same", tmp_path), alone_with("other", tmp_path):
        worker.start()
        worker.join(timeout=0.2)
        events.append("first")
    worker.join(timeout=20)
    assert events == ["first", "second"]
