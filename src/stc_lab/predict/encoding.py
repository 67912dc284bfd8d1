"""What encoding a video once saves: ``python -m stc_lab.predict.encoding RUN_DIR ...``."""

from __future__ import annotations

import sys
from pathlib import Path

from rich.table import Table

from stc_lab.report.tables import result_console
from stc_lab.results.clock import encoding_summary, encoding_work_s
from stc_lab.results.records import RECORDS_FILE, read_records

COLUMNS = ("run", "questions", "frames encoded", "encoding (s)", "frames if anew", "ratio")


def main(run_dirs: list[str]) -> int:
    """Print one line per run folder; exit status 2 without arguments or for a folder without records."""
    table = Table(*COLUMNS)
    for run_dir in run_dirs:
        records = read_records(Path(run_dir) / RECORDS_FILE)
        if not records:
            print(f"{run_dir}: no {RECORDS_FILE} with questions in it", file=sys.stderr)
            return 2
        counts = encoding_summary(records)
        ratio = "-" if counts["ratio"] is None else f"{counts['ratio']:.2f}"
        work_s = f"{encoding_work_s(records):.2f}"
        cells = (len(records), counts["num_frames"], work_s, counts["num_frames_anew"], ratio)
        table.add_row(run_dir, *map(str, cells))
    if not run_dirs:
        print("usage: python -m stc_lab.predict.encoding RUN_DIR ...", file=sys.stderr)
        return 2
    result_console().print(table)
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
