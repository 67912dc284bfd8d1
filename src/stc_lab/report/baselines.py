"""The baselines that every method has to beat, and how to add those that a sweep lacks."""

from __future__ import annotations

from dataclasses import dataclass

import pandas as pd

from stc_lab.config.help import group_choices

WANTED_PRUNERS = ("random", "uniform", "downsample")


@dataclass(frozen=True)
class Note:
    """A remark at the top of the page, with the command that does something about it."""

    text: str
    command: str | None = None


def missing_baselines(points: pd.DataFrame) -> list[Note]:
    """A note per benchmark and backbone whose picture lacks the uncompressed run or a trivial baseline."""
    pairs = points.groupby(["benchmark", "backbone"], sort=True)
    notes = [_note(group, benchmark, backbone) for (benchmark, backbone), group in pairs]
    return [note for note in notes if note is not None]


def _note(points: pd.DataFrame, benchmark: str, backbone: str) -> Note | None:
    there = set(points.loc[points["cacher"] == "none", "pruner"])
    wanted = [name for name in WANTED_PRUNERS if name in group_choices()["pruner"]]
    missing = [name for name in ("none", *wanted) if name not in there]
    if not missing or points["requested_tokens"].isna().all():
        return None
    budgets = sorted({int(tokens) for tokens in points.loc[points["pruner"] != "none", "requested_tokens"].dropna()})
    arguments = f"cacher=none pruner={','.join(missing)} pruner.budget={','.join(map(str, budgets))}"
    names = ", ".join("the uncompressed run" if name == "none" else name for name in missing)
    return Note(
        f"{backbone} on {benchmark}: not measured yet: {names}. Add to the command of the multirun, with "
        f"hydra.sweep.dir=FOLDER of this sweep, and they are drawn here too:",
        arguments,
    )
