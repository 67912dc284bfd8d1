"""Dispider beside its uncompressed self."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from stc_lab.cachers import NoCacher, STCCacher
from stc_lab.predict.fidelity import FidelitySession
from stc_lab.pruners.none import NoPruner
from stc_lab.pruners.stc import STCPruner
from stc_lab.types import Question

CHOICE = Question("q", 13.0, "What moves?", ("a dot", "a square"), "B")
OPEN = Question("o", 13.0, "What moves?")


@pytest.mark.parametrize("is_compressed", [False, True])
def test_dispider(dispider: Any, frames: list[np.ndarray], is_compressed: bool) -> None:
    methods = NoCacher(), NoPruner()
    if is_compressed:
        methods = STCCacher(interval=4, update_ratio=0.2), STCPruner(budget=1)
    alone = dispider.open(*methods)
    session = FidelitySession(dispider.open(*methods), dispider.open(NoCacher(), NoPruner()))
    times_s = [float(index) for index in range(len(frames))]
    alone.push(frames, times_s)
    reports = session.push(frames, times_s)
    for question in (CHOICE, OPEN):
        answer, expected = session.ask(question), alone.ask(question)
        assert (answer.text, answer.letter_logits) == (expected.text, expected.letter_logits)
        assert answer.details == expected.details
        assert (answer.fidelity["kl_divergence"] > 0) == is_compressed
    reports += session.flush()
    assert len(reports) == len(frames)
    assert (min(report.fidelity["feature_cosine"] for report in reports) < 1) == is_compressed
    session.close()
    alone.close()
