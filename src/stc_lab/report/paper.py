"""Numbers printed in the STC paper (arXiv:2512.00891v2), with what is wrong about them."""

from __future__ import annotations

import csv
import json
from collections.abc import Iterable
from dataclasses import dataclass
from functools import cached_property
from importlib.resources import files
from statistics import fmean

from stc_lab.benchmarks.ovobench import GROUPS

TABLE_OF = {"ovobench": "ovobench", "streamingbench": "streamingbench"} | dict.fromkeys(
    ("egoschema", "mlvu", "videomme"), "offline"
)
"""Table in which a benchmark of the lab is found."""

SETTINGS = ("interval", "update_ratio", "keep_ratio")
LATENCY = ("vision_ms", "prefill_ms")
TEXTS = ("backbone", "cacher", "pruner", "method", "source", "corrections")


@dataclass(frozen=True)
class PaperRow:
    """One row of a table. ``scores`` in percent, as printed; other names are those of the lab.

    ``settings``: cache interval and ratio of recomputed tokens, and ratio of tokens that are kept. ``latency_ms``: 16
    frames through the tower, and their prefill. ``notes`` say what is wrong or must be known.
    """

    table: str
    backbone: str
    cacher: str
    pruner: str
    method: str
    settings: dict[str, float]
    scores: dict[str, float]
    latency_ms: dict[str, float]
    source: str
    notes: tuple[str, ...]

    @property
    def label(self) -> str:
        """``rekv + visionzip``: the backbone and the methods that are on."""
        methods = [name for name in (self.cacher, self.pruner) if name != "none"]
        return " + ".join((self.backbone, *methods))

    @cached_property
    def overall_recomputed(self) -> float | None:
        """OVO-Bench: mean over groups of the mean over their tasks as printed; ``None`` for the other tables."""
        if self.table != "ovobench":
            return None
        return fmean(fmean(self.scores[task] for task in tasks) for tasks in GROUPS.values())

    def overall(self, benchmark: str) -> float:
        """The printed score on a benchmark of the lab, in percent."""
        return self.scores["overall" if self.table == benchmark else benchmark]


def paper_rows(benchmark: str) -> list[PaperRow]:
    """All rows for a benchmark, in the order of the table; none for a benchmark that the paper does not have."""
    table = TABLE_OF.get(benchmark)
    if table is None:
        return []
    notes = corrections()["rows"]
    text = files("stc_lab.report").joinpath("assets", f"{table}.csv").read_text(encoding="utf-8")
    return [_row(table, cells, notes) for cells in csv.DictReader(text.splitlines())]


def find_row(benchmark: str, label: str) -> PaperRow:
    """The row with this label, such as ``rekv + stc + stc``. Raises ``ValueError`` naming the labels there are."""
    rows = {row.label: row for row in paper_rows(benchmark)}
    wanted = " + ".join(part.strip().lower() for part in label.split("+"))
    if wanted not in rows:
        known = "; ".join(rows) or f"none for {benchmark}"
        raise ValueError(f"paper={label}: no such row in the paper; there are: {known}")
    return rows[wanted]


def corrections() -> dict:
    """What is wrong about the numbers: ``rows`` by the names used in the tables, and ``general`` remarks."""
    return json.loads(files("stc_lab.report").joinpath("assets", "corrections.json").read_text(encoding="utf-8"))


def _row(table: str, cells: dict[str, str], notes: dict[str, str]) -> PaperRow:
    others = {*TEXTS, *SETTINGS, *LATENCY}
    return PaperRow(
        table=table,
        **{name: cells[name] for name in ("backbone", "cacher", "pruner", "method", "source")},
        settings=_numbers(cells, SETTINGS),
        scores=_numbers(cells, [name for name in cells if name not in others]),
        latency_ms=_numbers(cells, LATENCY),
        notes=tuple(notes[name] for name in cells["corrections"].split()),
    )


def _numbers(cells: dict[str, str], names: Iterable[str]) -> dict[str, float]:
    return {name: float(cells[name]) for name in names if cells.get(name)}
