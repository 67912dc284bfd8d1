"""Cachers on towers of another make: groups of patches, rotary positions, windows."""

from __future__ import annotations

import pytest
import torch
from transformers.models.qwen2_5_vl.configuration_qwen2_5_vl import Qwen2_5_VLVisionConfig
from transformers.models.qwen2_5_vl.modeling_qwen2_5_vl import Qwen2_5_VisionTransformerPretrainedModel

from stc_lab.cachers import FrameReuseCacher, NoCacher, STCCacher, ToMeCacher
from stc_lab.cachers.selective import FEATURES, REUSES
from stc_lab.measure.flops import vision_flops
from stc_lab.vision import QwenTower

CLOSE = dict(atol=1e-5, rtol=1e-5)
SIZES = dict(depth=2, num_heads=2, patch_size=4, spatial_merge_size=2, temporal_patch_size=2, window_size=16)


@pytest.fixture(scope="module")
def tower():
    torch.manual_seed(0)
    config = Qwen2_5_VLVisionConfig(
        hidden_size=24, intermediate_size=40, out_hidden_size=32, fullatt_block_indexes=[1], **SIZES
    )
    model = Qwen2_5_VisionTransformerPretrainedModel._from_config(config, attn_implementation="sdpa")
    return QwenTower(model.eval(), (8, 6))


@pytest.fixture(scope="module")
def pixels():
    generator = torch.Generator().manual_seed(0)
    return torch.randn(48, 96, generator=generator) + 0.2 * torch.randn(3, 48, 96, generator=generator)


def encode(cacher, tower, pixels):
    return cacher.encode(tower, pixels, cacher.new_state())


@pytest.mark.parametrize("reuse", REUSES)
@pytest.mark.parametrize("feature", FEATURES)
def test_every_variant_with_all_tokens_is_the_plain_tower(tower, pixels, feature, reuse):
    cacher = STCCacher(feature=feature, reuse=reuse, update_ratio=1.0, interval=None, refresh_share=1.0)
    encoded, expected = encode(cacher, tower, pixels), encode(NoCacher(), tower, pixels).features
    torch.testing.assert_close(encoded.features, expected, **CLOSE)
    few = encode(STCCacher(feature=feature, reuse=reuse, interval=None), tower, pixels)
    assert cacher.flops(tower.facts, few.traces[1]) < vision_flops(tower.facts)
    assert few.features.shape == expected.shape and not torch.equal(few.features, expected)


def test_frames_are_reused(tower, pixels):
    encoded = encode(FrameReuseCacher(threshold=0.9), tower, pixels[:1].expand(2, -1, -1))
    assert encoded.is_reference == [True, False]
    assert torch.equal(encoded.features[0], encoded.features[1])


def test_tokens_with_rotary_positions_are_not_merged(tower, pixels):
    with pytest.raises(ValueError, match="cacher=tome cannot run on a QwenTower"):
        encode(ToMeCacher(), tower, pixels)
