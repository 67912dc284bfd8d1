"""Executes the notebooks anew and keeps of their outputs what is the same for everybody.

    python notebooks/rebuild.py [NOTEBOOK ...]        (all without arguments)

Every notebook runs in an empty folder of its own, so that nothing is taken over from an earlier execution.
"""

from __future__ import annotations

import os
import sys
import tempfile
from pathlib import Path

import nbformat
from nbclient import NotebookClient
from nbformat import NotebookNode

FOLDER = Path(__file__).resolve().parent
OWN_SETTINGS = ("STREAMS", "STC_LAB_VIDEO")
"""Variables that change what a notebook shows: none of them counts for the committed outputs."""
CELL_TIMEOUT_S = 1800


def notebooks() -> list[Path]:
    """The notebooks of this folder, in reading order."""
    return sorted(FOLDER.glob("*.ipynb"))


def execute(path: Path, folder: Path, env: dict[str, str] | None = None) -> NotebookNode:
    """The notebook ``path`` after its execution in ``folder`` by this Python, untidied.

    Raises ``nbclient.exceptions.CellExecutionError`` for a cell that fails.
    """
    notebook = nbformat.read(path, as_version=4)
    client = NotebookClient(
        notebook,
        timeout=CELL_TIMEOUT_S,
        kernel_name="python3",
        resources={"metadata": {"path": str(folder)}},
        coalesce_streams=True,
    )
    return client.execute(env={**os.environ, **(env or {})})


def tidy(notebook: NotebookNode, folder: Path) -> NotebookNode:
    """``notebook`` without times, progress, widget state and the path of ``folder``; changed in place."""
    notebook.metadata = {key: notebook.metadata[key] for key in ("kernelspec",) if key in notebook.metadata}
    notebook.metadata["language_info"] = {"name": "python"}
    for cell in notebook.cells:
        cell.metadata = {key: value for key, value in cell.metadata.items() if key == "tags"}
        if cell.cell_type == "code":
            cell.outputs = [_tidy_output(output, folder) for output in cell.outputs if output.get("name") != "stderr"]
    return notebook


def rebuild(path: Path) -> None:
    """Execute ``path`` and write it back."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name).resolve()
        notebook = tidy(execute(path, folder), folder)
    nbformat.validate(notebook)
    nbformat.write(notebook, path)


def _tidy_output(output: NotebookNode, folder: Path) -> NotebookNode:
    """Paths below ``folder`` become relative."""
    if "text" in output:
        output.text = output.text.replace(f"{folder}/", "")
    for kind in ("text/plain", "text/html", "text/markdown"):
        if kind in output.get("data", {}):
            output.data[kind] = output.data[kind].replace(f"{folder}/", "")
    return output


def main() -> None:
    for key in OWN_SETTINGS:
        os.environ.pop(key, None)
    for path in [Path(name) for name in sys.argv[1:]] or notebooks():
        print(path.name, flush=True)
        rebuild(path)


if __name__ == "__main__":
    main()
