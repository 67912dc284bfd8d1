"""The benchmark at sizes that take no time: bounds, pairing, settings, files. Times themselves are not tested."""

from __future__ import annotations

import json

import pytest
import torch
from hydra import compose, initialize_config_dir

from stc_lab.bench.app import measure
from stc_lab.bench.measure import Bench
from stc_lab.bench.prefill import prefill_rows
from stc_lab.bench.rows import saved_shares
from stc_lab.bench.sizes import SIZES, Size, random_decoder, random_tower
from stc_lab.bench.vision import vision_rows
from stc_lab.cachers import STCCacher
from stc_lab.config import conf_dir
from stc_lab.measure.flops import decoder_flops, vision_flops
from stc_lab.pruners import NoPruner, STCPruner

WIDTH = dict(hidden_size=32, intermediate_size=64, num_hidden_layers=2, num_attention_heads=4)
TINY = Size("tiny", WIDTH | dict(image_size=42, patch_size=6), WIDTH | dict(num_key_value_heads=2), n_local=64)
CPU = torch.device("cpu")


@pytest.fixture
def tiny(monkeypatch):
    monkeypatch.setitem(SIZES, "tiny", TINY)


def settings(*overrides: str):
    small = ["sizes=[tiny]", "vision.repeats=2", "prefill.num_frames=3", "prefill.tokens_per_frame=16"]
    with initialize_config_dir(str(conf_dir()), version_base="1.3"):
        return compose("bench", [*small, "prefill.pruners.stc.budget=4", *overrides])


def test_vision_bound_is_that_of_the_shapes():
    tower = random_tower(TINY, CPU, torch.float32)
    common = dict(device=CPU, sizes="tiny", full_layers=26, num_frames=4, repeats=3, limit_s=None)
    cachers = {"n4": STCCacher(interval=4), "n1": STCCacher(interval=1)}
    n4, n1 = vision_rows(tower, cachers, **common)
    dense, selective = vision_flops(tower.facts), vision_flops(tower.facts, [12, 12])
    assert n4.bound == pytest.approx(1 - (dense + 3 * selective) / (4 * dense))
    assert n1.bound == 0
    assert (n4.method, n4.num_pairs, n4.num_frames, n4.num_layers, n4.full_layers) == ("n4", 3, 12, 2, 26)
    assert n4.uncompressed_ms > 0 and n4.compressed_ms > 0 and "interval=4" in n4.setting


def test_prefill_bound_is_that_of_the_shapes():
    decoder = random_decoder(TINY, CPU, torch.float32)
    common = dict(sizes="tiny", full_layers=24, n_local=64, tokens_per_frame=16, num_frames=6, limit_s=None)
    pruned, full = prefill_rows(decoder, {"stc": STCPruner(budget=4), "none": NoPruner()}, **common)
    flops = {
        tokens: sum(decoder_flops(decoder.config, tokens, min(14 + tokens * f, 14 + 64)) for f in range(6))
        for tokens in (4, 16)
    }
    assert pruned.bound == pytest.approx(1 - flops[4] / flops[16])
    assert full.bound == 0
    assert pruned.tokens == (16, 4) and full.tokens == (16, 16)
    assert pruned.overhead_ms < pruned.compressed_ms


def test_the_time_limit_ends_a_part_early():
    common = dict(sizes="tiny", full_layers=2, limit_s=0.0)
    decoder, tower = random_decoder(TINY, CPU, torch.float32), random_tower(TINY, CPU, torch.float32)
    rows = prefill_rows(
        decoder, {"stc": STCPruner(budget=4)}, n_local=64, tokens_per_frame=16, num_frames=50, **common
    ) + vision_rows(tower, {"stc": STCCacher()}, device=CPU, num_frames=2, repeats=50, **common)
    assert [row.num_pairs for row in rows] == [2, 2]


def test_official_sizes():
    facts = random_tower(SIZES["pocket"], CPU, torch.float32).facts
    assert (facts.num_tokens, facts.num_layers) == (729, 3)
    assert SIZES["7b"].tower == SIZES["0.5b"].tower
    shortened = SIZES["7b"].with_layers(2, 1)
    assert (shortened.tower["num_hidden_layers"], shortened.text["num_hidden_layers"]) == (2, 1)
    assert SIZES["pocket"].with_layers(None, 99).text["num_hidden_layers"] == 5


def test_saved_is_taken_pair_by_pair():
    assert saved_shares([10, 20], [5, 20]).tolist() == [0.5, 0]


def test_table_and_json(tiny, tmp_path, capsys):
    rows = measure(settings(), tmp_path)
    assert [(row.part, row.method) for row in rows] == [("vision", "stc_n2"), ("vision", "stc_n4"), ("prefill", "stc")]
    written = json.loads((tmp_path / "bench.json").read_text())
    assert len(written["rows"]) == 3 and written["rows"][2]["tokens"] == [16, 4]
    assert written["settings"]["sizes"] == ["tiny"] and "torch" in written["environment"]
    printed = capsys.readouterr().out
    assert "stc_n4" in printed and "bench.json" in printed


def test_more_methods_join_from_their_groups(tiny, tmp_path):
    mine = ("+pruner@prefill.pruners.mine=random", "prefill.pruners.mine.budget=9")
    rows = Bench(settings(*mine, "~vision.cachers.stc_n2")).rows()
    assert [(row.method, row.tokens) for row in rows] == [
        ("stc_n4", None),
        ("stc", (16, 4)),
        ("mine", (16, 9)),
    ]


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("sizes=[13b]", "sizes=13b: must be among pocket, 0.5b, 7b"),
        ("sizes=[]", r"sizes=\[\]"),
        ("device=tpu", "device=tpu"),
        ("dtype=int8", "dtype=int8.*bfloat16"),
        ("vision.repeats=0", "vision.repeats=0: must be above 0"),
        ("prefill.num_layers=-1", "prefill.num_layers=-1"),
        ("limit_s=-2", "limit_s=-2"),
        ("prefill.tokens_per_frame=200", "tokens_per_frame=200.*square"),
        ("prefill.pruners.stc.budget=17", r"pruner.budget=17.*1\.\.16"),
        ("vision.cachers.stc_n2.interval=0", "cacher.interval=0"),
    ],
)
def test_mistakes_are_named(tiny, override, message):
    with pytest.raises(ValueError, match=message):
        Bench(settings(override))
