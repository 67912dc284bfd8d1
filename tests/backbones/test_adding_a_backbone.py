"""The backbone of docs/adding-a-backbone.md, as it stands there: it runs, remembers what it says, keeps the rules."""

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
from hydra import compose, initialize_config_dir
from omegaconf import DictConfig

from stc_lab.backbones.base import Backbone
from stc_lab.backbones.session import StreamSession
from stc_lab.cachers import NoCacher, STCCacher
from stc_lab.config import build, conf_dir, validate
from stc_lab.pruners import NoPruner, STCPruner
from stc_lab.types import Answer, Question

PAGE = Path(__file__).resolve().parents[2] / "docs" / "adding-a-backbone.md"


def block(language: str) -> str:
    """The one block of the page in ``language``."""
    (found,) = re.findall(rf"^```{language}\n(.*?)^```", PAGE.read_text(encoding="utf-8"), re.DOTALL | re.MULTILINE)
    return found


@pytest.fixture(scope="module")
def spread(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ModuleType]:
    """The page's code as the module ``spread``, and its settings in ``my_conf`` beside it."""
    folder = tmp_path_factory.mktemp("own")
    (folder / "spread.py").write_text(block("python"), encoding="utf-8")
    (folder / "my_conf" / "backbone").mkdir(parents=True)
    (folder / "my_conf" / "backbone" / "spread.yaml").write_text(block("yaml"), encoding="utf-8")
    sys.path.insert(0, str(folder))
    yield import_module("spread")
    sys.path.remove(str(folder))
    sys.modules.pop("spread")


@pytest.fixture(scope="module")
def cfg(spread: ModuleType, checkpoint_folder: Path) -> DictConfig:
    """The settings that the page's command composes, on the tiny checkpoint."""
    search = f"hydra.searchpath=[file://{Path(spread.__file__).parent / 'my_conf'}]"
    tiny = [f"backbone.checkpoint={checkpoint_folder}", "backbone.tokens_per_frame=9", "backbone.num_frames=4"]
    with initialize_config_dir(str(conf_dir()), version_base="1.3"):
        return compose("config", [search, "backbone=spread", "pruner.budget=5", *tiny])


@pytest.fixture(scope="module")
def backbone(cfg: DictConfig) -> Backbone:
    return build(cfg.backbone)


def opened(backbone: Backbone) -> StreamSession:
    return backbone.open(STCCacher(interval=3, update_ratio=0.3), STCPruner(budget=5, window=3))


def run(session: StreamSession, video: list[np.ndarray], question: Question) -> Answer:
    session.push(video, [float(second) for second in range(len(video))])
    return replace(session.ask(question), ttft_ms=0.0, latency_ms={})


def test_its_settings_are_valid_and_checked(cfg: DictConfig) -> None:
    validate(cfg)
    for key, value, message in (
        ("num_frames", 1, "backbone.num_frames=1: must be at least 2"),
        ("tokens_per_frame", 196, "set backbone.tokens_per_frame=9"),
        ("num_frame", 4, "did you mean 'num_frames'"),
    ):
        changed = cfg.copy()
        changed.backbone = {**cfg.backbone, key: value}
        with pytest.raises(ValueError, match=message):
            validate(changed)


def test_frames_are_spread_over_the_past(backbone: Backbone, video: list[np.ndarray], question: Question) -> None:
    session = backbone.open(NoCacher(), NoPruner())
    assert session.ask(question).details["num_frames_used"] == 0
    held = []
    for second, frame in enumerate(video):
        session.push([frame], [float(second)])
        held.append([int(kept.timestamp_s) for kept in session._kept])
        assert session.stats()["num_tokens"] == 9 * len(held[-1])
    assert held[3] == [0, 1, 2, 3]
    assert held[4] == held[5] == [0, 2, 4]
    assert held[8] == [0, 4, 8]
    assert held[13] == [0, 4, 8, 12]
    session.reset()
    assert session.stats()["num_tokens"] == 0


def test_interleaved_sessions_equal_separate_ones(
    backbone: Backbone, video: list[np.ndarray], question: Question
) -> None:
    other = [255 - frame for frame in video[::-1]]
    expected = run(opened(backbone), video, question), run(opened(backbone), other, question)
    assert expected[0].letter_logits != expected[1].letter_logits
    first, second = opened(backbone), opened(backbone)
    for index, (one, two) in enumerate(zip(video, other, strict=True)):
        first.push([one], [float(index)])
        second.push([two], [float(index)])
        first.ask(question)
    assert (run(first, [], question), run(second, [], question)) == expected
