"""Every mistake of the command line that can be found before a model loads."""

from __future__ import annotations

import dataclasses
import math
from typing import Any

from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from stc_lab.config.build import build, check_arguments, settings_of, target_of, unknown_key
from stc_lab.config.schema import PLUGIN_GROUPS, Config


def validate(cfg: DictConfig, with_files: bool = True) -> None:
    """Raise ``ValueError`` naming the field, its value and what is valid instead.

    Cheap checks come first; nothing here loads weights, opens a video or imports the training stack. ``with_files``:
    also look whether the files and folders of the dataset are there.
    """
    _check_schema(Config, cfg, "")
    _check_objective(cfg.objective)
    _check_prompt(cfg)
    _check_decided_by(cfg)
    for group in PLUGIN_GROUPS:
        _check_plugin(group, cfg[group], with_files)
        if group == "pruner":
            _check_budget(cfg)
    _check_combination(cfg)
    _check_fidelity(cfg)
    _check_accelerator(cfg.trainer.accelerator)


def _check_schema(schema: type, node: Any, prefix: str) -> None:
    """Walk the typed settings: no others than these, and the rules in their metadata."""
    known = [field.name for field in dataclasses.fields(schema)]
    for key in node:
        if key not in known:
            raise ValueError(unknown_key(f"{prefix}{key}", node[key], key, known))
    for field in dataclasses.fields(schema):
        value, name = node[field.name], prefix + field.name
        if isinstance(field.default_factory, type):
            _check_schema(field.default_factory, value, f"{name}.")
        elif value is not None or "choices" in field.metadata:
            _check_rule(name, value, field.metadata)


def _check_rule(name: str, value: Any, rule: Any) -> None:
    if "choices" in rule and value not in rule["choices"]:
        choices = ", ".join("null" if choice is None else str(choice) for choice in rule["choices"])
        raise ValueError(f"{name}={value}: must be one of {choices}")
    if "minimum" in rule and value < rule["minimum"]:
        raise ValueError(f"{name}={value}: must be at least {rule['minimum']}")
    if "above" in rule and not (math.isfinite(value) and value > rule["above"]):
        raise ValueError(f"{name}={value}: must be a finite number above {rule['above']}")


def _check_objective(objective: Any) -> None:
    keys = [objective] if isinstance(objective, str) else objective
    if not OmegaConf.is_list(keys) and not isinstance(keys, list):
        raise ValueError(f"objective={objective}: must be a key of summary.json, or a list of keys")
    if not keys or not all(isinstance(key, str) and key for key in keys):
        raise ValueError(f"objective={objective}: must be a key of summary.json, or a list of keys")


def _check_prompt(cfg: DictConfig) -> None:
    if cfg.dataset is None or cfg.dataset.get("prompt") != "bare":
        return
    if "bare_prompts" not in build(cfg.backbone).facts().offers:
        raise ValueError(
            f"dataset.prompt=bare: backbone={cfg.backbone.name} cannot be asked without its chat template; use official"
        )


def _check_decided_by(cfg: DictConfig) -> None:
    """Where the model must find the moment, it must be able to."""
    if cfg.dataset is None or cfg.dataset.get("decided_by") != "model":
        return
    if not getattr(target_of(settings_of(cfg.backbone)), "decides_by_itself", False):
        raise ValueError(
            f"dataset.decided_by=model: backbone={cfg.backbone.name} does not decide by itself when to respond; use "
            "backbone=dispider, or dataset.decided_by=polls"
        )
    if cfg.measure.fidelity:
        raise ValueError("dataset.decided_by=model: measure.fidelity=true compares answers to polls; use polls")


def _check_plugin(group: str, node: DictConfig | None, with_files: bool) -> None:
    """Unknown keys and wrong types by the signature; values by the target itself where making it is cheap."""
    try:
        settings = settings_of(node)
    except OmegaConfBaseException as error:
        raise ValueError(f"{group}: {str(error).splitlines()[0]}") from error
    target = target_of(settings)
    if target is None:
        return
    check_arguments(group, settings, target)
    try:
        if dataclasses.is_dataclass(target):
            made = build(node)
            if group == "backbone":
                made.facts()
            elif with_files and hasattr(made, "check_files"):
                made.check_files()
    except ValueError as error:
        raise ValueError(_named(group, error)) from error


def _check_combination(cfg: DictConfig) -> None:
    """What a backbone has to say about the methods and the memory that are to run on it."""
    try:
        build(cfg.backbone).check(build(cfg.cacher), build(cfg.pruner), build(cfg.memory))
    except ValueError as error:
        raise ValueError(_named("backbone", error)) from error


def _check_fidelity(cfg: DictConfig) -> None:
    """Where fidelity is measured, the uncompressed session beside the run must be possible too."""
    if not cfg.measure.fidelity:
        return
    from stc_lab.cachers.none import NoCacher
    from stc_lab.pruners.none import NoPruner

    try:
        build(cfg.backbone).check(NoCacher(), NoPruner(), build(cfg.memory))
    except ValueError as error:
        raise ValueError(
            f"measure.fidelity=true: the uncompressed session to compare with does not fit these settings: {error}"
        ) from error


def _named(group: str, error: ValueError) -> str:
    message = str(error)
    return message if message.startswith(tuple(f"{known}." for known in PLUGIN_GROUPS)) else f"{group}: {message}"


def _check_accelerator(accelerator: str) -> None:
    if accelerator in ("auto", "cpu"):
        return
    import torch

    is_mps = accelerator == "mps"
    available = torch.backends.mps.is_available() if is_mps else torch.cuda.is_available()
    if not available:
        device = "Apple GPU" if is_mps else "CUDA device"
        raise ValueError(f"trainer.accelerator={accelerator}: no {device} on this machine; use cpu or auto")


def _check_budget(cfg: DictConfig) -> None:
    tokens_per_frame = cfg.backbone.get("tokens_per_frame")
    if isinstance(tokens_per_frame, int):
        try:
            build(cfg.pruner).check(tokens_per_frame)
        except ValueError as error:
            raise ValueError(_named("pruner", error)) from error
