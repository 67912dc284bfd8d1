"""Fixtures shared by all rooms, and how the suite uses the cores of the machine."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace

import pytest

REPOSITORY = Path(__file__).resolve().parents[1]
MAX_WORKERS = 4
sys.path.insert(0, str(Path(__file__).parent))  # tests of several rooms import selective_flops by name
IS_WORKER = "PYTEST_XDIST_WORKER" in os.environ

if IS_WORKER:  # one thread per worker and per process that its tests start; torch reads this when it is imported
    os.environ.setdefault("OMP_NUM_THREADS", "1")

import torch  # noqa: E402


@pytest.hookimpl(tryfirst=True)
def pytest_cmdline_main(config: pytest.Config) -> None:
    """A plain ``pytest`` shares the test files among one worker per core; anything less runs in this process.

    A worker takes seconds to start, which a few files would not earn back. Slow tests start processes of their own.
    ``-n 0`` (or no pytest-xdist) runs all in this process, ``-n NUMBER`` always in so many workers.
    """
    option = config.option
    is_whole = config.args_source is config.ArgsSource.TESTPATHS and not option.keyword
    is_free = config.pluginmanager.hasplugin("xdist") and option.numprocesses is None and not option.usepdb
    if is_whole and option.markexpr == "not slow" and is_free and not IS_WORKER:
        option.numprocesses = min(MAX_WORKERS, os.cpu_count() or 1)
        option.dist = "loadfile"


def pytest_addoption(parser: pytest.Parser) -> None:
    """``--update-prompts`` writes the frozen prompt files anew; without it a changed prompt is a failure."""
    parser.addoption("--update-prompts", action="store_true", help="write tests/benchmarks/prompts/*.txt anew")


@pytest.fixture(scope="session")
def shared_dir() -> Path:
    """Folder with upstream golden numbers and real clips; tests that need it are skipped where it is absent."""
    folder = Path(os.environ.get("STC_LAB_SHARED", REPOSITORY.parent / "shared"))
    if not (folder / "golden").is_dir():
        pytest.skip(f"golden data not found in {folder} (set STC_LAB_SHARED)")
    return folder


@pytest.fixture(autouse=True)
def _two_threads() -> None:
    """The suite is meant for two cores, also on a larger machine; two workers have one each."""
    torch.set_num_threads(1 if IS_WORKER else 2)


@pytest.fixture
def command_line(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Callable[[Callable], Callable[..., int]]:
    """``command_line(run_experiment)("pruner.budget=8")`` runs the command line in a fresh folder, with the experiment
    itself replaced by a function of settings and run folder, and returns the exit status."""
    from hydra.core.global_hydra import GlobalHydra

    from stc_lab.cli import main

    def with_experiment(run_experiment: Callable) -> Callable[..., int]:
        def command(*arguments: str) -> int:
            monkeypatch.setattr(sys, "argv", ["stc_lab", *arguments])
            GlobalHydra.instance().clear()
            try:
                main()
            except SystemExit as exit_:
                return exit_.code
            return 0

        monkeypatch.setitem(sys.modules, "stc_lab.experiment", SimpleNamespace(run_experiment=run_experiment))
        return command

    monkeypatch.delenv("HYDRA_FULL_ERROR", raising=False)
    monkeypatch.chdir(tmp_path)
    return with_experiment
