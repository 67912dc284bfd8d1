"""Hydra finds sweepers in the package ``hydra_plugins`` only; what this one does is in :mod:`stc_lab.search`.

Hydra imports this file at every start: nothing heavy may be imported at its top.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from hydra.core.plugins import Plugins
from hydra.errors import CompactHydraException
from hydra.plugins.sweeper import Sweeper
from hydra.types import HydraContext, TaskFunction
from omegaconf import DictConfig, OmegaConf


class ParetoSweeper(Sweeper):
    """``hydra/sweeper=pareto``: Optuna asks for points, the launcher runs them, Optuna is told what they gave."""

    def __init__(
        self,
        direction: str | Sequence[str],
        n_trials: int,
        n_jobs: int,
        sampler: str,
        seed: int,
        params: Mapping[str, str] | None,
    ) -> None:
        self.direction = direction
        self.n_trials = n_trials
        self.n_jobs = n_jobs
        self.sampler = sampler
        self.seed = seed
        self.params = dict(params or {})
        self.hydra_context: HydraContext | None = None
        self.config: DictConfig | None = None

    def setup(self, *, hydra_context: HydraContext, task_function: TaskFunction, config: DictConfig) -> None:
        """Called by Hydra before :meth:`sweep`."""
        self.hydra_context = hydra_context
        self.config = config
        self.launcher = Plugins.instance().instantiate_launcher(
            hydra_context=hydra_context, task_function=task_function, config=config
        )

    def sweep(self, arguments: list[str]) -> Any:
        """Run the search; ``arguments`` are the overrides of the command line, which win over ``params``."""
        if find_spec("optuna") is None:
            raise CompactHydraException("hydra/sweeper=pareto needs Optuna: pip install 'stc-lab[sweeps]'")
        try:
            return self._search(arguments)
        except ValueError as error:
            raise CompactHydraException(str(error)) from error

    def _search(self, arguments: list[str]) -> Any:
        from stc_lab.search import Search

        sweep_dir = Path(self.config.hydra.sweep.dir)
        sweep_dir.mkdir(parents=True, exist_ok=True)
        OmegaConf.save(self.config, sweep_dir / "multirun.yaml")
        search = Search(
            folder=sweep_dir,
            overrides=[*(f"{key}={value}" for key, value in self.params.items()), *arguments],
            launch=self.launcher.launch,
            compose=lambda job: self.validate_batch_is_legal([job]),
            directions=[self.direction] if isinstance(self.direction, str) else list(self.direction),
            num_trials=self.n_trials,
            num_parallel=self.n_jobs,
            sampler=self.sampler,
            seed=self.seed,
        )
        return search.run()
