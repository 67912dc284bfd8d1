"""The loop of a search: ask for points, launch them, tell what they gave."""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import optuna
from hydra.core.utils import JobReturn, JobStatus
from hydra.errors import HydraException
from omegaconf import OmegaConf
from optuna.trial import Trial

from stc_lab.search.space import job_overrides, search_space
from stc_lab.search.study import is_done, open_study, solutions, tell

log = logging.getLogger(__name__)

RESULTS_FILE = "optimization_results.yaml"
REPEATS_BEFORE_THE_END = 25
"""Points in a row that were tried before: then the space is searched, as far as the sampler can tell."""

Launch = Callable[..., Sequence[JobReturn]]


@dataclass
class Search:
    """A search in ``folder``. ``num_trials`` counts distinct points, failed and earlier ones included.

    ``launch`` runs jobs (lists of overrides) and returns what they gave; ``compose`` raises for overrides that do not
    fit together. ``num_parallel`` points are launched together.
    """

    folder: Path
    overrides: Sequence[str]
    launch: Launch
    compose: Callable[[list[str]], None]
    directions: Sequence[str]
    num_trials: int
    num_parallel: int = 1
    sampler: str = "tpe"
    seed: int = 0

    def run(self) -> list[dict[str, Any]]:
        """Search until ``num_trials`` points are done, and write the best ones; returns them.

        Raises ``ValueError`` for a search without anything to choose, and for wrong settings of the search.
        """
        self._space, self._fixed = search_space(self.overrides)
        study = open_study(self.folder, self.directions, self.sampler, self.seed)
        self._outcomes = {self._key(trial.params): trial.values for trial in study.get_trials() if is_done(trial)}
        while len(self._outcomes) < self.num_trials:
            batch = self._ask(study)
            if not batch:
                log.info("search: only points that were tried before are proposed; it ends here")
                break
            self._run_batch(study, batch)
        best = solutions(study)
        OmegaConf.save(OmegaConf.create({"name": "optuna", "solutions": best}), self.folder / RESULTS_FILE)
        log.info(f"search: {len(self._outcomes)} points tried, {len(best)} not dominated: {self.folder / RESULTS_FILE}")
        return best

    def _key(self, params: dict[str, Any]) -> tuple[str, ...]:
        return tuple(sorted(job_overrides(params, [])))

    def _ask(self, study: optuna.Study) -> dict[tuple[str, ...], Trial]:
        """New points, at most ``num_parallel``; one that is known is answered at once and asks for another."""
        batch: dict[tuple[str, ...], Trial] = {}
        wanted = min(self.num_parallel, self.num_trials - len(self._outcomes))
        repeats = 0
        while len(batch) < wanted and repeats < REPEATS_BEFORE_THE_END:
            trial = study.ask(self._space)
            key = self._key(trial.params)
            if key in self._outcomes:
                tell(study, trial, self._outcomes[key])
                repeats += 1
            elif key in batch:
                study.tell(trial, state=optuna.trial.TrialState.FAIL)  # its twin is about to run
                repeats += 1
            else:
                batch[key] = trial
        return batch

    def _run_batch(self, study: optuna.Study, batch: dict[tuple[str, ...], Trial]) -> None:
        jobs = {key: job_overrides(trial.params, self._fixed) for key, trial in batch.items()}
        legal = {key: job for key, job in jobs.items() if self._composes(job)}
        returns = self.launch(list(legal.values()), initial_job_idx=len(self._outcomes)) if legal else []
        given = {key: self._values(result) for key, result in zip(legal, returns, strict=True)}
        for key, trial in batch.items():
            self._outcomes[key] = given.get(key)
            tell(study, trial, given.get(key))
        log.info(f"search: {len(self._outcomes)} of {self.num_trials} points")

    def _composes(self, job: list[str]) -> bool:
        """Whether the settings fit together; where they do not, the trial has failed and the search goes on."""
        try:
            self.compose(job)
        except HydraException as error:
            log.warning(f"search: left out {' '.join(job)}: {error}")
            return False
        return True

    def _values(self, result: JobReturn) -> list[float] | None:
        """What the job returned; ``None`` when it failed. Raises ``ValueError`` for another number of values."""
        if result.status != JobStatus.COMPLETED or result.return_value is None:
            return None
        values = result.return_value
        values = [values] if isinstance(values, (int, float)) else list(values)
        if len(values) != len(self.directions):
            raise ValueError(
                f"hydra.sweeper.direction={list(self.directions)}: a run gave {len(values)} values; name as many keys "
                f"of summary.json in objective"
            )
        return values
