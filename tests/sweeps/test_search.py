"""The search finds the frontier, survives failures, and goes on where it was cut off."""

from __future__ import annotations

from pathlib import Path

import pytest
from hydra.core.utils import JobReturn, JobStatus
from hydra.errors import HydraException
from omegaconf import OmegaConf

optuna = pytest.importorskip("optuna")

from stc_lab.search import (  # noqa: E402
    Search,
    job_overrides,
    open_study,
    search_space,
    solutions,
)

SPACE = ["x=range(0,6)", "y=a,b", "seed=3"]


class World:
    """Launches jobs: accuracy grows with ``x``, cost too, and ``y=b`` only costs; jobs are counted."""

    def __init__(self, fails: str = "", stop_after: int | None = None) -> None:
        self.fails, self.stop_after, self.jobs = fails, stop_after, []

    def launch(self, jobs, initial_job_idx: int) -> list[JobReturn]:
        results = []
        for job in jobs:
            if len(self.jobs) == self.stop_after:
                raise KeyboardInterrupt
            self.jobs.append(tuple(job))
            x = int(next(text for text in job if text.startswith("x="))[2:])
            failed = self.fails in job
            values = None if failed else (x / 10, x + 5 * ("y=b" in job))
            results.append(JobReturn(status=JobStatus.COMPLETED, _return_value=values))
        return results


def search(folder: Path, world: World, num_trials: int = 12, **settings) -> list[dict]:
    compose = settings.pop("compose", lambda job: None)
    return Search(folder, SPACE, world.launch, compose, ["maximize", "minimize"], num_trials, **settings).run()


@pytest.mark.parametrize("sampler", ["tpe", "nsgaii", "random"])
@pytest.mark.parametrize("num_parallel", [1, 5])
def test_no_point_runs_twice_and_the_frontier_is_found(tmp_path: Path, sampler: str, num_parallel: int) -> None:
    world = World()
    found = search(tmp_path, world, 100, sampler=sampler, num_parallel=num_parallel)
    assert len(set(world.jobs)) == len(world.jobs) <= 12
    assert all("seed=3" in job for job in world.jobs)
    assert all(not any(p != q and _beats(p["values"], q["values"]) for p in found) for q in found)
    written = OmegaConf.load(tmp_path / "optimization_results.yaml")
    assert [dict(s.params) for s in written.solutions] == [s["params"] for s in found]


def _beats(left: list[float], right: list[float]) -> bool:
    return left[0] >= right[0] and left[1] <= right[1] and left != right


def test_a_failed_trial_does_not_end_the_search(tmp_path: Path) -> None:
    world = World(fails="y=b")
    found = search(tmp_path, world)
    assert {solution["params"]["y"] for solution in found} == {"a"}
    assert any("y=b" in job for job in world.jobs)


def test_settings_that_do_not_fit_together_are_a_failed_trial(tmp_path: Path) -> None:
    def compose(job: list[str]) -> None:
        if "y=b" in job:
            raise HydraException("no b with this")

    world = World()
    search(tmp_path, world, compose=compose)
    assert world.jobs and not any("y=b" in job for job in world.jobs)


def test_a_search_that_was_cut_off_does_only_what_is_missing(tmp_path: Path) -> None:
    first, second = World(stop_after=4), World()
    with pytest.raises(KeyboardInterrupt):
        search(tmp_path, first, 8)
    search(tmp_path, second, 8)
    assert not set(first.jobs) & set(second.jobs)
    assert len(first.jobs) + len(second.jobs) == 8
    third = World()
    search(tmp_path, third, 8)
    assert third.jobs == []


def test_an_interrupted_trial_is_run_again(tmp_path: Path) -> None:
    with pytest.raises(KeyboardInterrupt):
        search(tmp_path, World(stop_after=0), 1)
    (cut_off,) = open_study(tmp_path, ["maximize", "minimize"], "tpe", 0).get_trials(
        states=(optuna.trial.TrialState.FAIL,)
    )
    world = World()
    search(tmp_path, world, 1)
    assert world.jobs == [tuple(job_overrides(cut_off.params, ["seed=3"]))]


def test_equal_solutions_are_named_once(tmp_path: Path) -> None:
    study = open_study(tmp_path, ["maximize"], "random", 0)
    for _ in range(3):
        study.enqueue_trial({"x": 1})
        study.tell(study.ask({"x": optuna.distributions.IntDistribution(0, 1)}), 0.5)
    assert len(solutions(study)) == 1


def test_a_folder_with_another_search_is_refused(tmp_path: Path) -> None:
    search(tmp_path, World(), 1)
    with pytest.raises(ValueError, match=r"direction=\['maximize'\].*holds a search with \['maximize', 'minimize'\]"):
        open_study(tmp_path, ["maximize"], "tpe", 0)
    with pytest.raises(ValueError, match="sampler=grid: must be one of tpe"):
        open_study(tmp_path, ["maximize", "minimize"], "grid", 0)


def test_space() -> None:
    space, fixed = search_space(
        ["a=x,y", "b=range(16,129,16)", "c=interval(0,1.5)", "d=int(tag(log,interval(1,64)))", "e=1,2", "e=7"]
    )
    assert space["a"].choices == ("x", "y")
    assert (space["b"].low, space["b"].high, space["b"].step) == (16, 128, 16)
    assert (space["c"].low, space["c"].high) == (0, 1.5)
    assert space["d"].log and isinstance(space["d"], optuna.distributions.IntDistribution)
    assert fixed == ["e=7"]
    with pytest.raises(ValueError, match="nothing to search"):
        search_space(["e=7"])


def test_from_the_command_line(stc_lab, tmp_path: Path) -> None:
    """Settings of the file, one replaced on the command line; a run that fails; the same folder again."""

    def result(cfg) -> dict:
        if cfg.pruner.budget == 16:
            raise RuntimeError("sixteen")
        return {"accuracy": cfg.pruner.budget / 200, "frame_ms": {"mean": float(cfg.pruner.budget)}}

    stc_lab.result = result
    command = ["-m", "hparams_search=pareto", "pruner.budget=16,64", "cacher.update_ratio=0.25", "pruner.alpha=0.5",
               "hydra.sweeper.n_trials=6", "hydra.sweep.dir=sweep"]  # fmt: skip
    assert stc_lab(*command) == 1  # all is done, and the status tells of failed runs
    points = [(cfg.cacher.interval, cfg.pruner.budget) for cfg in stc_lab.runs]
    assert sorted(points) == [(interval, budget) for interval in (2, 4, 8) for budget in (16, 64)]
    written = OmegaConf.load(tmp_path / "sweep" / "optimization_results.yaml")
    assert {solution.params["pruner.budget"] for solution in written.solutions} == {"64"}
    stc_lab(*command)
    assert len(stc_lab.runs) == 6


def test_a_wrong_search_is_one_line(stc_lab, capsys: pytest.CaptureFixture[str]) -> None:
    assert stc_lab("-m", "hparams_search=pareto", "objective=accuracy", "hydra.sweeper.n_trials=1") == 1
    assert "name as many keys of summary.json in objective" in capsys.readouterr().err
