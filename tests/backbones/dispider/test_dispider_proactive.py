"""Deciding when to respond, and responding while the stream goes on."""

from __future__ import annotations

import threading
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch

from stc_lab.cachers.none import NoCacher
from stc_lab.language.caches.growing import GrowingStore
from stc_lab.memories.dispider import ANSWERED, TO_DO, Memories, Summary, question_sequence, streaming_sequence
from stc_lab.memories.dispider import QUESTION as ASKED
from stc_lab.pruners.none import NoPruner
from stc_lab.session import StreamSession, follow
from stc_lab.types import Answer, Decision, Question

Frames = list[np.ndarray]
Make = Callable[..., Any]
QUESTION = Question("watched", 20.0, "Say when it turns.")


@pytest.fixture(scope="module")
def eager(new_dispider: Make) -> Any:
    """A model whose compressor responds to some clips and not to others."""
    setup = new_dispider()
    torch.manual_seed(89)  # scores of both signs
    setup.model.model.silent_head.weight.normal_(std=0.5)
    return setup


def opened(setup: Any) -> StreamSession:
    return setup.open(NoCacher(), NoPruner())


def push(session: StreamSession, frames: Frames, start: int = 0) -> list[Decision]:
    reports = [r for i, frame in enumerate(frames) for r in session.push([frame], [float(start + i)])]
    return [decision for report in reports for decision in report.decisions]


def facts(answer: Answer) -> Answer:
    return replace(answer, ttft_ms=0.0, latency_ms=dict.fromkeys(answer.latency_ms, 0.0))


def test_sequences() -> None:
    assert streaming_sequence(3) == [ANSWERED, ASKED, Memories(0, 3), ASKED, TO_DO]
    assert streaming_sequence(0) == [ANSWERED, ASKED, TO_DO]
    assert streaming_sequence(7, 0, [2, 5]) == [
        *(ANSWERED, ASKED, Summary(0, 2), ANSWERED, Summary(2, 5), ANSWERED),
        *(Memories(5, 7), ASKED, TO_DO),
    ]
    assert streaming_sequence(7, 2, [2, 4])[:4] == [ANSWERED, Summary(0, 2), ASKED, ANSWERED]
    assert streaming_sequence(4, 4) == question_sequence("now", 4)
    assert question_sequence("offline", 2) == [ANSWERED, Memories(0, 2), ASKED]
    assert question_sequence("summary", 2) == [ANSWERED, Summary(0, 2), ASKED]


@pytest.mark.parametrize("wrong", [{"asked_at": 5}, {"answered_at": [3, 2]}, {"asked_at": 2, "answered_at": [1]}])
def test_sequences_need_points_in_order(wrong: dict) -> None:
    with pytest.raises(ValueError, match=r"ask|answered_at="):
        streaming_sequence(4, **wrong)


@pytest.mark.parametrize("asked_at", [0, 2])
def test_decisions_equal_those_over_the_whole_sequence(eager: Any, frames: Frames, asked_at: int) -> None:
    session = opened(eager)
    push(session, frames[: 3 * asked_at])
    session.watch(QUESTION)
    decisions = push(session, frames[3 * asked_at :], start=3 * asked_at)
    clips, answered, judge = session.memory.clips, [], session.memory.judge
    decoder = judge.compressor.decoder
    assert len(decisions) == len(clips) - asked_at and eager.model.settings.decides_by_itself
    assert {decision.responds for decision in decisions} == {True, False}
    for count, decision in enumerate(decisions, asked_at + 1):
        with torch.inference_mode():
            pieces = streaming_sequence(count, asked_at, answered)
            embeds, _ = judge.compressor.embeds(pieces, QUESTION.text, clips)
            judged = judge.judge(decoder(embeds, GrowingStore(decoder.shape))[-1], clips[:count])
        assert decision.score == pytest.approx(judged.score, abs=1e-5)
        assert decision.responds == (decision.score > 0)
        assert (decision.question_id, decision.time_s) == ("watched", 3.0 * count - 1)
        answered += [count] if decision.responds else []


def test_a_response_sees_what_its_decision_saw(eager: Any, frames: Frames) -> None:
    later, prompt = opened(eager), opened(eager)
    for session in (later, prompt):
        session.watch(QUESTION)
    first = push(prompt, frames[:6])[-1]
    expected = prompt.respond(first)
    decisions = push(later, frames)
    assert decisions[1] == first
    answer = later.respond(decisions[1])
    assert facts(answer) == facts(expected)
    assert answer.details["num_clips"] == 2 and answer.details["response_score"] == first.score
    assert facts(later.respond(decisions[3])) != facts(answer)


def test_watching_changes_no_answer(eager: Any, frames: Frames) -> None:
    sessions = opened(eager), opened(eager)
    sessions[0].watch(QUESTION)
    for session in sessions:
        push(session, frames)
    answers = [facts(session.ask(QUESTION)) for session in sessions]
    assert answers[0] == answers[1]
    stats = [session.stats() for session in sessions]
    assert stats[0]["num_watched"] == 1 and stats[0]["kv_bytes_device"] > stats[1]["kv_bytes_device"]
    sessions[0].unwatch("watched")
    sessions[0].unwatch("watched")
    assert sessions[0].stats() == stats[1]
    assert push(sessions[0], frames, start=20) == []


