"""How points are named and numbers are written in the page."""

from __future__ import annotations

from collections.abc import Mapping
from html import escape
from textwrap import wrap
from typing import Any

import pandas as pd

from stc_lab.results.axes import COSTS
from stc_lab.results.runs import Run

HOVER_WIDTH = 70
HOVER_GROUPS = ("backbone", "cacher", "pruner", "dataset")


def point_name(point: pd.Series) -> str:
    """Line and budget: ``stc + stc, 64 tokens``."""
    if pd.isna(point["achieved_tokens"]):
        return str(point["label"])
    return f"{point['label']}, {point['achieved_tokens']:.0f} tokens"


def unique_names(points: pd.DataFrame) -> dict[str, str]:
    """Name of each run; a second one of the same name is told apart by its folder."""
    names: dict[str, str] = {}
    for _, point in points.iterrows():
        name = point_name(point)
        names[point["run"]] = f"{name} ({point['run']})" if name in names.values() else name
    return names


def value_text(value: float | None, show: str) -> str:
    """``value`` in the given format; a dash when it is unknown."""
    return "-" if value is None or pd.isna(value) else show.format(value)


def accuracy_text(point: pd.Series) -> str:
    """``83.1 % [78.0, 87.4]``; a dash without scored questions."""
    if pd.isna(point["accuracy"]):
        return "-"
    return f"{100 * point['accuracy']:.1f} % [{100 * point['accuracy_low']:.1f}, {100 * point['accuracy_high']:.1f}]"


def hover_text(point: pd.Series, run: Run) -> str:
    """Everything about a run that fits into a hover box, as the HTML that plotly understands."""
    requested = value_text(point["requested_tokens"], "{:.0f}")
    others = [cost for cost in COSTS.values() if cost.name != "tokens"]
    lines = [
        f"<b>{escape(str(point['label']))}</b>",
        f"accuracy {accuracy_text(point)}, {point['num_questions']} questions",
        f"tokens per frame {value_text(point['achieved_tokens'], '{:.1f}')} (asked for {requested})",
        *(f"{cost.label}: {value_text(point[cost.column], cost.show)}" for cost in others),
        *_settings_lines(run.settings),
    ]  # fmt: skip
    return "<br>".join(lines)


def _settings_lines(settings: Mapping[str, Any]) -> list[str]:
    lines = []
    for group in HOVER_GROUPS:
        flat = {key.partition(".")[2]: value for key, value in settings.items() if key.startswith(f"{group}.")}
        text = f"{group}: " + ", ".join(f"{key}={value}" for key, value in flat.items())
        lines += [escape(line) for line in wrap(text, HOVER_WIDTH, subsequent_indent="    ")]
    return lines
