"""What an answer is worth: a benchmark's official rule beside our strict reading."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal, Protocol

from stc_lab.answers import read_letter

LETTERS = "ABCDEFGHIJKLMNOPQRSTUVWXYZ"
ONE_LETTER = "the text starts with one letter, written as an answer"
"""What :func:`read_option` does, in words."""


class Asked(Protocol):
    """What a rule looks at of a question: a :class:`stc_lab.types.Question` and a record of it both serve."""

    task: str
    group: str
    options: Sequence[str]
    answer: str
    meta: Mapping[str, Any]


Judge = Callable[[Asked, str, Mapping[str, Any]], bool]
"""Whether ``text`` is right. The last argument is what else is known of the answer (``Answer.details``)."""

Reader = Callable[[Asked, str], str | None]
"""What ``text`` says beyond doubt, in the form of the gold answer; ``None`` when nothing can be read."""


def always(text: str) -> bool:
    """Every question counts, answered or not."""
    return True


def when_said(text: str) -> bool:
    """A question counts when something was said."""
    return bool(text.strip())


@dataclass(frozen=True)
class Rule:
    """The official rule of a benchmark beside our strict reading.

    ``official`` judges a text as the benchmark's own script does (``official_words`` says how, ``source`` where).
    ``strict`` reads it; it is right when it equals the gold answer. ``average``: how questions become one number
    (see ``Average`` in ``results.statistics``). ``counts``: whether the official script counts a question with such
    a text ("" for none) at all; the lab counts all of them. ``others``: further judges by name, worth a look.
    ``timely``: for questions that wait for their moment, whether it was found. ``sizes``: questions per task as
    published, ``groups``: tasks of each group.
    """

    name: str
    official: Judge
    strict: Reader
    official_words: str
    strict_words: str
    source: str
    average: Literal["questions", "tasks", "groups"] = "questions"
    counts: Callable[[str], bool] = always
    others: Mapping[str, Judge] = field(default_factory=dict)
    timely: Judge | None = None
    sizes: Mapping[str, int] = field(default_factory=dict)
    groups: Mapping[str, tuple[str, ...]] = field(default_factory=dict)

    def is_strictly_right(self, asked: Asked, text: str, details: Mapping[str, Any] | None = None) -> bool:
        """Whether the strict reading equals the gold answer (and, where there is one, the moment was found)."""
        if self.timely is not None and not self.timely(asked, text, details or {}):
            return False
        return self.strict(asked, text) == asked.answer


def read_option(asked: Asked, text: str, num_letters: int = 5) -> str | None:
    """The strict reading of multiple choice; ``num_letters``: where the options are not known."""
    return read_letter(text, LETTERS[: len(asked.options) or num_letters])
