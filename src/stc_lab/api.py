"""The lab from Python: load a model, open a session on it, run an experiment."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from omegaconf import DictConfig, OmegaConf

from stc_lab.backbones.base import Backbone, VideoModel
from stc_lab.cachers.base import Cacher
from stc_lab.config import build, conf_dir, validate
from stc_lab.measure import StageTimer
from stc_lab.memories.base import Memory
from stc_lab.pruners.base import Pruner
from stc_lab.session import StreamSession


def load(
    backbone: str | Backbone = "rekv",
    *,
    device: str | torch.device | None = None,
    dtype: torch.dtype | None = None,
    **settings: Any,
) -> VideoModel:
    """A model by the name of its YAML file in ``conf/backbone``, with its settings (``checkpoint=...``), or from
    settings that were built already.

    Fetches a hub id where there is a network. Raises ``ValueError`` naming a setting that cannot work.
    """
    made = backbone if isinstance(backbone, Backbone) else choice("backbone", backbone, **settings)
    return made.load(device, dtype)


def open_session(
    model: VideoModel,
    cacher: str | Cacher = "none",
    pruner: str | Pruner = "none",
    memory: str | Memory | None = None,
    timer: StageTimer | None = None,
) -> StreamSession:
    """Start a stream on a loaded model; methods by the names of their YAML files, or as settings.

    ``memory``: by default the one that the model's own YAML file names. Raises ``ValueError`` where these make no sense
    together.
    """
    methods = {"cacher": cacher, "pruner": pruner, "memory": memory or memory_of(model.settings.name)}
    built = {group: choice(group, one) if isinstance(one, str) else one for group, one in methods.items()}
    return StreamSession(model, **built, timer=timer)


def run(*overrides: str, run_dir: str | Path) -> dict[str, Any]:
    """Run, or resume, what ``python -m stc_lab OVERRIDES`` runs, in ``run_dir``; returns the summary.

    Raises ``ValueError`` on user mistakes before anything loads.
    """
    from stc_lab.experiment import run_experiment

    settings = validate(composed(*overrides))
    OmegaConf.resolve(settings.cfg)
    return run_experiment(settings, Path(run_dir))


def composed(*overrides: str) -> DictConfig:
    """The configuration that the command line would compose from ``overrides``."""
    from hydra import compose, initialize_config_dir
    from hydra.core.global_hydra import GlobalHydra

    if GlobalHydra.instance().is_initialized():
        return compose("config", list(overrides))
    with initialize_config_dir(str(conf_dir()), version_base="1.3"):
        return compose("config", list(overrides))


def choice(group: str, name: str, **settings: Any) -> Any:
    """What ``GROUP=NAME`` stands for on the command line, as an object: the settings that ``conf/GROUP/NAME.yaml``
    describes, with others in place of some (``choice("pruner", "stc", budget=64)``).

    Values that the file takes from other groups of a run are the defaults of the settings class. Raises ``ValueError``
    for a name that does not exist, and for settings that cannot work.
    """
    node = _yaml(group, name)
    node.pop("defaults", None)
    own = {key: value for key, value in OmegaConf.to_container(node).items() if not _refers(value)}
    return build(own | settings)


def memory_of(backbone: str) -> str:
    """The memory that ``conf/backbone/NAME.yaml`` names."""
    for entry in _yaml("backbone", backbone).get("defaults", []):
        for key, value in entry.items() if OmegaConf.is_dict(entry) else ():
            if "/memory" in key:
                return value
    return "recent"


def _refers(value: Any) -> bool:
    return isinstance(value, str) and value.startswith("${")


def _yaml(group: str, name: str) -> DictConfig:
    path = conf_dir() / group / f"{name}.yaml"
    if not path.is_file():
        choices = ", ".join(sorted(file.stem for file in path.parent.glob("*.yaml")))
        raise ValueError(f"{group}={name}: no such choice; there are {choices}")
    return OmegaConf.load(path)
