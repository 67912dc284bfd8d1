"""A multirun through a real Slurm of two nodes gives the frontier that it gives on this machine alone."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pandas as pd
import pytest
from slurm_cluster import NODES, Cluster, missing_programs

from stc_lab.results.axes import TIMING_COLUMNS

pytestmark = pytest.mark.slow

SOURCE = Path(__file__).resolve().parents[2] / "src"
GRID = ("cacher=stc", "pruner=stc,random", "pruner.budget=16,64", "dataset=pocket", "dataset.limit=1")
SLURM = ("hydra/launcher=submitit_slurm", "hydra.launcher.partition=debug", "hydra.launcher.cpus_per_task=1",
         "hydra.launcher.mem_gb=3", "hydra.launcher.timeout_min=60")  # fmt: skip


@pytest.fixture(scope="module")
def cluster() -> Iterator[Cluster]:
    pytest.importorskip("hydra_plugins.hydra_submitit_launcher")
    if missing := missing_programs():
        pytest.skip(f"no Slurm on this machine (Debian: slurm-wlm, munge): {', '.join(missing)} not found")
    with Cluster() as nodes:
        yield nodes


def multirun(folder: Path, *overrides: str, environment: dict[str, str] | None = None) -> pd.DataFrame:
    """Finished points of the grid; by tokens, so that no column but times differs from one execution to the next."""
    command = [sys.executable, "-m", "stc_lab", "-m", *GRID, "trainer=cpu", "trainer.num_threads=1",
               "report.cost=tokens", f"hydra.sweep.dir={folder}", *overrides]  # fmt: skip
    variables = os.environ | {"PYTHONPATH": str(SOURCE), "OMP_NUM_THREADS": "1"} | (environment or {})
    done = subprocess.run(command, cwd=folder.parent, env=variables, capture_output=True, text=True, timeout=3600,
                          check=False)  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr
    return pd.read_csv(folder / "pareto.csv").drop(columns=list(TIMING_COLUMNS))


def test_slurm_gives_the_local_frontier(cluster: Cluster, tmp_path: Path) -> None:
    local = multirun(tmp_path / "local")
    remote = multirun(tmp_path / "slurm", *SLURM, environment=cluster.environment)
    pd.testing.assert_frame_equal(remote, local)
    assert len(local) == 4 and local["is_non_dominated"].any()

    jobs = cluster.finished_jobs()
    assert [job["JobState"] for job in jobs] == ["COMPLETED"] * 4
    assert {job["NodeList"] for job in jobs} == set(NODES)
    for name in ("pareto.json", "pareto.png", "report.html"):
        assert (tmp_path / "slurm" / name).is_file()
    frontiers = [json.loads((tmp_path / name / "pareto.json").read_text()) for name in ("local", "slurm")]
    assert frontiers[0]["non_dominated"] == frontiers[1]["non_dominated"]
    assert frontiers[1]["left_out"] == {}
