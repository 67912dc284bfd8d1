"""The notebooks: what is committed can be read by itself, and every cell still runs."""

from __future__ import annotations

import json
import os
import re
from importlib.util import module_from_spec, spec_from_file_location
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

REPOSITORY = Path(__file__).resolve().parents[2]
FOLDER = REPOSITORY / "notebooks"
NAMES = ("01_quickstart", "02_anatomy_of_stc", "03_add_your_own_pruner")
MOST_BYTES = 300_000
PATHS = re.compile(r"(?<![\w.~:/-])/(?:home|root|tmp|work|usr|opt|var|mnt|data|Users)/|[A-Z]:\\\\|site-packages")
PROGRESS = re.compile(r"\x1b\[|[━╸╺]{8,} +\d+/\d+|questions \d+/\d+|it/s\]")


def read(name: str) -> dict[str, Any]:
    return json.loads((FOLDER / f"{name}.ipynb").read_text(encoding="utf-8"))


def outputs(name: str) -> list[dict[str, Any]]:
    return [output for cell in read(name)["cells"] for output in cell.get("outputs", ())]


def texts(name: str) -> str:
    """All text that a reader sees in the outputs."""
    found = []
    for output in outputs(name):
        shown = {"stream": output.get("text", ""), **output.get("data", {})}
        found += ["".join(value) for kind, value in shown.items() if not kind.startswith("image/")]
    return "\n".join(found)


def test_these_are_all() -> None:
    assert sorted(path.stem for path in FOLDER.glob("*.ipynb")) == sorted(NAMES)


@pytest.mark.parametrize("name", NAMES)
def test_committed_outputs_are_there_and_small(name: str) -> None:
    assert (FOLDER / f"{name}.ipynb").stat().st_size < MOST_BYTES
    cells = [cell for cell in read(name)["cells"] if cell["cell_type"] == "code"]
    assert [cell["execution_count"] for cell in cells] == list(range(1, len(cells) + 1)), "executed once, in order"
    assert all(output["output_type"] != "error" for output in outputs(name))
    assert sum(kind.startswith("image/") for output in outputs(name) for kind in output.get("data", {})) >= 1
    assert texts(name).strip()


@pytest.mark.parametrize("name", NAMES)
def test_committed_outputs_are_those_of_any_machine(name: str) -> None:
    shown = texts(name)
    assert not PATHS.search(shown), PATHS.search(shown)
    assert not PROGRESS.search(shown), PROGRESS.search(shown)
    notebook = read(name)
    assert set(notebook["metadata"]) <= {"kernelspec", "language_info"}
    assert all(not cell["metadata"].keys() - {"tags"} for cell in notebook["cells"])


@pytest.mark.parametrize("name", NAMES)
def test_links_lead_somewhere(name: str) -> None:
    cells = ["".join(cell["source"]) for cell in read(name)["cells"] if cell["cell_type"] == "markdown"]
    links = re.findall(r"\]\((?!https?:)([^)#]+)", "\n".join(cells))
    assert links and all((FOLDER / link).exists() for link in links), links


@pytest.fixture(scope="module")
def rebuild() -> ModuleType:
    pytest.importorskip("nbclient", reason="executing notebooks needs nbclient: pip install 'stc-lab[test]'")
    pytest.importorskip("ipykernel", reason="executing notebooks needs ipykernel: pip install 'stc-lab[test]'")
    spec = spec_from_file_location("rebuild_notebooks", FOLDER / "rebuild.py")
    module = module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.mark.slow
@pytest.mark.parametrize("name", NAMES)
def test_every_cell_runs(name: str, rebuild: ModuleType, tmp_path: Path) -> None:
    """On one stream; whatever the state of the folder the reader starts it from."""
    source = os.pathsep.join(filter(None, [str(REPOSITORY / "src"), os.environ.get("PYTHONPATH")]))
    notebook = rebuild.execute(FOLDER / f"{name}.ipynb", tmp_path, {"STREAMS": "1", "PYTHONPATH": source})
    cells = [cell for cell in notebook.cells if cell.cell_type == "code"]
    assert all(cell.execution_count for cell in cells)
    committed = [cell for cell in read(name)["cells"] if cell["cell_type"] == "code"]
    for cell, before in zip(cells, committed, strict=True):
        kinds = {output.output_type for output in cell.outputs if output.get("name") != "stderr"}
        assert kinds == {output["output_type"] for output in before["outputs"]}, cell.source


@pytest.mark.slow
def test_the_anatomy_of_a_clip(rebuild: ModuleType, tmp_path: Path, shared_dir: Path) -> None:
    """The last section, on real footage."""
    clip = sorted((shared_dir / "data" / "video").glob("*.mp4"))[0]
    notebook = rebuild.execute(FOLDER / "02_anatomy_of_stc.ipynb", tmp_path, {"STC_LAB_VIDEO": str(clip)})
    last = [cell for cell in notebook.cells if cell.cell_type == "code"][-1]
    assert sum("image/jpeg" in output.get("data", {}) for output in last.outputs) == 2


def test_tidying_leaves_what_a_reader_needs(rebuild: ModuleType, tmp_path: Path) -> None:
    from nbformat import v4

    cell = v4.new_code_cell("1", metadata={"execution": {"iopub.execute_input": "now"}, "tags": ["kept"]})
    cell.outputs = [
        v4.new_output("stream", name="stderr", text="questions 1/12"),
        v4.new_output("stream", name="stdout", text=f"summary.json in {tmp_path}/outputs/first\n"),
        v4.new_output("display_data", data={"image/png": "aa", "text/plain": "<Figure>"}),
    ]
    notebook = v4.new_notebook(cells=[cell], metadata={"widgets": {"state": 1}})
    rebuild.tidy(notebook, tmp_path)
    assert cell.metadata == {"tags": ["kept"]} and "widgets" not in notebook.metadata
    assert [output.output_type for output in cell.outputs] == ["stream", "display_data"]
    assert cell.outputs[0].text == "summary.json in outputs/first\n"
