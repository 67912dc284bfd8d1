"""Models that take frames in pairs, beside their uncompressed selves."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from stc_lab.cachers import NoCacher, STCCacher
from stc_lab.predict.fidelity import FidelitySession
from stc_lab.pruners.none import NoPruner
from stc_lab.pruners.stc import STCPruner
from stc_lab.types import Question

CHOICE = Question("q", 9.0, "What moves?", ("a dot", "a square"), "B")
OPEN = Question("o", 9.0, "What moves?")
CASES = [("livecc", {}), ("livecc", {"remember_questions": True, "temperature": 1.0}), ("streamingvlm", {})]


@pytest.mark.parametrize("is_compressed", [False, True])
@pytest.mark.parametrize(("name", "settings"), CASES)
def test_pairs(
    tiny_folders: dict[str, Path], on_memory: Callable, name: str, settings: dict, is_compressed: bool
) -> None:
    """A question comes while a frame waits for its partner."""
    model = on_memory(name, tiny_folders[name], commentary_tokens=3, max_new_tokens=3, **settings)
    methods = NoCacher(), NoPruner()
    if is_compressed:
        methods = STCCacher(interval=3, update_ratio=0.2), STCPruner(budget=3)
    alone = model.open(*methods)
    session = FidelitySession(model.open(*methods), model.open(NoCacher(), NoPruner()))
    frames = list(np.random.default_rng(5).integers(0, 255, (11, 24, 32, 3), dtype=np.uint8))
    times_s = [0.5 * index for index in range(len(frames))]
    alone.push(frames[:5], times_s[:5])
    reports = session.push(frames[:5], times_s[:5])
    for question in (CHOICE, OPEN):
        answer, expected = session.ask(question), alone.ask(question)
        assert (answer.text, answer.letter_logits) == (expected.text, expected.letter_logits)
        assert (answer.fidelity["kl_divergence"] > 0) == is_compressed
    alone.push(frames[5:], times_s[5:])
    reports += session.flush() + session.push(frames[5:], times_s[5:])
    answer = session.ask(CHOICE)
    assert answer.letter_logits == alone.ask(CHOICE).letter_logits
    assert answer.fidelity["over"] == "choices"
    reports += session.flush()
    assert len(reports) == (6 if model.memory.changes_stream else 5)
    assert (min(report.fidelity["feature_cosine"] for report in reports) < 1) == is_compressed
