"""Likeness to the uncompressed run over all frames and questions, with its uncertainty."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from stc_lab.results.averages import Average, Cells
from stc_lab.results.records import Record
from stc_lab.results.statistics import confidence_interval

Values = tuple[list[float], list[str]]


def fidelity_summary(records: Sequence[Record], seed: int = 0) -> dict[str, Any] | None:
    """``feature_cosine``, ``kl_divergence`` and ``top1_agreement``; ``None`` where none of it was measured.

    Each has ``mean``, its 95 % interval ``ci95`` with ``ci_method``, and ``num`` (frames, or questions). Videos are
    resampled as for accuracy. Cosines and divergences are no counts, so that one video gives no interval for them,
    and few videos one that is too narrow. Of features also ``worst_frame`` (lowest mean of a frame) and
    ``worst_token``; of divergences ``worst``. ``over``: questions by what their logits were over.
    """
    measured = [record for record in records if record.fidelity]
    frames, worst_tokens = _frame_values(records, "feature_cosine"), _frame_values(records, "worst_token_cosine")[0]
    if not measured and not frames[0]:
        return None
    streams = [record.stream_id for record in measured]
    divergences = [record.fidelity["kl_divergence"] for record in measured]
    agreements = [float(record.fidelity["top1_agrees"]) for record in measured]
    return {
        "feature_cosine": _mean(*frames, seed, worst_frame=min, worst_token=lambda _: min(worst_tokens)),
        "kl_divergence": _mean(divergences, streams, seed, worst=max),
        "top1_agreement": _share(agreements, streams, seed),
        "over": dict(Counter(record.fidelity["over"] for record in measured)),
    }


def check_measured(records: Sequence[Record], folder: Path) -> None:
    """Raise ``ValueError`` when questions of an earlier run in ``folder`` were answered without measuring fidelity."""
    num_without = sum(record.ttft_ms is not None and not record.fidelity for record in records)
    if num_without:
        raise ValueError(
            f"measure.fidelity=true: {num_without} questions in {folder} were answered without it, and would be "
            f"missing in the result; choose another folder with hydra.run.dir, or measure.fidelity=false"
        )


def _frame_values(records: Sequence[Record], name: str) -> Values:
    """One value per frame, and the streams of the frames."""
    values: list[float] = []
    streams: list[str] = []
    for record in records:
        column = record.frames.get("fidelity", {}).get(name, [])
        values += column
        streams += [record.stream_id] * len(column)
    return values, streams


def _mean(values: list[float], streams: list[str], seed: int, **extremes: Any) -> dict[str, Any] | None:
    if not values:
        return None
    cells = Cells.of(np.array(values), streams, [""] * len(values))
    mean, drawn = float(np.mean(values)), cells.resampled(Average(), seed)
    if drawn is None and cells.num_streams > 1:
        drawn = (mean, mean)  # all videos show the same
    return {
        "mean": mean,
        "ci95": None if drawn is None else list(drawn),
        "ci_method": None if drawn is None else "stream_bootstrap",
        "num": len(values),
        **{name: pick(values) for name, pick in extremes.items()},
    }


def _share(values: list[float], streams: list[str], seed: int) -> dict[str, Any] | None:
    if not values:
        return None
    interval, method = confidence_interval(np.array(values), streams, seed)
    return {"mean": float(np.mean(values)), "ci95": interval, "ci_method": method, "num": len(values)}
