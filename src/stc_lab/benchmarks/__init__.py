"""A benchmark is one file: its streams with timed questions, prompts, rule of scoring, published predictions.

``benchmarks/NAME.py`` holds the class whose ``name`` is ``NAME``, ``conf/dataset/NAME.yaml`` its settings. No list
names them.
"""

from __future__ import annotations

import importlib
import pkgutil
from functools import cache

from stc_lab.benchmarks.base import Benchmark, score_answer
from stc_lab.benchmarks.rules import Rule

__all__ = ["Benchmark", "Rule", "all_benchmarks", "find_benchmark", "rule_of", "score_answer"]


@cache
def find_benchmark(name: str) -> type[Benchmark] | None:
    """The class of a benchmark; ``None`` when there is no file of this name, or no benchmark in it."""
    if name not in {module.name for module in pkgutil.iter_modules(__path__)}:
        return None
    module = importlib.import_module(f"{__name__}.{name}")
    own = (one for one in vars(module).values() if isinstance(one, type) and one.__module__ == module.__name__)
    return next((one for one in own if getattr(one, "name", None) == name), None)


def all_benchmarks() -> dict[str, type[Benchmark]]:
    """The classes of all benchmarks by name, in alphabetical order."""
    found = {module.name: find_benchmark(module.name) for module in pkgutil.iter_modules(__path__)}
    return {name: kind for name, kind in found.items() if kind is not None}


def rule_of(benchmark: str) -> Rule | None:
    """The rule of a benchmark; ``None`` for those without an official script (``pocket``, ``folder``, others')."""
    kind = find_benchmark(benchmark)
    return None if kind is None else kind.rule
