"""A cacher inside models as people have them: results, streams, and no trace afterwards."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
import torch
from transformers import (
    CLIPVisionConfig,
    CLIPVisionModel,
    LlamaConfig,
    LlavaConfig,
    LlavaForConditionalGeneration,
    LlavaOnevisionConfig,
    LlavaOnevisionForConditionalGeneration,
    Qwen2Config,
    SiglipModel,
    SiglipVisionConfig,
    SiglipVisionModel,
)

import stc_lab
from stc_lab.cachers import FrameReuseCacher, NoCacher, STCCacher, ToMeCacher
from stc_lab.vision import ClipTower, SiglipTower

REPOSITORY = Path(__file__).resolve().parents[1]
WIDTH = dict(hidden_size=32, intermediate_size=48, num_attention_heads=4, num_hidden_layers=3)
VISION = WIDTH | dict(image_size=42, patch_size=6)
TEXT = WIDTH | dict(num_key_value_heads=2, vocab_size=32)
CACHERS = [STCCacher(interval=3), FrameReuseCacher(), ToMeCacher(), STCCacher(chunk_size=2)]


def siglip():
    return SiglipVisionModel(SiglipVisionConfig(**VISION))


def clip():
    return CLIPVisionModel(CLIPVisionConfig(**VISION))


def llava():
    config = LlavaConfig(
        vision_config=CLIPVisionConfig(**VISION), text_config=LlamaConfig(**TEXT), image_token_index=5
    )
    return LlavaForConditionalGeneration(config)


def llava_onevision():
    vision = SiglipVisionConfig(**VISION, vision_use_head=False)
    return LlavaOnevisionForConditionalGeneration(
        LlavaOnevisionConfig(
            vision_config=vision, text_config=Qwen2Config(**TEXT), vision_feature_layer=-1, video_token_index=5
        )
    )


def output(model, pixels):
    """What a user reads of the model: features of the tower, or the visual tokens of the language model."""
    if hasattr(model, "get_video_features"):
        return model.get_video_features(pixel_values_videos=pixels[None], return_dict=True).pooler_output
    if hasattr(model, "get_image_features"):
        return torch.stack(list(model.get_image_features(pixel_values=pixels, return_dict=True).pooler_output))
    return model(pixels).last_hidden_state


@pytest.fixture(scope="module", params=[siglip, clip, llava, llava_onevision], ids=lambda make: make.__name__)
def model(request):
    torch.manual_seed(0)
    return request.param().eval()


@pytest.fixture(scope="module")
def pixels():
    generator = torch.Generator().manual_seed(0)
    still = torch.randn(3, 42, 42, generator=generator)
    return still + 0.2 * torch.randn(4, 3, 42, 42, generator=generator)


@pytest.fixture(autouse=True)
def _no_gradients():
    torch.set_num_threads(1)
    with torch.no_grad():
        yield


@pytest.mark.parametrize("cacher", CACHERS, ids=lambda c: f"{c.name}{getattr(c, 'chunk_size', '')}")
def test_the_model_is_untouched_afterwards(model, pixels, cacher):
    before = output(model, pixels)
    modules = {name: set(vars(module)) for name, module in model.named_modules()}
    with stc_lab.accelerate(model, cacher):
        inside = output(model, pixels)
    assert inside.shape == before.shape and bool(inside.isfinite().all())
    assert not torch.equal(inside, before)
    assert {name: set(vars(module)) for name, module in model.named_modules()} == modules
    assert torch.equal(output(model, pixels), before)


def test_without_a_cacher_nothing_changes(model, pixels):
    with stc_lab.accelerate(model, NoCacher()):
        torch.testing.assert_close(output(model, pixels), output(model, pixels), atol=0, rtol=0)
        inside = output(model, pixels)
    torch.testing.assert_close(inside, output(model, pixels), atol=1e-6, rtol=1e-6)


@pytest.mark.parametrize("make", [siglip, clip], ids=lambda make: make.__name__)
def test_features_are_those_of_the_cacher(make, pixels):
    torch.manual_seed(0)
    model, cacher = make().eval(), STCCacher(interval=None)
    tower = (SiglipTower if make is siglip else ClipTower)(model, -2)
    with stc_lab.accelerate(model, cacher, feature_layer=-2) as stream:
        states = model(pixels, output_hidden_states=True).hidden_states
    expected = cacher.encode(tower, pixels, cacher.new_state())
    torch.testing.assert_close(states[-2], expected.features, atol=1e-6, rtol=1e-6)
    assert [trace.num_recomputed for trace in stream.traces] == expected.num_recomputed
    assert bool(states[1].isnan().all()), "a layer that was not computed in full has no value"
    plain = model(pixels, output_hidden_states=True).hidden_states
    assert torch.equal(states[0], plain[0])
    torch.testing.assert_close(states[-1][0], plain[-1][0], atol=1e-5, rtol=1e-5)


def test_one_frame_per_call_or_a_batch(model, pixels):
    cacher = STCCacher(interval=None)
    with stc_lab.accelerate(model, cacher):
        together = output(model, pixels)
    with stc_lab.accelerate(model, cacher) as stream:
        alone = [output(model, frame) for frame in pixels.split(1)]
        assert [trace.is_reference for trace in stream.traces] == [False]
        stream.reset()
        again = output(model, pixels[:1])
        assert [trace.is_reference for trace in stream.traces] == [True]
    if not hasattr(model, "get_video_features"):  # which puts all frames of a call end to end
        torch.testing.assert_close(torch.cat(alone), together, atol=1e-5, rtol=1e-5)
    assert torch.equal(again, alone[0])


def test_an_error_inside_leaves_the_model_whole(pixels):
    model = siglip().eval()
    before = output(model, pixels)
    with pytest.raises(RuntimeError, match="mine"), stc_lab.accelerate(model, STCCacher()):
        raise RuntimeError("mine")
    assert torch.equal(output(model, pixels), before)


def test_blocks_may_nest(pixels):
    model = siglip().eval()
    with stc_lab.accelerate(model, STCCacher(interval=None)) as outer:
        first = output(model, pixels)
        with stc_lab.accelerate(model, NoCacher()):
            plain = output(model, pixels)
        outer.reset()
        assert torch.equal(output(model, pixels), first)
    torch.testing.assert_close(output(model, pixels), plain)


def test_a_tower_beside_a_text_model_is_found(pixels):
    text = dict(WIDTH, vocab_size=32, max_position_embeddings=8)
    config = SiglipModel.config_class(text_config=text, vision_config=VISION)
    model = SiglipModel(config).eval()
    with stc_lab.accelerate(model, STCCacher()) as stream:
        model.get_image_features(pixel_values=pixels)
    assert len(stream.traces) == len(pixels)


def test_mistakes_are_named(pixels):
    model = siglip().eval()
    with pytest.raises(ValueError, match="Linear: need exactly one SigLIP or CLIP vision tower"):
        stc_lab.accelerate(torch.nn.Linear(2, 2), STCCacher()).__enter__()
    with pytest.raises(ValueError, match="found SiglipVisionModel, SiglipVisionModel"):
        stc_lab.accelerate(torch.nn.ModuleList([model, siglip()]), STCCacher()).__enter__()
    with pytest.raises(ValueError, match="output=merged.*output=grid"):
        stc_lab.accelerate(model, ToMeCacher(num_tokens=16, output="merged")).__enter__()
    with stc_lab.accelerate(model, STCCacher()), pytest.raises(ValueError, match="36 tokens, this tower 49"):
        model(torch.zeros(1, 3, 36, 36), interpolate_pos_encoding=True)


def examples() -> list[str]:
    """Python blocks of the documents that accelerate a tower."""
    pages = [REPOSITORY / "README.md", *sorted((REPOSITORY / "docs").glob("*.md"))]
    blocks = [b for page in pages for b in re.findall(r"^```python\n(.*?)^```", page.read_text(), re.M | re.S)]
    return [block for block in blocks if "stc_lab.accelerate(" in block]


def test_documented_examples_run(capsys):
    assert examples()
    for block in set(examples()):
        exec(compile(block, "example", "exec"), {})
        assert "torch.Size([64, 768])" in capsys.readouterr().out
