"""One importer per layout of published prediction files."""

from __future__ import annotations

from pathlib import Path

from stc_lab.scoring.importers import ovobench, streamingbench
from stc_lab.scoring.importers.base import Imported, Prediction, json_files, load_json

__all__ = ["BENCHMARKS", "Imported", "Prediction", "benchmark_of", "read_predictions"]

BENCHMARKS = ("ovobench", *streamingbench.PARTS)


def read_predictions(benchmark: str, path: Path, model: str | None = None, unwrap_lists: bool = False) -> Imported:
    """The answers in the prediction files of a benchmark. Raises ``ValueError`` naming what is wrong with them."""
    if benchmark not in BENCHMARKS:
        raise ValueError(f"benchmark={benchmark}: must be one of {', '.join(BENCHMARKS)}")
    if benchmark == "ovobench":
        return ovobench.read_predictions(path, unwrap_lists)
    return streamingbench.read_predictions(path, benchmark, model)


def benchmark_of(path: Path) -> str:
    """The benchmark that prediction files answer, from their layout. Raises ``ValueError`` when they answer none."""
    for file in json_files(path, "a run folder, or official prediction files"):
        content = load_json(file)
        if ovobench.has_sections(content):
            return "ovobench"
        found = streamingbench.part_of(content)
        if found is not None:
            return found
    raise ValueError(f"{path}: neither a run folder nor prediction files of {', '.join(BENCHMARKS)}")
