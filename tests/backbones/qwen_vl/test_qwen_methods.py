"""Every cacher and every pruner with a YAML file on both models: it runs, or is refused with a reason."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from omegaconf import OmegaConf

from stc_lab.cachers import NoCacher
from stc_lab.config import build, conf_dir
from stc_lab.pruners.none import NoPruner
from stc_lab.types import Question

BACKBONES = ("livecc", "streamingvlm")
QUESTION = Question("q", 5.0, "What moves?", ("a dot", "a square"), "B")
CACHERS = sorted(path.stem for path in (conf_dir() / "cacher").glob("*.yaml"))
PRUNERS = sorted(path.stem for path in (conf_dir() / "pruner").glob("*.yaml"))


@pytest.fixture(scope="module", params=BACKBONES)
def model(request: pytest.FixtureRequest, tiny_folders: dict[str, Path], on_memory: Callable):
    return on_memory(request.param, tiny_folders[request.param], commentary_tokens=2)


def method(group: str, name: str):
    node = OmegaConf.load(conf_dir() / group / f"{name}.yaml")
    if "seed" in node:
        node.seed = 0
    if "budget" in node:
        node.budget, node.keep_ratio = 3, None
    return build(node)


def run(model, cacher, pruner, clip: list[np.ndarray]) -> None:
    try:
        session = model.open(cacher, pruner)
    except ValueError as error:
        assert cacher.name == "tome" and "merges tokens inside the tower" in str(error)
        return
    reports = session.push(clip[:13], [0.5 * index for index in range(13)])
    assert session.ask(QUESTION).prediction in "AB"
    reports += session.finish()
    assert len(reports) == 7 and session.stats()["num_pending_frames"] == 0
    if hasattr(pruner, "budget") and pruner.name not in ("none", "recent"):
        assert sum(report.num_tokens for report in reports) == pytest.approx(21, abs=3)


@pytest.mark.parametrize("name", CACHERS)
def test_cachers(model, clip: list[np.ndarray], name: str) -> None:
    run(model, method("cacher", name), NoPruner(), clip)


@pytest.mark.parametrize("name", PRUNERS)
def test_pruners(model, clip: list[np.ndarray], name: str) -> None:
    run(model, NoCacher(), method("pruner", name), clip)
