"""Whole multiruns in processes of their own: killed and started again, and through every launcher."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pandas as pd
import pytest

from stc_lab.results.axes import TIMING_COLUMNS

pytestmark = pytest.mark.slow

TESTS = Path(__file__).resolve().parents[1]
NUM_STREAMS, NUM_QUESTIONS = 3, 2


@pytest.fixture(scope="module")
def videos(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Three short videos with two questions each."""
    import av
    import numpy as np

    folder = tmp_path_factory.mktemp("videos")
    rng = np.random.default_rng(0)
    rows = []
    for number in range(NUM_STREAMS):
        with av.open(str(folder / f"v{number}.mp4"), "w") as container:
            stream = container.add_stream("libx264", rate=8)
            stream.width, stream.height, stream.pix_fmt = 48, 48, "yuv420p"
            for _ in range(24):
                pixels = rng.integers(0, 255, (48, 48, 3)).astype(np.uint8)
                container.mux(stream.encode(av.VideoFrame.from_ndarray(pixels, format="rgb24")))
            container.mux(stream.encode(None))
        rows += [
            {"video": f"v{number}.mp4", "time_s": time_s, "question": "what?", "options": list("wxyz"), "answer": "B",
             "question_id": f"v{number}@{time_s}"}
            for time_s in (1.0, 2.5)
        ]  # fmt: skip
    (folder / "questions.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return folder


class Sweep:
    """``stc_lab -m`` over the fake backbone, with all that it writes below one folder."""

    def __init__(self, folder: Path, videos: Path) -> None:
        self.folder, self.log = folder, folder / "asked.txt"
        self.command = [
            *(sys.executable, "-m", "stc_lab", "-m", f"hydra.searchpath=[file://{TESTS}/sweeps/conf]"),
            *("backbone=fake", f"backbone.log={self.log}", "cacher=none", "trainer=cpu", "dataset=folder"),
            *(f"dataset.videos={videos}", f"dataset.questions={videos / 'questions.jsonl'}", "dataset.fps=8"),
            "report.page=false",
        ]
        self.environment = os.environ | {
            "PYTHONPATH": os.pathsep.join([str(TESTS.parent / "src"), str(TESTS / "predict")]),
            "OMP_NUM_THREADS": "1",
        }

    def start(self, sweep_dir: str, *overrides: str) -> subprocess.Popen:
        command = [*self.command, f"hydra.sweep.dir={self.folder / sweep_dir}", *overrides]
        log = (self.folder / f"{sweep_dir}.out").open("a")
        return subprocess.Popen(command, cwd=self.folder, env=self.environment, stdout=log, stderr=log)

    def run(self, sweep_dir: str, *overrides: str) -> pd.DataFrame:
        """Wait for the end; returns what of ``pareto.csv`` does not depend on times."""
        status = self.start(sweep_dir, *overrides).wait(timeout=900)
        assert status == 0, (self.folder / f"{sweep_dir}.out").read_text()
        points = pd.read_csv(self.folder / sweep_dir / "pareto.csv")
        return points.drop(columns=[*TIMING_COLUMNS, "is_non_dominated"])

    def num_asked(self) -> int:
        return len(self.log.read_text().splitlines()) if self.log.exists() else 0


@pytest.fixture
def sweep(tmp_path: Path, videos: Path) -> Sweep:
    return Sweep(tmp_path, videos)


def summaries(folder: Path) -> list[Path]:
    return sorted(folder.glob("*/summary.json"))


GRID = ("pruner=uniform,random", "pruner.budget=2,5")


def test_a_killed_multirun_does_only_what_is_missing(sweep: Sweep) -> None:
    undisturbed = sweep.run("whole", *GRID)
    asked = sweep.num_asked()
    assert asked == 4 * NUM_STREAMS * NUM_QUESTIONS
    sweep.log.unlink()

    process = sweep.start("killed", *GRID)
    end_s = time.monotonic() + 600
    while len(summaries(sweep.folder / "killed")) < 2 and time.monotonic() < end_s:
        time.sleep(0.01)
    os.kill(process.pid, signal.SIGKILL)
    process.wait()
    finished = {path: path.with_name("records.jsonl").stat().st_mtime_ns for path in summaries(sweep.folder / "killed")}
    assert 2 <= len(finished) < 4

    again = sweep.run("killed", *GRID)
    pd.testing.assert_frame_equal(again, undisturbed)
    assert all(path.with_name("records.jsonl").stat().st_mtime_ns == then for path, then in finished.items())
    assert asked <= sweep.num_asked() <= asked + 1  # a question whose record was not written yet is asked again


LAUNCHERS = {
    "joblib": ("hydra_plugins.hydra_joblib_launcher", ["hydra/launcher=joblib", "hydra.launcher.n_jobs=2"]),
    "submitit_local": (
        "hydra_plugins.hydra_submitit_launcher",
        ["hydra/launcher=submitit_local", "hydra.launcher.timeout_min=10"],
    ),
}


@pytest.mark.parametrize("launcher", LAUNCHERS)
def test_every_launcher_gives_the_frontier_of_the_plain_one(sweep: Sweep, launcher: str) -> None:
    """Also that equal points, which here start at the same time, run once."""
    plugin, overrides = LAUNCHERS[launcher]
    pytest.importorskip(plugin)
    grid = ("pruner=none,uniform", "pruner.budget=2,4")
    plain = sweep.run("plain", *grid)
    asked = sweep.num_asked()
    assert asked == 3 * NUM_STREAMS * NUM_QUESTIONS
    parallel = sweep.run("parallel", *grid, *overrides)
    pd.testing.assert_frame_equal(parallel.drop(columns="run"), plain.drop(columns="run"))
    assert sweep.num_asked() == 2 * asked


def test_a_search_runs_in_parallel(sweep: Sweep) -> None:
    pytest.importorskip("hydra_plugins.hydra_joblib_launcher")
    pytest.importorskip("optuna")
    points = sweep.run(
        "search", "hydra/sweeper=pareto", "objective=[accuracy,frame_ms.mean]", "pruner=uniform,random",
        "pruner.budget=range(1,9)", "hydra.sweeper.n_trials=4", "hydra.sweeper.n_jobs=2", "hydra/launcher=joblib",
        "hydra.launcher.n_jobs=2",
    )  # fmt: skip
    assert len(points) == 4
    assert (sweep.folder / "search" / "optimization_results.yaml").is_file()


def test_several_devices_in_a_multirun_are_a_clear_error(sweep: Sweep) -> None:
    status = sweep.start("ddp", "trainer.devices=2", "pruner=uniform", "pruner.budget=2,4").wait(timeout=600)
    assert status == 1
    assert "trainer.devices=2 in a multirun: a point of a multirun runs on one device" in (
        sweep.folder / "ddp.out").read_text()  # fmt: skip
