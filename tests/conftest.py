"""Fixtures shared by all rooms."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
import torch

REPOSITORY = Path(__file__).resolve().parents[1]


def pytest_addoption(parser: pytest.Parser) -> None:
    """``--update-prompts`` writes the frozen prompt files anew; without it a changed prompt is a failure."""
    parser.addoption("--update-prompts", action="store_true", help="write tests/benchmarks/prompts/*.txt anew")


@pytest.fixture(scope="session")
def shared_dir() -> Path:
    """Folder with upstream golden numbers and real clips; tests that need it are skipped where it is absent."""
    folder = Path(os.environ.get("STC_LAB_SHARED", REPOSITORY.parent / "shared"))
    if not (folder / "golden").is_dir():
        pytest.skip(f"golden data not found in {folder} (set STC_LAB_SHARED)")
    return folder


@pytest.fixture(autouse=True)
def _two_threads() -> None:
    """The suite is meant for two cores, also on a larger machine."""
    torch.set_num_threads(2)
