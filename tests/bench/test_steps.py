"""Towers and memories of all backbones at sizes that take no time: what is compared, bounds, counts; no times."""

from __future__ import annotations

import pytest
import torch
from hydra import compose, initialize_config_dir
from selective_flops import selective_frame_flops

from stc_lab.bench.app import Bench, measure
from stc_lab.bench.sizes import BACKBONES, BackboneSize, TowerSize, random_decoder
from stc_lab.bench.steps import NONE, Cost, FillingDecoder, Lane, Part, TimedDecoder, step_rows
from stc_lab.bench.systems import TurnLane, vocabulary_size
from stc_lab.bench.vision import vision_rows
from stc_lab.cachers import STCCacher
from stc_lab.cachers.tome import ToMeCacher
from stc_lab.config import conf_dir
from stc_lab.language.caches.growing import GrowingStore
from stc_lab.measure.flops import decoder_flops, vision_flops
from stc_lab.measure.timer import StageTimer
from stc_lab.memories.streamforest import ForestSizes
from stc_lab.pruners.stc import STCPruner

CPU = torch.device("cpu")
TEXT = dict(
    hidden_size=32, intermediate_size=48, num_hidden_layers=3, num_attention_heads=2, num_key_value_heads=1,
)  # fmt: skip
AXES = TEXT | {"rope_parameters": {"rope_type": "default", "rope_theta": 1e4, "mrope_section": [2, 3, 3]}}
CLIP = dict(hidden_size=16, intermediate_size=32, num_hidden_layers=4, num_attention_heads=2)
QWEN = {"depth": 4, "num_heads": 2, "patch_size": 4}
WINDOWED = QWEN | {
    "hidden_size": 16, "intermediate_size": 24, "out_hidden_size": 32, "window_size": 16, "fullatt_block_indexes": [3]
}  # fmt: skip
MEMORY = ForestSizes(now_tokens=9, short_frames=3, short_tokens=6, split_window=2, event_tokens=3, quota=12)
TINY = {
    "streamforest": BackboneSize(
        TowerSize("s", "siglip", CLIP | dict(image_size=12, patch_size=4)), TEXT, (3, 3), memory=MEMORY
    ),
    "dispider": BackboneSize(
        TowerSize("d", "clip", CLIP | dict(image_size=24, patch_size=4)), TEXT, (3, 3), compressor=TEXT
    ),
    "livecc": BackboneSize(
        TowerSize("l", "qwen2_vl", QWEN | {"embed_dim": 16, "hidden_size": 32, "mlp_ratio": 2}, (2, 3)),
        AXES, (2, 3), "qwen2_vl",
    ),
    "streamingvlm": BackboneSize(TowerSize("v", "qwen2_5_vl", WINDOWED, (2, 3)), AXES, (2, 3), "qwen2_5_vl"),
}  # fmt: skip


@pytest.fixture
def tiny(monkeypatch):
    for name, size in TINY.items():
        monkeypatch.setitem(BACKBONES, name, size)


def settings(*overrides: str):
    small = ["vision.repeats=1", "steps.repeats=2", "steps.stream_s=5", "prefill.budget=8"]
    quick = ["prefill.tokens_per_frame=16", "vision.all_methods=false", "prefill.all_methods=false"]
    with initialize_config_dir(str(conf_dir()), version_base="1.3"):
        return compose("bench", [*small, *quick, *overrides])


@pytest.mark.parametrize("name", TINY)
def test_weights_are_frozen_as_those_of_loaded_models_are(name):
    """Weights that want gradients take other products than frozen ones."""
    size = TINY[name]
    towers = [part.tower for part in size.tower.slices(None, CPU, torch.float32)]
    decoder = random_decoder(size.text, 1, CPU, torch.float32, size.text_kind)
    models = [decoder._model, *(tower._visual if hasattr(tower, "_visual") else tower._root for tower in towers)]
    parameters = [parameter for model in models for parameter in model.parameters()]
    assert parameters and not any(parameter.requires_grad for parameter in parameters)


def test_every_backbone_has_rows(tiny, tmp_path, capsys):
    units, tokens = {}, {}
    for name in TINY:
        rows = {(row.part, row.method): row for row in measure(settings(f"backbones={name}"), tmp_path)}
        assert all(row.sizes == name for row in rows.values()) and name in capsys.readouterr().out
        tokens[name] = {part: row.tokens for (part, _), row in rows.items()}
        units[name] = {(part, method): row.unit for (part, method), row in rows.items()}
        for (part, method), row in rows.items():
            assert row.uncompressed_ms > 0 and row.num_pairs > 0
            if method != NONE:
                assert row.compressed_ms > 0 and 0 < row.bound < 1, (part, method)
    towers = {("vision", "stc_n2"): "frame", ("vision", "stc_n4"): "frame"}
    question = {("question", "stc"): "question"}
    assert units["streamforest"] == towers | {("prefill", "none"): "frame"} | question
    assert units["dispider"] == towers | {("prefill", "stc"): "frame"} | question
    pairs = dict.fromkeys(towers, "pair") | {("prefill", "stc"): "pair"}
    assert units["livecc"] == units["streamingvlm"] == pairs
    # All keep the same share of their tokens.
    assert tokens["streamforest"]["question"] == (6, 3) and tokens["streamforest"]["prefill"] == (9, 9)
    assert tokens["dispider"]["prefill"] == tokens["dispider"]["question"] == (9, 4)
    assert tokens["livecc"]["prefill"] == tokens["streamingvlm"]["prefill"] == (6, 3)


