"""Summaries made again from records, which are the only truth about a run."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from stc_lab.results.runs import Run, find_runs
from stc_lab.results.summary import summarize, write_summary


def rebuild_summaries(folders: Sequence[Path]) -> int:
    """Compute ``summary.json`` of every finished run below ``folders`` anew; returns their number.

    Facts that are not in the records (settings, device, frame rate) stay as the run has written them. A run without
    records keeps its summary.
    """
    runs = [run for run in find_runs(folders).runs if run.records]
    for run in runs:
        write_summary(run.folder, rebuilt(run))
    return len(runs)


def rebuilt(run: Run) -> dict:
    """The summary of a run with all that follows from its records computed again."""
    tokens, seed = run.summary.get("tokens_per_frame") or {}, run.summary.get("seed", 0)
    return {**run.summary, **summarize(run.records, tokens.get("requested"), seed, run.names["dataset"])}
