"""What happens around a multirun: a line after every point, and the frontier at the end.

Hydra makes these objects at every start: nothing heavy may be imported at the top.
"""

from __future__ import annotations

import json
import sys
import time
from pathlib import Path
from typing import Any

from hydra.experimental.callback import Callback
from omegaconf import DictConfig


class ParetoCallback(Callback):
    """After a multirun: ``pareto.{csv,json,png,md}`` and ``report.html`` in the sweep folder, and a table."""

    def on_multirun_end(self, config: DictConfig, **kwargs: Any) -> None:
        """Called once all points are through, also when some of them failed."""
        # Hydra makes this object at every start; pandas, matplotlib and plotly are only loaded where they are needed.
        from stc_lab.config.schema import ReportSettings
        from stc_lab.report.multirun import make_frontier

        make_frontier(Path(config.hydra.sweep.dir), settings=ReportSettings(**config.get("report", {})))


PROGRESS_FILE = ".progress.json"
END_FILES = ("summary.json", "duplicate_of.json", "error.json", "refused.json")


class SweepProgress(Callback):
    """Counts the folders of the sweep that are done; the file it leaves serves workers in other processes."""

    def on_multirun_start(self, config: DictConfig, **kwargs: Any) -> None:
        """Note how many points there are, how many of them an earlier start has done, and the time."""
        total = num_points(config)
        sweep_dir = Path(config.hydra.sweep.dir)
        if total is not None:
            sweep_dir.mkdir(parents=True, exist_ok=True)
            state = {"total": total, "done_before": num_done(sweep_dir), "start_s": time.time()}
            (sweep_dir / PROGRESS_FILE).write_text(json.dumps(state), encoding="utf-8")

    def on_job_end(self, config: DictConfig, **kwargs: Any) -> None:
        """Say how many points are done and how long the others may take."""
        path = Path(config.hydra.sweep.dir) / PROGRESS_FILE
        if config.hydra.mode.name == "MULTIRUN" and path.is_file():
            state = json.loads(path.read_text(encoding="utf-8"))
            print(progress_line(state, num_done(path.parent), time.time()), file=sys.stderr, flush=True)


def num_points(config: DictConfig) -> int | None:
    """Points of a grid; ``None`` for a sweeper that decides on the way, which has lines of its own."""
    from hydra._internal.core_plugins.basic_sweeper import BasicSweeper
    from hydra.core.override_parser.overrides_parser import OverridesParser

    if not config.hydra.sweeper._target_.endswith(".BasicSweeper"):
        return None
    params = [f"{key}={value}" for key, value in (config.hydra.sweeper.params or {}).items()]
    overrides = OverridesParser.create().parse_overrides([*params, *config.hydra.overrides.task])
    return sum(map(len, BasicSweeper.split_arguments(overrides, None)))


def num_done(sweep_dir: Path) -> int:
    """Folders of points that have ended, well or not."""
    return len({path.parent for name in END_FILES for path in sweep_dir.glob(f"*/{name}")})


def progress_line(state: dict[str, Any], done: int, now_s: float) -> str:
    """``point 5 of 24 done, 100 s, about 380 s left``."""
    elapsed_s = now_s - state["start_s"]
    new, left = done - state["done_before"], max(0, state["total"] - done)
    line = f"point {done} of {state['total']} done, {_duration(elapsed_s)}"
    return f"{line}, about {_duration(elapsed_s * left / new)} left" if new > 0 and left else line


def _duration(seconds: float) -> str:
    minutes, seconds = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours} h {minutes} min" if hours else f"{minutes} min {seconds} s" if minutes else f"{seconds} s"
