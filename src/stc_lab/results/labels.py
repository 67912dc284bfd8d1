"""Names of the lines in a frontier: what their points have in common."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

BUDGET_KEYS = ("pruner.num_tokens",)
NAME_KEYS = ("backbone.name", "cacher.name", "pruner.name", "dataset.name")
UNKNOWN = "unknown"
UNNAMED_KEYS = ("data_digest", "weights_digest", "version")


def line_labels(settings: Sequence[Mapping[str, Any]]) -> list[str]:
    """What the points of one line have in common: cacher and pruner, and every other setting that the runs differ in.

    The budget moves along a line and is no part of its label.
    """
    names = [_methods(flat) for flat in settings]
    if len({flat["backbone.name"] for flat in settings}) > 1:
        names = [f"{flat['backbone.name']}: {name}".rstrip(": ") for flat, name in zip(settings, names, strict=True)]
    if len({flat["dataset.name"] for flat in settings}) > 1:
        names = [f"{name} on {flat['dataset.name']}" for flat, name in zip(settings, names, strict=True)]
    names = [name or flat["backbone.name"] for flat, name in zip(settings, names, strict=True)]
    varying = _varying_keys(settings, names)
    return [_with_settings(name, flat, varying) for flat, name in zip(settings, names, strict=True)]


def _methods(flat: Mapping[str, Any]) -> str:
    """Cacher and pruner; nothing for imported predictions, of which only a name is known."""
    names = (str(flat["cacher.name"]), str(flat["pruner.name"]))
    return "" if set(names) == {UNKNOWN} else " + ".join(names)


def _varying_keys(settings: Sequence[Mapping[str, Any]], names: Sequence[str]) -> list[str]:
    """Keys, but budgets and names, that tell runs of the same name apart."""
    varying: set[str] = set()
    for name in set(names):
        varying |= _telling_keys([flat for flat, other in zip(settings, names, strict=True) if other == name])
    return sorted(varying)


def _telling_keys(group: Sequence[Mapping[str, Any]]) -> set[str]:
    """Keys with several values; those that only some runs have (a setting without effect is left out) if need be."""
    keys = set().union(*group) - {*BUDGET_KEYS, *NAME_KEYS, *UNNAMED_KEYS}
    several = {key for key in keys if len({repr(flat[key]) for flat in group if key in flat}) > 1}
    differing = several | {key for key in keys if any(key not in flat for flat in group)}
    return several if _num_told_apart(group, several) == _num_told_apart(group, differing) else differing


def _num_told_apart(group: Sequence[Mapping[str, Any]], keys: set[str]) -> int:
    return len({tuple((key, repr(flat[key])) for key in sorted(keys) if key in flat) for flat in group})


def _with_settings(name: str, flat: Mapping[str, Any], keys: Sequence[str]) -> str:
    shown = [f"{key.removeprefix('cacher.').removeprefix('pruner.')}={flat[key]}" for key in keys if key in flat]
    return f"{name} ({', '.join(shown)})" if shown else name
