"""The benchmark at sizes that take no time: bounds, pairing, settings, files. Times themselves are not tested."""

from __future__ import annotations

import io
import json
from dataclasses import replace
from typing import ClassVar

import pytest
import torch
from hydra import compose, initialize_config_dir
from rich.console import Console
from selective_flops import selective_frame_flops
from torch.nn.functional import scaled_dot_product_attention

from stc_lab.bench.app import Bench, measure, torch_dtype
from stc_lab.bench.prefill import PrunerLane, prefill_rows
from stc_lab.bench.rows import Row, as_table, saved_shares
from stc_lab.bench.sizes import SIZES, Size, TowerSize, random_decoder
from stc_lab.bench.vision import is_product, split_ms, vision_rows
from stc_lab.cachers import STCCacher
from stc_lab.config import conf_dir
from stc_lab.measure.flops import decoder_flops, vision_flops
from stc_lab.pruners import NoPruner
from stc_lab.pruners.stc import STCPruner
from stc_lab.types import VisualTokens

WIDTH = dict(hidden_size=32, intermediate_size=64, num_hidden_layers=2, num_attention_heads=4)
TOWER = TowerSize("tiny", "siglip", WIDTH | dict(image_size=42, patch_size=6))
TINY = Size(TOWER, WIDTH | dict(num_key_value_heads=2), n_local=64)
CPU = torch.device("cpu")


def slices(num_layers=None, full_layers=None):
    parts = TOWER.slices(num_layers, CPU, torch.float32)
    return parts if full_layers is None else [replace(part, full_layers=full_layers) for part in parts]


def decoder_of(size):
    return random_decoder(size.text, None, CPU, torch.float32)


@pytest.fixture
def tiny(monkeypatch):
    monkeypatch.setitem(SIZES, "tiny", TINY)


def settings(*overrides: str):
    small = ["sizes=[tiny]", "vision.repeats=2", "prefill.num_frames=3", "prefill.tokens_per_frame=16"]
    with initialize_config_dir(str(conf_dir()), version_base="1.3"):
        return compose("bench", [*small, "prefill.budget=4", *overrides])


LISTED_ONLY = ("vision.all_methods=false", "prefill.all_methods=false")


def test_vision_bound_is_that_of_the_shapes():
    parts = slices(full_layers=26)
    common = dict(device=CPU, sizes="tiny", num_frames=4, repeats=3, limit_s=None)
    cachers = {"n4": STCCacher(interval=4), "n1": STCCacher(interval=1)}
    n4, n1 = vision_rows(parts, cachers, **common)
    facts = parts[0].tower.facts
    dense, selective = vision_flops(facts), selective_frame_flops(facts, [12, 12])
    assert n4.bound == pytest.approx(1 - (dense + 3 * selective) / (4 * dense))
    assert n1.bound == 0
    assert (n4.method, n4.num_pairs, n4.num_frames, n4.num_layers, n4.full_layers) == ("n4", 3, 12, 2, 26)
    assert n4.uncompressed_ms > 0 and n4.compressed_ms > 0 and "interval=4" in n4.setting
    assert 0 < n4.overhead_ms == pytest.approx(n4.overhead_share * n4.uncompressed_ms)
    assert n1.overhead_ms is None, "no frame that was not computed in full"


def test_prefill_bound_is_that_of_the_shapes():
    decoder = decoder_of(TINY)
    common = dict(sizes="tiny", full_layers=24, n_local=64, tokens_per_frame=16, num_frames=6, limit_s=None)
    pruned, full = prefill_rows(decoder, {"stc": STCPruner(budget=4), "none": NoPruner()}, **common)
    flops = {
        tokens: sum(decoder_flops(decoder.sizes, tokens, min(14 + tokens * f, 14 + 64)) for f in range(6))
        for tokens in (4, 16)
    }
    assert pruned.bound == pytest.approx(1 - flops[4] / flops[16])
    assert full.bound == 0
    assert pruned.tokens == (16, 4) and full.tokens == (16, 16)
    assert 0 < pruned.overhead_ms < pruned.compressed_ms
    saving = full.uncompressed_ms - (pruned.compressed_ms - pruned.overhead_ms)
    share = pruned.overhead_ms / saving if saving > 0 else None  # so small a model may well save nothing
    assert pruned.overhead_share == (share if share is None else pytest.approx(share))
    assert full.overhead_share is None, "nothing is saved where nothing is pruned"


