"""The whole chain against numbers of the released StreamForest code (golden case ``streamforest_pipeline``)."""

from __future__ import annotations

import json
import re
import shutil
from math import isqrt
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor

from stc_lab.backbones.streamforest import StreamForest
from stc_lab.backbones.streamforest.model import StreamForestVideoModel, spatial_table, temporal_table
from stc_lab.cachers.none import NoCacher
from stc_lab.language.caches.growing import GrowingStore
from stc_lab.language.context import Context, generate
from stc_lab.language.sequence import Embedded, Text
from stc_lab.memories.streamforest import Forest, ForestSizes, StreamForestMemory

TOLERANCE = {"atol": 1e-4, "rtol": 0.0}


@pytest.fixture(scope="module")
def facts(shared_dir: Path) -> dict:
    return json.loads((shared_dir / "golden" / "backbones" / "streamforest_pipeline.json").read_text())


@pytest.fixture(scope="module")
def tensors(shared_dir: Path) -> dict[str, Tensor]:
    return load_file(shared_dir / "golden" / "backbones" / "streamforest_pipeline.safetensors")


@pytest.fixture(scope="module")
def golden_folder(shared_dir: Path, facts: dict, forest_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The replica as a checkpoint folder: its weights are in the official key layout."""
    folder = shutil.copytree(forest_folder, tmp_path_factory.mktemp("golden") / "forest")
    shutil.copy(
        shared_dir / "golden" / "backbones" / "streamforest_weights_official.safetensors", folder / "model.safetensors"
    )
    vision = dict(facts["vision_config"])
    vision["num_hidden_layers"] = vision.pop("num_hidden_layers_after_drop")
    config = {**facts["official_config"], "model_type": "llava_qwen", "vision_config": vision}
    (folder / "config.json").write_text(json.dumps(config))
    return folder


@pytest.fixture(scope="module")
def backbone(golden_folder: Path, facts: dict) -> StreamForestVideoModel:
    settings = StreamForest(
        checkpoint=str(golden_folder), tokens_per_frame=facts["memory_config"]["st_memory_tokens"][1]
    )
    return settings.load(dtype=torch.float32)


@pytest.fixture(scope="module")
def memory_sizes(backbone: StreamForestVideoModel, facts: dict) -> ForestSizes:
    sizes = facts["memory_config"]
    settings = StreamForestMemory(
        mode="lazy",
        upstream_quirks=True,
        now_frames=sizes["st_memory_windows"][0],
        now_tokens=sizes["st_memory_tokens"][0],
        short_frames=sizes["st_memory_windows"][1],
        split_window=sizes["event_split_window"],
        event_tokens=sizes["long_memory_tokens_per_frame"],
        quota=sizes["long_memory_tokens_quota"],
    )
    return settings.sizes(backbone.facts)


def cases(facts: dict) -> list[str]:
    """Names of the cases, the shortest video first."""
    return sorted((key for key in facts if re.fullmatch(r"F\d+", key)), key=lambda key: int(key[1:]))


def pixels(tensors: dict[str, Tensor], case: str) -> Tensor:
    return (tensors[f"{case}.pixel_values_u8"].float() - 127) / 127


def features(backbone: StreamForestVideoModel, frames: Tensor) -> Tensor:
    cacher = NoCacher()
    state = cacher.new_state()
    return torch.cat([cacher.encode(backbone.tower, frame[None], state).features for frame in frames])


def test_position_tables(facts: dict, tensors: dict[str, Tensor], backbone: StreamForestVideoModel) -> None:
    rows = torch.tensor(facts["temporal_rows"])
    num_places, width = tensors["pos.spatial"].shape
    torch.testing.assert_close(temporal_table(width)[rows % 512], tensors["pos.temporal_rows"], **TOLERANCE)
    torch.testing.assert_close(spatial_table(width, isqrt(num_places)), tensors["pos.spatial"], **TOLERANCE)
    nothing = torch.zeros(int(rows.max()) + 1, num_places, width)
    times = backbone.frame_positions(nothing, 0) - backbone.frame_positions.add_place(nothing)
    torch.testing.assert_close(times[rows, 3], tensors["pos.temporal_rows"], **TOLERANCE)


def test_weights_have_their_official_names(facts: dict, backbone: StreamForestVideoModel, golden_folder: Path) -> None:
    names = backbone.model.official_names()
    assert sorted(names) == sorted(facts["official_keys"])
    saved, state = load_file(golden_folder / "model.safetensors"), backbone.model.state_dict()
    assert all(torch.equal(saved[theirs], state[ours]) for theirs, ours in names.items())


def test_frames_to_answer(
    facts: dict, tensors: dict[str, Tensor], backbone: StreamForestVideoModel, memory_sizes: ForestSizes
) -> None:
    assert cases(facts)
    for case in cases(facts):
        assert_case(facts, tensors, backbone, memory_sizes, case)


@torch.inference_mode()
def assert_case(
    facts: dict, tensors: dict[str, Tensor], backbone: StreamForestVideoModel, sizes: ForestSizes, case: str
) -> None:
    expected, seen = facts[case], features(backbone, pixels(tensors, case))
    torch.testing.assert_close(seen[-1:], tensors[f"{case}.tower_features"], **TOLERANCE)
    placed = backbone.frame_positions(seen, 0)
    torch.testing.assert_close(placed[-1], tensors[f"{case}.with_position_last"], **TOLERANCE)

    memory = Forest(sizes, backbone.tower.facts.num_heads)
    for frame in placed:
        memory.push(frame)
    view = memory.read()
    assert [len(event) for event in view.events] == expected["events_frames"]
    torch.testing.assert_close(view.tokens, tensors[f"{case}.memory_tokens"], **TOLERANCE)
    visual = backbone.model.projector(view.tokens)
    torch.testing.assert_close(visual, tensors[f"{case}.projected"], **TOLERANCE)

    decoder, ids = backbone.decoder, expected["input_ids"]
    place = ids.index(-200)
    embeds = torch.cat((decoder.embed(ids[:place]), visual, decoder.embed(ids[place + 1 :])))
    torch.testing.assert_close(embeds.sum(1), tensors[f"{case}.inputs_embeds_checksum"], atol=1e-4, rtol=0)
    context = Context(backbone, GrowingStore(decoder.shape))
    logits = context.read([Text(ids=tuple(ids[:place])), Embedded(visual), Text(ids=tuple(ids[place + 1 :]))])
    torch.testing.assert_close(logits, tensors[f"{case}.logits_last"], atol=1e-4, rtol=0)
    assert generate(context, logits, len(expected["generated_ids"]), ()).ids == expected["generated_ids"]


@torch.inference_mode()
def test_single_images(facts: dict, tensors: dict[str, Tensor], backbone: StreamForestVideoModel) -> None:
    first = features(backbone, pixels(tensors, cases(facts)[-1])[:1])
    for choice, num_tokens in enumerate(facts["image_target_tokens"]):
        image = backbone.project_image(first, num_tokens)[0]
        expected = tensors[f"image.projected_choice{choice}"]
        torch.testing.assert_close(image, expected.view(image.shape), **TOLERANCE)
    assert backbone.project_image(first).shape[1] == backbone.tower.facts.num_tokens
