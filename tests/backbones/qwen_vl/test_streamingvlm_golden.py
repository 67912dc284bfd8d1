"""StreamingVLM against numbers of the released code (golden cases ``streamingvlm_*``)."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch

from stc_lab.cachers.none import NoCacher
from stc_lab.language import TextDecoder
from stc_lab.pruners.none import NoPruner

CASES = ("equal", "vision_longer", "text_longer", "append")
TOLERANCE = {"atol": 2e-5, "rtol": 0.0}


@pytest.fixture(params=CASES)
def golden(request: pytest.FixtureRequest, read_golden: Callable):
    return read_golden(f"streamingvlm_{request.param}", "streamingvlm")


@pytest.fixture
def model(golden, golden_folders: dict[str, Path], on_memory: Callable):
    run = golden.run
    return on_memory(
        "streamingvlm",
        golden_folders["streamingvlm"],
        upstream_quirks=True,
        positions=run.get("pos_mode", "shrink"),
        vision_window_s=run["visual_round"],
        text_window_s=run["text_round"],
        text_sink=512 if run["text_sink"] is None else run["text_sink"],
        text_window=512 if run["text_sliding_window"] is None else run["text_sliding_window"],
        query=run["query"],
        previous_text=run["previous_text"],
        repetition_penalty=run["rp"],
        commentary_tokens=run["max_new"],
    )


def test_rounds(golden, model, monkeypatch: pytest.MonkeyPatch) -> None:
    """Evictions, positions, token ids, cache contents and logits of every round, and the words that were said."""
    prefills = []
    whole = TextDecoder.__call__

    def spy(decoder, embeds, store, positions):
        prefills.append((embeds.shape[0], positions.clone()))
        return whole(decoder, embeds, store, positions)

    monkeypatch.setattr(TextDecoder, "__call__", spy)
    session = model.open(NoCacher(), NoPruner())
    memory = session.memory
    for number, facts in enumerate(golden.facts["rounds"]):
        prefills.clear()
        frames = golden.frames[2 * number : 2 * number + 2]
        reports = session.push(frames, [number, number + 0.5])
        name, (num_new, positions) = f"round{number}", prefills[0]
        assert memory.sequence.ids[: facts["input_len"]] == golden.tensors[f"{name}.input_ids"].tolist()
        assert positions.shape[1] - num_new == facts["kv_len_before"]
        expected = golden.tensors[f"{name}.position_ids_prefill"].double()
        assert torch.equal(positions[:, -expected.shape[1] :], expected)
        assert len(memory.sequence.store) == facts["kv_len_after"]
        assert len(memory.sequence.ids) == facts["sequence_len_after"]
        check_words(memory.last_generated, reports[-1], facts, golden, name, session.model)
        check_cache(memory.sequence.store, golden, f"{name}.kv_after")


def check_words(spoken, report, facts: dict, golden, name: str, model) -> None:
    assert spoken.ids == facts["generated_ids_from_model"]
    torch.testing.assert_close(spoken.first_logits, golden.tensors[f"{name}.logits_first"], **TOLERANCE)
    torch.testing.assert_close(spoken.last_logits, golden.tensors[f"{name}.logits_last"], **TOLERANCE)
    silence = model.text([model.silence_id])
    assert report.commentary[0].text == facts["response"].replace(silence, "")


def check_cache(store, golden, name: str) -> None:
    """Un-rotated keys, and values; the ordinary cache of the reference in append mode is not recorded."""
    for key in golden.tensors:
        if key.startswith(name):
            layer, part = key.removeprefix(f"{name}.layer").split(".")
            stored = store.keys(int(layer)) if part == "key" else store.values(int(layer))
            torch.testing.assert_close(stored, golden.tensors[key], **TOLERANCE)


def test_pixels(golden, model) -> None:
    pixels = model.model.encoder((16, 24)).preprocess([np.stack(golden.frames[:2])])[0]
    torch.testing.assert_close(pixels, golden.tensors["round0.pixel_values_videos"], atol=1e-6, rtol=0)
