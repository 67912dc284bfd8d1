"""Tests find made_predictions.py by its name."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from stc_lab.results import statistics

sys.path.insert(0, str(Path(__file__).parent))


@pytest.fixture(autouse=True)
def _few_resamples(monkeypatch: pytest.MonkeyPatch) -> None:
    """Intervals are rough here; that they are right is tested with the statistics."""
    monkeypatch.setattr(statistics, "NUM_RESAMPLES", 199)
