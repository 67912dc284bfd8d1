"""``python -m stc_lab.score``: published predictions by the official rules."""

from __future__ import annotations

from pathlib import Path

import hydra
from hydra.core.config_store import ConfigStore
from hydra.core.hydra_config import HydraConfig
from omegaconf import DictConfig

from stc_lab.config import conf_dir
from stc_lab.explain import explain
from stc_lab.results.terminal import result_console
from stc_lab.scoring.score import score_predictions
from stc_lab.scoring.settings import ScoreSettings

ConfigStore.instance().store(name="score_schema", node=ScoreSettings)


def main() -> None:
    """Compose the settings from the command line and score; exit status 1 for a mistake in them."""
    try:
        hydra.main(version_base="1.3", config_path=str(conf_dir()), config_name="score")(_run)()
    except SystemExit as exit_:
        explain(exit_.__context__)
        raise


def _run(cfg: DictConfig) -> None:
    run_dir = Path(HydraConfig.get().runtime.output_dir)
    try:
        summary = score_predictions(cfg, run_dir)
        from stc_lab.scoring.table import print_scores

        print_scores(result_console(), summary, cfg.paper)
    except ValueError as error:
        raise SystemExit(f"error: {error}") from error
    print(f"records.jsonl and summary.json in {run_dir}")


if __name__ == "__main__":
    main()
