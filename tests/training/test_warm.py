"""Warm starts take what fits, say what they left, and refuse a checkpoint of which nothing fits."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from stc_lab.training.models.warm import warm_start


def test_what_fits_is_taken_and_the_rest_is_named():
    trained = nn.Sequential(nn.Linear(4, 4), nn.Linear(4, 2))
    new = nn.ModuleDict({"tower": nn.Sequential(nn.Linear(4, 4), nn.Linear(4, 3))})
    before = new["tower"][1].weight.clone()
    started = warm_start(new, trained.state_dict(), rename={"tower.": ""})
    assert started.taken == ("tower.0.weight", "tower.0.bias")
    assert started.left == ("tower.1.weight", "tower.1.bias")
    assert torch.equal(new["tower"][0].weight, trained[0].weight) and torch.equal(new["tower"][1].weight, before)


def test_nothing_that_fits_is_an_error():
    with pytest.raises(ValueError, match="rename"):
        warm_start(nn.Linear(4, 4), nn.Linear(3, 3).state_dict())
