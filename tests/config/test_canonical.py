"""Canonical settings: equal exactly when no answer can differ."""

from __future__ import annotations

import json

import pytest

from stc_lab.config import RunSettings
from stc_lab.config import canonical as canonical_of

SAME = [
    (["pruner=none", "pruner.budget=16"], ["pruner=none", "pruner.budget=32"]),
    (["pruner=stc"], ["pruner=stc", "pruner.budget=64"]),
    (["pruner.keep_ratio=0.5"], ["pruner.budget=98"]),
    (["cacher.threshold=0.9", "cacher.update_ratio=0.1"], ["cacher.threshold=0.9", "cacher.update_ratio=0.2"]),
    (["cacher.max_update_ratio=0.5"], ["cacher.max_update_ratio=0.6"]),
    ([], ["trainer.num_threads=1", "trainer.devices=2", "print_config=false", "baseline=true", "logger=csv"]),
    ([], ["measure.warmup_frames=0", "video.timeout_s=5", "paths.output_dir=elsewhere", "objective=coverage"]),
    ([], ["paths.cache_dir=/somewhere/else", "measure.token_maps=2"]),
    (["trainer.accelerator=cuda"], ["trainer.accelerator=gpu"]),
]
DIFFERENT = [
    "seed=1",
    "video.reader=pyav",
    "trainer.precision=bf16-true",
    "pruner=random",
    "pruner=none",
    "pruner.budget=32",
    "pruner.alpha=0.4",
    "pruner.window=4",
    "cacher=none",
    "cacher.interval=4",
    "cacher.update_ratio=0.2",
    "cacher.threshold=0.85",
    "cacher.chunk_size=2",
    "dataset.limit=8",
    "dataset.fps=2",
    "backbone.checkpoint=someone/else",
    "backbone.max_new_tokens=4",
    "memory.topk=8",
    "memory=recent",
]


def canonical(cfg):
    """Of a composed configuration."""
    return canonical_of(RunSettings.of(cfg))


@pytest.mark.parametrize(("first", "second"), SAME)
def test_same_answers_same_settings(settings, first, second):
    assert canonical(settings(*first)) == canonical(settings(*second))


@pytest.mark.parametrize("override", DIFFERENT)
def test_other_answers_other_settings(settings, override):
    assert canonical(settings(override)) != canonical(settings())


def test_is_plain_data(settings):
    assert json.loads(json.dumps(canonical(settings()))) == canonical(settings())


def test_working_directory_does_not_matter(settings, tmp_path, monkeypatch):
    (tmp_path / "videos").mkdir()
    monkeypatch.chdir(tmp_path)
    here = canonical(settings("dataset=folder", "dataset.videos=videos"))
    monkeypatch.chdir(tmp_path / "videos")
    there = canonical(settings("dataset=folder", "dataset.videos=../videos"))
    assert here == there


def test_a_method_may_say_itself_what_matters(settings, monkeypatch):
    monkeypatch.setattr("stc_lab.pruners.stc.STCPruner.answer_settings", lambda self: {"only": 1}, raising=False)
    assert canonical(settings("pruner.alpha=0.1"))["pruner"] == {"name": "stc", "only": 1}
