"""VisionZip: upstream numbers through our own tower, and what dominant and contextual tokens are."""

from __future__ import annotations

import json

import pytest
import torch
from pruner_streams import compress, contexts
from safetensors.torch import load_file
from transformers import CLIPVisionModel

from stc_lab.cachers import NoCacher
from stc_lab.pruners import FrameContext
from stc_lab.pruners.visionzip import VisionZipPruner
from stc_lab.types import VisualTokens
from stc_lab.vision import ClipTower
from stc_lab.vision.saliency import record_block_input


class Golden:
    """The upstream case: our tower's second last layer on its frames."""

    def __init__(self, folder) -> None:
        self.case = json.loads((folder / "visionzip/case.json").read_text())
        self.data = load_file(folder / "visionzip/data.safetensors")
        model = CLIPVisionModel.from_pretrained(folder / "towers/clip").eval()
        tower = ClipTower(model, feature_layer=-2)
        view, inputs = record_block_input(tower)
        pixels = load_file(folder / "frames/data.safetensors")["pixel_values"].float()[: len(self.data["hidden"])]
        self.hidden = NoCacher().encode(view, pixels, None).features
        block = tower.blocks[-1]
        with torch.no_grad():
            normed = block.norm1(torch.cat([entered.x for entered in inputs]))
            key, query = block.key(normed), block.query(normed[:, :1])
            self.keys = block.heads(key)
            self.attention = block.attention_weights(query, key).sum(1)[:, 0]

    def context(self, frame: int) -> FrameContext:
        """As upstream: the class token is a token, and always dominant."""
        attention = self.attention[frame].clone()
        attention[0] = torch.inf
        return FrameContext((1, len(attention)), 0.0, attention, self.keys[frame])


@pytest.fixture(scope="module")
def golden(shared_dir):
    return Golden(shared_dir / "golden/compression")


def test_upstream_attention_and_keys(golden):
    data = golden.data
    torch.testing.assert_close(golden.hidden, data["hidden"], atol=2e-5, rtol=0)
    torch.testing.assert_close(golden.keys.mean(2), data["metric"], atol=2e-5, rtol=0)
    torch.testing.assert_close(golden.attention[:, 1:], data["cls_attention_sum"], atol=5e-6, rtol=0)


def test_upstream_tokens(golden):
    for combination in golden.case["combos"]:
        dominant, contextual = combination["dominant_with_cls"], combination["contextual"]
        budget = dominant + contextual
        pruner = VisionZipPruner(budget=budget, contextual_ratio=contextual / budget, merge="sum")
        wanted = {key.split(".")[1]: value for key, value in golden.data.items() if key.startswith(combination["name"])}
        for frame, hidden in enumerate(golden.hidden):
            context = golden.context(frame)
            plan = pruner.plan(context)
            assert torch.equal(plan.dominant, wanted["dominant"][frame].long())
            assert torch.equal(plan.targets, wanted["contextual_targets"][frame].long())
            assert torch.equal(plan.others, wanted["merged_tokens"][frame].long())
            assert torch.equal(plan.assignment, wanted["assignment"][frame].long())
            (zipped,) = pruner.compress([VisualTokens.full(hidden, context.grid, 0.0)], None, [context])
            torch.testing.assert_close(zipped.tokens, wanted["output"][frame], atol=2e-5, rtol=0)


def test_dominant_tokens_receive_most_attention(frames):
    pruner = VisionZipPruner(budget=64)
    (zipped,), (context,) = compress(pruner, frames[:1]), contexts(frames[:1])
    dominant = torch.zeros(196, dtype=torch.bool)
    dominant[zipped.positions[:54]] = True
    attention = context.attention_received
    assert dominant.sum() == 54 and attention[dominant].min() >= attention[~dominant].max()
    assert torch.equal(zipped.tokens[:54], frames[0].tokens[zipped.positions[:54]])


def test_contextual_tokens_are_means_and_nothing_is_lost(frames):
    """Every token is in exactly one of the result, so size-weighted the mean of the frame stays."""
    (zipped,) = compress(VisionZipPruner(budget=20, contextual_ratio=0.5), frames[:1])
    assert float(zipped.sizes.sum()) == 196 and (zipped.sizes[:10] == 1).all() and zipped.sizes[10:].max() > 1
    mean = (zipped.tokens * zipped.sizes[:, None]).sum(0) / 196
    torch.testing.assert_close(mean, frames[0].tokens.mean(0))


def test_sizes_of_merged_tokens_add_up(frames):
    """Tokens that were merged in the tower count as often as before."""
    merged = VisualTokens(frames[0].tokens, frames[0].positions, (14, 14), 0.0, torch.full((196,), 3.0))
    (zipped,) = compress(VisionZipPruner(budget=20, contextual_ratio=0.5), [merged])
    assert float(zipped.sizes.sum()) == 3 * 196


def test_without_contextual_tokens_the_rest_is_dropped(frames):
    pruner = VisionZipPruner(budget=64, contextual_ratio=0.0)
    assert pruner.needs == {"attention_received"}
    (zipped,) = compress(pruner, frames[:1])
    assert bool((zipped.positions.diff() > 0).all())
    assert torch.equal(zipped.tokens, frames[0].tokens[zipped.positions])


@pytest.mark.parametrize(
    ("settings", "message"),
    [({"contextual_ratio": 1.0}, r"pruner.contextual_ratio=1.0.*\[0, 1\)"), ({"merge": "max"}, "merge=max.*mean, sum")],
)
def test_mistakes_are_named(settings, message):
    with pytest.raises(ValueError, match=message):
        VisionZipPruner(**settings)
