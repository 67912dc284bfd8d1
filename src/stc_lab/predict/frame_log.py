"""Per-frame entries of a record: the frames since the previous question."""

from __future__ import annotations

from dataclasses import astuple
from typing import Any

from stc_lab.types import FrameReport


class FrameLog:
    """Collects frame reports until :meth:`take` turns them into the ``frames`` columns of a record."""

    def __init__(self) -> None:
        self._reports: list[FrameReport] = []
        self._num_warmup = 0

    def add(self, report: FrameReport, is_warmup: bool = False) -> None:
        """Append the next frame in time order; warm-up frames are not for latency statistics."""
        self._reports.append(report)
        self._num_warmup += is_warmup

    def take(self) -> dict[str, Any]:
        """The columns since the last call; every column has one entry per frame."""
        reports, num_warmup = self._reports, self._num_warmup
        self._reports, self._num_warmup = [], 0
        return {
            "timestamp_s": [round(report.timestamp_s, 6) for report in reports],
            "num_tokens": [report.num_tokens for report in reports],
            "num_tokens_full": [report.num_tokens_full for report in reports],
            "is_reference": [report.is_reference for report in reports],
            "update_ratio": [round(report.update_ratio, 6) for report in reports],
            "vision_batch_size": [report.vision_batch_size for report in reports],
            "latency_ms": round_times(_columns([report.latency_ms for report in reports])),
            "flops": _columns([report.flops for report in reports]),
            "num_warmup": num_warmup,
        } | _rare_columns(reports)


def _rare_columns(reports: list[FrameReport]) -> dict[str, Any]:
    """Columns that only some backbones or settings fill; left out where there is nothing to say."""
    columns = {}
    if any(report.num_source_frames != 1 for report in reports):
        columns["num_source_frames"] = [report.num_source_frames for report in reports]
    if any(report.commentary for report in reports):
        columns["commentary"] = [[list(astuple(line)) for line in report.commentary] for report in reports]
    if any(report.fidelity for report in reports):
        columns["fidelity"] = _columns([report.fidelity for report in reports])
    return columns


def round_times(times: dict[str, Any]) -> dict[str, Any]:
    """Milliseconds to whole microseconds; finer digits are noise."""
    return {
        stage: [round(ms, 3) for ms in value] if isinstance(value, list) else round(value, 3)
        for stage, value in times.items()
    }


def _columns(rows: list[dict[str, Any]]) -> dict[str, list]:
    """One list per key; a frame that did not pass a stage has 0 there."""
    keys = dict.fromkeys(key for row in rows for key in row)
    return {key: [row.get(key, 0) for row in rows] for key in keys}
