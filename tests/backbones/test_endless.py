"""Streams that do not end on ReKV, StreamForest and the plain window: sizes follow formulas, bounded or linear."""

from __future__ import annotations

import json
from collections.abc import Callable
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
import torch
from hydra import compose, initialize_config_dir
from omegaconf import DictConfig

from stc_lab.backbones.base import VideoModel
from stc_lab.backbones.streamforest import StreamForest
from stc_lab.bench.endless import Endless, Lane, measure, run_endless, validate
from stc_lab.bench.formulas import Range, Sizes, predicted
from stc_lab.cachers import STCCacher
from stc_lab.config import conf_dir
from stc_lab.memories.base import Memory
from stc_lab.memories.streamforest import StreamForestMemory
from stc_lab.pruners.stc import STCPruner
from stc_lab.session import StreamSession

KEPT = 4
FOREST = {"now_tokens": 12, "short_frames": 4, "split_window": 3, "event_tokens": 4, "quota": 40}
NAMES = ("rekv", "recent", "streamforest")
Run = Callable[[str, int], Endless]


@pytest.fixture
def new_model(forest_folder: Path, new_backbone: Callable, new_recent: Callable):
    def make(name: str, **changes) -> tuple[VideoModel, Memory]:
        if name == "streamforest":
            forest = StreamForest(checkpoint=str(forest_folder), tokens_per_frame=8)
            return forest.load(dtype=torch.float32), StreamForestMemory(**{**FOREST, **changes})
        made = (new_backbone if name == "rekv" else new_recent)(**changes)
        return made.model, made.memory

    return make


@pytest.fixture
def run(new_model, video: list[np.ndarray]) -> Run:
    clip = [*video, *video[4:10]]

    def run_one(name: str, num_frames: int) -> Endless:
        (model, memory), methods = new_model(name), (STCCacher(), STCPruner(budget=KEPT))
        return run_endless(model, *methods, memory, clip, num_frames=num_frames, fps=1.0)

    return run_one


def check(name: str, result: Endless) -> None:
    """Sizes as predicted after every tenth; what is promised to be bounded is, the rest is linear."""
    assert result.misses == []
    stats = [checkpoint.stats for checkpoint in result.checkpoints]
    assert [s["num_frames"] for s in stats] == [result.num_frames * tenth // 10 for tenth in range(1, 11)]
    if name == "rekv":
        assert stats[-1]["num_blocks"] == result.num_frames and all(s["kv_bytes_host"] for s in stats[1:])
        steps = {later["kv_bytes_host"] - earlier["kv_bytes_host"] for earlier, later in pairwise(stats[1:])}
        assert len(steps) == 1, "the blocks grow by the same amount in every tenth"
        assert stats[-1]["kv_bytes_reserved"] == stats[4]["kv_bytes_reserved"], "the windows do not grow"
    elif name == "recent":
        assert len({s["kv_bytes_device"] for s in stats}) == 1
    else:
        assert max(s["num_tokens"] for s in stats) <= 40 + 6 * 8 + 12
        assert max(s["num_blocks"] for s in stats) <= 10
    assert result.frame.ratio > 0 and result.memory.early_ms > 0


def settings(*overrides: str) -> DictConfig:
    with initialize_config_dir(str(conf_dir()), version_base="1.3"):
        return compose("endless", ["num_frames=200", f"pruner.budget={KEPT}", *overrides])


def test_the_command_measures_says_why_not_and_writes(checkpoint_folder: Path, tmp_path: Path, capsys) -> None:
    fields = (f"checkpoint={checkpoint_folder}", "tokens_per_frame=9")
    tiny = [f"+models.{name}.{field}" for name in ("rekv", "recent") for field in fields]
    sizes = ("+memories.rekv={n_local: 90, topk: 4}", "+models.livecc.min_tokens_per_frame=0")
    results = measure(settings("backbones=[rekv,recent,livecc]", *tiny, *sizes), tmp_path)
    for result in results:
        check(result.backbone, result)
    assert [result.backbone for result in results] == ["rekv", "recent"]
    printed = capsys.readouterr().out
    assert "backbone.min_tokens_per_frame=0" in printed and "NOT AS PREDICTED" not in printed and "exact" in printed
    written = json.loads((tmp_path / "endless.json").read_text())
    assert written["results"][0]["checkpoints"][-1]["stats"]["num_blocks"] == 200
    assert list(written["refused"]) == ["livecc"] and "torch" in written["environment"]


def test_every_backbone_is_there_by_default() -> None:
    names = validate(settings())
    assert names == ["rekv", "streamforest", "dispider", "livecc", "streamingvlm", "recent"]
    assert validate(settings("backbones=recent")) == ["recent"]


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("backbones=[llava]", "backbones=llava: must be among rekv"),
        ("num_frames=250", "num_frames=250: must be a multiple of 200"),
        ("fps=0", "fps=0"),
        ("num_threads=-1", "num_threads=-1"),
    ],
)
def test_mistakes_are_named(override: str, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        validate(settings(override))


@pytest.mark.slow
@pytest.mark.parametrize("name", NAMES)
def test_two_thousand_frames(run: Run, name: str) -> None:
    check(name, run(name, 2000))


@pytest.mark.parametrize(
    ("name", "changes"),
    [("rekv", {}), ("recent", {}), ("streamforest", {}), ("streamforest", {"mode": "lazy"})],
    ids=["rekv", "recent", "streamforest", "lazy"],
)
def test_the_formulas_hold_from_the_first_frame_on(new_model, video, name: str, changes: dict) -> None:
    model, memory = new_model(name, **changes)
    lane = Lane(StreamSession(model, STCCacher(), STCPruner(budget=KEPT), memory), video, 1.0)
    sizes = []
    for num_frames in range(1, 41):
        lane.push(1)
        sizes.append(predicted(memory, model, num_frames, KEPT))
        assert sizes[-1].misses(lane.session.stats()) == []
    assert all(size.device.is_exact for size in sizes[:7] if name == "streamforest")
    assert all(size.device.is_exact and size.tokens.is_exact for size in sizes if name != "streamforest")


def test_a_wrong_size_is_named() -> None:
    sizes = Sizes(Range.exactly(3), Range(10, 20))
    stats = {"num_tokens": 3, "kv_bytes_device": 20, "kv_bytes_host": 0}
    assert sizes.misses(stats) == []
    assert sizes.misses({**stats, "kv_bytes_device": 21}) == ["kv_bytes_device=21, predicted 10 to 20"]


@pytest.mark.parametrize(("num_frames", "clip_frames"), [(0, 20), (150, 20), (300, 20), (200, 7)])
def test_lengths_that_cannot_be_compared_are_refused(run: Run, video, num_frames: int, clip_frames: int) -> None:
    with pytest.raises(ValueError, match=f"num_frames={num_frames}"):
        run_endless(None, None, None, None, (video * 2)[:clip_frames], num_frames=num_frames, fps=1.0)
