"""Search for settings that are accurate and cheap (``hparams_search=pareto``), on top of Optuna.

A sweeper of its own, since ``hydra-optuna-sweeper`` 1.3 holds Optuna below 3 and SQLAlchemy below 2, loses a search
that is started again, and ends with the first failed trial.
"""

from __future__ import annotations

import logging
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import optuna
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import IntervalSweep, Override, RangeSweep
from hydra.core.utils import JobReturn, JobStatus
from hydra.errors import HydraException
from omegaconf import OmegaConf
from optuna.distributions import BaseDistribution, CategoricalDistribution, FloatDistribution, IntDistribution
from optuna.samplers import BaseSampler, NSGAIISampler, RandomSampler, TPESampler
from optuna.storages import JournalStorage
from optuna.storages.journal import JournalFileBackend
from optuna.trial import FrozenTrial, Trial, TrialState

log = logging.getLogger(__name__)

STUDY_FILE = "study.log"
FAILED = "failed"
SAMPLERS = ("tpe", "nsgaii", "random")
RESULTS_FILE = "optimization_results.yaml"
REPEATS_BEFORE_THE_END = 25
"""Points in a row that were tried before: then the space is searched, as far as the sampler can tell."""

Launch = Callable[..., Sequence[JobReturn]]


def search_space(overrides: Sequence[str]) -> tuple[dict[str, BaseDistribution], list[str]]:
    """What is searched, by key, and the overrides that every job shares; a later override replaces an earlier one.

    ``a,b`` and ``choice(a,b)`` are categories; ``range(start,stop,step)`` are ordered numbers, without ``stop``;
    ``interval(low,high)`` is continuous, ``int(interval(low,high))`` whole numbers, ``tag(log,interval(...))`` on a log
    scale.
    Raises ``ValueError`` when nothing has more than one value.
    """
    parsed = {o.get_key_element(): o for o in OverridesParser.create().parse_overrides(list(overrides))}
    space = {key: _distribution(o) for key, o in parsed.items() if o.is_sweep_override()}
    fixed = [f"{key}={o.get_value_element_as_str()}" for key, o in parsed.items() if not o.is_sweep_override()]
    if not space:
        raise ValueError("nothing to search: give settings several values, as in pruner.budget=range(16,129,16)")
    return space, fixed


def job_overrides(params: Mapping[str, Any], fixed: Sequence[str]) -> list[str]:
    """Command line of one job; numbers with six digits, so that equal points are written equally."""
    return [*fixed, *(f"{key}={_written(value)}" for key, value in params.items())]


def _distribution(override: Override) -> BaseDistribution:
    # The three ways in which Hydra writes several values.
    value = override.value()
    if isinstance(value, RangeSweep):
        return _range(value)
    if isinstance(value, IntervalSweep):
        is_log = "log" in value.tags
        kind = IntDistribution if isinstance(value.start, int) and isinstance(value.end, int) else FloatDistribution
        return kind(value.start, value.end, log=is_log)
    return CategoricalDistribution(list(override.sweep_string_iterator()))


def _range(sweep: RangeSweep) -> BaseDistribution:
    values = list(sweep.range())
    kind = IntDistribution if all(isinstance(value, int) for value in values) else FloatDistribution
    return kind(min(values), max(values), step=abs(sweep.step)) if len(values) > 1 else CategoricalDistribution(values)


def _written(value: Any) -> str:
    return f"{value:g}" if isinstance(value, float) else str(value)


def open_study(folder: Path, directions: Sequence[str], sampler: str, seed: int) -> optuna.Study:
    """The study of a sweep folder, with trials that were cut off put in line again.

    Raises ``ValueError`` for an unknown sampler, and for a folder whose study has other directions.
    """
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    storage = JournalStorage(JournalFileBackend(str(folder / STUDY_FILE)))
    study = optuna.create_study(
        storage=storage, study_name="pareto", directions=list(directions), sampler=make_sampler(sampler, seed),
        load_if_exists=True,
    )  # fmt: skip
    known = [direction.name.lower() for direction in study.directions]
    if known != list(directions):
        raise ValueError(f"hydra.sweeper.direction={list(directions)}: {folder} holds a search with {known}")
    # Trials that were running when the search was cut off: their points are tried first.
    for trial in study.get_trials(states=(TrialState.RUNNING,)):
        study.tell(trial.number, state=TrialState.FAIL)
        study.enqueue_trial(trial.params)
    return study


def make_sampler(name: str, seed: int) -> BaseSampler:
    """``tpe`` learns from few trials; ``nsgaii`` needs populations of them; ``random`` learns nothing."""
    if name == "tpe":
        return TPESampler(seed=seed, multivariate=True, constant_liar=True)
    if name == "nsgaii":
        return NSGAIISampler(seed=seed)
    if name == "random":
        return RandomSampler(seed=seed)
    raise ValueError(f"hydra.sweeper.sampler={name}: must be one of {', '.join(SAMPLERS)}")


def is_done(trial: FrozenTrial) -> bool:
    """Whether the trial has an outcome: values, or a failure of its own (not one of the process)."""
    return trial.state == TrialState.COMPLETE or bool(trial.user_attrs.get(FAILED))


def tell(study: optuna.Study, trial: Trial, values: Sequence[float] | None) -> None:
    """Record what a trial gave; ``None`` or a value that is no number for a trial that failed."""
    if values is None or any(math.isnan(value) for value in values):
        trial.set_user_attr(FAILED, True)
        study.tell(trial, state=TrialState.FAIL)
    else:
        study.tell(trial, list(values))


def solutions(study: optuna.Study) -> list[dict[str, Any]]:
    """Parameters and values of the trials that no other beats, each point once."""
    distinct = {repr(sorted(trial.params.items())): trial for trial in study.best_trials}
    return [{"params": trial.params, "values": list(trial.values)} for trial in distinct.values()]


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
            # A point that was tried has its outcome; the sampler is told, and learns from it without another run.
            if key in self._outcomes:
                tell(study, trial, self._outcomes[key])
                repeats += 1
            elif key in batch:
                study.tell(trial, state=optuna.trial.TrialState.FAIL)  # the same point is about to run in this batch
                repeats += 1
            else:
                batch[key] = trial
        return batch

    def _run_batch(self, study: optuna.Study, batch: dict[tuple[str, ...], Trial]) -> None:
        jobs = {key: job_overrides(trial.params, self._fixed) for key, trial in batch.items()}
        # Settings that do not fit together are failed trials, and are not launched.
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
