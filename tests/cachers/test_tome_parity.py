"""ToMe against the numbers of the released code."""

from __future__ import annotations

import json
import re

import pytest
import torch
from safetensors.torch import load_file
from transformers import CLIPVisionModel, SiglipVisionModel

from stc_lab.cachers import ToMeCacher
from stc_lab.cachers.merging import match, released_schedule
from stc_lab.vision import ClipTower, SiglipTower

TOWERS = {"siglip": (SiglipTower, SiglipVisionModel), "clip": (ClipTower, CLIPVisionModel)}
TRENDS = {-1.0: "decreasing", 1.0: "increasing"}


def membership(groups, num_left):
    """[F, T', T]: 1 where an original token belongs to an output token."""
    return torch.nn.functional.one_hot(groups, num_left).transpose(1, 2).to(torch.uint8)


def test_every_matching(shared_dir):
    golden = shared_dir / "golden/compression/tome_matching"
    data = load_file(golden / "data.safetensors")
    for combination in json.loads((golden / "case.json").read_text())["combos"]:
        name = combination["name"]
        x = data[f"{name}.x"]
        sizes, groups = torch.ones(x.shape[:2]), torch.arange(x.shape[1]).expand(len(x), -1)
        for step in range(combination["steps"]):
            merge = match(data[f"{name}.metric{step}"], combination["r"], combination["class_token"])
            (x, sizes), groups = merge.apply(x, sizes), merge.follow(groups)
        torch.testing.assert_close(x, data[f"{name}.merged"], atol=5e-6, rtol=0)
        assert torch.equal(sizes, data[f"{name}.size"])
        assert torch.equal(membership(groups, x.shape[1]), data[f"{name}.source"])
        if f"{name}.unmerged" in data:
            unmerged = x.gather(1, groups.unsqueeze(-1).expand(-1, -1, x.shape[-1]))
            torch.testing.assert_close(unmerged, data[f"{name}.unmerged"], atol=5e-6, rtol=0)


@pytest.mark.parametrize("kind", TOWERS)
def test_every_tower(shared_dir, kind):
    golden = shared_dir / "golden/compression"
    tower_class, model_class = TOWERS[kind]
    tower = tower_class(model_class.from_pretrained(golden / "towers" / kind).eval())
    case = json.loads((golden / "tome_tower/case.json").read_text())
    data = load_file(golden / "tome_tower/data.safetensors")
    # The file says which frames were shown: "..., frames 0 and 3".
    shown = [int(number) for number in re.findall(r"\d+", case["input"].rpartition("frames ")[2])]
    pixels = load_file(golden / "frames/data.safetensors")["pixel_values"].float()[shown]
    combinations = [c for c in case["combos"] if c["tower"] == f"towers/{kind}"]
    assert combinations
    for combination in combinations:
        check(cacher_for(combination), tower, pixels, combination, data)


def cacher_for(combination):
    r, trend = combination["r"], "constant"
    if isinstance(r, list) and isinstance(r[1], float):
        r, trend = r[0], TRENDS[r[1]]
    return ToMeCacher(r=r, schedule=trend, proportional_attention=combination["proportional_attention"])


def check(cacher, tower, pixels, combination, data):
    name, counts = combination["name"], combination["tokens_after_each_layer"]
    assert cacher.merged_per_layer(tower.facts) == combination["r_schedule_per_layer"]
    encoded = cacher.encode(tower, pixels, cacher.new_state())
    groups = torch.stack([trace.groups[-1] for trace in encoded.traces])
    assert encoded.num_recomputed == [counts] * len(pixels)
    assert torch.equal(membership(groups, counts[-1]), data[f"{name}.source"])
    assert torch.equal(membership(groups, counts[-1]).sum(2).float(), data[f"{name}.size"])
    expected = data[f"{name}.hidden"].gather(1, groups.unsqueeze(-1).expand(-1, -1, tower.facts.hidden_size))
    torch.testing.assert_close(encoded.features, expected, atol=2e-5, rtol=0)


def test_schedules_of_the_released_code():
    assert released_schedule(6, "increasing", 3) == [0, 6, 12]
    assert released_schedule(6, "decreasing", 4) == [12, 8, 4, 0]
    assert released_schedule([9, 0, 4], "constant", 4) == [9, 0, 4, 0]
