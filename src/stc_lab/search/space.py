"""From overrides with several values to what Optuna chooses from."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import IntervalSweep, Override, RangeSweep
from optuna.distributions import BaseDistribution, CategoricalDistribution, FloatDistribution, IntDistribution


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
