"""Merging in the tower in place of the backbone's pooling: any pruner composes, budgets and costs are right."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from omegaconf import OmegaConf

from stc_lab.backbones.llava_onevision import LlavaOnevision
from stc_lab.cachers import NoCacher, ToMeCacher
from stc_lab.config import build, conf_dir
from stc_lab.memories.rekv import ReKV
from stc_lab.pruners import NoPruner
from stc_lab.session import StreamSession

PRUNERS = sorted(path.stem for path in (conf_dir() / "pruner").glob("*.yaml"))
MERGED = ToMeCacher(num_tokens=100, output="merged")
FEW = ToMeCacher(num_tokens=64, output="merged")


@pytest.fixture(scope="module")
def model():
    return LlavaOnevision().load()


def push(model, cacher, pruner, num_frames=3):
    frames = np.random.default_rng(0).integers(0, 255, (num_frames, 64, 64, 3), dtype=np.uint8)
    session = StreamSession(model, cacher, pruner, ReKV())
    return session.push(list(frames), [float(f) for f in range(num_frames)]) + session.flush()


def pruner_with(method: str, budget: int):
    node = OmegaConf.load(conf_dir() / f"pruner/{method}.yaml")
    return build(OmegaConf.create({"seed": 0, "method": OmegaConf.merge(node, {"budget": budget})}).method)


@pytest.mark.parametrize("method", PRUNERS)
def test_any_pruner_composes(model, method):
    reports = push(model, MERGED, pruner_with(method, 17))
    assert [report.num_tokens_full for report in reports] == [100] * 3
    assert sum(report.num_tokens for report in reports) == 3 * (100 if method == "none" else 17)


def test_merging_alone_meets_a_budget_of_the_language_model(model):
    assert [report.num_tokens for report in push(model, FEW, NoPruner())] == [64] * 3


def test_costs_fall_with_the_tokens(model):
    merged, full = (push(model, cacher, NoPruner(), 1)[0].flops for cacher in (MERGED, NoCacher()))
    assert merged["vision"] < full["vision"] and merged["prefill"] < full["prefill"]
    assert merged["project"] == full["project"] * 100 // 729


def test_merging_nothing_gives_the_projector_of_every_patch(model):
    features = torch.randn(1, 729, model.tower.facts.hidden_size)
    with torch.no_grad():
        projected = model.project_merged(features)
        pooled = model.model.model.apply_pooling(projected)
        torch.testing.assert_close(pooled, model.project(features))


def test_a_budget_above_the_merged_tokens_is_refused_before_a_model_loads():
    settings = LlavaOnevision()
    with pytest.raises(ValueError, match=r"pruner.budget=101.*1\.\.100"):
        settings.check(MERGED, pruner_with("random", 101), ReKV())
    settings.check(MERGED, pruner_with("random", 100), ReKV())


def test_a_model_that_needs_its_grid_refuses():
    settings, facts = LlavaOnevision(), LlavaOnevision().facts()
    facts = replace(facts, offers=facts.offers - {"merged_tokens"})
    with pytest.raises(ValueError, match="cacher.output=merged: backbone=llava_onevision needs its own grid"):
        settings.check(MERGED, NoPruner(), ReKV(), facts)
