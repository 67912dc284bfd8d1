"""Our block loop against the Hugging Face models it wraps."""

from __future__ import annotations

import pytest
import torch
from safetensors.torch import load_file
from torch import nn
from torch.nn.functional import scaled_dot_product_attention
from transformers import CLIPVisionConfig, CLIPVisionModel, SiglipVisionConfig, SiglipVisionModel

from stc_lab.cachers import NoCacher
from stc_lab.vision import ClipTower, SiglipTower
from stc_lab.vision.tower import multi_head_attention

SIZES = dict(hidden_size=48, intermediate_size=80, num_attention_heads=4, num_hidden_layers=3)
SIZES |= dict(image_size=42, patch_size=6)
MODELS = {
    "siglip": (SiglipTower, SiglipVisionModel, SiglipVisionConfig(**SIZES, vision_use_head=False)),
    "clip": (ClipTower, CLIPVisionModel, CLIPVisionConfig(**SIZES)),
}


def make(kind: str, dtype: torch.dtype = torch.float32):
    torch.manual_seed(0)
    tower_class, model_class, config = MODELS[kind]
    model = model_class(config).eval().to(dtype)
    return tower_class, model


def run(tower, pixels):
    return NoCacher().encode(tower, pixels, None).features


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
@pytest.mark.parametrize("kind", MODELS)
@pytest.mark.parametrize("feature_layer", [-1, -2, 1])
def test_equals_hidden_states_bit_for_bit(kind, dtype, feature_layer):
    tower_class, model = make(kind, dtype)
    pixels = torch.randn(2, 3, 42, 42)
    with torch.no_grad():
        expected = model(pixels, output_hidden_states=True).hidden_states[feature_layer]
    assert model.config._attn_implementation == "sdpa"
    assert torch.equal(run(tower_class(model, feature_layer), pixels), expected)


@pytest.mark.parametrize("kind", MODELS)
def test_upstream_numbers(shared_dir, kind):
    golden = shared_dir / "golden/compression"
    tower_class, model_class, _ = MODELS[kind]
    tower = tower_class(model_class.from_pretrained(golden / "towers" / kind).eval())
    pixels = load_file(golden / "frames/data.safetensors")["pixel_values"].float()
    expected = load_file(golden / "towers_plain/data.safetensors")[f"{kind}.plain_last"]
    torch.testing.assert_close(run(tower, pixels[[0, -1]]), expected, atol=2e-5, rtol=0)


def test_finds_the_tower_inside_an_older_layout():
    _, model = make("siglip")
    older = nn.Module()
    older.vision_model = model
    pixels = torch.randn(1, 3, 42, 42)
    assert torch.equal(run(SiglipTower(older), pixels), run(SiglipTower(model), pixels))


def test_facts():
    facts = ClipTower(make("clip")[1], feature_layer=-2).facts
    assert (facts.num_tokens, facts.grid, facts.num_special_tokens, facts.num_layers) == (50, (7, 7), 1, 2)
    tower = SiglipTower(make("siglip")[1])
    facts = tower.facts
    assert (facts.num_tokens, facts.num_special_tokens, len(tower.blocks)) == (49, 0, facts.num_layers)
    assert (facts.hidden_size, facts.num_heads, facts.mlp_size) == (48, 4, 80)


def test_mistakes_are_named():
    with pytest.raises(ValueError, match="Linear.*no embeddings, encoder"):
        SiglipTower(nn.Linear(2, 2))
    with pytest.raises(ValueError, match="ClipTower cannot run a SiglipVisionModel.*pre_layrnorm"):
        ClipTower(make("siglip")[1])
    with pytest.raises(ValueError, match="feature_layer=4"):
        SiglipTower(make("siglip")[1], feature_layer=4)
    with pytest.raises(ValueError, match=r"\(1, 3, 40, 42\).*42, 42"):
        SiglipTower(make("siglip")[1]).embed(torch.zeros(1, 3, 40, 42))


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
@pytest.mark.parametrize("num_queries", [1, 100, 128, 150, 191, 192, 200, 220])
def test_attention_of_few_queries(num_queries, dtype):
    query, key, value = (torch.randn(2, n, 32).to(dtype) for n in (num_queries, 220, 220))
    heads = [x.view(2, -1, 4, 8).transpose(1, 2) for x in (query, key, value)]
    expected = scaled_dot_product_attention(*heads, scale=0.3).transpose(1, 2).flatten(2)
    torch.testing.assert_close(multi_head_attention(query, key, value, 4, 0.3), expected)
