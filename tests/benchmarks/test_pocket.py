"""The pocket streams as a benchmark; the world itself has its own tests."""

from __future__ import annotations

from pathlib import Path

import pytest

pytest.importorskip("stc_lab.pocket.dataset", reason="the pocket world is not installed")

from stc_lab.benchmarks import pocket
from stc_lab.types import Question, Stream


def test_settings_reach_the_world(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    asked = []
    stream = Stream("s", tmp_path / "s.mp4", (Question("q", 1.0, "?", ("x", "y"), "A"),))
    monkeypatch.setattr(pocket, "ensure_streams", lambda *arguments: asked.append(arguments) or [stream])
    assert pocket.PocketBenchmark(root=str(tmp_path), split="val", limit=3).streams() == [stream]
    assert asked == [(tmp_path, "val", 3)]


def test_limit_below_one_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="dataset.limit"):
        pocket.PocketBenchmark(root=str(tmp_path), limit=0)
