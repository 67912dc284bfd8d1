"""What a layer shows of its attention and keys, under every cacher."""

from __future__ import annotations

import copy

import pytest
import torch
from omegaconf import OmegaConf
from transformers import CLIPVisionConfig, CLIPVisionModel, SiglipVisionConfig, SiglipVisionModel
from transformers.models.qwen2_5_vl.configuration_qwen2_5_vl import Qwen2_5_VLVisionConfig
from transformers.models.qwen2_5_vl.modeling_qwen2_5_vl import Qwen2_5_VisionTransformerPretrainedModel

from stc_lab.cachers import NoCacher
from stc_lab.config import build, conf_dir
from stc_lab.vision import ClipTower, QwenTower, SiglipTower, TokenSaliency
from stc_lab.vision.saliency import record_block_input

BOTH = {"attention_received", "keys"}
CACHERS = sorted(path.stem for path in (conf_dir() / "cacher").glob("*.yaml"))
HEADS, SIDE = 4, 6
SIZES = dict(hidden_size=32, intermediate_size=48, num_attention_heads=HEADS, num_hidden_layers=3)
SIZES |= dict(image_size=4 * SIDE, patch_size=4, attn_implementation="eager")
MODELS = {
    "siglip": (SiglipTower, SiglipVisionModel, SiglipVisionConfig(**SIZES, vision_use_head=False)),
    "clip": (ClipTower, CLIPVisionModel, CLIPVisionConfig(**SIZES)),
}


def make_model(kind: str):
    torch.manual_seed(0)
    tower_class, model_class, config = MODELS[kind]
    model = model_class(config).eval().requires_grad_(False)
    for name, parameter in model.named_parameters():
        if "q_proj.weight" in name or "k_proj.weight" in name:
            torch.nn.init.normal_(parameter, std=0.5)  # attention that is not flat
    return tower_class(model), model


@pytest.fixture(params=MODELS)
def kind(request):
    return request.param


def make_pixels(num_frames: int = 4) -> torch.Tensor:
    generator = torch.Generator().manual_seed(0)
    still = torch.randn(3, 4 * SIDE, 4 * SIDE, generator=generator)
    return still + 0.2 * torch.randn(num_frames, 3, 4 * SIDE, 4 * SIDE, generator=generator)


def make_cacher(name: str, **settings):
    return build(OmegaConf.merge(OmegaConf.load(conf_dir() / f"cacher/{name}.yaml"), settings))


@torch.no_grad()
def read(tower, cacher, pixels, needs=BOTH, grid=(SIDE, SIDE), size=1):
    """Features and readings of all frames, in calls of ``size``."""
    saliency, state, features, readings = TokenSaliency(needs), cacher.new_state(), [], []
    for call in pixels.split(size):
        encoded = cacher.encode(saliency.view(tower), call, state)
        features.append(encoded.features)
        found = saliency.collect(encoded.traces, merged=encoded.sizes is not None)
        readings += [one.read(grid) for one in found]
    return torch.cat(features), readings


def test_equals_what_the_model_says_of_its_last_layer(kind):
    tower, model = make_model(kind)
    pixels = make_pixels()
    output = model(pixels, output_attentions=True, output_hidden_states=True)
    attention = output.attentions[-1].sum(1)
    received = attention[:, 0, 1:] if kind == "clip" else attention.mean(1)
    layer = getattr(model, "vision_model", model).encoder.layers[-1]
    keys = layer.self_attn.k_proj(layer.layer_norm1(output.hidden_states[-2]))[:, tower.facts.num_special_tokens :]
    _, readings = read(tower, NoCacher(), pixels)
    for frame, reading in enumerate(readings):
        torch.testing.assert_close(reading.attention_received, received[frame], atol=1e-6, rtol=1e-4)
        torch.testing.assert_close(reading.keys.flatten(1), keys[frame], atol=1e-5, rtol=1e-4)
    assert (received.amax(1) > 2 * received.mean(1)).all()


