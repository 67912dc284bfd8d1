"""What a stream session promises."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

import numpy as np
import pytest
import torch

from stc_lab.backbones.llava_onevision import INIT, answer_prompt
from stc_lab.cachers.none import NoCacher
from stc_lab.cachers.stc import STCCacher
from stc_lab.pruners.base import FrameContext
from stc_lab.pruners.dycoke import DyCokePruner
from stc_lab.pruners.none import NoPruner
from stc_lab.pruners.stc import STCPruner
from stc_lab.pruners.vidcom2 import VidCom2Pruner
from stc_lab.session import StreamSession
from stc_lab.types import Answer, FrameReport, Question, VisualTokens

Frames = list[np.ndarray]
WINDOWED = {"vidcom2": VidCom2Pruner(budget=4), "dycoke": DyCokePruner(budget=4)}
FRAME_STAGES = ["preprocess", "vision", "project", "prune", "prefill"]


def opened(backbone) -> StreamSession:
    return backbone.open(STCCacher(interval=3, update_ratio=0.3), STCPruner(budget=5, window=3))


def facts(answer: Answer) -> tuple:
    """All of an answer but its times."""
    return replace(answer, ttft_ms=0.0, latency_ms={}), tuple(answer.latency_ms)


def run(session: StreamSession, video: Frames, question: Question, start: int = 0) -> Answer:
    for index, frame in enumerate(video):
        session.push([frame], [float(start + index)])
    return session.ask(question)


def untimed(report: FrameReport) -> FrameReport:
    return replace(report, latency_ms={})


def test_answer_equals_the_one_shot_hf_model(
    new_backbone: Callable, video: Frames, question: Question
) -> None:
    backbone = new_backbone(n_local=10_000, topk=64, answer_reader="letter_logits")
    session = backbone.open(NoCacher(), NoPruner())
    answer = run(session, video, question)
    lab, model = backbone.model, backbone.model.model
    with torch.no_grad():
        pixels = lab.preprocess(video)
        features = model.model.vision_tower(pixels, output_hidden_states=True).hidden_states[-1]
        tokens = model.model.apply_pooling(model.model.multi_modal_projector(features)).flatten(0, 1)
        text = [lab.decoder.embed(lab.token_ids(part)) for part in (INIT, answer_prompt(question))]
        embeds = torch.cat((text[0], tokens, text[1]))[None]
        hidden = model.model.language_model(inputs_embeds=embeds).last_hidden_state
        logits = model.lm_head(hidden[0, -1])
    expected = [logits[lab.letter_id(letter)].item() for letter in "ABC"]
    assert list(answer.letter_logits.values()) == pytest.approx(expected, abs=1e-4)
    assert answer.prediction == "ABC"[int(np.argmax(expected))]
    assert answer.reader == "letter_logits" and answer.num_generated_tokens == 0


def test_interleaved_sessions_equal_separate_ones(backbone, video: Frames, question: Question) -> None:
    other = [255 - frame for frame in video[::-1]]
    expected = facts(run(opened(backbone), video, question)), facts(run(opened(backbone), other, question))
    first, second = opened(backbone), opened(backbone)
    for index, (one, two) in enumerate(zip(video, other, strict=True)):
        first.push([one], [float(index)])
        second.push([two], [float(index)])
        if index == 6:
            second.ask(question)
    assert (facts(first.ask(question)), facts(second.ask(question))) == expected


@pytest.mark.parametrize("sizes", [(14,), (1,) * 14, (5, 1, 8)])
@pytest.mark.parametrize("chunk_size", [1, 3])
def test_how_frames_are_pushed_changes_nothing(
    backbone, video: Frames, question: Question, sizes: tuple[int, ...], chunk_size: int
) -> None:
    """One by one, or many: reports and answer are the same (chunks that arrive in parts run in parts)."""

    def reports_and_answer(sizes: tuple[int, ...]) -> tuple:
        session = backbone.open(STCCacher(interval=2, chunk_size=chunk_size), STCPruner(budget=4))
        reports, start = [], 0
        for size in sizes:
            times = [float(t) for t in range(start, start + size)]
            reports += session.push(video[start : start + size], times)
            start += size
        return [untimed(report) for report in reports], session.ask(question)

    reports, answer = reports_and_answer(sizes)
    expected_reports, expected = reports_and_answer((7, 7))
    assert reports == expected_reports
    assert answer.text == expected.text and answer.details == expected.details
    assert list(answer.letter_logits.values()) == pytest.approx(list(expected.letter_logits.values()), abs=1e-4)


def test_questions_do_not_disturb_the_stream(backbone, video: Frames, question: Question) -> None:
    asked, quiet = opened(backbone), opened(backbone)
    for index, frame in enumerate(video):
        reports = [session.push([frame], [float(index)]) for session in (asked, quiet)]
        assert untimed(reports[0][0]) == untimed(reports[1][0])
        asked.ask(replace(question, text=f"Is it frame {index}?", options=("yes", "no")))
        assert asked.stats() == quiet.stats()
    assert facts(asked.ask(question)) == facts(quiet.ask(question))


@pytest.mark.parametrize("pruner", WINDOWED.values(), ids=WINDOWED)
@pytest.mark.parametrize("n_local", [40, 10_000])
def test_a_question_in_a_window_leaves_later_answers_as_they_were(
    new_backbone: Callable, video: Frames, question: Question, pruner, n_local: int
) -> None:
    """Whatever waits when it comes: later reports, sizes and logits are the same bit for bit."""
    backbone = new_backbone(n_local=n_local, topk=4)
    asked, quiet = (backbone.open(STCCacher(interval=3), pruner) for _ in range(2))
    for index, frame in enumerate(video):
        reports = [session.push([frame], [float(index)]) for session in (asked, quiet)]
        assert list(map(untimed, reports[0])) == list(map(untimed, reports[1]))
        early = asked.ask(question)
        assert asked.stats() == quiet.stats()
        assert early.tokens_read_max >= early.tokens_read > 0
    assert torch.equal(asked.ask(question).first_logits, quiet.ask(question).first_logits)


def test_reset_starts_a_new_stream(backbone, video: Frames, question: Question) -> None:
    session = opened(backbone)
    fresh = session.stats()
    expected = facts(run(session, video, question))
    session.reset()
    assert session.stats() == fresh
    assert facts(run(session, video, question)) == expected


def test_closed_session_says_so(backbone, video: Frames, question: Question) -> None:
    session = opened(backbone)
    run(session, video[:3], question)
    session.close()
    with pytest.raises(RuntimeError, match="closed"):
        session.push(video[:1], [9.0])
    with pytest.raises(RuntimeError, match="closed"):
        session.ask(question)
    session.reset()
    assert session.push(video[:1], [0.0])


def test_reports_account_for_every_frame(backbone, video: Frames) -> None:
    session = opened(backbone)
    reports = session.push(video, [float(t) for t in range(len(video))])
    assert [report.timestamp_s for report in reports] == [float(t) for t in range(len(video))]
    assert [report.is_reference for report in reports] == [index % 3 == 0 for index in range(len(video))]
    assert {report.num_tokens for report in reports} == {5}
    assert {report.num_tokens_full for report in reports} == {9}
    for report in reports:
        assert list(report.latency_ms) == FRAME_STAGES and min(report.latency_ms.values()) > 0
        assert report.update_ratio == (1.0 if report.is_reference else pytest.approx(7 / 25, abs=0.03))
        assert set(report.flops) == {"vision", "project", "prune", "prefill"}
    assert reports[1].flops["vision"] < reports[0].flops["vision"]
    assert reports[1].flops["prefill"] > reports[0].flops["prefill"]
    assert reports[-1].flops["prefill"] == reports[-2].flops["prefill"]


def test_stats_follow_the_formula(new_backbone: Callable, video: Frames) -> None:
    backbone = new_backbone(n_local=60, offload=True)
    session = opened(backbone)
    session.push(video, [float(t) for t in range(len(video))])
    stats, num_init = session.stats(), len(backbone.model.token_ids(INIT))
    layers, token_bytes, count = 2, 2 * 8 * 4, len(video)
    window = min(60, num_init + 5 * count)
    assert stats["num_frames"] == stats["num_blocks"] == stats["num_offloaded_blocks"] == count
    assert stats["num_tokens"] == 5 * count
    assert stats["kv_bytes_host"] == layers * 2 * 5 * count * token_bytes
    assert stats["kv_bytes_device"] == layers * (2 * window + 3 * num_init + count) * token_bytes
    assert stats["kv_bytes_reserved"] >= layers * 2 * window * token_bytes


def test_question_before_any_frame(backbone, question: Question) -> None:
    answer = opened(backbone).ask(question)
    assert answer.details["num_blocks"] == answer.details["num_retrieved"] == 0
    assert set(answer.letter_logits) == {"A", "B", "C"}


def test_answers_report_their_cost(backbone, video: Frames, question: Question) -> None:
    session = opened(backbone)
    answer = run(session, video, question)
    assert list(answer.latency_ms) == ["retrieve", "question", "generate"]
    assert answer.ttft_ms > 0
    assert answer.num_prompt_tokens == len(backbone.model.token_ids(answer_prompt(question)))
    assert answer.details["num_blocks"] == len(video) and answer.details["num_retrieved"] == 4
    assert all(len(blocks) == 4 for blocks in answer.details["retrieved_blocks"])
    assert answer.flops["retrieve"] > 0 and answer.flops["question"] > answer.flops["retrieve"]


def test_open_questions_are_generated(new_backbone: Callable, video: Frames) -> None:
    backbone = new_backbone(answer_reader="letter_logits", max_new_tokens=5)
    answer = run(opened(backbone), video, Question("o", 3.0, "What happens?"))
    assert answer.reader == "generate" and answer.letter_logits is None
    assert answer.num_generated_tokens <= 5
    assert answer.prediction == (answer.text.strip() or None)


@dataclass(frozen=True, kw_only=True)
class FirstOfPair(NoPruner):
    """Looks at two frames; keeps three tokens of the first and one of the second."""

    window_frames = 2

    def compress_window(
        self, frames: list[VisualTokens], state: None, contexts: list[FrameContext]
    ) -> list[VisualTokens]:
        return [frame.keep(torch.arange(3 if i == 0 else 1)) for i, frame in enumerate(frames)]


def test_pruner_window_is_filled_or_read_on_copies(backbone, video: Frames, question: Question) -> None:
    session = backbone.open(NoCacher(), FirstOfPair())
    counts = [len(session.push([frame], [float(i)])) for i, frame in enumerate(video[:5])]
    assert counts == [0, 2, 0, 2, 0]
    assert session.stats()["num_pending_frames"] == 1
    assert session.ask(question).details["num_blocks"] == 5  # the frame that waits is read as a shorter window
    assert session.stats()["num_tokens"] == 4 + 4
    late = session.flush()
    assert [report.timestamp_s for report in late] == [4.0] and session.flush() == []


def test_frames_and_times_are_checked(backbone, video: Frames, question: Question) -> None:
    session = opened(backbone)
    session.push(video[:2], [0.0, 1.0])
    with pytest.raises(ValueError, match="2 frames came with 1 timestamps"):
        session.push(video[:2], [2.0])
    with pytest.raises(ValueError, match=r"frame at 0.5 s came after one at 1.0 s"):
        session.push(video[:1], [0.5])
    with pytest.raises(ValueError, match=r"a frame must be uint8 \[H, W, 3\], got float32 \[30, 44, 3\]"):
        session.push([video[0].astype(np.float32)], [2.0])
    with pytest.raises(ValueError, match="question 'q' has no text"):
        session.ask(replace(question, text=" "))


def test_budget_must_fit(backbone) -> None:
    with pytest.raises(ValueError, match=r"pruner.budget=10.*1\.\.9"):
        backbone.open(NoCacher(), STCPruner(budget=10))


def test_window_must_hold_what_is_retrieved(new_backbone: Callable) -> None:
    backbone = new_backbone(n_local=30, topk=4)
    expected = r"memory.topk=4: 4 blocks of 9 tokens are 36 tokens.*n_local=30; lower topk to at most 3"
    with pytest.raises(ValueError, match=expected):
        backbone.open(NoCacher(), NoPruner())
    assert backbone.open(NoCacher(), STCPruner(budget=7))
