"""One importer per layout of published prediction files."""

from __future__ import annotations

from pathlib import Path

from stc_lab.scoring.importers import ovobench, streamingbench
from stc_lab.scoring.importers.base import Imported, Prediction

__all__ = ["BENCHMARKS", "Imported", "Prediction", "read_predictions"]

BENCHMARKS = ("ovobench", *streamingbench.PARTS)


def read_predictions(benchmark: str, path: Path, model: str | None = None, unwrap_lists: bool = False) -> Imported:
    """The answers in the prediction files of a benchmark. Raises ``ValueError`` naming what is wrong with them."""
    if benchmark not in BENCHMARKS:
        raise ValueError(f"benchmark={benchmark}: must be one of {', '.join(BENCHMARKS)}")
    if benchmark == "ovobench":
        return ovobench.read_predictions(path, unwrap_lists)
    return streamingbench.read_predictions(path, benchmark, model)