@pytest.mark.parametrize("cacher", CACHERS)
@pytest.mark.parametrize("size", [1, 3])
def test_looking_changes_nothing(kind, cacher, size):
    """Under any cacher the features are the same bits, and every frame has a reading."""
    tower, _ = make_model(kind)
    settings = {"chunk_size": size} if cacher == "stc" else {}
    pixels, cacher = make_pixels(), make_cacher(cacher, **settings)
    state = cacher.new_state()
    with torch.no_grad():
        plain = torch.cat([cacher.encode(tower, call, state).features for call in pixels.split(size)])
    features, readings = read(tower, cacher, pixels, size=size)
    assert torch.equal(features, plain)
    for reading in readings:
        assert reading.attention_received.shape == (SIDE**2,) and reading.keys.shape == (SIDE**2, HEADS, 8)
        assert reading.attention_received.min() >= 0


def test_a_frame_reads_the_same_in_a_batch(kind):
    tower, _ = make_model(kind)
    alone, together = (read(tower, NoCacher(), make_pixels(), size=size)[1] for size in (1, 4))
    for one, other in zip(alone, together, strict=True):
        torch.testing.assert_close(one.attention_received, other.attention_received)
        torch.testing.assert_close(one.keys, other.keys)


@pytest.mark.parametrize("settings", [{}, {"proportional_attention": False}, {"num_tokens": 9, "output": "merged"}])
def test_merged_tokens_share_what_they_receive(settings):
    """All attention arrives somewhere: one per head."""
    tower, _ = make_model("siglip")
    grid = (1, 9) if "output" in settings else (SIDE, SIDE)
    _, readings = read(tower, make_cacher("tome", **settings), make_pixels(), grid=grid)
    for reading in readings:
        assert len(reading.keys) == grid[0] * grid[1]
        assert float(reading.attention_received.sum()) == pytest.approx(HEADS, rel=1e-4)


def test_merging_nothing_reads_like_no_merging():
    tower, _ = make_model("siglip")
    merged, plain = (read(tower, cacher, make_pixels())[1] for cacher in (make_cacher("tome", r=0), NoCacher()))
    for one, other in zip(merged, plain, strict=True):
        torch.testing.assert_close(one.attention_received, other.attention_received)


def test_a_reused_frame_has_the_reading_of_the_frame_it_reuses():
    tower, _ = make_model("siglip")
    pixels = make_pixels()[[0, 0, 1, 1]] * torch.tensor([1.0, 1.0, -1.0, -1.0]).view(4, 1, 1, 1)
    _, readings = read(tower, make_cacher("frame_reuse"), pixels)
    assert [reading.flops > 0 for reading in readings] == [True, False, True, False]
    assert torch.equal(readings[0].keys, readings[1].keys) and torch.equal(readings[2].keys, readings[3].keys)
    assert not torch.allclose(readings[0].keys, readings[2].keys)


def test_brought_to_the_pooled_grid():
    """As the features are pooled: an even pooling is the mean of what it pools."""
    tower, _ = make_model("siglip")
    _, (full, *_) = read(tower, NoCacher(), make_pixels())
    _, (pooled, *_) = read(tower, NoCacher(), make_pixels(), grid=(3, 3))
    expected = full.attention_received.view(3, 2, 3, 2).mean((1, 3)).flatten()
    torch.testing.assert_close(pooled.attention_received, expected)
    keys = full.keys.view(3, 2, 3, 2, HEADS, 8).mean((1, 3)).flatten(0, 1)
    torch.testing.assert_close(pooled.keys, keys)


def test_only_what_is_needed_is_computed(kind):
    tower, _ = make_model(kind)
    costs = {}
    for needs in ({"keys"}, {"attention_received"}, BOTH):
        _, (reading, *_) = read(tower, NoCacher(), make_pixels(), needs)
        assert {name for name in BOTH if getattr(reading, name) is not None} == needs
        costs[frozenset(needs)] = reading.flops
    tokens, width = tower.facts.num_tokens, tower.facts.hidden_size
    queries = 1 if kind == "clip" else tokens
    assert costs[frozenset({"keys"})] == 2 * tokens * width**2
    assert costs[frozenset(BOTH)] == 2 * (tokens + queries) * width**2 + 2 * queries * tokens * width
    nothing = TokenSaliency(())
    assert nothing.view(tower) is tower and nothing.collect([object()] * 2) == [None, None]


