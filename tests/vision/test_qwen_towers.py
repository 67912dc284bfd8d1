"""The towers of Qwen2-VL and Qwen2.5-VL against the Hugging Face models they wrap."""

from __future__ import annotations

import pytest
import torch
from selective_flops import selective_frame_flops
from transformers.models.qwen2_5_vl.configuration_qwen2_5_vl import Qwen2_5_VLVisionConfig
from transformers.models.qwen2_5_vl.modeling_qwen2_5_vl import Qwen2_5_VisionTransformerPretrainedModel
from transformers.models.qwen2_vl.configuration_qwen2_vl import Qwen2VLVisionConfig
from transformers.models.qwen2_vl.modeling_qwen2_vl import Qwen2VisionTransformerPretrainedModel

from stc_lab.cachers import NoCacher, STCCacher
from stc_lab.measure.flops import vision_flops
from stc_lab.vision import QwenTower

SIZES = dict(depth=4, num_heads=2, patch_size=4, spatial_merge_size=2, temporal_patch_size=2)
GRIDS = [(4, 6), (10, 12), (6, 2)]


def make_visual(kind: str, dtype: torch.dtype = torch.float32):
    torch.manual_seed(3)
    if kind == "qwen2":
        config = Qwen2VLVisionConfig(embed_dim=24, hidden_size=32, mlp_ratio=2, **SIZES)
        model = Qwen2VisionTransformerPretrainedModel._from_config(config, attn_implementation="sdpa")
    else:
        config = Qwen2_5_VLVisionConfig(
            hidden_size=24,
            intermediate_size=40,
            out_hidden_size=32,
            window_size=16,
            fullatt_block_indexes=[1, 3],
            **SIZES,
        )
        model = Qwen2_5_VisionTransformerPretrainedModel._from_config(config, attn_implementation="sdpa")
    for parameter in model.parameters():
        if parameter.dim() > 1:
            torch.nn.init.normal_(parameter, std=parameter[0].numel() ** -0.5)
    return model.eval().to(dtype)


@pytest.fixture(scope="module", params=["qwen2", "qwen2.5"])
def visual(request):
    return make_visual(request.param)


def make_pixels(grid: tuple[int, int], num_frames: int = 3, seed: int = 0) -> torch.Tensor:
    """A still picture with a few patches that change, and noise: [F, T, 96]."""
    generator = torch.Generator().manual_seed(seed)
    num_patches = grid[0] * grid[1]
    pixels = torch.randn(num_patches, 96, generator=generator) + 0.05 * torch.randn(
        num_frames, num_patches, 96, generator=generator
    )
    for frame in range(num_frames):
        pixels[frame, 2 * frame : 2 * frame + 3] += 3.0
    return pixels


def encode(tower, cacher, pixels, state=None):
    return cacher.encode(tower, pixels, state)


@pytest.mark.parametrize("grid", GRIDS, ids=str)
@torch.no_grad()
def test_uncached_equals_the_model_bit_for_bit(visual, grid):
    tower, pixels = QwenTower(visual, grid), make_pixels(grid)
    for first, stop in ((0, 1), (0, 3)):
        some = pixels[first:stop]
        expected = visual(some.flatten(0, 1), grid_thw=torch.tensor([[len(some), *grid]])).pooler_output
        features = encode(tower, NoCacher(), some).features
        assert torch.equal(tower.merge(features).flatten(0, 1), expected)


@pytest.mark.parametrize("kind", ["qwen2", "qwen2.5"])
@torch.no_grad()
def test_projections_of_a_frozen_layer_are_single_products(kind):
    """Over rows that do not lie side by side, a linear layer without gradients is one small product per group."""
    tower = QwenTower(make_visual(kind).requires_grad_(False), (10, 12))
    block, x = tower.blocks[0], tower.embed(make_pixels((10, 12)))
    normed = block.norm1(x)
    steps = {"norm1": x, "query": normed, "key": normed, "value": normed, "project": normed, "mlp": normed}
    for name, given in steps.items():
        for some in (given, given[:, 3:9]):
            with torch.profiler.profile() as profile:
                getattr(block, name)(some)
            assert "aten::bmm" not in {event.key for event in profile.key_averages()}, name


