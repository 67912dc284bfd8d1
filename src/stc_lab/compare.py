"""``python -m stc_lab.compare RUN_A RUN_B``: is the second run better, worse, or not distinguishable?"""

from __future__ import annotations

import json
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from omegaconf import OmegaConf
from omegaconf.errors import OmegaConfBaseException

from stc_lab.benchmarks import rule_of
from stc_lab.benchmarks.predictions import benchmark_of, read_predictions
from stc_lab.results.records import (
    CONFIG_FILE,
    DUPLICATE_FILE,
    RECORDS_FILE,
    SUMMARY_FILE,
    read_records,
    short_names,
    write_text_atomically,
)
from stc_lab.score import to_records

if TYPE_CHECKING:
    from stc_lab.results.comparison import Side

USAGE = """\
python -m stc_lab.compare RUN_A RUN_B [out=FILE.json] [seed=0] [benchmark=NAME] [model=KEY]
python -m stc_lab.compare --encoding RUN_DIR [RUN_DIR ...]

Compares two runs on the questions that both were asked: difference of RUN_B to RUN_A with its 95 % interval
(videos are resampled), McNemar's test, and the verdict as a sentence. RUN_A and RUN_B are run folders, folders
that `python -m stc_lab.score` made, or published prediction files themselves.
  out=FILE.json    also write the result as JSON
  benchmark=NAME   what prediction files answer; only needed where their layout does not tell
  model=KEY        StreamingBench files with several models: the key of the answers

With --encoding: what encoding a video once saves, one line per run folder.
"""


@dataclass
class CompareSettings:
    """Settings beside the two runs."""

    out: str | None = None
    seed: int = 0
    benchmark: str | None = None
    model: str | None = None


def main(arguments: Sequence[str] | None = None) -> None:
    """Compare what the command line names; exit status 1 for a mistake in it."""
    arguments = sys.argv[1:] if arguments is None else list(arguments)
    if not arguments or {"-h", "--help", "help"} & set(arguments):
        print(USAGE)
        return
    try:
        if "--encoding" in arguments:
            _compare_encoding([text for text in arguments if text != "--encoding"])
        else:
            _compare(*parse(arguments))
    except ValueError as error:
        raise SystemExit(f"error: {error}") from error


def parse(arguments: Sequence[str]) -> tuple[list[Path], CompareSettings]:
    """The two paths and the settings. What exists on disk is a path, also with ``=`` in its name.

    Raises ``ValueError`` for an unknown setting, a path that does not exist, or another number of paths than two.
    """
    paths = [Path(text).expanduser() for text in arguments if "=" not in text or Path(text).exists()]
    rest = [text for text in arguments if "=" in text and not Path(text).exists()]
    try:
        settings = OmegaConf.merge(OmegaConf.structured(CompareSettings), OmegaConf.from_dotlist(rest))
    except OmegaConfBaseException as error:
        problem = str(error).splitlines()[0]
        raise ValueError(f"{' '.join(rest)}: {problem}; settings are out, seed, benchmark, model") from error
    for path in paths:
        if not path.exists():
            raise ValueError(f"{path}: no such folder or file; give two run folders")
    if len(paths) != 2:
        raise ValueError(f"two runs are compared, {len(paths)} given: python -m stc_lab.compare RUN_A RUN_B")
    return paths, OmegaConf.to_object(settings)


def _compare(paths: Sequence[Path], settings: CompareSettings) -> None:
    from stc_lab.report.tables import print_comparison, result_console
    from stc_lab.results.comparison import compare_sides  # loads scipy, which a wrong command line need not wait for

    names = short_names(paths)
    first, second = (_side(path, name, settings) for path, name in zip(paths, names, strict=True))
    result = compare_sides(first, second, settings.seed)
    print_comparison(result_console(), result)
    if settings.out is not None:
        out = Path(settings.out).expanduser()
        out.parent.mkdir(parents=True, exist_ok=True)
        write_text_atomically(out, json.dumps(result.as_dict(), indent=2, allow_nan=False) + "\n")
        print(f"written to {out}")


def _compare_encoding(run_dirs: Sequence[str]) -> None:
    """Print one line per run folder. Raises ``ValueError`` without any, and for a folder without records."""
    from stc_lab.report.tables import print_encoding, result_console

    if not run_dirs:
        raise ValueError("no run folder given: python -m stc_lab.compare --encoding RUN_DIR [RUN_DIR ...]")
    runs = {run_dir: read_records(Path(run_dir) / RECORDS_FILE) for run_dir in run_dirs}
    for run_dir, records in runs.items():
        if not records:
            raise ValueError(f"{run_dir}: no {RECORDS_FILE} with questions in it")
    print_encoding(result_console(), runs)


def _side(path: Path, name: str, settings: CompareSettings) -> Side:
    from stc_lab.results.comparison import Side, read_side

    if path.name in (RECORDS_FILE, SUMMARY_FILE):
        path = path.parent
    # A run, or scored predictions, or the published files themselves.
    is_run = path.is_dir() and any((path / file).is_file() for file in (RECORDS_FILE, SUMMARY_FILE, CONFIG_FILE))
    if is_run or (path / DUPLICATE_FILE).is_file():
        return read_side(_original(path), name)
    benchmark = settings.benchmark or benchmark_of(path)
    imported = read_predictions(benchmark, path, settings.model)
    records = to_records(imported, rule_of(benchmark), fingerprint="")
    return Side(name, records, {"benchmark": benchmark})


def _original(folder: Path) -> Path:
    """The folder itself, or the equal run of its multirun that was taken over."""
    file = folder / DUPLICATE_FILE
    return folder / json.loads(file.read_text(encoding="utf-8"))["run"] if file.is_file() else folder


if __name__ == "__main__":
    main()
