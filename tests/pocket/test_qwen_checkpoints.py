"""The shipped pockets of LiveCC and StreamingVLM: small, loadable, they answer and they speak."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from stc_lab.api import choice, load, open_session
from stc_lab.backbones.checkpoints import POCKET_ROOT
from stc_lab.cachers.none import NoCacher
from stc_lab.pocket.commentary import events_said, lines_true, parse, spoken_lines, truth
from stc_lab.pocket.dataset import held_out_script
from stc_lab.pocket.world.commentary import Event
from stc_lab.pocket.world.questions import sample_questions
from stc_lab.pocket.world.render import Renderer
from stc_lab.pruners.stc import STCPruner
from stc_lab.types import Question, TimedText

NAMES = ("livecc", "streamingvlm")
STREAMS = (0, 1, 2)


@pytest.fixture(scope="module", params=NAMES)
def watched(request) -> tuple[list[bool], list[tuple[list[bool], list[bool]]]]:
    """Answers right or wrong to questions about dev streams, and (events said, lines true) of each."""
    model = load(request.param, fps=1.0)
    memory = choice("memory", request.param, **({"fps": 1.0} if request.param == "streamingvlm" else {}))
    right, said = [], []
    for index in STREAMS:
        session, script = open_session(model, NoCacher(), STCPruner(budget=48), memory), held_out_script("dev", index)
        renderer, questions, reports = Renderer(script), sample_questions(script, 12), []
        for second in range(script.duration_s):
            reports += session.push([renderer.frame(float(second))], [float(second)])
            for q in (q for q in questions if int(q.time_s) == second):
                answer = session.ask(Question("q", q.time_s, q.text, q.options, q.answer))
                right.append(answer.prediction == q.answer)
        comments = [line for report in reports for line in report.commentary]
        lines, events = spoken_lines(comments, 1.0), truth(script, comments[-1].stop_s - 1)
        said.append((events_said(events, lines, comments[0].stop_s - 1), lines_true(events, lines)))
    return right, said


@pytest.mark.slow
def test_answers_are_above_chance(watched) -> None:
    right, _ = watched
    assert len(right) > 30 and np.mean(right) > 0.45


@pytest.mark.slow
def test_commentary_names_what_happens(watched) -> None:
    """Some event is said in time and some line is true; how many are is measured by ``stc_lab.pocket.commentary``."""
    _, said = watched
    assert any(hit for hits, _ in said for hit in hits)
    assert any(hit for _, hits in said for hit in hits)


@pytest.mark.parametrize("name", NAMES)
def test_checkpoints_are_small(name: str) -> None:
    files = list(Path(POCKET_ROOT / name).iterdir())
    assert {"config.json", "model.safetensors", "tokenizer.json", "stc_lab.json"} <= {file.name for file in files}
    assert sum(file.stat().st_size for file in files) < 10e6


def test_lines_are_understood_and_judged() -> None:
    assert parse("red ring top-left plus turns blue") == (
        Event(0.0, "ring", "appears", "red", "top-left"),
        Event(0.0, "plus", "turns", "blue"),
    )
    assert parse("ring ring leaves") is None and parse("red") is None and parse("ring turns top-left") is None
    events = [Event(0.0, "ring", "appears", "red", "top-left"), Event(4.5, "ring", "leaves", "red")]
    said = [(0.0, "red ring top-left"), (1.0, ""), (5.0, "red ring leaves")]
    comments = [TimedText(start_s, start_s + 1, text) for start_s, text in said]
    lines = spoken_lines(comments, 2.0)
    assert [line.time_s for line in lines] == [0.5, 5.5]
    assert events_said(events, lines, 0.5) == [True, True] and lines_true(events, lines) == [True, True]
    late = spoken_lines([TimedText(8.0, 9.0, "red ring leaves"), TimedText(9.0, 10.0, "blue ring leaves")], 2.0)
    assert events_said(events, late, 0.5) == [False, False] and lines_true(events, late) == [False, False]