def test_several_questions_are_watched_apart(eager: Any, frames: Frames) -> None:
    other = Question("other", 20.0, "And now?")
    alone, together = opened(eager), opened(eager)
    alone.watch(other)
    together.watch(QUESTION)
    push(alone, frames[:3])
    push(together, frames[:3])
    together.watch(other)
    decisions = push(together, frames[3:9], start=3)
    assert [decision.question_id for decision in decisions] == ["watched", "other"] * 2
    assert push(alone, frames[3:9], start=3)[0] != decisions[1]  # asked earlier


def test_wrong_requests_are_named(eager: Any, frames: Frames) -> None:
    session = opened(eager)
    session.watch(QUESTION)
    with pytest.raises(ValueError, match="question 'watched' is watched already"):
        session.watch(QUESTION)
    with pytest.raises(ValueError, match="question 'q' has no text"):
        session.watch(Question("q", 1.0, " "))
    with pytest.raises(ValueError, match=r"question 'watched': no decision of 2.0 s in this session"):
        session.submit(Decision("watched", 2.0, 0.5, True))
    with pytest.raises(ValueError, match="question 'nobody': no decision of 2.0 s"):
        session.submit(Decision("nobody", 2.0, 0.5, True))


@pytest.fixture
def asynchronous(new_dispider: Make, eager: Any) -> Any:
    setup = new_dispider(asynchronous=True)
    setup.model.load_state_dict(eager.model.state_dict())
    return setup


def test_the_stream_goes_on_while_a_reaction_runs(eager: Any, asynchronous: Any, frames: Frames) -> None:
    """The reaction is held back until the stream is over; all results equal those of the sequential mode."""
    slow, plain = opened(asynchronous), opened(eager)
    go = threading.Event()
    slow._background.start(lambda: go.wait(60))
    results = {}
    for session in (slow, plain):
        session.watch(QUESTION)
        decisions = push(session, frames[:6])
        futures = [session.submit(decisions[-1]), session.submit(replace(QUESTION, question_id="asked"))]
        decisions += push(session, frames[6:], start=6)
        assert [future.done() for future in futures] == [session is plain] * 2
        results[session] = decisions, futures
    assert len(results[slow][0]) == 4 and results[slow][0] == results[plain][0]
    go.set()
    for one, two in zip(results[slow][1], results[plain][1], strict=True):
        assert facts(one.result(60)) == facts(two.result(60))
    assert facts(slow.ask(QUESTION)) == facts(plain.ask(QUESTION))
    assert slow.stats() == plain.stats()
    slow.close()


def test_following_a_stream(eager: Any, asynchronous: Any, frames: Frames) -> None:
    session = opened(eager)
    session.watch(QUESTION)
    decisions = [decision for decision in push(session, frames) if decision.responds]
    expected = [(decision, facts(session.respond(decision))) for decision in decisions]
    assert len(expected) == 2
    for setup in (eager, asynchronous):
        session = opened(setup)
        responses = list(follow(session, QUESTION, zip(map(float, range(14)), frames, strict=True)))
        assert [(decision, facts(answer)) for decision, answer in responses] == expected
        assert session.stats()["num_watched"] == 0
        session.close()


def test_many_responses_beside_the_stream(eager: Any, asynchronous: Any, frames: Frames) -> None:
    """No gate: whatever the threads do, answers are those of the sequential mode, in the order of submission."""
    answers = {}
    for setup in (asynchronous, eager):
        session, futures = opened(setup), []
        session.watch(QUESTION)
        for index, frame in enumerate([*frames, *frames]):
            for report in session.push([frame], [float(index)]):
                futures += [session.submit(decision) for decision in report.decisions]
            if index % 5 == 0:
                futures.append(session.submit(QUESTION))
        answers[setup.model] = [facts(future.result(60)) for future in futures]
        session.close()
    assert answers[asynchronous.model] == answers[eager.model] and len(answers[eager.model]) == 15


def test_failures_come_out_where_the_answer_is_awaited(asynchronous: Any, frames: Frames) -> None:
    session = opened(asynchronous)
    push(session, frames[:3])
    many = replace(QUESTION, options=("yes", "no"))
    assert session.submit(many).result(60).letter_logits.keys() == {"A", "B"}
    broken = session._background.start(lambda: 1 // 0)
    with pytest.raises(ZeroDivisionError):
        broken.result(60)
    session.close()


def test_closing_cancels_what_has_not_begun(asynchronous: Any, frames: Frames) -> None:
    session = opened(asynchronous)
    push(session, frames[:3])
    go, running = threading.Event(), threading.Event()

    def hold() -> None:
        running.set()
        go.wait(60)

    session._background.start(hold)
    waiting = session.submit(QUESTION)
    assert running.wait(60)
    threading.Timer(0.05, go.set).start()
    session.close()
    assert waiting.cancelled()
    session.reset()
    push(session, frames[:3])
    assert session.ask(QUESTION).details["num_clips"] == 1
    session.close()


@torch.no_grad()
def test_silence_is_reported(eager: Any, frames: Frames) -> None:
    """The large model may decline a false trigger with a token of its own."""
    session = opened(eager)
    push(session, frames[:3])
    assert session.ask(QUESTION).details["kept_silent"] is False
    head = eager.model.model.language.lm_head.weight
    kept, state = head.clone(), last_state(session)
    head[eager.model.silent_id] = 100 * torch.sign(state)
    silent = session.ask(QUESTION)
    head.copy_(kept)
    assert silent.details["kept_silent"] is True and silent.text == ""


def last_state(session: StreamSession) -> torch.Tensor:
    """What the language head sees after the prompt."""
    seen = []
    hook = session.model.model.language.model.norm.register_forward_hook(lambda m, i, out: seen.append(out))
    session.ask(QUESTION)
    hook.remove()
    return seen[0][-1].clone()
