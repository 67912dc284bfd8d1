"""What of a configuration can change an answer: two runs with equal canonical settings give equal answers."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from omegaconf import DictConfig

from stc_lab import __version__
from stc_lab.config.build import build, settings_of

PATH_KEYS = ("checkpoint", "videos", "questions", "root", "subtitle_files")


def canonical(cfg: DictConfig) -> dict[str, Any]:
    """Nested plain dictionary of everything that can change an answer, and of nothing else.

    Left out are settings that the chosen method ignores (the budget of ``pruner=none``, the update ratio of a
    cacher that selects by threshold), and where, how fast and with how much output the run takes place. Two ways
    to say the same thing (``budget=58``, ``keep_ratio=0.3``) become one. A method with other rules has a method
    ``answer_settings() -> dict``. Paths are absolute, so that the working directory does not matter.
    """
    return {
        "version": __version__,
        "seed": cfg.seed,
        "precision": cfg.trainer.precision,
        "accelerator": resolved_accelerator(cfg.trainer.accelerator),
        "video": {"reader": cfg.video.reader},
        "backbone": _settings(cfg.backbone, cfg),
        "cacher": _cacher_settings(cfg),
        "pruner": _pruner_settings(cfg),
        "dataset": _settings(cfg.dataset, cfg),
    }


def resolved_accelerator(accelerator: str) -> str:
    """``cpu``, ``cuda`` or ``mps``: the device that ``trainer.accelerator`` means on this machine."""
    import torch

    if accelerator == "gpu":
        return "cuda"
    if accelerator != "auto":
        return accelerator
    if torch.cuda.is_available():
        return "cuda"
    return "mps" if torch.backends.mps.is_available() else "cpu"


def _settings(node: DictConfig, cfg: DictConfig) -> dict[str, Any]:
    settings = {key: value for key, value in settings_of(node).items() if key != "_target_"}
    for key in PATH_KEYS:
        if isinstance(settings.get(key), str):
            settings[key] = _stable_path(settings[key], Path(cfg.paths.cache_dir).expanduser())
    return settings


def _stable_path(value: str, cache_dir: Path) -> str:
    """An existing or cached path in absolute form; hub ids and names of built-in checkpoints as they are."""
    path = Path(value).expanduser()
    if path.is_relative_to(cache_dir):
        return f"<cache>/{path.relative_to(cache_dir).as_posix()}"
    return str(path.resolve()) if path.exists() else value


def _cacher_settings(cfg: DictConfig) -> dict[str, Any]:
    settings = _method_settings(cfg.cacher, cfg)
    if "threshold" in settings and "update_ratio" in settings:
        by_ratio = settings["threshold"] is None
        for key in ("threshold", "max_update_ratio") if by_ratio else ("update_ratio",):
            settings.pop(key, None)
    return settings


def _pruner_settings(cfg: DictConfig) -> dict[str, Any]:
    settings = _method_settings(cfg.pruner, cfg)
    if "budget" in settings or "keep_ratio" in settings:
        tokens_per_frame = cfg.backbone.tokens_per_frame
        if tokens_per_frame is None:  # it depends on the video, and a ratio and a number are not the same
            return settings
        settings = {key: value for key, value in settings.items() if key not in ("budget", "keep_ratio")}
        settings["num_tokens"] = build(cfg.pruner).num_kept(tokens_per_frame)
    return settings


def _method_settings(node: DictConfig, cfg: DictConfig) -> dict[str, Any]:
    method = build(node)
    if hasattr(method, "answer_settings"):
        return {"name": node.get("name"), **method.answer_settings()}
    return _settings(node, cfg)
