"""Hydra callback that turns a multirun into its frontier."""

from __future__ import annotations

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
        from stc_lab.results.frontier import make_frontier

        make_frontier(Path(config.hydra.sweep.dir), settings=ReportSettings(**config.get("report", {})))