@pytest.mark.parametrize("grid", GRIDS, ids=str)
def test_recomputing_all_changes_nothing(visual, grid):
    """Steps of a block on all groups, against the fused whole: other products, the same function."""
    tower, pixels = QwenTower(visual, grid), make_pixels(grid)
    cacher = STCCacher(interval=None, update_ratio=1.0)
    encoded = encode(tower, cacher, pixels, cacher.new_state())
    torch.testing.assert_close(encoded.features, encode(tower, NoCacher(), pixels).features, atol=2e-6, rtol=1e-5)


def test_part_of_the_groups_sees_its_own_window(visual):
    """Queries of a few groups, in any order, equal the same rows of the full attention."""
    tower = QwenTower(visual, (10, 12))
    x = tower.embed(make_pixels((10, 12)))
    for block in tower.blocks[:2]:
        normed = block.norm1(x)
        key, value = block.key(normed), block.value(normed)
        chosen = torch.tensor([29, 3, 17, 4, 0])
        full = block.attend(block.query(normed), key, value)
        part = block.attend(block.query(normed[:, chosen]), key, value)
        torch.testing.assert_close(part, full[:, chosen], atol=1e-6, rtol=1e-5)


def test_a_still_frame_costs_nothing_new(visual):
    tower, pixels = QwenTower(visual, (10, 12)), make_pixels((10, 12))[:1]
    cacher = STCCacher(interval=None, update_ratio=0.25)
    state = cacher.new_state()
    first = encode(tower, cacher, pixels, state)
    again = encode(tower, cacher, pixels, state)
    torch.testing.assert_close(again.features, first.features, atol=2e-6, rtol=1e-5)
    assert again.num_recomputed == [[7] * 4]


def test_changed_groups_are_chosen_whole(visual):
    """The group whose patch changed is recomputed in the first layer, and its four patches with it."""
    tower, pixels = QwenTower(visual, (10, 12)), make_pixels((10, 12), num_frames=1)
    changed = pixels.clone()
    changed[0, 4 * 13 + 2] += 5.0
    cacher = STCCacher(interval=None, threshold=0.999)
    state = cacher.new_state()
    encode(tower, cacher, pixels, state)
    trace = encode(tower, cacher, changed, state).traces[0]
    assert tower.plane.order[trace.recomputed[0]].tolist() == [13]
    assert 0 < trace.num_recomputed[-1] < 30


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16], ids=str)
@pytest.mark.parametrize("kind", ["qwen2", "qwen2.5"])
def test_half_precision_knows_every_place(kind, dtype):
    grid = (4, 250)
    tower = QwenTower(make_visual(kind, dtype), grid)
    x = tower.embed(make_pixels(grid, 1).to(dtype))
    order = tower.plane.order
    assert torch.equal(tower.blocks[0]._tables.groups(x[0, :, -2:]), order)
    features = encode(tower, NoCacher(), make_pixels(grid, 1).to(dtype)).features
    assert features.dtype == dtype and bool(features.isfinite().all())


def test_facts_and_flops(visual):
    tower = QwenTower(visual, (10, 12))
    facts = tower.facts
    assert (facts.num_tokens, facts.grid, facts.hidden_size, facts.num_special_tokens) == (30, (5, 6), 24, 0)
    mlp = 48 if hasattr(visual.blocks[0].mlp, "fc1") else 60
    windows = (16 * 16 * 6 + 8 * 8 * 3) if mlp == 60 else 120 * 120
    pairs = [windows, 120 * 120] * 2
    expected = sum(8 * 120 * 24**2 + 4 * p * 24 + 4 * 120 * 24 * mlp for p in pairs)
    assert vision_flops(facts) == expected
    keys, chosen = 2 * 120 * 24**2 + 6 * 120 * 24, 6 * 8 * 24**2 + 4 * 8 * 24 * mlp
    some = sum(keys + chosen + 4 * (8 * p // 120) * 24 for p in pairs)
    assert selective_frame_flops(facts, [2] * 4) == some
    assert tower.merge_flops == 2 * 30 * (96 * 96 + 96 * 32)


def test_mistakes_are_named(visual):
    with pytest.raises(ValueError, match="patch_grid.*even"):
        QwenTower(visual, (3, 4))
    with pytest.raises(ValueError, match="needs .frames, 24"):
        QwenTower(visual, (4, 6)).embed(torch.zeros(1, 20, 96))
