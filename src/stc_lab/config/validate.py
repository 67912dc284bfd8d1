"""Every mistake of the command line that can be found before a model loads."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from stc_lab.config.build import RunSettings, build, check_arguments, settings_of, target_of, unknown_key
from stc_lab.config.errors import RefusedPair, moved_setting
from stc_lab.config.schema import PLUGIN_GROUPS, Config

PARTS = ("backbone", "memory", "cacher", "pruner")
NAMED = tuple(f"{group}{mark}" for group in (*PLUGIN_GROUPS, "measure") for mark in ".=")
"""How a message begins that names a setting or a choice."""


def validate(cfg: DictConfig, with_files: bool = True) -> RunSettings:
    """Build what ``cfg`` describes, once, and check it. Nothing here loads weights, opens a video or imports Lightning.

    Raises ``ValueError`` naming the field, its value and what is valid instead; :class:`RefusedPair` where choices that
    are valid by themselves make no sense together. ``with_files``: also look whether the files and folders of the
    dataset are there.
    """
    # 1. The typed settings, which need no imports.
    _check_schema(Config, cfg, "")
    _check_objective(cfg.objective)
    # 2. Each choice by itself. The logger is not built: it would begin to log.
    built = {group: _checked(group, cfg) for group in PLUGIN_GROUPS}
    settings = RunSettings(cfg, benchmark=built["dataset"], **{group: built[group] for group in PARTS})
    # 3. Whether the choices fit one another.
    with _refusing("backbone"):
        _check_prompts(settings)
        settings.backbone.check(settings.cacher, settings.pruner, settings.memory)
        _check_fidelity(settings)
    # 4. What is on this machine.
    _check_accelerator(cfg.trainer.accelerator)
    if with_files and hasattr(settings.benchmark, "check_files"):
        try:
            settings.benchmark.check_files()
        except ValueError as error:
            raise ValueError(_named("dataset", error)) from error
    return settings


@contextmanager
def _refusing(group: str) -> Iterator[None]:
    try:
        yield
    except ValueError as error:
        raise RefusedPair(_named(group, error)) from error


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


def _checked(group: str, cfg: DictConfig) -> Any:
    """What a group describes, or ``None`` for the logger.

    Unknown keys and wrong types are found by the signature, values by the class itself.
    """
    node = cfg[group]
    try:
        settings = settings_of(node)
    except OmegaConfBaseException as error:
        raise ValueError(f"{group}: {str(error).splitlines()[0]}") from error
    target = target_of(settings)
    if target is None:
        return None
    if group == "backbone":
        _check_moved(settings, target, cfg.memory)
    check_arguments(group, settings, target)
    if group == "logger":
        return None
    try:
        made = build(node)
        if group == "backbone":
            made.facts()
    except ValueError as error:
        raise ValueError(_named(group, error)) from error
    return made


def _check_moved(settings: dict[str, Any], target: Any, memory: DictConfig) -> None:
    """Settings that were the backbone's before the memory had a group of its own."""
    known = {"_target_", *(field.name for field in dataclasses.fields(target))}
    for key in settings.keys() - known:
        if advice := moved_setting(key, settings[key], settings.get("name"), memory):
            raise ValueError(advice)


def _check_prompts(settings: RunSettings) -> None:
    """What the dataset wants of the model: to be asked without a chat template, to find the moment by itself."""
    backbone, benchmark = settings.backbone, settings.benchmark
    if getattr(benchmark, "prompt", None) == "bare" and "bare_prompts" not in backbone.facts().offers:
        raise ValueError(
            f"dataset.prompt=bare: backbone={backbone.name} cannot be asked without its chat template; use official"
        )
    if getattr(benchmark, "decided_by", None) != "model":
        return
    if not backbone.decides_by_itself:
        raise ValueError(
            f"dataset.decided_by=model: backbone={backbone.name} does not decide by itself when to respond; use "
            "backbone=dispider, or dataset.decided_by=polls"
        )
    if settings.cfg.measure.fidelity:
        raise ValueError("dataset.decided_by=model: measure.fidelity=true compares answers to polls; use polls")


def _check_fidelity(settings: RunSettings) -> None:
    """Where fidelity is measured, the uncompressed session beside the run must be possible too."""
    if not settings.cfg.measure.fidelity:
        return
    from stc_lab.cachers.none import NoCacher
    from stc_lab.pruners.none import NoPruner

    try:
        settings.backbone.check(NoCacher(), NoPruner(), settings.memory)
    except ValueError as error:
        raise ValueError(
            f"measure.fidelity=true: the uncompressed session to compare with does not fit these settings: {error}"
        ) from error


def _named(group: str, error: ValueError) -> str:
    """The message; one that begins with no setting gets the name of the group in front."""
    message = str(error)
    return message if message.startswith(NAMED) else f"{group}: {message}"


def _check_accelerator(accelerator: str) -> None:
    if accelerator in ("auto", "cpu"):
        return
    import torch

    is_mps = accelerator == "mps"
    available = torch.backends.mps.is_available() if is_mps else torch.cuda.is_available()
    if not available:
        device = "Apple GPU" if is_mps else "CUDA device"
        raise ValueError(f"trainer.accelerator={accelerator}: no {device} on this machine; use cpu or auto")
