"""Methods that are measured because they exist: every YAML file of a group."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from omegaconf import DictConfig, OmegaConf

from stc_lab.config import conf_dir


def other_methods(group: str, listed: Mapping[str, DictConfig], root: DictConfig, **settings: Any) -> dict[str, Any]:
    """Methods of ``conf/<group>`` that are not ``listed``, by name, as they are but for ``settings`` that they have.

    ``none`` is what all are compared with, and not among them. ``root`` holds what their files refer to.
    """
    known = {"none", *(node.get("name") for node in listed.values())}
    found = {}
    for path in sorted((conf_dir() / group).glob("*.yaml")):
        node = OmegaConf.load(path)
        if node.name not in known:
            given = {key: value for key, value in settings.items() if key in node}
            found[node.name] = OmegaConf.create({"seed": root.seed, "method": OmegaConf.merge(node, given)}).method
    return found
