"""The table in Markdown."""

from __future__ import annotations

from pathlib import Path

from stc_lab.report.sections import AUTO, HEAD, paired_section, write_markdown
from stc_lab.results.sweep import read_sweep


def table(path: Path) -> list[list[str]]:
    lines = [line for line in path.read_text(encoding="utf-8").splitlines() if line.startswith("| ")]
    return [[cell.strip() for cell in line.strip("|").split(" | ")] for line in lines]


def test_every_run_has_a_line_with_its_differences(sweep_dir: Path, tmp_path: Path) -> None:
    sweep = read_sweep(sweep_dir)
    head, _, *rows = table(write_markdown(sweep, tmp_path, paired_section(sweep, AUTO)))
    assert head == list(HEAD) and len(rows) == len(sweep.points)
    assert all(len(row) == len(HEAD) for row in rows)
    tokens = [float(row[1]) for row in rows]
    assert tokens == sorted(tokens, reverse=True)
    by_name = {(row[0], row[1]): row for row in rows}
    uncompressed, worst = by_name["none + none", "196.0"], by_name["none + random", "16.0"]
    assert uncompressed[3] == uncompressed[4] == ""
    assert worst[3].startswith("**-") and worst[4] == ""
    assert by_name["none + stc", "16.0"][4].startswith("**+")
