"""Merging in the tower in place of the backbone's pooling: any pruner composes, budgets and costs are right."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from omegaconf import OmegaConf
from stc_lab.backbones.rekv import ReKV

from stc_lab.cachers import NoCacher, ToMeCacher
from stc_lab.config import build, conf_dir
from stc_lab.pruners import NoPruner

PRUNERS = sorted(path.stem for path in (conf_dir() / "pruner").glob("*.yaml"))
MERGED = ToMeCacher(num_tokens=100, output="merged")
FEW = ToMeCacher(num_tokens=64, output="merged")


@pytest.fixture(scope="module")
def backbone():
    return ReKV("pocket")


def push(backbone, cacher, pruner, num_frames=3):
    frames = np.random.default_rng(0).integers(0, 255, (num_frames, 64, 64, 3), dtype=np.uint8)
    session = backbone.open(cacher, pruner)
    return session.push(list(frames), [float(f) for f in range(num_frames)]) + session.flush()


def pruner_with(method: str, budget: int):
    node = OmegaConf.load(conf_dir() / f"pruner/{method}.yaml")
    return build(OmegaConf.create({"seed": 0, "method": OmegaConf.merge(node, {"budget": budget})}).method)


@pytest.mark.parametrize("method", PRUNERS)
def test_any_pruner_composes(backbone, method):
    reports = push(backbone, MERGED, pruner_with(method, 17))
    assert [report.num_tokens_full for report in reports] == [100] * 3
    assert sum(report.num_tokens for report in reports) == 3 * (100 if method == "none" else 17)


def test_merging_alone_meets_a_budget_of_the_language_model(backbone):
    assert [report.num_tokens for report in push(backbone, FEW, NoPruner())] == [64] * 3


def test_costs_fall_with_the_tokens(backbone):
    merged, full = (push(backbone, cacher, NoPruner(), 1)[0].flops for cacher in (MERGED, NoCacher()))
    assert merged["vision"] < full["vision"] and merged["prefill"] < full["prefill"]
    assert merged["project"] == full["project"] * 100 // 729


def test_merging_nothing_gives_the_projector_of_every_patch(backbone):
    features = torch.randn(1, 729, backbone.tower.facts.hidden_size)
    with torch.no_grad():
        projected = backbone.project_merged(features)
        pooled = backbone.model.model.apply_pooling(projected)
        torch.testing.assert_close(pooled, backbone.project(features))


def test_a_budget_above_the_merged_tokens_is_refused_before_a_model_loads():
    settings = {"checkpoint": "pocket", "tokens_per_frame": 196}
    with pytest.raises(ValueError, match=r"pruner.budget=101.*1\.\.100"):
        ReKV.check_combination(settings, MERGED, pruner_with("random", 101))
    ReKV.check_combination(settings, MERGED, pruner_with("random", 100))


def test_a_backbone_that_needs_its_grid_refuses(monkeypatch):
    monkeypatch.setattr(ReKV, "takes_merged_tokens", False)
    with pytest.raises(ValueError, match="cacher.output=merged: ReKV needs its own grid"):
        ReKV.tokens_to_prune(196, MERGED)
