"""Marks in ``meta`` of records that were imported."""

from __future__ import annotations

READER = "imported"
"""``reader`` of their records."""
ABSENT = "absent"
"""A question that the prediction files do not have, known from the annotation file."""
REPEATED = "repeated"
"""A second answer to a question."""
NO_ENTRY = "the prediction files do not have this question"
