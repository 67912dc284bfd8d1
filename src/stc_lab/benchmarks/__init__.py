"""Streams with timed questions, and how an answer is scored."""

from stc_lab.benchmarks.base import Benchmark, score_answer

__all__ = ["Benchmark", "score_answer"]