def test_all_means_all(tiny):
    bench = Bench(settings("backbones=all", "sizes=[7b]", "prefill.num_layers=1"))
    shared = {tower.name: names for tower, names in bench.towers()}
    assert shared == {"so400m": ["7b"]} | {TINY[name].tower.name: [name] for name in TINY}
    assert bench.others() == list(TINY)
    assert Bench(settings()).others() == []


def test_layers_of_two_kinds_are_both_run_and_weighed():
    windowed, complete = TINY["streamingvlm"].tower.slices(2, CPU, torch.float32)
    assert (windowed.full_layers, complete.full_layers) == (3, 1)
    assert (windowed.factor, complete.factor) == (3.0, 1.0)
    pairs = [part.tower.facts.attention_pairs for part in (windowed, complete)]
    (whole,) = TINY["streamingvlm"].tower.slices(None, CPU, torch.float32)
    assert whole.tower.facts.attention_pairs == (*pairs[0] * 3, *pairs[1])
    common = dict(device=CPU, sizes="", num_frames=4, repeats=1, limit_s=None)
    (row,) = vision_rows([windowed, complete], {"stc": STCCacher(interval=4)}, **common)
    dense = vision_flops(whole.tower.facts)
    selective = selective_frame_flops(whole.tower.facts, [1] * 4)
    assert row.bound == pytest.approx(1 - (dense + 3 * selective) / (4 * dense))
    assert (row.num_layers, row.full_layers, row.unit) == (2, 4, "pair")


def test_merging_in_a_tower_with_places_is_left_out():
    parts = TINY["livecc"].tower.slices(1, CPU, torch.float32)
    common = dict(device=CPU, sizes="", num_frames=2, repeats=1, limit_s=None)
    rows = vision_rows(parts, {"tome": ToMeCacher(), "stc": STCCacher()}, **common)
    assert [row.method for row in rows] == ["stc"]


class Counted(Lane):
    """Costs as given."""

    def __init__(self, *costs: Cost, num_tokens: int = 4) -> None:
        super().__init__(CPU)
        self.num_tokens, self._costs = num_tokens, iter(costs)

    def step(self) -> Cost:
        return next(self._costs)


def test_layers_stand_for_all_and_the_rest_counts_once():
    full = Counted(*[Cost(10.0, 5.0, 0.0, 100, 50)] * 3)
    pruned = Counted(*(Cost(layers, 5.0, 5.0 - layers, 20, 50) for layers in (2.0, 4.0, 3.0)), num_tokens=1)
    part = Part("prefill", "pair", "x", 1, 4)
    (row,) = step_rows(part, {NONE: full, "p": pruned}, 3, None)
    assert (row.uncompressed_ms, row.compressed_ms, row.tokens) == (45.0, 19.0, (4, 1))
    assert row.saved == pytest.approx(1 - 19 / 45) and row.bound == pytest.approx(1 - 130 / 450)
    assert row.overhead_ms == 2.0 and row.overhead_share == pytest.approx(6 / (135 - 57 + 6))
    (alone,) = step_rows(part, {NONE: Counted(*[Cost(0.0, 7.0)] * 2)}, 2, 0.0)
    assert (alone.uncompressed_ms, alone.compressed_ms, alone.bound) == (7.0, None, None)


@pytest.mark.parametrize("name", ["livecc", "streamingvlm"])
def test_what_lies_behind_is_filled_in(name):
    """A turn's cost counts the tokens that a real stream would hold by then."""
    size = TINY[name]
    decoder = random_decoder(AXES, 2, CPU, torch.float32, size.text_kind, vocab_size=vocabulary_size())
    lane, early = (TurnLane(name, STCPruner(budget=2), decoder, size.grid, seconds) for seconds in (12, 5))
    stats, at_five = lane.memory.stats(), early.memory.stats()
    assert stats["num_tokens"] > at_five["num_tokens"] and stats["kv_bytes_device"] > 0
    before = lane.memory.stats()["num_tokens"]
    with torch.inference_mode():
        flops = lane.step().layers_flops
    read = lane.memory.stats()["num_tokens"] - before
    assert read > 2 and flops >= decoder_flops(decoder.sizes, read, before)
    assert lane.memory.stats()[{"livecc": "num_turns", "streamingvlm": "num_rounds"}[name]] == (11, 13)[name[0] == "s"]


@torch.inference_mode()
def test_only_the_layers_count_as_layers():
    decoder, timer = random_decoder(TEXT, 1, CPU, torch.float32), StageTimer(CPU)
    timed, filling = TimedDecoder(decoder, timer), FillingDecoder(decoder)
    embeds, store = torch.randn(5, 32), GrowingStore(decoder.shape)
    with timer.stage("once"):
        expected = decoder(embeds, GrowingStore(decoder.shape))
        assert torch.equal(timed(embeds, store), expected)
    assert set(timer.drain()) == {"once", "layers"}
    filling(embeds, store)
    assert len(store) == 10
