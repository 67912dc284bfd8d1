"""The public names are frozen, and the page about them runs."""

from __future__ import annotations

import re
from pathlib import Path

import stc_lab

PAGE = Path(__file__).resolve().parents[1] / "docs" / "python.md"
NAMES = """
    Answer Backbone Benchmark Cacher FrameReport Memory MemoryState Pruner Query Question Reading StreamSession
    VideoModel VisualTokens accelerate choice load open_session run
""".split()


def test_the_public_names_are_these() -> None:
    assert sorted(stc_lab.PUBLIC) == NAMES
    for name in NAMES:
        assert getattr(stc_lab, name) is not None
        assert f"`{name}" in PAGE.read_text(encoding="utf-8")


def test_the_example_runs(capsys) -> None:
    (code,) = re.findall(r"^```python\n(.*?)^```", PAGE.read_text(encoding="utf-8"), re.DOTALL | re.MULTILINE)
    exec(compile(code, str(PAGE), "exec"), {})
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) == 9 and lines[-1].split()[1] == "512.0"


def test_a_run_from_python_is_that_of_the_command_line(tmp_path: Path) -> None:
    overrides = ("dataset.limit=1", "pruner.budget=32", "trainer.accelerator=cpu", "measure.warmup_frames=0")
    summary = stc_lab.run(*overrides, run_dir=tmp_path)
    assert summary["num_questions"] == 12 and (tmp_path / "records.jsonl").is_file()
