"""The study: what was tried, in a file of the sweep folder, so that a search can go on where it stopped."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import optuna
from optuna.samplers import BaseSampler, NSGAIISampler, RandomSampler, TPESampler
from optuna.storages import JournalStorage
from optuna.storages.journal import JournalFileBackend
from optuna.trial import FrozenTrial, Trial, TrialState

STUDY_FILE = "study.log"
FAILED = "failed"
SAMPLERS = ("tpe", "nsgaii", "random")


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
