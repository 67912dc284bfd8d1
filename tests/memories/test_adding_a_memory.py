"""The memory of docs/adding-a-memory.md, as it stands there: it runs, keeps what it says, keeps the rules."""

from __future__ import annotations

import ast
import json
import os
import re
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import replace
from importlib import import_module
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest

import stc_lab
from stc_lab.cachers.stc import STCCacher
from stc_lab.pruners.dycoke import DyCokePruner
from stc_lab.pruners.none import NoPruner
from stc_lab.types import Answer, Question

PAGE = Path(__file__).resolve().parents[2] / "docs" / "adding-a-memory.md"


def block(language: str) -> str:
    """The one block of the page in ``language``."""
    (found,) = re.findall(rf"^```{language}\n(.*?)^```", PAGE.read_text(encoding="utf-8"), re.DOTALL | re.MULTILINE)
    return found


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("own")
    (folder / "spread.py").write_text(block("python"), encoding="utf-8")
    (folder / "my_conf" / "memory").mkdir(parents=True)
    (folder / "my_conf" / "memory" / "spread.yaml").write_text(block("yaml"), encoding="utf-8")
    return folder


@pytest.fixture(scope="module")
def spread(folder: Path) -> Iterator[ModuleType]:
    sys.path.insert(0, str(folder))
    yield import_module("spread")
    sys.path.remove(str(folder))
    sys.modules.pop("spread")


@pytest.fixture(scope="module")
def model() -> stc_lab.VideoModel:
    return stc_lab.load("llava_onevision")


@pytest.fixture(scope="module")
def video() -> list[np.ndarray]:
    generator = np.random.default_rng(0)
    return list(generator.integers(0, 255, (14, 54, 54, 3), dtype=np.uint8))


QUESTION = Question("q", 9.0, "What is here?", ("a circle", "a square"), "A")


def untimed(answer: Answer) -> Answer:
    return replace(answer, ttft_ms=0.0, latency_ms={})


def test_the_page_is_short() -> None:
    classes = [node for node in ast.parse(block("python")).body if isinstance(node, ast.ClassDef)]
    assert all(node.end_lineno - node.lineno < 50 for node in classes)
    assert len(PAGE.read_text(encoding="utf-8").splitlines()) < 120


def test_frames_are_spread_over_the_past(spread: ModuleType, model, video: list[np.ndarray]) -> None:
    session = stc_lab.open_session(model, memory=spread.Spread(num_frames=4))
    held = []
    for second, frame in enumerate(video):
        session.push([frame], [float(second)])
        held.append([int(kept.timestamp_s) for kept in session.memory.kept])
        assert session.stats()["num_tokens"] == 196 * len(held[-1])
    assert held[3] == [0, 1, 2, 3]
    assert held[4] == held[5] == [0, 2, 4]
    assert held[8] == [0, 4, 8]
    assert held[13] == [0, 4, 8, 12]
    assert session.ask(QUESTION).tokens_read == 4 * 196
    with pytest.raises(ValueError, match="memory.num_frames=1: must be at least 2"):
        spread.Spread(num_frames=1)


@pytest.mark.parametrize("pruner", [NoPruner(), DyCokePruner(budget=9)])
def test_a_question_changes_nothing(spread: ModuleType, model, video: list[np.ndarray], pruner) -> None:
    asked, quiet = (stc_lab.open_session(model, STCCacher(), pruner, spread.Spread(num_frames=4)) for _ in range(2))
    for second, frame in enumerate(video[:11]):
        for session in (asked, quiet):
            session.push([frame], [float(second)])
        asked.ask(QUESTION)
    assert untimed(asked.ask(QUESTION)) == untimed(quiet.ask(QUESTION))


def test_the_command_of_the_page_runs(folder: Path, tmp_path: Path) -> None:
    (command,) = re.findall(r"^PYTHONPATH=\. python (-m stc_lab '.*backbone=.*)$", PAGE.read_text(), re.MULTILINE)
    arguments = [part.strip("'") for part in command.split()]
    more = ["dataset.limit=1", "print_config=false", "measure.warmup_frames=0", f"hydra.run.dir={tmp_path}"]
    env = os.environ | {"PYTHONPATH": os.pathsep.join((str(folder), os.environ.get("PYTHONPATH", "")))}
    done = subprocess.run([sys.executable, *arguments, *more], cwd=folder, env=env, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    summary = json.loads((tmp_path / "summary.json").read_text())
    assert summary["run"]["memory"] == "spread" and summary["num_questions"] == 12
