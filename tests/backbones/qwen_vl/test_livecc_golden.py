"""LiveCC against numbers of the released code (golden cases ``livecc_*``)."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from stc_lab.backbones.livecc import LiveCC
from stc_lab.backbones.livecc.demo_schedule import DemoSchedule
from stc_lab.backbones.livecc.session import LiveCCSession
from stc_lab.cachers.none import NoCacher
from stc_lab.pruners.none import NoPruner
from stc_lab.types import Question

CASES = ("livecc_demo", "livecc_demo_default_query", "livecc_eos_threshold", "livecc_eval")
TOLERANCE = {"atol": 2e-5, "rtol": 0.0}


def indices_of(golden) -> list[int]:
    """Source frames of all turns, in order."""
    if golden.run["mode"] == "eval":
        return list(range(golden.run["num_frames"]))
    calls = [selected for call in golden.facts["calls"] for selected in call["frame_selection"]]
    return [index for selected in calls for index in selected["frame_indices"]]


@pytest.fixture(params=CASES)
def golden(request: pytest.FixtureRequest, read_golden: Callable):
    return read_golden(request.param, "livecc")


@pytest.fixture
def model(golden, golden_folders: dict[str, Path]) -> LiveCC:
    run = golden.run
    model = LiveCC(
        str(golden_folders["livecc"]),
        upstream_quirks=True,
        remember_questions=True,
        commentary_tokens=run["max_new"],
        max_new_tokens=run["max_new"],
        repetition_penalty=run["rp"],
        silence_threshold=run.get("eos_base"),
        silence_step=run.get("eos_step", 0.0),
        answer_reader="generate",
        dtype="float32",
    )
    assert model.loaded.silence_id == (golden.facts["streaming_eos_token_id"] if "eos_id" not in run else 287)
    if "eos_id" in run:
        model.loaded = replace(model.loaded, silence_id=run["eos_id"])
    return model


def check_turn(session: LiveCCSession, facts: dict, golden, name: str) -> None:
    memory = session._memory
    spoken, thread = memory.last_spoken, memory.thread
    assert thread.ids[: facts["input_len"]] == golden.tensors[f"{name}.input_ids"].tolist()
    assert spoken.ids == facts["generated_ids"]
    assert len(thread.store) == facts["kv_len_after"]
    assert thread.position - 1 == facts["last_position_per_forward"][-1][0]
    torch.testing.assert_close(spoken.first_logits, golden.tensors[f"{name}.logits_first"], **TOLERANCE)
    torch.testing.assert_close(spoken.last_logits, golden.tensors[f"{name}.logits_last"], **TOLERANCE)


def test_turns(golden, model: LiveCC, monkeypatch: pytest.MonkeyPatch) -> None:
    """Pixels, positions, token ids, cache lengths and logits of every turn, and the words that were said."""
    prefills = []
    whole = type(model.decoder).__call__
    monkeypatch.setattr(
        type(model.decoder), "__call__", lambda *args: prefills.append(args[3].clone()) or whole(*args)
    )
    session = model.open(NoCacher(), NoPruner())
    indices = indices_of(golden)
    for number, facts in enumerate(golden.facts["turns"]):
        name = f"turn{number}"
        prefills.clear()
        if facts["kind"] == "video_qa":
            answer = session.ask(Question("q", 7.0, facts["message"]))
            assert answer.text == facts["response"]
            assert len(session._memory.thread.store) == facts["kv_len_after"]
            assert session._memory.thread.ids[: facts["input_len"]] == golden.tensors[f"{name}.input_ids"].tolist()
        else:
            if number and f"<|vision_end|>{facts.get('message')}" in facts["rendered_text"]:
                session.say(facts["message"])
            frames = [golden.frames[indices.pop(0)] for _ in range(facts["num_frames"])]
            reports = session.push(frames, [facts["start"] + 0.5 * frame for frame in range(len(frames))])
            if len(frames) % 2:
                reports = session.finish()
            check_turn(session, facts, golden, name)
            (line,) = reports[-1].commentary
            silence = session.model.loaded.text([session.model.loaded.silence_id])
            assert (line.start_s, line.stop_s) == (facts["start"], facts["stop"])
            assert line.text == facts["response"].replace(silence, "")
        assert torch.equal(prefills[0], golden.tensors[f"{name}.position_ids_prefill"].double())


def test_pixels(golden, model: LiveCC) -> None:
    frames = [golden.frames[index] for index in indices_of(golden)[:6]]
    pairs = [torch.stack([torch.from_numpy(f) for f in frames[i : i + 2]]).numpy() for i in (0, 2, 4)]
    pixels = model.view(*frames[0].shape[:2]).preprocess(pairs).flatten(0, 1)
    torch.testing.assert_close(pixels, golden.tensors["turn0.pixel_values_videos"], atol=1e-6, rtol=0)


@pytest.mark.parametrize("case", CASES[:3])
def test_frames_and_messages_of_the_demo(read_golden: Callable, case: str) -> None:
    golden = read_golden(case, "livecc")
    fps = golden.run["source_fps"]
    schedule = DemoSchedule([(index + 1) / fps for index in range(len(golden.frames))])
    for call in golden.facts["calls"]:
        turns = schedule.call(call["video_timestamp"], call["message"])
        facts = [golden.facts["turns"][number] for number in call["turns"]]
        assert [(turn.start_s, turn.stop_s) for turn in turns] == [(turn["start"], turn["stop"]) for turn in facts]
        selected = [index for frames in call["frame_selection"] for index in frames["frame_indices"]]
        assert [index for turn in turns for index in turn.frame_indices] == selected
        for turn, fact in zip(turns, facts, strict=True):
            assert f"<|vision_end|>{turn.message or ''}<|im_end|>" in fact["rendered_text"]
