"""A finished sweep and its report, made once."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest
from rich.console import Console

HERE = Path(__file__).parent
sys.path.insert(0, str(HERE))


@pytest.fixture(scope="session")
def sweep_dir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Folder of a sweep: see ``sample_sweep``; with a picture in one of its runs."""
    from PIL import Image
    from sample_sweep import write_sweep

    folder = write_sweep(tmp_path_factory.mktemp("sweep"))
    maps = folder / "pruner=stc,pruner.budget=64" / "token_maps"
    maps.mkdir()
    Image.new("RGB", (12, 4), (200, 40, 40)).save(maps / "s00.png")
    return folder


@pytest.fixture(scope="session")
def report_dir(sweep_dir: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The files of its report, in a folder of their own."""
    from stc_lab.report.multirun import make_frontier

    out = tmp_path_factory.mktemp("report")
    with (out / "printed.txt").open("w") as file:
        make_frontier(sweep_dir, Console(file=file, width=200), out=out)
    return out