def test_the_time_limit_ends_a_part_early():
    common = dict(sizes="tiny", limit_s=0.0)
    rows = prefill_rows(
        decoder_of(TINY),
        {"stc": STCPruner(budget=4)},
        full_layers=2,
        n_local=64,
        tokens_per_frame=16,
        num_frames=50,
        **common,
    ) + vision_rows(slices(), {"stc": STCCacher()}, device=CPU, num_frames=2, repeats=50, **common)
    assert [row.num_pairs for row in rows] == [2, 2]


def test_official_sizes():
    (pocket,) = SIZES["pocket"].tower.slices(None, CPU, torch.float32)
    assert (pocket.tower.facts.num_tokens, pocket.tower.facts.num_layers, pocket.full_layers) == (729, 3, 3)
    assert SIZES["7b"].tower == SIZES["0.5b"].tower
    (shortened,) = SIZES["pocket"].tower.slices(2, CPU, torch.float32)
    assert (shortened.tower.facts.num_layers, shortened.full_layers, shortened.factor) == (2, 3, 1.5)
    layers = [random_decoder(SIZES["pocket"].text, n, CPU, torch.float32).shape.num_layers for n in (2, None, 99)]
    assert layers == [2, 5, 5]


def test_saved_is_taken_pair_by_pair():
    assert saved_shares([10, 20], [5, 20]).tolist() == [0.5, 0]


def test_table_and_json(tiny, tmp_path, capsys):
    rows = measure(settings(*LISTED_ONLY), tmp_path)
    assert [(row.part, row.method) for row in rows] == [("vision", "stc_n2"), ("vision", "stc_n4"), ("prefill", "stc")]
    written = json.loads((tmp_path / "bench.json").read_text())
    assert len(written["rows"]) == 3 and written["rows"][2]["tokens"] == [16, 4]
    assert written["settings"]["sizes"] == ["tiny"] and "torch" in written["environment"]
    printed = capsys.readouterr().out
    assert "stc_n4" in printed and "bench.json" in printed


def test_more_methods_join_from_their_groups(tiny, tmp_path):
    mine = ("+pruner@prefill.pruners.mine=random", "prefill.pruners.mine.budget=9")
    rows = Bench(settings(*mine, *LISTED_ONLY, "~vision.cachers.stc_n2")).rows()
    assert [(row.method, row.tokens) for row in rows] == [
        ("stc_n4", None),
        ("stc", (16, 4)),
        ("mine", (16, 9)),
    ]


def test_every_method_there_is_gets_a_row(tiny):
    rows = Bench(settings("vision.repeats=1", "seed=3")).rows()
    methods = {part: [row.method for row in rows if row.part == part] for part in ("vision", "prefill")}
    cachers, pruners = ({p.stem for p in (conf_dir() / group).glob("*.yaml")} for group in ("cacher", "pruner"))
    assert sorted(methods["vision"]) == sorted(cachers - {"none", "stc"} | {"stc_n2", "stc_n4"})
    assert sorted(methods["prefill"]) == sorted(pruners - {"none"})
    assert {row.tokens for row in rows if row.part == "prefill"} == {(16, 4)}
    assert all(row.bound <= 1 and row.num_pairs > 0 for row in rows)
    assert "seed=3" in next(row.setting for row in rows if row.method == "random")


