"""What a stream on Dispider promises: clips perceived once, streams kept apart, sizes by formula."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import pytest
import torch

from stc_lab.backbones.dispider.networks import Compressor
from stc_lab.cachers.none import NoCacher
from stc_lab.cachers.stc import STCCacher
from stc_lab.pruners.dycoke import DyCokePruner
from stc_lab.pruners.none import NoPruner
from stc_lab.pruners.stc import STCPruner
from stc_lab.pruners.vidcom2 import VidCom2Pruner
from stc_lab.session import StreamSession
from stc_lab.types import Answer, FrameReport, Question, VisualTokens

Frames = list[np.ndarray]
QUESTION = Question("q", 20.0, "What moves?", ("a dot", "a square", "a line"), "B")
CLIP = 3


def opened(setup: Any) -> StreamSession:
    return setup.open(STCCacher(interval=2, update_ratio=0.3), STCPruner(budget=2, window=3))


def facts(answer: Answer) -> Answer:
    """All of an answer but its times."""
    return replace(answer, ttft_ms=0.0, latency_ms=dict.fromkeys(answer.latency_ms, 0.0))


def push(session: StreamSession, frames: Frames, start: int = 0) -> list[FrameReport]:
    return [r for i, frame in enumerate(frames) for r in session.push([frame], [float(start + i)])]


def untimed(reports: list[FrameReport]) -> list[FrameReport]:
    return [replace(report, latency_ms={}) for report in reports]


def test_interleaved_sessions_equal_separate_ones(dispider: Any, frames: Frames) -> None:
    other = [255 - frame for frame in frames[::-1]]

    def alone(frames: Frames) -> tuple:
        session = opened(dispider)
        session.watch(QUESTION)
        return untimed(push(session, frames)), facts(session.ask(QUESTION))

    expected, sessions = (alone(frames), alone(other)), (opened(dispider), opened(dispider))
    reports: tuple[list, list] = ([], [])
    for session in sessions:
        session.watch(QUESTION)
    for index, pair in enumerate(zip(frames, other, strict=True)):
        for session, frame, got in zip(sessions, pair, reports, strict=True):
            got += untimed(session.push([frame], [float(index)]))
        if index == 7:
            sessions[1].ask(replace(QUESTION, text="Something else?"))
    assert expected[0][1] != expected[1][1]
    for session, got, (all_reports, answer) in zip(sessions, reports, expected, strict=True):
        assert got == all_reports and facts(session.ask(QUESTION)) == answer


@pytest.mark.parametrize("sizes", [(14,), (5, 1, 8), (3, 3, 3, 3, 2)])
@pytest.mark.parametrize("chunk_size", [1, 2])
def test_how_frames_are_pushed_changes_nothing(
    dispider: Any, frames: Frames, sizes: tuple[int, ...], chunk_size: int
) -> None:
    def run(sizes: tuple[int, ...]) -> tuple:
        session = dispider.open(STCCacher(interval=2, chunk_size=chunk_size), STCPruner(budget=3))
        session.watch(QUESTION)
        reports, start = [], 0
        for size in sizes:
            times = [float(t) for t in range(start, start + size)]
            reports += session.push(frames[start : start + size], times)
            start += size
        decisions = [decision for report in reports for decision in report.decisions]
        return [replace(report, latency_ms={}, decisions=[]) for report in reports], decisions, session.ask(QUESTION)

    reports, decisions, answer = run(sizes)
    expected_reports, expected_decisions, expected = run((1,) * 14)
    assert reports == expected_reports
    assert [d.time_s for d in decisions] == [d.time_s for d in expected_decisions] == [2.0, 5.0, 8.0, 11.0]
    assert [d.score for d in decisions] == pytest.approx([d.score for d in expected_decisions], abs=1e-5)
    assert answer.text == expected.text and answer.details["selected_clips"] == expected.details["selected_clips"]


def test_questions_do_not_disturb_the_stream(dispider: Any, frames: Frames) -> None:
    asked, quiet = opened(dispider), opened(dispider)
    for index, frame in enumerate(frames):
        reports = [untimed(session.push([frame], [float(index)])) for session in (asked, quiet)]
        assert reports[0] == reports[1]
        asked.ask(replace(QUESTION, text=f"Is it frame {index}?", options=("yes", "no")))
        assert asked.stats() == quiet.stats()
    answers = [facts(asked.ask(QUESTION)), facts(asked.ask(QUESTION)), facts(quiet.ask(QUESTION))]
    assert answers[0] == answers[1] == answers[2]


def test_clips_are_perceived_once(dispider: Any, frames: Frames, monkeypatch: pytest.MonkeyPatch) -> None:
    perceived: list[int] = []
    original = Compressor.perceive

    def counting(self: Compressor, clip_frames: list, *how) -> tuple:
        perceived.append(len(clip_frames))
        return original(self, clip_frames, *how)

    monkeypatch.setattr(Compressor, "perceive", counting)
    session = opened(dispider)
    push(session, frames[:8])
    for text in ("What?", "Where?", "When?"):
        session.ask(replace(QUESTION, text=text))
    assert perceived == [3, 3, 2]  # the open clip once for all three questions
    push(session, frames[8:9], start=8)
    session.ask(QUESTION)
    assert perceived == [3, 3, 2, 3]


def test_an_open_clip_is_seen(dispider: Any, frames: Frames) -> None:
    session = opened(dispider)
    answer = session.ask(QUESTION)
    assert answer.details["num_clips"] == 0 and answer.details["selected_clips"] == []
    push(session, frames[:1])
    assert (session.ask(QUESTION).details["num_clips"], session.stats()["num_blocks"]) == (1, 0)
    push(session, frames[1:5], start=1)
    answer = session.ask(QUESTION)
    assert (answer.details["num_clips"], answer.details["num_frames"]) == (2, 5)
    assert answer.details["selected_clips"] == [0, 1]


def test_what_the_language_model_reads(dispider: Any, frames: Frames) -> None:
    """At most four clips with their kept tokens and memories, and one summarising token per clip."""
    counts = []
    for pruner in (NoPruner(), STCPruner(budget=1)):
        session = dispider.open(NoCacher(), pruner)
        push(session, [*frames, *frames][:27])
        answer = session.ask(QUESTION)
        assert answer.tokens_read == 9 + 4 * CLIP * (1 + (4 if pruner.name == "none" else 1)) == answer.tokens_read_max
        counts.append(answer.num_prompt_tokens - answer.tokens_read)
        assert len(answer.details["selected_clips"]) == 4 and answer.details["num_clips"] == 9
        assert list(answer.latency_ms) == ["retrieve", "question", "generate"] == list(answer.flops)
        assert answer.ttft_ms > 0
    assert counts[0] == counts[1] > 0  # the text of the prompt


def test_pruning_the_compressor_too(new_dispider: Callable, frames: Frames) -> None:
    plain, both = new_dispider(), new_dispider(prune_compressor=True)
    sessions = [setup.open(NoCacher(), STCPruner(budget=1)) for setup in (plain, both)]
    reports = [push(session, frames[:3]) for session in sessions]
    assert reports[1][-1].flops["prefill"] < reports[0][-1].flops["prefill"]
    assert sessions[0].ask(QUESTION).details["response_score"] != sessions[1].ask(QUESTION).details["response_score"]
    sessions = [setup.open(NoCacher(), NoPruner()) for setup in (plain, both)]
    for session in sessions:
        push(session, frames[:6])
    assert facts(sessions[0].ask(QUESTION)) == facts(sessions[1].ask(QUESTION))


@pytest.mark.parametrize("pruner", [VidCom2Pruner(budget=2, window_frames=3), DyCokePruner(keep_ratio=0.6)])
def test_a_question_in_a_pruner_window_changes_nothing(
    new_dispider: Callable, frames: Frames, pruner: VidCom2Pruner | DyCokePruner
) -> None:
    """Frames that wait are pruned and perceived on copies: later reports, decisions and logits are equal bit by bit."""
    setup = new_dispider(clip_frames=5)
    asked, quiet = (setup.open(STCCacher(interval=2), pruner) for _ in range(2))
    for session in (asked, quiet):
        session.watch(QUESTION)
    waited = 0
    for index, frame in enumerate(frames):
        reports = [untimed(session.push([frame], [float(index)])) for session in (asked, quiet)]
        assert reports[0] == reports[1]
        waited = max(waited, asked.stats()["num_pending_frames"])
        seen = [asked.ask(QUESTION) for _ in range(2)]
        assert facts(seen[0]) == facts(seen[1]) and torch.equal(seen[0].first_logits, seen[1].first_logits)
        assert seen[0].details["num_frames"] == index + 1
        assert asked.stats() == quiet.stats()
    assert waited == pruner.window_frames - 1 > 0
    answers = [session.ask(QUESTION) for session in (asked, quiet)]
    assert facts(answers[0]) == facts(answers[1])
    assert torch.equal(answers[0].first_logits, answers[1].first_logits)


def test_a_copy_of_the_memory_goes_on_alone(dispider: Any, frames: Frames) -> None:
    session, model = opened(dispider), dispider.model
    push(session, frames[:4])
    before, copied = session.memory.stats(), session.memory.copy()
    features = NoCacher().encode(model.tower, model.preprocess(frames[4:7]), None).features
    with torch.inference_mode():
        projected = model.project(features)
        tokens = [VisualTokens.full(t, model.grid, 4.0 + i, features=features[i]) for i, t in enumerate(projected)]
        copied.remember(tokens)
    assert session.memory.stats() == before != copied.stats()
    assert (copied.stats()["num_blocks"], copied.stats()["num_open_frames"]) == (2, 1)


@dataclass(frozen=True, kw_only=True)
class Windows(NoPruner):
    """Looks at several frames; notes how many came together."""

    window_frames: int = 2
    seen: list[int] = field(default_factory=list)

    def compress_window(self, frames: list[VisualTokens], *rest) -> list[VisualTokens]:
        self.seen.append(len(frames))
        return list(frames)


@pytest.mark.parametrize(("window", "expected"), [(2, [2, 1, 2, 1]), (3, [3, 3]), (5, [3, 3])])
def test_a_pruner_window_ends_with_the_clip(dispider: Any, frames: Frames, window: int, expected: list[int]) -> None:
    for sizes in ((1,) * 6, (4, 2), (6,)):
        pruner = Windows(window_frames=window)
        session = dispider.open(NoCacher(), pruner)
        session.watch(QUESTION)
        start = 0
        for size in sizes:
            times = [float(t) for t in range(start, start + size)]
            reports = session.push(frames[start : start + size], times)
            start += size
        assert pruner.seen == expected and len(reports[-1].decisions) == 1


def test_places_of_the_question(new_dispider: Callable, frames: Frames) -> None:
    scores = {}
    for place in ("start", "now", "offline", "summary"):
        session = new_dispider(question_place=place).open(NoCacher(), NoPruner())
        push(session, frames)
        scores[place] = session.ask(QUESTION).details["response_score"]
    assert len(set(scores.values())) == 4


def test_reports(dispider: Any, frames: Frames) -> None:
    session = opened(dispider)
    reports = push(session, frames[:6])
    assert [report.num_tokens_full for report in reports] == [4] * 6 and {r.num_tokens for r in reports} == {2}
    assert [report.is_reference for report in reports] == [True, False] * 3
    for index, report in enumerate(reports):
        assert list(report.latency_ms) == ["preprocess", "vision", "project", "prune", "prefill", "decide"]
        assert (report.flops["prefill"] > 0) == (index % CLIP == CLIP - 1)
    assert reports[1].flops["vision"] < reports[0].flops["vision"]


def test_the_class_token_is_protected_unless_told_otherwise(dispider: Any, frames: Frames) -> None:
    model = dispider.model
    pixels = model.preprocess(frames[:2])
    for protect in (True, False):
        cacher = STCCacher(interval=2, update_ratio=0.3, protect_cls=protect)
        with torch.no_grad():
            traces = cacher.encode(model.tower, pixels, cacher.new_state()).traces
        assert (0 in traces[1].recomputed[0].tolist()) == protect


@pytest.mark.parametrize("offload", [False, True])
def test_sizes_follow_the_formula(new_dispider: Callable, frames: Frames, offload: bool) -> None:
    session = opened(new_dispider(offload=offload))
    before = session.stats()
    push(session, frames)
    stats, size = session.stats(), 4
    clips, rest = divmod(len(frames), CLIP)
    tokens = clips * CLIP * 2 * 32 * size  # two tokens a frame for a language model 32 wide
    states = clips * (CLIP + 1) * 24 * size  # a memory per frame and an indicator, 24 wide
    open_frames = rest * (4 * 64 + 2 * 32) * size
    assert before["kv_bytes_device"] == before["kv_bytes_host"] == 0
    assert stats["kv_bytes_host"] == (tokens if offload else 0)
    assert stats["kv_bytes_device"] == states + open_frames + (0 if offload else tokens)
    assert (stats["num_tokens"], stats["num_blocks"], stats["num_open_frames"]) == (2 * len(frames), clips, rest)
    session.watch(QUESTION)
    keys = 2 * 2 * 2 * 6 * size  # keys and values of two layers with two heads of six
    read = len("What moves?") + 1 + 1 + clips  # question with its marker, marker, and a summary of each clip
    assert session.stats()["kv_bytes_device"] - stats["kv_bytes_device"] == keys * read
    session.close()
    session.reset()
    assert session.stats() == before


def test_work_and_memory_per_clip_do_not_grow(dispider: Any, frames: Frames) -> None:
    """On a long stream every clip costs what the first did, but for the digits of its time."""
    session, looped = opened(dispider), [frames[i % len(frames)] for i in range(120)]
    sizes = [session.stats()["kv_bytes_device"]]
    work = []
    for start in range(0, 120, CLIP):
        work.append(push(session, looped[start : start + CLIP], start=start)[-1].flops["prefill"])
        sizes.append(session.stats()["kv_bytes_device"])
    assert work[4] == work[20] and max(work) < 1.1 * min(work)
    assert len(set(np.diff(sizes))) == 1


@pytest.mark.slow
def test_two_thousand_frames(new_dispider: Callable, frames: Frames) -> None:
    """Bytes on device and host by formula, and what a watched question adds to them."""
    session = opened(new_dispider(offload=True))
    session.watch(QUESTION)
    reports = push(session, [frames[i % len(frames)] for i in range(2000)])
    clips, rest = divmod(2000, CLIP)
    stats = session.stats()
    session.unwatch(QUESTION.question_id)
    assert stats["kv_bytes_host"] == clips * CLIP * 2 * 32 * 4
    device = (clips * (CLIP + 1) * 24 + rest * (4 * 64 + 2 * 32)) * 4
    assert session.stats()["kv_bytes_device"] == device < stats["kv_bytes_device"]
    assert sum(len(report.decisions) for report in reports) == clips
    assert session.ask(QUESTION).details["num_clips"] == clips + (rest > 0)


def test_scenes_end_clips(new_dispider: Callable, frames: Frames) -> None:
    dark, bright = [np.full((20, 20, 3), 5, np.uint8)] * 4, [np.full((20, 20, 3), 250, np.uint8)] * 9
    cut = new_dispider(clips="scenes", scene_threshold=0.9, min_scene_frames=2, clip_frames=5)
    session = cut.open(NoCacher(), NoPruner())
    session.watch(QUESTION)
    reports = push(session, [*dark, *bright])
    made = [(report.timestamp_s, d.time_s) for report in reports for d in report.decisions]
    assert made == [(4.0, 3.0), (8.0, 8.0)]  # noticed with the first bright frame; then a full clip
    assert session.ask(QUESTION).details["num_clips"] == 3
    uniform = new_dispider(clip_frames=5).open(NoCacher(), NoPruner())
    push(uniform, [*dark, *bright])
    assert uniform.stats()["num_blocks"] == 2
    late = new_dispider(clips="scenes", scene_threshold=0.9, min_scene_frames=5, clip_frames=6)
    session = late.open(NoCacher(), NoPruner())
    push(session, [*dark, *bright])
    assert session.stats()["num_blocks"] == 2 and session.stats()["num_open_frames"] == 1


def test_letters_can_be_read_from_logits(new_dispider: Callable, frames: Frames) -> None:
    session = opened(new_dispider(answer_reader="letter_logits"))
    push(session, frames)
    answer = session.ask(QUESTION)
    assert answer.reader == "letter_logits" and answer.num_generated_tokens == 0
    assert answer.prediction == max(answer.letter_logits, key=answer.letter_logits.__getitem__)
    assert session.ask(replace(QUESTION, options=())).reader == "generate"


def test_a_closed_session_says_so(dispider: Any, frames: Frames) -> None:
    session = opened(dispider)
    session.close()
    for call in (session.flush, lambda: session.watch(QUESTION), lambda: session.submit(QUESTION)):
        with pytest.raises(RuntimeError, match="the session is closed"):
            call()
