"""Tab completion of the console script, in a real bash, as docs/command-line.md says."""

from __future__ import annotations

import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

SCRIPT = """\
eval "$(stc_lab -sc install=bash)"
COMP_LINE=$1 COMP_POINT=${#1} COMP_WORDS=($1) COMP_CWORD=$((${#COMP_WORDS[@]} - 1))
hydra_bash_completion
printf '%s\\n' "${COMPREPLY[@]}"
"""


@pytest.fixture
def tab(tmp_path: Path) -> Callable[[str], list[str]]:
    """What bash offers for a line on which Tab is pressed."""
    bash = shutil.which("bash")
    if bash is None:
        pytest.skip("completion is tested in bash, which is not installed")
    script = tmp_path / "stc_lab"
    script.write_text(f"#!{sys.executable}\nfrom stc_lab.cli import main\nmain()\n")
    script.chmod(0o755)

    def press(line: str) -> list[str]:
        command = [bash, "--norc", "-c", f'PATH="{tmp_path}:$PATH"\n{SCRIPT}', "bash", line]
        return subprocess.run(command, capture_output=True, text=True, check=True).stdout.split()

    return press


def test_choices_and_settings_of_a_choice_are_completed(tab: Callable[[str], list[str]]) -> None:
    assert tab("stc_lab pruner=vi") == ["pruner=vidcom2", "pruner=visionzip"]
    assert tab("stc_lab -m pruner=downsample pruner.b") == ["pruner.budget="]
