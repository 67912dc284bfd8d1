"""Official rules as the benchmarks' own scripts apply them, quirks included."""

from __future__ import annotations

import sys
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
from omegaconf import OmegaConf

from stc_lab import benchmarks
from stc_lab.benchmarks import Benchmark, all_benchmarks, find_benchmark, rule_of
from stc_lab.config import conf_dir
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
    rule = rule_of(benchmark)
    assert rule.official(asked, text, {}) is officially
    assert rule.is_strictly_right(asked, text, {}) is strictly


def test_the_benchmarks_own_script_of_streamingbench_reads_the_first_character() -> None:
    judge = rule_of("streamingbench").others["first_character"]
    assert judge(Asked("C"), "C. a cow", {}) and not judge(Asked("C"), "a C", {})


@pytest.mark.parametrize(("answered_s", "is_timely"), [(8.0, True), (12.0, True), (13.0, False), (None, False)])
def test_proactive_output_needs_the_right_moment_and_the_right_thing(answered_s: float | None, is_timely: bool) -> None:
    rule, asked = (
        rule_of("streamingbench_proactive"),
        Asked("3", meta={"ground_truth_time_s": 10.0, "tolerance_s": 2.0}),
    )
    details = {"answered_s": answered_s}
    assert rule.timely(asked, "3", details) is is_timely
    assert rule.official(asked, "It says 3", details) is is_timely
    assert rule.is_strictly_right(asked, '"3".', details) is is_timely
    assert not rule.official(asked, "4", details)
    assert not rule.is_strictly_right(asked, "It says 3", details)


def test_what_the_official_scripts_leave_out() -> None:
    assert rule_of("ovobench").counts("") and rule_of("mlvu").counts("")
    assert not rule_of("streamingbench").counts(" ") and rule_of("streamingbench").counts("?")
    assert not rule_of("videomme").counts("none of them") and rule_of("videomme").counts("a B?")


def test_rules_take_questions_as_they_are() -> None:
    question = Question("q", 1.0, "Which?", ("a cat", "a dog"), "B", task="EPM", group="backward")
    assert rule_of("ovobench").official(question, "B", {})


def test_benchmarks_without_an_official_script_have_no_rule() -> None:
    assert rule_of("pocket") is None and rule_of("folder") is None
    assert rule_of("ovobench").name == "ovobench"
    assert rule_of("base") is None and rule_of("") is None and rule_of("../x.y") is None


def test_a_benchmark_is_a_file_and_a_yaml() -> None:
    settings = {file.stem: OmegaConf.load(file) for file in (conf_dir() / "dataset").glob("*.yaml")}
    found = all_benchmarks()
    assert set(found) == set(settings)
    for name, kind in found.items():
        assert settings[name]["_target_"] == f"{kind.__module__}.{kind.__qualname__}" and settings[name].name == name
        assert kind.rule is None or kind.rule.name == name


NEW = """
from dataclasses import dataclass
from typing import ClassVar

from stc_lab.benchmarks.base import OfficialBenchmark, score_answer


@dataclass(frozen=True)
class Another:
    fps: float = 1.0
    name: str = "another"
    rule: ClassVar[None] = None
    judges_texts: ClassVar[bool] = False

    def streams(self):
        return []

    score = staticmethod(score_answer)
"""


def test_another_benchmark_is_found_by_its_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "another.py").write_text(NEW)
    monkeypatch.setattr(benchmarks, "__path__", [*benchmarks.__path__, str(tmp_path)])
    find_benchmark.cache_clear()
    try:
        assert isinstance(find_benchmark("another")(), Benchmark) and "another" in all_benchmarks()
    finally:
        sys.modules.pop("stc_lab.benchmarks.another", None)
        find_benchmark.cache_clear()
