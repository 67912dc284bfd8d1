"""The backbone of docs/adding-a-backbone.md, as it stands there: it runs, and its budgets count from its own grid."""

from __future__ import annotations

import re
import sys
from collections.abc import Iterator
from dataclasses import replace
from importlib import import_module
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest
import torch
from hydra import compose, initialize_config_dir
from omegaconf import DictConfig

import stc_lab
from stc_lab.cachers.stc import STCCacher
from stc_lab.config import build, conf_dir, validate
from stc_lab.memories.recent import Recent
from stc_lab.pruners.none import NoPruner
from stc_lab.pruners.stc import STCPruner
from stc_lab.types import Answer, Question

PAGE = Path(__file__).resolve().parents[2] / "docs" / "adding-a-backbone.md"


def block(language: str) -> str:
    """The one block of the page in ``language``."""
    (found,) = re.findall(rf"^```{language}\n(.*?)^```", PAGE.read_text(encoding="utf-8"), re.DOTALL | re.MULTILINE)
    return found


@pytest.fixture(scope="module")
def small_grid(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ModuleType]:
    """The page's code as a module, and its settings in ``my_conf`` beside it."""
    folder = tmp_path_factory.mktemp("own")
    (folder / "small_grid.py").write_text(block("python"), encoding="utf-8")
    (folder / "my_conf" / "backbone").mkdir(parents=True)
    (folder / "my_conf" / "backbone" / "small_grid.yaml").write_text(block("yaml"), encoding="utf-8")
    sys.path.insert(0, str(folder))
    yield import_module("small_grid")
    sys.path.remove(str(folder))
    sys.modules.pop("small_grid")


@pytest.fixture(scope="module")
def cfg(small_grid: ModuleType, checkpoint_folder: Path) -> DictConfig:
    """The settings that the page's command composes, on the tiny checkpoint."""
    search = f"hydra.searchpath=[file://{Path(small_grid.__file__).parent / 'my_conf'}]"
    tiny = [f"backbone.checkpoint={checkpoint_folder}", "backbone.tokens_per_frame=9"]
    with initialize_config_dir(str(conf_dir()), version_base="1.3"):
        return compose("config", [search, "backbone=small_grid", "pruner.budget=3", *tiny])


def test_the_page_is_one_page() -> None:
    assert len(PAGE.read_text(encoding="utf-8").splitlines()) < 120


def test_its_settings_are_valid_and_checked(cfg: DictConfig) -> None:
    assert cfg.memory.name == "rekv"
    validate(cfg)
    for node, key, value, message in (
        ("backbone", "pooling", 0, "backbone.pooling=0: must be at least 1"),
        ("backbone", "tokens_per_frame", 196, "set backbone.tokens_per_frame=9"),
        ("backbone", "poolin", 4, "did you mean 'pooling'"),
        ("pruner", "budget", 5, "pruner.budget=5: a frame has 4 tokens"),
    ):
        changed = cfg.copy()
        changed[node] = {**cfg[node], key: value}
        with pytest.raises(ValueError, match=message):
            validate(changed)


def test_it_runs_with_any_memory(cfg: DictConfig, video: list[np.ndarray], question: Question) -> None:
    model = build(cfg.backbone).load(dtype=torch.float32)
    for memory in (build(cfg.memory), Recent(num_frames=3)):
        session = stc_lab.open_session(model, STCCacher(interval=3), NoPruner(), memory)
        reports = session.push(video, [float(second) for second in range(len(video))])
        assert {report.num_tokens for report in reports} == {4}
        answer = session.ask(question)
        assert answer.tokens_read == (4 * len(video) if memory.name == "rekv" else 12)


def test_interleaved_sessions_equal_separate_ones(
    cfg: DictConfig, video: list[np.ndarray], question: Question
) -> None:
    model = build(cfg.backbone).load(dtype=torch.float32)
    other = [255 - frame for frame in video[::-1]]

    def opened() -> stc_lab.StreamSession:
        return stc_lab.open_session(model, STCCacher(interval=3), STCPruner(budget=2, window=3), build(cfg.memory))

    def asked(session: stc_lab.StreamSession) -> Answer:
        return replace(session.ask(question), ttft_ms=0.0, latency_ms={})

    expected = []
    for one in (video, other):
        session = opened()
        session.push(one, [float(second) for second in range(len(one))])
        expected.append(asked(session))
    assert expected[0].letter_logits != expected[1].letter_logits
    first, second = opened(), opened()
    for index, (one, two) in enumerate(zip(video, other, strict=True)):
        first.push([one], [float(index)])
        second.push([two], [float(index)])
        first.ask(question)
    assert [asked(first), asked(second)] == expected
