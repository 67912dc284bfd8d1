"""Prompts, to the letter: what a benchmark asks, and what of it reaches a language model, are frozen in files.

``pytest tests/benchmarks/test_prompts.py --update-prompts`` writes them anew; look at the difference before you
commit it.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from pathlib import Path

import pytest
from made import MAKERS

from stc_lab.backbones import llava_onevision as rekv
from stc_lab.backbones.dispider import model as dispider
from stc_lab.backbones.qwen_vl import model as qwen_vl
from stc_lab.backbones.streamforest import model as streamforest
from stc_lab.benchmarks.base import OfficialBenchmark
from stc_lab.benchmarks.egoschema import EgoSchema
from stc_lab.benchmarks.mlvu import MLVU
from stc_lab.benchmarks.ovobench import OVOBench
from stc_lab.benchmarks.streamingbench import StreamingBench
from stc_lab.benchmarks.streamingbench_proactive import StreamingBenchProactive
from stc_lab.benchmarks.streamingbench_sqa import StreamingBenchSQA
from stc_lab.benchmarks.videomme import VideoMME
from stc_lab.types import Question

FOLDER = Path(__file__).parent / "prompts"
KINDS = (OVOBench, StreamingBench, StreamingBenchSQA, StreamingBenchProactive, MLVU, EgoSchema, VideoMME)
VIDEO = "<the video>"


def official(question: Question) -> str:
    """What the benchmark itself says, without any model's template."""
    return f"{question.prompt}<the answer starts>{question.answer_start}"


def on_rekv(question: Question) -> str:
    return f"{rekv.INIT}{VIDEO}{rekv.answer_prompt(question)}<memory is searched by>{question.query}"


def on_streamforest(question: Question) -> str:
    return f"{streamforest.BEFORE_VIDEO}{VIDEO}{streamforest.after_video(question, '<about the frames>')}"


def on_dispider(question: Question) -> str:
    return f"{dispider.before_video()}{VIDEO}{dispider.after_video(question)}<memory is searched by>{question.query}"


def on_qwen_vl(question: Question) -> str:
    start = qwen_vl.answer_start(question, "letter_logits")
    return f"{qwen_vl.question_text(question)}<the answer starts>{start}"


STYLES: dict[str, tuple[str, Callable[[Question], str]]] = {
    "official": ("official", official),
    "rekv": ("official", on_rekv),
    "rekv-own": ("backbone", on_rekv),
    "rekv-bare": ("bare", on_rekv),
    "streamforest": ("official", on_streamforest),
    "streamforest-own": ("backbone", on_streamforest),
    "dispider": ("official", on_dispider),
    "dispider-own": ("backbone", on_dispider),
    "qwen_vl": ("official", on_qwen_vl),
    "qwen_vl-own": ("backbone", on_qwen_vl),
}
"""Name of the file: ``dataset.prompt``, and the text that a model reads."""


@pytest.mark.parametrize("kind", KINDS)
def test_prompts_are_as_frozen(kind: type[OfficialBenchmark], tmp_path: Path, updates_prompts: bool) -> None:
    settings = MAKERS[kind.name](tmp_path, with_videos=False) | {"missing": "skip"}
    for style, (prompt, render) in STYLES.items():
        if prompt not in kind.prompt_styles:
            continue
        benchmark = kind(**settings, prompt=prompt, **_subtitles(kind, prompt, tmp_path))
        text = _sections(benchmark, render)
        path = FOLDER / f"{kind.name}.{style}.txt"
        if updates_prompts:
            path.write_text(text, encoding="utf-8")
        assert path.is_file(), f"{path.name} is not frozen yet: pytest --update-prompts"
        assert text == path.read_text(encoding="utf-8"), f"{path.name} differs: see the head of this file"


def test_every_frozen_prompt_is_tested() -> None:
    expected = {
        f"{kind.name}.{style}.txt" for kind in KINDS for style, (prompt, _) in STYLES.items()
        if prompt in kind.prompt_styles
    }  # fmt: skip
    assert {path.name for path in FOLDER.iterdir()} == expected


DIGESTS = {
    OVOBench: "500c0a295710a5f80dd6ee25992cc77c7cdd22fc89194380fe9b617cd2d40033",
    StreamingBench: "4f324206cf17f13f4e957661ffe8ac000b5f803bda880cefb44c2e05307db760",
    StreamingBenchSQA: "2dd97c1303a8598636da592bf326406f2e854e76578203bce1a24e13baba2339",
    StreamingBenchProactive: "8fb67fa36cc9108a0d3f47285947e5e8dc1eb834ebd1306bed44241b628f3c17",
}
"""SHA-256 of all prompts (polls first) that the released code makes of the official files, joined by zero bytes."""


@pytest.mark.parametrize("kind", DIGESTS)
def test_all_prompts_equal_those_of_the_released_code(
    kind: type[OfficialBenchmark], shared_dir: Path, tmp_path: Path
) -> None:
    benchmark = kind(root=str(shared_dir / "data" / "annotations"), videos=str(tmp_path))
    prompts = [part.prompt for item in benchmark.items() for part in _parts(item.question)]
    assert hashlib.sha256("\0".join(prompts).encode()).hexdigest() == DIGESTS[kind]


def test_history_tells_the_right_answers_in_the_order_of_the_file(tmp_path: Path) -> None:
    settings = MAKERS["streamingbench_sqa"](tmp_path, with_videos=False) | {"missing": "skip"}
    (stream,) = StreamingBenchSQA(**settings).streams()
    first, second = stream.questions
    assert "At timestamp" not in first.prompt
    told = "Question: Who rows?; Options: A. Ann., B. Bob., C. Cem., D. Dan.; Answer: B; "
    assert f"At timestamp 00:00:02, the following question and answer occurred: {told}" in second.prompt
    (without,) = StreamingBenchSQA(**settings, history="none").streams()
    assert "Who rows" not in without.questions[1].prompt


def _sections(benchmark: OfficialBenchmark, render: Callable[[Question], str]) -> str:
    """Every text once, under the id of the first question that has it."""
    texts: dict[str, str] = {}
    for stream in benchmark.streams():
        for question in stream.questions:
            for part in _parts(question):
                texts.setdefault(render(part), part.question_id)
    return "".join(f"===== {question_id} =====\n{text}\n" for text, question_id in texts.items())


def _parts(question: Question) -> tuple[Question, ...]:
    """A question after the one that polls for it."""
    return (question.polling.ask, question) if question.polling else (question,)


def _subtitles(kind: type[OfficialBenchmark], prompt: str, root: Path) -> dict[str, str]:
    if kind is not VideoMME or prompt == "backbone":
        return {}
    return {"subtitles": "frames", "subtitle_files": str(root / "subtitle")}
