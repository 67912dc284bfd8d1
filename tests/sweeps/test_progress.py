"""How far a multirun is, and how long the rest will take."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from stc_lab.report.callbacks import num_done, progress_line


def test_line() -> None:
    state = {"total": 24, "done_before": 4, "start_s": 1000.0}
    assert progress_line(state, 9, 1100.0) == "point 9 of 24 done, 1 min 40 s, about 5 min 0 s left"
    assert progress_line(state, 4, 1100.0) == "point 4 of 24 done, 1 min 40 s"
    assert progress_line(state, 24, 8200.0) == "point 24 of 24 done, 2 h 0 min"


def test_points_that_failed_or_were_taken_over_are_done(tmp_path: Path) -> None:
    for name, file in (("a", "summary.json"), ("b", "error.json"), ("c", "duplicate_of.json"), ("d", "config.yaml")):
        (tmp_path / name).mkdir()
        (tmp_path / name / file).write_text("{}")
    (tmp_path / "a" / "error.json").write_text("{}")
    assert num_done(tmp_path) == 3


def test_a_multirun_says_how_far_it_is(stc_lab, capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    def result(cfg) -> dict:
        run_dir = Path(cfg.paths.run_dir)
        (run_dir / "error.json").write_text(json.dumps({"reason": "no run at all"}))
        return {"accuracy": 0.5}

    stc_lab.result = result
    stc_lab("-m", "pruner=stc,random", "pruner.budget=8,16", "hydra.sweep.dir=sweep")
    lines = [line for line in capsys.readouterr().err.splitlines() if line.startswith("point ")]
    assert [line.split(" done")[0] for line in lines] == [f"point {number} of 4" for number in (1, 2, 3, 4)]
    assert "left" in lines[0] and "left" not in lines[-1]
