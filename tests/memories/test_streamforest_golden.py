"""The memory alone against numbers of the released StreamForest code (golden case ``streamforest_memory``)."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor

from stc_lab.cachers.merging import merge_tokens
from stc_lab.memories.streamforest import EventForest, FineWindow, Forest, ForestSizes

TOLERANCE = {"atol": 1e-4, "rtol": 0.0}


@pytest.fixture(scope="module")
def facts(shared_dir: Path) -> dict:
    return json.loads((shared_dir / "golden" / "backbones" / "streamforest_memory.json").read_text())


@pytest.fixture(scope="module")
def tensors(shared_dir: Path) -> dict[str, Tensor]:
    return load_file(shared_dir / "golden" / "backbones" / "streamforest_memory.safetensors")


def golden_sizes(config: dict, mode: str) -> ForestSizes:
    now_frames, short_frames = config["st_memory_windows"]
    now_tokens, short_tokens = config["st_memory_tokens"]
    return ForestSizes(
        now_frames=now_frames,
        now_tokens=now_tokens,
        short_frames=short_frames,
        short_tokens=short_tokens,
        split_window=config["event_split_window"],
        event_tokens=config["long_memory_tokens_per_frame"],
        quota=config["long_memory_tokens_quota"],
        similarity_weight=config["sim_weight_g"],
        time_weight=config["time_weight_a"],
        merge_weight=config["merge_weight_b"],
        mode=mode,
        upstream_quirks=True,
    )


class TracedForest(EventForest):
    """Writes down what it merges, as the golden data does; copies write into the same list."""

    def __init__(self, sizes: ForestSizes, num_heads: int) -> None:
        super().__init__(sizes, num_heads)
        self.trace: list[dict] = []

    def copy(self) -> TracedForest:
        copied = TracedForest(self._sizes, self._num_heads)
        copied.events, copied.similarities, copied.trace = list(self.events), list(self.similarities), self.trace
        self.last_copy = copied
        return copied

    def penalties(self, newest: int) -> Tensor:
        self._latest = super().penalties(newest)
        return self._latest

    def merge(self, index: int) -> int:
        sizes, penalties = [event.size for event in self.events], self._latest.tolist()
        tokens = self.num_tokens
        self.trace.append({"op": "merge", "idx": index, "penalties": penalties, "sizes": sizes, "tokens": tokens})
        return super().merge(index)


class TracedWindow(FineWindow):
    """Writes down every cut into the list of its forest."""

    trace: list[dict]

    def cut(self):
        cut = super().cut()
        similarities = cut.similarities.tolist()
        self.trace.append({"op": "split", "n": len(cut.frames), "window_sim": similarities})
        return cut


def traced_memory(config: dict, mode: str) -> Forest:
    sizes, heads = golden_sizes(config, mode), config["num_attention_heads"]
    memory = Forest(sizes, heads)
    memory.forest, memory.window = TracedForest(sizes, heads), TracedWindow(sizes, heads)
    memory.window.trace = memory.forest.trace
    return memory


def assert_state(memory: Forest, forest: EventForest, expected: dict) -> None:
    events = forest.events
    assert [len(memory.window.now), len(memory.window.short)] == [expected["len_now"], expected["len_short"]]
    assert [event.size for event in events] == expected["events_frames"]
    assert [list(event.frames) for event in events] == expected["event_leaf_frames"]
    assert [event.num_leaves for event in events] == expected["merge_count"]
    assert forest.num_tokens == expected["long_tokens"] and forest.num_frames - 1 == expected["last_time_pos"]
    assert [event.time for event in events] == pytest.approx(expected["time_center"], abs=1e-4)
    assert forest.similarities == pytest.approx(expected["event_similarity"], abs=1e-5)
    queue = [similarity.item() for similarity in memory.window.similarities]
    assert queue == pytest.approx(expected["frame_sim_queue"], abs=1e-5)


def assert_trace(trace: list[dict], expected: list[dict]) -> None:
    assert [step["op"] for step in trace] == [step["op"] for step in expected]
    for step, wanted in zip(trace, expected, strict=True):
        for key, value in wanted.items():
            assert step[key] == (pytest.approx(value, abs=1e-5) if key in ("penalties", "window_sim") else value)


def test_read_once_as_officially_evaluated(facts: dict, tensors: dict[str, Tensor]) -> None:
    for num_frames in facts["F"]:
        memory, expected = traced_memory(facts["memory_config"], "lazy"), facts[f"batch.F{num_frames}"]
        for frame in tensors["frames"][:num_frames]:
            memory.push(frame)
        view = memory.read()
        assert_state(memory, memory.forest.last_copy, expected)
        assert_trace(memory.forest.trace, expected["trace"])
        torch.testing.assert_close(view.tokens, tensors[f"batch.F{num_frames}.tokens"], **TOLERANCE)


def test_read_after_every_frame(facts: dict, tensors: dict[str, Tensor]) -> None:
    memory, expected = traced_memory(facts["memory_config"], "online"), facts["online"]
    for index, frame in enumerate(tensors["frames"]):
        memory.push(frame)
        tokens = memory.read().tokens
        assert len(tokens) == memory.num_tokens == expected["tokens_after_each_frame"][index]
        assert len(memory.forest.trace) == expected["trace_len_after_each_frame"][index]
        if f"online.F{index + 1}.tokens" in tensors:
            torch.testing.assert_close(tokens, tensors[f"online.F{index + 1}.tokens"], **TOLERANCE)
    assert_state(memory, memory.forest, expected)
    assert_trace(memory.forest.trace, expected["trace"])


def test_merging_to_a_number(facts: dict, tensors: dict[str, Tensor]) -> None:
    for target in facts["tome_targets"]:
        merged = merge_tokens(tensors["frames"][:2], target, facts["memory_config"]["num_attention_heads"])
        torch.testing.assert_close(merged, tensors[f"tome.target{target}"], **TOLERANCE)
