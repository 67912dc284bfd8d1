"""Official rules as the benchmarks' own scripts apply them, quirks included."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import pytest

from stc_lab.scoring.rules import RULES, rule_of
from stc_lab.types import Question


@dataclass
class Asked:
    answer: str
    task: str = ""
    group: str = ""
    options: tuple[str, ...] = ()
    meta: dict[str, Any] = field(default_factory=dict)


@pytest.mark.parametrize(
    ("benchmark", "asked", "text", "officially", "strictly"),
    [
        ("ovobench", Asked("B", "EPM"), "B", True, True),
        ("ovobench", Asked("B", "EPM"), "The answer is B", True, False),
        ("ovobench", Asked("A", "EPM"), "An apple", True, False),  # the letter is in the word
        ("ovobench", Asked("B", "EPM"), "b", False, False),
        ("ovobench", Asked("E", "EPM"), "E.", True, True),
        ("ovobench", Asked("12", "REC"), "1 and 2", True, False),  # digits are put together
        ("ovobench", Asked("2", "REC"), "2 times", True, True),
        ("ovobench", Asked("2", "REC"), "two", False, False),
        ("ovobench", Asked("0", "REC"), "none", False, False),
        ("ovobench", Asked("No", "CRR"), "Not sure", True, False),
        ("ovobench", Asked("No", "SSR"), "N", True, True),
        ("ovobench", Asked("Yes", "SSR"), "Y", True, True),
        ("ovobench", Asked("Yes", "SSR"), "N", False, False),
        ("ovobench", Asked("Yes", "CRR"), "yes", False, True),
        ("streamingbench", Asked("C"), " C", True, True),
        ("streamingbench", Asked("C"), " C.", False, True),
        ("streamingbench", Asked("C"), "The answer is C", False, False),
        ("streamingbench_sqa", Asked("C"), "C", True, True),
        ("mlvu", Asked("C"), "C) a cow", True, True),
        ("mlvu", Asked("C"), "C", True, True),
        ("mlvu", Asked("C"), "C.", False, True),
        ("mlvu", Asked("C"), "Best option: (C)", True, False),
        ("videomme", Asked("D"), "The best answer is D.", True, False),
        ("videomme", Asked("D"), "Definitely C", True, False),  # its first capital letter
        ("videomme", Asked("C"), "The answer is (C)", True, False),
        ("egoschema", Asked("E"), "(E) all of it", True, True),
        ("egoschema", Asked("E"), "All, hence E", False, False),
    ],
)
def test_verdicts(benchmark: str, asked: Asked, text: str, officially: bool, strictly: bool) -> None:
    rule = RULES[benchmark]
    assert rule.official(asked, text, {}) is officially
    assert rule.is_strictly_right(asked, text, {}) is strictly


def test_the_benchmarks_own_script_of_streamingbench_reads_the_first_character() -> None:
    judge = RULES["streamingbench"].others["first_character"]
    assert judge(Asked("C"), "C. a cow", {}) and not judge(Asked("C"), "a C", {})


@pytest.mark.parametrize(("answered_s", "is_timely"), [(8.0, True), (12.0, True), (13.0, False), (None, False)])
def test_proactive_output_needs_the_right_moment_and_the_right_thing(answered_s: float | None, is_timely: bool) -> None:
    rule, asked = RULES["streamingbench_proactive"], Asked("3", meta={"ground_truth_time_s": 10.0, "tolerance_s": 2.0})
    details = {"answered_s": answered_s}
    assert rule.timely(asked, "3", details) is is_timely
    assert rule.official(asked, "It says 3", details) is is_timely
    assert rule.is_strictly_right(asked, '"3".', details) is is_timely
    assert not rule.official(asked, "4", details)
    assert not rule.is_strictly_right(asked, "It says 3", details)


def test_what_the_official_scripts_leave_out() -> None:
    assert RULES["ovobench"].counts("") and RULES["mlvu"].counts("")
    assert not RULES["streamingbench"].counts(" ") and RULES["streamingbench"].counts("?")
    assert not RULES["videomme"].counts("none of them") and RULES["videomme"].counts("a B?")


def test_rules_take_questions_as_they_are() -> None:
    question = Question("q", 1.0, "Which?", ("a cat", "a dog"), "B", task="EPM", group="backward")
    assert RULES["ovobench"].official(question, "B", {})


def test_benchmarks_without_an_official_script_have_no_rule() -> None:
    assert rule_of("pocket") is None and rule_of("folder") is None
    assert rule_of("ovobench").name == "ovobench"
