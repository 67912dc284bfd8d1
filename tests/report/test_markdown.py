"""The table in Markdown."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

from stc_lab.report.baselines import AUTO, RANDOM, UNCOMPRESSED, paired_section
from stc_lab.report.markdown import HEAD, write_markdown
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
    full, chance = (HEAD.index(f"against {name}") for name in (UNCOMPRESSED, RANDOM))
    uncompressed, worst = by_name["none + none", "196.0"], by_name["none + random", "16.0"]
    assert uncompressed[full] == uncompressed[chance] == ""
    assert worst[full].startswith("**-") and worst[chance] == ""
    assert by_name["none + stc", "16.0"][chance].startswith("**+")


def test_failed_and_refused_points_are_told_apart(sweep_dir: Path, tmp_path: Path) -> None:
    refused = sweep_dir / "memory=rekv,pruner=stc"
    refused.mkdir()
    (refused / "refused.json").write_text(json.dumps({"reason": "memory=rekv: not\nwith this model"}))
    try:
        sweep = read_sweep(sweep_dir)
    finally:
        shutil.rmtree(refused)
    text = write_markdown(sweep, tmp_path, {"rows": []}).read_text()
    assert sweep.refused == {refused.name: "memory=rekv: not\nwith this model"} and refused.name not in sweep.left_out
    failed, refusals = text.split("Refused, not run:")
    assert "- `pruner=stc,pruner.budget=500`: pruner.budget=500" in failed
    assert refusals.strip() == f"- `{refused.name}`: memory=rekv: not with this model"