def test_products_are_timed_and_nothing_else():
    x, layer = torch.randn(64, 64), torch.nn.Linear(64, 64)
    done = []

    def work():
        done.append(torch.sort(x @ x).values)
        done.append(scaled_dot_product_attention(*[layer(x)[None, None]] * 3))

    with torch.no_grad():
        total, products = split_ms(CPU, work)
        assert 0 < products < total
        assert split_ms(CPU, lambda: done.append(torch.sort(x.exp() + x)))[1] == 0
    assert torch.equal(done[0], torch.sort(x @ x).values) and len(done) == 3
    names = ["addmm", "bmm", "_scaled_dot_product_flash_attention_for_cpu", "native_layer_norm", "gelu", "mul"]
    assert [is_product(name) for name in names] == [True] * 3 + [False] * 3


class Pair(NoPruner):
    """Looks at two frames together, and counts how many at a time it was given."""

    window_frames = 2
    seen: ClassVar[list[int]] = []

    def compress_window(self, frames, state, contexts):
        self.seen.append(len(frames))
        return super().compress_window(frames, state, contexts)


def test_a_window_of_frames_is_pruned_together():
    lane, frame = PrunerLane(Pair(), CPU), VisualTokens.full(torch.randn(4, 8), (2, 2), 0.0)
    for _ in range(5):
        lane.push(frame)
    times = lane.finish()
    assert Pair.seen == [2, 2, 1] and len(times) == 5
    assert times[0] == times[1] and times[2] == times[3]


def test_own_work_above_the_limit_is_marked():
    row = prefill_row(overhead_share=0.01)
    assert not row.is_heavy and "!" not in shown(row)
    assert "! 2.0 ms (6.0%)" in shown(prefill_row(overhead_share=0.06))
    assert not replace(row, part="vision", overhead_share=0.06).is_heavy
    assert "()" not in shown(prefill_row(overhead_share=None))


def prefill_row(overhead_share):
    return Row(
        part="prefill", sizes="tiny", method="stc", setting="", num_layers=1, full_layers=2, uncompressed_ms=100.0,
        compressed_ms=60.0, saved=0.4, saved_quartiles=(0.3, 0.5), bound=0.6, num_pairs=3, num_frames=3,
        overhead_ms=2.0, overhead_share=overhead_share, tokens=(196, 64),
    )  # fmt: skip


def test_type_of_the_weights_goes_by_the_device():
    cpu, cuda = torch.device("cpu"), torch.device("cuda")
    assert [torch_dtype(None, device) for device in (cpu, cuda)] == [torch.float32, torch.bfloat16]
    assert torch_dtype("float16", cpu) == torch.float16
    assert settings().dtype is None


def shown(row):
    console = Console(width=200, record=True, file=io.StringIO())
    console.print(as_table([row], "CPU"))
    return console.export_text().split("saved: share of the time")[0]


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("backbones=[rekv,llava]", "backbones=llava: must be among rekv, streamforest, dispider, livecc, streamingvlm"),
        ("backbones=[]", r"backbones=\[\]"),
        ("steps.repeats=0", "steps.repeats=0"),
        ("sizes=[13b]", "sizes=13b: must be among pocket, 0.5b, 7b"),
        ("sizes=[]", r"sizes=\[\]"),
        ("device=tpu", "device=tpu"),
        ("dtype=int8", "dtype=int8.*bfloat16"),
        ("vision.repeats=0", "vision.repeats=0: must be above 0"),
        ("prefill.num_layers=-1", "prefill.num_layers=-1"),
        ("limit_s=-2", "limit_s=-2"),
        ("prefill.tokens_per_frame=200", "tokens_per_frame=200.*square"),
        ("prefill.budget=17", r"pruner.budget=17.*1\.\.16"),
        ("prefill.pruners.stc.budget=17", r"pruner.budget=17.*1\.\.16"),
        ("vision.cachers.stc_n2.interval=0", "cacher.interval=0"),
    ],
)
def test_mistakes_are_named(tiny, override, message):
    with pytest.raises(ValueError, match=message):
        Bench(settings(override))
