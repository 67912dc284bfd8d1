"""``measure.token_maps`` of a run: pictures of the first streams, made once, at no cost where none are wanted."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
from fake_backbone import FakeSession
from omegaconf import DictConfig
from PIL import Image
from run_cfg import run_experiment

from stc_lab.results.records import RECORDS_FILE, answer_view, read_records

MakeCfg = Callable[..., DictConfig]


def files_of(run_dir: Path) -> dict[str, int]:
    """Files of the maps, and when they were written."""
    return {path.name: path.stat().st_mtime_ns for path in (run_dir / "token_maps").glob("*")}


def test_none_are_made_unless_asked_for(make_cfg: MakeCfg, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(FakeSession, "observe_with", lambda self, observer: pytest.fail("a session was watched"))
    run_experiment(make_cfg(), tmp_path / "run")
    assert not (tmp_path / "run" / "token_maps").exists()


def test_pictures_and_films_of_the_first_streams_change_no_answer(make_cfg: MakeCfg, tmp_path: Path) -> None:
    plain = run_experiment(make_cfg(), tmp_path / "plain")
    shown = run_experiment(make_cfg(measure__token_maps=2), tmp_path / "shown")
    assert set(files_of(tmp_path / "shown")) == {"v0.mp4.png", "v0.mp4.gif", "v1.mp4.png", "v1.mp4.gif"}
    assert shown["fingerprint"] == plain["fingerprint"]
    views = [sorted(str(answer_view(record)) for record in read_records(tmp_path / name / RECORDS_FILE))
             for name in ("plain", "shown")]  # fmt: skip
    assert views[0] == views[1]
    with Image.open(tmp_path / "shown" / "token_maps" / "v0.mp4.gif") as film:
        assert film.n_frames == 10  # two a second up to the last question


def test_a_resumed_run_makes_what_is_missing_and_nothing_else(make_cfg: MakeCfg, tmp_path: Path) -> None:
    cfg, run_dir = make_cfg(measure__token_maps=2), tmp_path / "run"
    run_experiment(cfg, run_dir)
    before = files_of(run_dir)
    (run_dir / "token_maps" / "v1.mp4.png").unlink()
    records = run_dir / RECORDS_FILE
    lines = records.read_text().splitlines(keepends=True)
    records.write_text("".join(line for line in lines if "@4.5" not in line))
    run_experiment(cfg, run_dir)
    after = files_of(run_dir)
    assert set(after) == set(before)
    assert {name for name in after if after[name] == before[name]} == {"v0.mp4.png", "v0.mp4.gif"}
