"""``measure.fidelity`` is refused, before anything loads, where there is nothing to compare with."""

from __future__ import annotations

import pytest

from stc_lab.config import canonical, validate

SMALL_WINDOW = ("memory.n_local=1100", "memory.topk=16", "pruner.budget=64")


def test_the_uncompressed_session_must_fit_too(settings):
    validate(settings(*SMALL_WINDOW))
    with pytest.raises(ValueError, match="measure.fidelity=true: the uncompressed session"):
        validate(settings(*SMALL_WINDOW, "measure.fidelity=true"))


def test_it_changes_no_answer_and_so_no_fingerprint(settings):
    assert canonical(validate(settings("measure.fidelity=true"))) == canonical(validate(settings()))
