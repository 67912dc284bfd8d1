"""STC-Cacher against the numbers of the released code."""

from __future__ import annotations

import json

import pytest
import torch
from safetensors.torch import load_file
from transformers import CLIPVisionModel, SiglipVisionModel

from stc_lab.cachers import STCCacher
from stc_lab.vision import ClipTower, SiglipTower

TOWERS = {"siglip": (SiglipTower, SiglipVisionModel), "clip": (ClipTower, CLIPVisionModel)}


@pytest.mark.parametrize("kind", TOWERS)
def test_every_combination(shared_dir, kind):
    golden = shared_dir / "golden/compression"
    tower_class, model_class = TOWERS[kind]
    tower = tower_class(model_class.from_pretrained(golden / "towers" / kind).eval())
    pixels = load_file(golden / "frames/data.safetensors")["pixel_values"].float()
    case = json.loads((golden / f"stc_cacher_{kind}/case.json").read_text())
    data = load_file(golden / f"stc_cacher_{kind}/data.safetensors")
    for combination in case["combos"]:
        settings = {key: combination[key] for key in ("interval", "update_ratio", "chunk_size")}
        cacher = STCCacher(**settings, protect_cls=False)
        encoded = cacher.encode(tower, pixels[: combination["frames"]], cacher.new_state())
        check(encoded, {key: data[f"{combination['name']}.{key}"] for key in GOLDEN_KEYS})


GOLDEN_KEYS = ("hidden", "is_reference", "recomputed", "similarity")


def check(encoded, golden):
    torch.testing.assert_close(encoded.features, golden["hidden"], atol=2e-5, rtol=0)
    assert encoded.is_reference == golden["is_reference"].tolist()
    for f, trace in enumerate(encoded.traces):
        if trace.is_reference:
            assert trace.recomputed is None and bool((golden["recomputed"][f] == -1).all())
            continue
        assert torch.equal(torch.stack(trace.recomputed), golden["recomputed"][f].long())
        torch.testing.assert_close(torch.stack(trace.similarity), golden["similarity"][f], atol=5e-6, rtol=0)
