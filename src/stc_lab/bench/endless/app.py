"""Endless streams as a Hydra application: settings in, table and ``endless.json`` out."""

from __future__ import annotations

import dataclasses
import json
import sys
from pathlib import Path

import hydra
import torch
from hydra.core.config_store import ConfigStore
from hydra.core.hydra_config import HydraConfig
from omegaconf import DictConfig, OmegaConf
from rich.console import Console

from stc_lab.bench.app import device_name, dtype_name
from stc_lab.bench.endless.clip import looped_clip
from stc_lab.bench.endless.run import Endless, run_endless
from stc_lab.bench.endless.settings import EndlessSettings, validate
from stc_lab.bench.endless.table import as_table
from stc_lab.bench.settings import torch_device, torch_dtype
from stc_lab.config import build, conf_dir, environment

ConfigStore.instance().store(name="endless_schema", node=EndlessSettings)
TABLE_WIDTH = 210


def main() -> None:
    """Compose the settings from the command line and measure; exit status 1 for a mistake, or a size not predicted."""
    hydra.main(version_base="1.3", config_path=str(conf_dir()), config_name="endless")(_run)()


def _run(cfg: DictConfig) -> None:
    try:
        results = measure(cfg, Path(HydraConfig.get().runtime.output_dir))
    except ValueError as error:
        raise SystemExit(f"error: {error}") from error
    if any(result.misses for result in results):
        raise SystemExit(1)


def measure(cfg: DictConfig, run_dir: Path) -> list[Endless]:
    """Run every chosen backbone, print the table, write ``endless.json`` into ``run_dir``.

    A backbone that cannot be run with these settings is left out, and the table says why.
    """
    names, device = validate(cfg), torch_device(cfg.device)
    dtype = dtype_name(torch_dtype(cfg.dtype, device))
    if cfg.num_threads is not None:
        torch.set_num_threads(cfg.num_threads)
    results, refused = [], {}
    with Console(stderr=True).status("starting") as status:
        for name in names:
            status.update(f"{name}, {cfg.num_frames} frames")
            try:
                results.append(_measure(cfg, name, device, dtype))
            except ValueError as error:
                refused[name] = str(error)
    title = f"An endless stream, {cfg.num_frames} frames ({device_name(device)}, {dtype})"
    console = Console(width=None if sys.stdout.isatty() else TABLE_WIDTH)
    console.print(as_table(results, refused, title))
    _save(results, refused, cfg, run_dir, dtype)
    console.print(f"written to {run_dir / 'endless.json'}")
    return results


def _measure(cfg: DictConfig, name: str, device: torch.device, dtype: str) -> Endless:
    cacher, pruner, clip = build(cfg.cacher), build(cfg.pruner), looped_clip(cfg.fps)
    backbone = build(cfg.models[name], device=str(device), dtype=dtype)
    view = getattr(backbone, "view", None)
    tokens = view(*clip[0].shape[:2]).tokens_per_frame if view else backbone.tokens_per_frame
    common = {"num_frames": cfg.num_frames, "fps": cfg.fps}
    return run_endless(backbone, cacher, pruner, clip, tokens_per_frame=tokens, **common)


def _save(results: list[Endless], refused: dict[str, str], cfg: DictConfig, run_dir: Path, dtype: str) -> None:
    run_dir.mkdir(parents=True, exist_ok=True)
    result = {
        "settings": OmegaConf.to_container(cfg, resolve=True),
        "dtype": dtype,
        "environment": environment(),
        "results": [dataclasses.asdict(result) for result in results],
        "refused": refused,
    }
    (run_dir / "endless.json").write_text(json.dumps(result, indent=2), encoding="utf-8")
