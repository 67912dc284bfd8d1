"""Access to the benchmarks in miniature, and to the flag that updates frozen prompts."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parent))  # tests find made.py and made_predictions.py by name


@pytest.fixture()
def updates_prompts(request: pytest.FixtureRequest) -> bool:
    """Whether ``--update-prompts`` was given."""
    return request.config.getoption("--update-prompts")