@torch.no_grad()
def test_a_copy_goes_on_apart_and_copies_no_weights():
    """As a session does that shows a frame aside: what it saved is what it finds again."""
    tower, _ = make_model("siglip")
    saliency, cacher, pixels = TokenSaliency(BOTH), make_cacher("frame_reuse"), make_pixels()
    saliency.collect(cacher.encode(saliency.view(tower), pixels[:1], cacher.new_state()).traces)
    before, aside = saliency.last, copy.deepcopy(saliency)
    aside.collect(cacher.encode(aside.view(tower), pixels[1:2], cacher.new_state()).traces)
    assert saliency.last is before and aside.last is not before
    assert copy.deepcopy(before)._tower is tower
    assert torch.equal(copy.deepcopy(before).read((SIDE, SIDE)).keys, before.read((SIDE, SIDE)).keys)


def test_every_step_of_a_recording_block_is_that_of_the_block(kind):
    tower, _ = make_model(kind)
    x = tower.embed(make_pixels())
    view, inputs = record_block_input(tower, 1)
    assert view.facts is tower.facts and view.blocks[0] is tower.blocks[0] is not view.blocks[1]
    assert torch.equal(view.blocks[1](x), tower.blocks[1](x))
    assert torch.equal(torch.cat([entered.x for entered in inputs]), x)
    assert view.blocks[1].query == tower.blocks[1].query


def test_mistakes_are_named():
    with pytest.raises(ValueError, match="needs=\\['colour'\\].*attention_received, keys"):
        TokenSaliency({"keys", "colour"})


@pytest.mark.parametrize("layer", [2, 3], ids=["windows", "everywhere"])
def test_groups_of_patches_by_the_gradient_of_attention(layer):
    """What a group receives is how much the sum of all outputs moves with its values."""
    torch.manual_seed(3)
    config = Qwen2_5_VLVisionConfig(
        depth=4, hidden_size=24, intermediate_size=40, num_heads=2, patch_size=4, out_hidden_size=32,
        window_size=16, fullatt_block_indexes=[1, 3],
    )  # fmt: skip
    visual = Qwen2_5_VisionTransformerPretrainedModel._from_config(config, attn_implementation="sdpa").eval()
    tower = QwenTower(visual, (10, 12))
    block = tower.blocks[layer]
    normed = block.norm1(tower.embed(torch.randn(2, 120, 96))).detach()
    query, key = block.query(normed).detach(), block.key(normed).detach()
    query[..., :-2] *= 9
    value = block.value(normed).detach().requires_grad_()
    block.attend(query, key, value).sum().backward()
    moved = value.grad[..., :-2].unflatten(-1, (4, 2, 12))[..., 0]
    weights = block.attention_weights(query, key)
    torch.testing.assert_close(weights.sum(-1), torch.ones(2, 2, 30))
    torch.testing.assert_close(weights.sum(2).transpose(1, 2), moved.sum(2) / 4, atol=1e-5, rtol=1e-4)
    assert (weights == 0).any() == (layer == 2)
    assert torch.equal(block.heads(key)[1, 5, 1], key[1, 5, :-2].view(4, 2, 12)[:, 1].flatten())


def test_groups_come_back_in_rows():
    visual = Qwen2_5_VisionTransformerPretrainedModel._from_config(
        Qwen2_5_VLVisionConfig(depth=1, hidden_size=24, intermediate_size=40, num_heads=2, patch_size=4, window_size=16)
    )
    tower = QwenTower(visual, (10, 12))
    assert torch.equal(tower.on_grid(tower.plane.order[None])[0], torch.arange(30))
