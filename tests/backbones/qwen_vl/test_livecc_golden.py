"""LiveCC against numbers of the released code (golden cases ``livecc_*``)."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

import pytest
import torch

from stc_lab.cachers.none import NoCacher
from stc_lab.language import TextDecoder
from stc_lab.pruners.none import NoPruner
from stc_lab.session import StreamSession
from stc_lab.types import Question

CASES = ("livecc_demo", "livecc_demo_default_query", "livecc_eos_threshold", "livecc_eval")
TOLERANCE = {"atol": 2e-5, "rtol": 0.0}

# Which frames the released interactive demo shows when, and what it does with messages. It takes, for each half second,
# the first frame that ends at or after it, rounds calls up to whole pairs, and loses a new message when the call that
# carries it brings no new frame; the lab samples on a grid that never looks ahead.
FPS = 2
FIRST_FRAMES, LATER_FRAMES = 6, 2
DEFAULT_MESSAGE = "Please describe the video."


@dataclass(frozen=True)
class DemoTurn:
    """Frames of one turn, the time it covers, and the message it carries (``None``: no new one)."""

    frame_indices: tuple[int, ...]
    start_s: float
    stop_s: float
    message: str | None


@dataclass
class DemoSchedule:
    """``ends_s``: when each frame of the video ends, in seconds."""

    ends_s: Sequence[float]
    _last_s: float = -1 / FPS
    _last_index: int = -1
    _message: str | None = None
    _is_started: bool = field(default=False)

    def call(self, until_s: float, message: str | None) -> list[DemoTurn]:
        """Turns for a call of the demo at stream time ``until_s``."""
        shown = self._frames(until_s)
        if not shown:
            return []
        first = 0 if self._is_started else min(FIRST_FRAMES, len(shown))
        starts = ([0] if first else []) + list(range(first, len(shown), LATER_FRAMES))
        self._is_started = True
        turns = []
        for start, stop in zip(starts, [*starts[1:], len(shown)], strict=True):
            indices, times_s = zip(*shown[start:stop], strict=True)
            turns.append(DemoTurn(indices, times_s[0], times_s[-1] + 1 / FPS, self._news(message)))
        return turns

    def _frames(self, until_s: float) -> list[tuple[int, float]]:
        """(frame index, time) of a call, an even number of them."""
        end_s = self.ends_s[-1]
        until_s = min(until_s, end_s) if self._is_started else max(min(until_s, end_s), FIRST_FRAMES / FPS)
        times_s, time_s = [], self._last_s + 1 / FPS
        if time_s > end_s:
            return []
        while time_s < until_s:
            times_s.append(time_s)
            time_s += 1 / FPS
        times_s += [time_s] * (len(times_s) % 2)
        shown, index = [], self._last_index + 1
        for time_s in times_s:
            while index < len(self.ends_s) and self.ends_s[index] < time_s:
                index += 1
            if index == len(self.ends_s):
                break
            shown.append((index, time_s))
        shown = shown[: len(shown) // 2 * 2]
        if shown:
            self._last_index, self._last_s = shown[-1]
        return shown

    def _news(self, message: str | None) -> str | None:
        """The message if it is new; the first turn always carries one."""
        if not message and not self._message:
            message = DEFAULT_MESSAGE
        if not message or message == self._message:
            return None
        self._message = message
        return message


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
def model(golden, golden_folders: dict[str, Path], on_memory: Callable):
    run = golden.run
    lab = on_memory(
        "livecc",
        golden_folders["livecc"],
        upstream_quirks=True,
        remember_questions=True,
        commentary_tokens=run["max_new"],
        max_new_tokens=run["max_new"],
        repetition_penalty=run["rp"],
        silence_threshold=run.get("eos_base"),
        silence_step=run.get("eos_step", 0.0),
        answer_reader="generate",
    )
    model = lab.model
    assert model.silence_id == (golden.facts["streaming_eos_token_id"] if "eos_id" not in run else 287)
    if "eos_id" in run:
        model.loaded = replace(model.loaded, silence_id=run["eos_id"])
    return lab


def check_turn(session: StreamSession, facts: dict, golden, name: str) -> None:
    spoken, thread = session.memory.last_generated, session.memory.context
    assert thread.ids[: facts["input_len"]] == golden.tensors[f"{name}.input_ids"].tolist()
    assert spoken.ids == facts["generated_ids"]
    assert len(thread.store) == facts["kv_len_after"]
    assert thread.cursor.position - 1 == facts["last_position_per_forward"][-1][0]
    torch.testing.assert_close(spoken.first_logits, golden.tensors[f"{name}.logits_first"], **TOLERANCE)
    torch.testing.assert_close(spoken.last_logits, golden.tensors[f"{name}.logits_last"], **TOLERANCE)


def test_turns(golden, model, monkeypatch: pytest.MonkeyPatch) -> None:
    """Pixels, positions, token ids, cache lengths and logits of every turn, and the words that were said."""
    prefills = []
    whole = TextDecoder.__call__

    def spy(decoder, embeds, store, positions, **more):
        prefills.append(positions.clone())
        return whole(decoder, embeds, store, positions, **more)

    monkeypatch.setattr(TextDecoder, "__call__", spy)
    session = model.open(NoCacher(), NoPruner())
    indices = indices_of(golden)
    for number, facts in enumerate(golden.facts["turns"]):
        name = f"turn{number}"
        prefills.clear()
        if facts["kind"] == "video_qa":
            answer = session.ask(Question("q", 7.0, facts["message"]))
            assert answer.text == facts["response"]
            assert len(session.memory.context.store) == facts["kv_len_after"]
            assert session.memory.context.ids[: facts["input_len"]] == golden.tensors[f"{name}.input_ids"].tolist()
        else:
            if number and f"<|vision_end|>{facts.get('message')}" in facts["rendered_text"]:
                session.tell(facts["message"])
            frames = [golden.frames[indices.pop(0)] for _ in range(facts["num_frames"])]
            reports = session.push(frames, [facts["start"] + 0.5 * frame for frame in range(len(frames))])
            if len(frames) % 2:
                reports = session.finish()
            check_turn(session, facts, golden, name)
            (line,) = reports[-1].commentary
            silence = session.model.text([session.model.silence_id])
            assert (line.start_s, line.stop_s) == (facts["start"], facts["stop"])
            assert line.text == facts["response"].replace(silence, "")
        assert torch.equal(prefills[0], golden.tensors[f"{name}.position_ids_prefill"].double())


def test_pixels(golden, model) -> None:
    frames = [golden.frames[index] for index in indices_of(golden)[:6]]
    pairs = [torch.stack([torch.from_numpy(f) for f in frames[i : i + 2]]).numpy() for i in (0, 2, 4)]
    pixels = model.model.encoder(frames[0].shape[:2]).preprocess(pairs).flatten(0, 1)
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
