"""The wheel is complete: built from the source archive, installed elsewhere, run from anywhere."""

from __future__ import annotations

import os
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

REPOSITORY = Path(__file__).resolve().parents[1]


@pytest.fixture(scope="module")
def wheel(tmp_path_factory) -> Path:
    """The wheel, built the way a release is: source archive first, wheel from that."""
    pytest.importorskip("build")
    pytest.importorskip("hatchling")
    folder = tmp_path_factory.mktemp("dist")
    command = [sys.executable, "-m", "build", "--no-isolation", "--outdir", str(folder), str(REPOSITORY)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=300, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    (path,) = folder.glob("*.whl")
    return path


@pytest.fixture(scope="module")
def installed(wheel, tmp_path_factory) -> Path:
    """A folder with nothing but the installed wheel."""
    folder = tmp_path_factory.mktemp("site")
    command = [sys.executable, "-m", "pip", "install", "--quiet", "--no-deps", "--no-index", "--target", folder, wheel]
    subprocess.run(command, timeout=300, check=True)
    return folder


def run_elsewhere(installed: Path, cwd: Path, *arguments: str) -> str:
    environment = os.environ | {"PYTHONPATH": str(installed)}
    command = [sys.executable, *arguments]
    done = subprocess.run(command, capture_output=True, text=True, cwd=cwd, env=environment, timeout=600, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_wheel_holds_the_package_its_settings_and_its_models(wheel):
    with zipfile.ZipFile(wheel) as archive:
        names = set(archive.namelist())
    settings = {f"stc_lab/conf/{path.relative_to(REPOSITORY / 'conf')}" for path in REPOSITORY.glob("conf/**/*.yaml")}
    checkpoints = REPOSITORY.glob("src/stc_lab/pocket/checkpoints/**/*")
    models = {str(path.relative_to(REPOSITORY / "src")) for path in checkpoints if path.is_file()}
    assert settings | models | {"stc_lab/cli.py", "stc_lab/__main__.py"} <= names
    assert not any(name.startswith(("tests/", "conf/", "src/")) or "__pycache__" in name for name in names)


def test_runs_from_the_wheel_in_another_folder(installed, tmp_path):
    where = run_elsewhere(installed, tmp_path, "-c", "from stc_lab.config import conf_dir; print(conf_dir())")
    assert Path(where.strip()) == installed / "stc_lab" / "conf"
    printed = run_elsewhere(installed, tmp_path, "-m", "stc_lab", "pruner.budget=7", "--cfg", "job")
    assert "budget: 7" in printed
    assert "checkpoint: pocket" in printed


@pytest.mark.parametrize("script", ["stc_lab", "stc-lab"])
def test_console_scripts(installed, tmp_path, script):
    assert "Usage:" in run_elsewhere(installed, tmp_path, str(installed / "bin" / script), "--help")


@pytest.mark.slow
def test_default_model_answers_from_the_wheel(installed, tmp_path):
    run_elsewhere(installed, tmp_path, "-m", "stc_lab", "experiment=smoke", "hydra.run.dir=run")
    assert (tmp_path / "run" / "summary.json").is_file()
