"""Record files of several processes, merged into one."""

from __future__ import annotations

from pathlib import Path

from stc_lab.results.records import (
    RECORDS_FILE,
    Record,
    check_unique,
    drop_torn_line,
    read_records,
    write_records,
)


def shard_path(run_dir: Path, rank: int, world_size: int) -> Path:
    """The file that process ``rank`` of ``world_size`` appends to."""
    return run_dir / (RECORDS_FILE if world_size == 1 else f"records.rank{rank}.jsonl")


def collect_records(run_dir: Path) -> list[Record]:
    """All records of a run folder after merging what several processes, also killed ones, left behind.

    A record that lies identically in two files comes from a merge that was cut off and counts once; two
    different records of one question raise ``ValueError``.
    """
    path = run_dir / RECORDS_FILE
    drop_torn_line(path)
    shards = sorted(run_dir.glob("records.rank*.jsonl"))
    if not shards:
        return read_records(path)
    lines = {record.to_line(): record for file in (path, *shards) for record in read_records(file)}
    records = list(lines.values())
    check_unique(records, run_dir)
    write_records(path, records)
    for shard in shards:
        shard.unlink()
    return records
