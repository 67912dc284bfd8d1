"""All parts of the benchmark for a configuration."""

from __future__ import annotations

from collections.abc import Callable
from math import isqrt
from typing import Any

import torch
from omegaconf import DictConfig

from stc_lab.bench.discover import other_methods
from stc_lab.bench.prefill import prefill_rows
from stc_lab.bench.probing import Probed, probe
from stc_lab.bench.rows import Row
from stc_lab.bench.settings import torch_device, validate
from stc_lab.bench.sizes import SIZES, Size, random_decoder, random_tower
from stc_lab.bench.vision import vision_rows
from stc_lab.config import build


class Bench:
    """Checked settings and the methods they name. Raises ``ValueError`` for what cannot be measured."""

    def __init__(self, cfg: DictConfig) -> None:
        validate(cfg, tuple(SIZES))
        self._cfg = cfg
        self.device, self._dtype = torch_device(cfg.device), getattr(torch, cfg.dtype)
        self._cachers = _methods("cacher", cfg.vision, cfg.vision.cachers, cfg)
        self._pruners = _methods("pruner", cfg.prefill, cfg.prefill.pruners, cfg, budget=cfg.prefill.budget)
        for pruner in self._pruners.values():
            pruner.check(cfg.prefill.tokens_per_frame)

    def rows(self, announce: Callable[[str], None] = lambda part: None) -> list[Row]:
        """Measure all parts, vision first; ``announce`` is told the name of each before it starts."""
        if self._cfg.num_threads is not None:
            torch.set_num_threads(self._cfg.num_threads)
        rows: list[Row] = []
        towers: dict[str, list[str]] = {}
        for name in self._cfg.sizes:
            towers.setdefault(SIZES[name].tower_name, []).append(name)
        for tower, names in towers.items() if self._cachers else ():
            announce(f"vision tower {tower}")
            rows += self._vision(names)
        for name in self._cfg.sizes if self._pruners else ():
            announce(f"prefill {name}")
            rows += self._prefill(name)
        return rows

    def _vision(self, names: list[str]) -> list[Row]:
        """Rows of one tower, which the sizes ``names`` share."""
        settings, size = self._cfg.vision, SIZES[names[0]]
        torch.manual_seed(self._cfg.seed)
        return vision_rows(
            random_tower(size.with_layers(settings.num_layers, None), self.device, self._dtype),
            self._cachers,
            device=self.device,
            sizes=", ".join(names),
            full_layers=size.tower["num_hidden_layers"],
            num_frames=settings.num_frames,
            repeats=settings.repeats,
            limit_s=self._cfg.limit_s,
        )

    def _probe_ms(self, size: Size) -> dict[str, Probed]:
        """What the pruners ask of the vision tower."""
        needs = {name: pruner.needs for name, pruner in self._pruners.items() if pruner.needs}
        if not needs:
            return {}
        torch.manual_seed(self._cfg.seed)
        tower = random_tower(size.with_layers(1, None), self.device, self._dtype)
        side = isqrt(self._cfg.prefill.tokens_per_frame)
        return {name: probe(tower, what, (side, side), self.device) for name, what in needs.items()}

    def _prefill(self, name: str) -> list[Row]:
        settings, size = self._cfg.prefill, SIZES[name]
        torch.manual_seed(self._cfg.seed)
        return prefill_rows(
            random_decoder(size.with_layers(None, settings.num_layers), self.device, self._dtype),
            self._pruners,
            probed=self._probe_ms(size),
            sizes=name,
            full_layers=size.text["num_hidden_layers"],
            n_local=size.n_local,
            tokens_per_frame=settings.tokens_per_frame,
            num_frames=settings.num_frames,
            limit_s=self._cfg.limit_s,
        )


def _methods(group: str, part: DictConfig, listed: DictConfig, cfg: DictConfig, **settings: Any) -> dict[str, Any]:
    """Methods by label: those listed, then, if wanted, all others there are."""
    others = other_methods(group, listed, cfg, **settings) if part.all_methods else {}
    return {label: build(node) for label, node in [*listed.items(), *others.items()]}
