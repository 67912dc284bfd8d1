"""``python -m stc_lab.report``: folders in, frontier and page out."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

import hydra
from hydra.core.config_store import ConfigStore
from omegaconf import MISSING, DictConfig, OmegaConf

from stc_lab.config import conf_dir
from stc_lab.config.schema import ReportSettings
from stc_lab.report.multirun import make_frontier
from stc_lab.results.runs import rebuild_summaries

SEVERAL_FOLDERS = Path("outputs", "report")


@dataclass
class ReportApp:
    """Settings of ``python -m stc_lab.report``."""

    folders: list[str] = MISSING
    out: str | None = None
    report: ReportSettings = field(default_factory=ReportSettings)


ConfigStore.instance().store(name="report_schema", node=ReportApp)


def main() -> None:
    """Compose the settings from the command line and write the report; exit status 1 for a mistake in them."""
    try:
        sys.argv[1:] = as_overrides(sys.argv[1:])
    except ValueError as error:
        raise SystemExit(f"error: {error}") from error
    hydra.main(version_base="1.3", config_path=str(conf_dir()), config_name="report")(_run)()


def as_overrides(arguments: Sequence[str]) -> list[str]:
    """The command line with its plain folders gathered into one ``folders=[...]``.

    What names a folder on disk is one (names of runs hold ``=``), other words are settings and flags. Raises
    ``ValueError`` for a word that is neither.
    """
    # Names of run folders hold "=", so what is on disk decides, not how a word looks.
    folders = [text for text in arguments if Path(text).is_dir()]
    rest = [text for text in arguments if text not in folders]
    for text in rest:
        if "=" not in text and not text.startswith(("-", "~")):
            raise ValueError(f"{text}: no such folder; give folders of multiruns or of single runs")
    quoted = ",".join("'" + text.replace("\\", "\\\\").replace("'", "\\'") + "'" for text in folders)
    return [*rest, f"folders=[{quoted}]"] if folders else rest


def _run(cfg: DictConfig) -> None:
    try:
        if OmegaConf.is_missing(cfg, "folders"):
            raise ValueError("no folder given: python -m stc_lab.report FOLDER [FOLDER ...]")
        report([Path(folder) for folder in cfg.folders], cfg.out and Path(cfg.out), ReportSettings(**cfg.report))
    except ValueError as error:
        raise SystemExit(f"error: {error}") from error


def report(folders: Sequence[Path], out: Path | None, settings: ReportSettings) -> None:
    """Compute the summaries below ``folders`` again from their records, and write frontier and page.

    Raises ``ValueError`` when nothing below the folders is a finished run.
    """
    rebuild_summaries(folders)
    out = out or (folders[0] if len(folders) == 1 else SEVERAL_FOLDERS)
    sweep = make_frontier(folders, out=out, settings=settings)
    if sweep.points.empty:
        raise ValueError(f"no finished run below {', '.join(map(str, folders))}")


if __name__ == "__main__":
    main()
