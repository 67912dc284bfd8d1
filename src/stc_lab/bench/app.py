"""The benchmark as a Hydra application: settings in, table and ``bench.json`` out."""

from __future__ import annotations

import dataclasses
import json
import sys
from collections.abc import Sequence
from pathlib import Path

import hydra
import torch
from hydra.core.config_store import ConfigStore
from hydra.core.hydra_config import HydraConfig
from omegaconf import DictConfig, OmegaConf
from rich.console import Console

from stc_lab.bench.measure import Bench
from stc_lab.bench.rows import Row
from stc_lab.bench.settings import BenchSettings
from stc_lab.bench.table import as_table
from stc_lab.config import conf_dir, environment

ConfigStore.instance().store(name="bench_schema", node=BenchSettings)
PIPE_WIDTH = 190


def main() -> None:
    """Compose the settings from the command line and measure; exit status 1 for a mistake in them."""
    hydra.main(version_base="1.3", config_path=str(conf_dir()), config_name="bench")(_run)()


def _run(cfg: DictConfig) -> None:
    try:
        measure(cfg, Path(HydraConfig.get().runtime.output_dir))
    except ValueError as error:
        raise SystemExit(f"error: {error}") from error


def measure(cfg: DictConfig, run_dir: Path) -> list[Row]:
    """Measure everything, print the table, write ``bench.json`` into ``run_dir``."""
    bench = Bench(cfg)
    console = Console(width=None if sys.stdout.isatty() else PIPE_WIDTH)
    with Console(stderr=True).status("starting") as status:
        rows = bench.rows(status.update)
    console.print(as_table(rows, f"{device_name(bench.device)}, {dtype_name(bench.dtype)}"))
    save(rows, cfg, run_dir, bench.dtype)
    console.print(f"written to {run_dir / 'bench.json'}")
    return rows


def save(rows: Sequence[Row], cfg: DictConfig, run_dir: Path, dtype: torch.dtype) -> None:
    """Rows with the settings, the type of the weights and the environment they were measured in."""
    run_dir.mkdir(parents=True, exist_ok=True)
    result = {
        "settings": OmegaConf.to_container(cfg, resolve=True),
        "dtype": dtype_name(dtype),
        "environment": environment(),
        "rows": [dataclasses.asdict(row) for row in rows],
    }
    (run_dir / "bench.json").write_text(json.dumps(result, indent=2), encoding="utf-8")


def dtype_name(dtype: torch.dtype) -> str:
    """``float32`` and the like, as the setting spells it."""
    return str(dtype).removeprefix("torch.")


def device_name(device: torch.device) -> str:
    """``CPU, 2 threads`` or the name of the GPU."""
    if device.type == "cuda":
        return torch.cuda.get_device_name(device)
    threads = torch.get_num_threads()
    return f"CPU, {threads} thread{'s' * (threads > 1)}" if device.type == "cpu" else device.type
