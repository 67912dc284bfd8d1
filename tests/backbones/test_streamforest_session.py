"""What a stream session on StreamForest promises."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import ClassVar

import numpy as np
import pytest
import torch

from stc_lab.api import open_session
from stc_lab.backbones.streamforest import StreamForest
from stc_lab.backbones.streamforest.model import BEFORE_VIDEO, StreamForestVideoModel, after_video
from stc_lab.cachers.none import NoCacher
from stc_lab.cachers.stc import STCCacher
from stc_lab.cachers.tome import ToMeCacher
from stc_lab.memories.recent import Recent
from stc_lab.memories.streamforest import StreamForestMemory, time_message
from stc_lab.pruners.none import NoPruner
from stc_lab.pruners.stc import STCPruner
from stc_lab.pruners.uniform import UniformPruner
from stc_lab.pruners.vidcom2 import VidCom2Pruner
from stc_lab.session import StreamSession
from stc_lab.types import Answer, FrameReport, Question

Frames = list[np.ndarray]
SIZES = {"short_frames": 3, "split_window": 2, "event_tokens": 4, "quota": 12}


@dataclass(frozen=True)
class Forest:
    """A loaded model with the memory that its streams have."""

    model: StreamForestVideoModel
    memory: StreamForestMemory

    def open(self, cacher, pruner) -> StreamSession:
        return open_session(self.model, cacher, pruner, self.memory)


@pytest.fixture(scope="module")
def settings(forest_folder: Path) -> StreamForest:
    return StreamForest(checkpoint=str(forest_folder), tokens_per_frame=8, max_new_tokens=4)


@pytest.fixture(scope="module")
def model(settings: StreamForest) -> StreamForestVideoModel:
    return settings.load(dtype=torch.float32)


@pytest.fixture(scope="module", params=["online", "lazy"])
def forest(model: StreamForestVideoModel, request: pytest.FixtureRequest) -> Forest:
    return Forest(model, StreamForestMemory(**SIZES, mode=request.param))


def opened(forest: Forest) -> StreamSession:
    return forest.open(STCCacher(interval=3, update_ratio=0.3), STCPruner(budget=4, window=3))


def facts(answer: Answer) -> tuple:
    return replace(answer, ttft_ms=0.0, latency_ms={}), tuple(answer.latency_ms)


def run(session: StreamSession, video: Frames, question: Question) -> Answer:
    session.push(video, [float(t) for t in range(len(video))])
    return session.ask(question)


def untimed(report: FrameReport) -> FrameReport:
    return replace(report, latency_ms={})


def test_answer_equals_the_hf_model_on_the_whole_memory(forest: Forest, video: Frames, question: Question) -> None:
    session = forest.open(NoCacher(), NoPruner())
    answer = run(session, video, question)
    message = "\nThe video contains 14 frames sampled from the past 13.0 seconds ago (0.0s of the entire video) "
    message += "up to the present moment (13.0s of the entire video). "
    body = "What moves?\nA. a dot\nB. a square\nC. a line\n"
    body += "Answer with the option's letter from the given choices directly."
    after = f"\n{message}{body}<|im_end|>\n<|im_start|>assistant\n"
    with torch.no_grad():
        model = forest.model
        visual = model.project_merged(session.memory.forest.read().tokens)
        text = [model.decoder.embed(model.token_ids(part)) for part in (BEFORE_VIDEO, after)]
        embeds = torch.cat((text[0], visual, text[1]))
        logits = model.model.language(inputs_embeds=embeds[None]).logits[0, -1]
    expected = [logits[model.letter_id(letter)].item() for letter in "ABC"]
    assert list(answer.letter_logits.values()) == pytest.approx(expected, abs=1e-4)
    assert answer.num_prompt_tokens + answer.details["num_visual_tokens"] == len(embeds)
    assert answer.tokens_read == answer.tokens_read_max == answer.details["num_visual_tokens"]
    assert answer.details["prompt_kv_bytes"] >= len(embeds) * 2 * 2 * 2 * 8 * 4


def test_interleaved_sessions_equal_separate_ones(forest: Forest, video: Frames, question: Question) -> None:
    other = [255 - frame for frame in video[::-1]]
    expected = facts(run(opened(forest), video, question)), facts(run(opened(forest), other, question))
    first, second = opened(forest), opened(forest)
    for index, (one, two) in enumerate(zip(video, other, strict=True)):
        first.push([one], [float(index)])
        second.push([two], [float(index)])
        if index % 5 == 4:
            second.ask(question)
    assert (facts(first.ask(question)), facts(second.ask(question))) == expected
    assert expected[0] != expected[1]


def test_questions_do_not_disturb_the_stream(forest: Forest, video: Frames, question: Question) -> None:
    asked, quiet = opened(forest), opened(forest)
    for index, frame in enumerate(video):
        reports = [session.push([frame], [float(index)]) for session in (asked, quiet)]
        assert untimed(reports[0][0]) == untimed(reports[1][0])
        if index > 9:
            asked.ask(question)
        assert asked.stats() == quiet.stats()
    assert facts(asked.ask(question)) == facts(quiet.ask(question))


@pytest.mark.parametrize("chunk_size", [1, 3])
def test_how_frames_are_pushed_changes_nothing(
    forest: Forest, video: Frames, question: Question, chunk_size: int
) -> None:
    def answered(*sizes: int) -> tuple[list[FrameReport], Answer]:
        session, reports, start = forest.open(STCCacher(chunk_size=chunk_size), STCPruner(budget=4)), [], 0
        for size in sizes:
            reports += session.push(video[start : start + size], [float(start + i) for i in range(size)])
            start += size
        return [untimed(report) for report in reports], session.ask(question)

    (reports, answer), (expected_reports, expected) = answered(5, 1, 8), answered(14)
    assert reports == expected_reports and len(reports) == 14
    assert answer.text == expected.text and answer.details == expected.details
    assert list(answer.letter_logits.values()) == pytest.approx(list(expected.letter_logits.values()), abs=1e-4)


def test_reset_starts_a_new_stream(forest: Forest, video: Frames, question: Question) -> None:
    session = opened(forest)
    fresh = session.stats()
    expected = facts(run(session, video, question))
    session.reset()
    assert session.stats() == fresh and fresh["kv_bytes_device"] == 0
    assert facts(run(session, video, question)) == expected


def test_modes_agree_until_the_quota_is_exceeded(
    model: StreamForestVideoModel, video: Frames, question: Question
) -> None:
    def answers(**changes) -> list[Answer]:
        forests = [Forest(model, StreamForestMemory(**{**SIZES, **changes}, mode=mode)) for mode in ("online", "lazy")]
        return [run(forest.open(NoCacher(), NoPruner()), video, question) for forest in forests]

    roomy, tight = answers(quota=1000), answers()
    assert facts(roomy[0]) == facts(roomy[1])
    assert tight[0].flops["retrieve"] < tight[1].flops["retrieve"]
    assert max(answer.details["num_event_tokens"] for answer in tight) <= SIZES["quota"]


def test_reports_and_stages(forest: Forest, video: Frames, question: Question) -> None:
    session = opened(forest)
    reports = session.push(video, [float(t) for t in range(len(video))])
    assert [report.is_reference for report in reports] == [index % 3 == 0 for index in range(len(video))]
    for report in reports:
        assert (report.num_tokens_full, report.num_tokens) == (8, 4)
        assert list(report.latency_ms) == ["preprocess", "vision", "project", "prefill"]
        assert set(report.flops) == {"vision", "project", "prefill"} and report.flops["prefill"] > 0
    answer = session.ask(question)
    assert list(answer.latency_ms) == ["retrieve", "prune", "question", "generate"]
    assert set(answer.flops) == set(answer.latency_ms) and answer.flops["prune"] > 0


def test_pruner_keeps_its_share_of_every_part(forest: Forest, video: Frames, question: Question) -> None:
    whole = run(forest.open(NoCacher(), NoPruner()), video, question).details
    for pruner in (STCPruner(budget=4), UniformPruner(keep_ratio=0.5), STCPruner(budget=4, window=2)):
        details = run(forest.open(NoCacher(), pruner), video, question).details
        assert details["num_visual_tokens"] * 2 == whole["num_visual_tokens"]
    parts = [whole[f"num_{part}_tokens"] for part in ("event", "short", "now")]
    assert sum(parts) == whole["num_visual_tokens"] and parts[1:] == [whole["num_short_tokens"], 16]


def test_question_before_the_first_frame(forest: Forest, question: Question) -> None:
    answer = opened(forest).ask(question)
    assert answer.details["num_visual_tokens"] == 0
    assert answer.num_prompt_tokens == len(forest.model.token_ids(BEFORE_VIDEO + after_video(question, "")))


def test_half_precision_runs(settings: StreamForest, video: Frames, question: Question) -> None:
    session = opened(Forest(settings.load(dtype=torch.bfloat16), StreamForestMemory(**SIZES)))
    assert run(session, video, question).letter_logits.keys() == {"A", "B", "C"}
    stats = session.stats()
    assert stats["kv_bytes_device"] == stats["num_tokens"] * 32 * 2


def test_time_messages() -> None:
    assert time_message("short_online", 3, 0.26, 2.04) == (
        "\nThe video segment contains 3 frames sampled from the past 1.7 seconds ago up to the present moment. "
    )
    assert time_message("none", 3, 0.0, 2.0) == ""


def test_official_prompts_replace_the_own_form(question: Question) -> None:
    official = replace(question, prompt="Which one?", answer_start="The answer is ")
    assert after_video(official, "") == "\nWhich one?<|im_end|>\n<|im_start|>assistant\nThe answer is "
    assert after_video(replace(question, options=()), "") == "\nWhat moves?<|im_end|>\n<|im_start|>assistant\n"


@dataclass(frozen=True, kw_only=True)
class AttentivePruner(UniformPruner):
    needs: ClassVar[frozenset[str]] = frozenset({"attention_received"})
    name: str = "attentive"


@dataclass(frozen=True, kw_only=True)
class PlacePruner(UniformPruner):
    uses_places: ClassVar[bool] = True
    name: str = "place"


def test_combinations_that_make_no_sense_are_refused(forest: Forest, settings: StreamForest) -> None:
    def check(cacher, pruner, memory=forest.memory) -> None:
        settings.check(cacher, pruner, memory)

    check(STCCacher(), STCPruner(budget=4))
    with pytest.raises(ValueError, match="pruner=attentive needs attention_received .* prunes its memory"):
        check(NoCacher(), AttentivePruner(budget=4))
    with pytest.raises(ValueError, match="pruner=place needs places of each patch"):
        check(NoCacher(), PlacePruner(budget=4))
    with pytest.raises(ValueError, match="cacher.output=merged: backbone=streamforest needs its own grid"):
        check(ToMeCacher(output="merged", num_tokens=8), NoPruner())
    with pytest.raises(ValueError, match="pruner=attentive needs"):
        forest.open(NoCacher(), AttentivePruner(budget=4))
    with pytest.raises(ValueError, match="pruner.budget=64: a frame has 8 tokens"):
        check(NoCacher(), STCPruner(budget=64))
    with pytest.raises(ValueError, match=r"memory=recent: backbone=streamforest was trained .* memory=streamforest"):
        check(NoCacher(), NoPruner(), Recent())


def test_a_window_pruner_waits_for_no_frame(forest: Forest, video: Frames, question: Question) -> None:
    """It sees the memory, not the frames: a question in the middle of its window leaves all later ones as they are."""
    asked, quiet = (forest.open(NoCacher(), VidCom2Pruner(budget=4, window_frames=4)) for _ in range(2))
    for index, frame in enumerate(video):
        for session in (asked, quiet):
            session.push([frame], [float(index)])
        assert asked.stats() == quiet.stats() and quiet.stats()["num_pending_frames"] == 0
        asked.ask(question)
    answers = [session.ask(question) for session in (asked, quiet)]
    assert facts(answers[0]) == facts(answers[1])
    assert torch.equal(answers[0].first_logits, answers[1].first_logits)


@pytest.mark.slow
def test_two_thousand_frames_cost_as_much_each_as_the_first_hundreds(
    model: StreamForestVideoModel, video: Frames, question: Question
) -> None:
    memory = StreamForestMemory(**SIZES)
    session, flops = opened(Forest(model, memory)), []
    bound = memory.sizes(model.facts).most_tokens() * 32 * 4
    for index in range(2000):
        (report,) = session.push([video[index % len(video)]], [float(index)])
        flops.append(report.flops["prefill"])
        stats = session.stats()
        assert stats["kv_bytes_device"] == stats["num_tokens"] * 32 * 4 <= bound
    assert sum(flops[-200:]) == pytest.approx(sum(flops[200:400]), rel=0.1)
    assert session.ask(question).details["num_frames_used"] == 2000
