"""The commands of the README and of the documents: every one composes and is valid."""

from __future__ import annotations

import itertools
import re
import shlex
from pathlib import Path

import pytest

from stc_lab.config import validate

REPOSITORY = Path(__file__).resolve().parents[2]
PAGES = [REPOSITORY / "README.md", *sorted((REPOSITORY / "docs").rglob("*.md"))]
COMMAND = re.compile(r"^\s*(?:\w+=\S+ )*python -m stc_lab(?= |$)(.*)$", re.MULTILINE)


def commands() -> list[str]:
    """Arguments of every ``python -m stc_lab`` in the documents, comments cut off.

    Not of those with a class outside the package: pages that show one have tests that run it.
    """
    found = []
    for page in PAGES:
        blocks = re.findall(r"^```\w*\n(.*?)^```", page.read_text(encoding="utf-8"), re.DOTALL | re.MULTILINE)
        found += [line.split("#")[0].strip() for block in blocks for line in COMMAND.findall(block)]
    return sorted({command for command in found if "hydra.searchpath" not in command} - {"--help", ""})


def points(arguments: str) -> list[list[str]]:
    """The overrides of a run, or of every point of a multirun."""
    words = [word for word in shlex.split(arguments) if word != "-m" and not word.startswith(("hydra.", "-"))]
    choices = [[f"{key}={value}" for value in values.split(",")] for key, values in (w.split("=", 1) for w in words)]
    return [list(point) for point in itertools.product(*choices)]


@pytest.mark.parametrize("arguments", commands())
def test_documented_command_is_valid(settings, arguments):
    for overrides in points(arguments):
        cfg = settings(*overrides, *(["trainer.accelerator=cpu"] if "trainer=gpu" in overrides else []))
        validate(cfg, with_files=False)


def test_set_up_takes_two_commands():
    text = (REPOSITORY / "README.md").read_text(encoding="utf-8")
    block = re.search(r"## Set up\n+```\n(.*?)```", text, re.DOTALL).group(1)
    assert [line.split("#")[0].strip() for line in block.splitlines()] == [
        "pip install -e . && python -m stc_lab",
        "pip install -e '.[test]' && pytest",
    ]


def test_ci_runs_the_test_command_of_the_readme():
    assert "pip install -e '.[test]' && pytest" in (REPOSITORY / ".ci" / "run").read_text(encoding="utf-8")
