"""The benchmark as a Hydra application: settings in, table and ``bench.json`` out."""

from __future__ import annotations

import dataclasses
import json
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from math import isqrt
from pathlib import Path
from typing import Any

import hydra
import torch
from hydra.core.config_store import ConfigStore
from hydra.core.hydra_config import HydraConfig
from omegaconf import DictConfig, OmegaConf
from rich.console import Console

from stc_lab.bench.prefill import Probed, prefill_rows, probe
from stc_lab.bench.rows import Row, as_table
from stc_lab.bench.sizes import BACKBONES, SIZES, Size, TowerSize, random_decoder
from stc_lab.bench.systems import StepBench
from stc_lab.bench.vision import vision_rows
from stc_lab.config import build, conf_dir, environment

DEVICES = ("auto", "cpu", "cuda", "mps")
DTYPES = ("float32", "bfloat16", "float16")


@dataclass
class VisionSettings:
    """The tower: layers that are run, frames of a repeat, repeats, and the cachers by label, or all there are."""

    num_layers: int | None = 2
    num_frames: int = 4
    repeats: int = 6
    all_methods: bool = True
    cachers: dict[str, Any] = field(default_factory=dict)


@dataclass
class PrefillSettings:
    """The decoder: layers that are run, length of the stream, tokens of a full frame and of a pruned one, pruners."""

    num_layers: int | None = 1
    num_frames: int = 100
    tokens_per_frame: int = 196
    budget: int = 64
    all_methods: bool = True
    pruners: dict[str, Any] = field(default_factory=dict)


@dataclass
class StepSettings:
    """The memories of other backbones: repeats of all methods in turn, seconds of stream that lie behind."""

    repeats: int = 4
    stream_s: int = 60


@dataclass
class BenchSettings:
    """The whole benchmark; ``backbones``: names, or ``all``."""

    seed: int = 0
    device: str = "auto"
    dtype: str | None = None
    num_threads: int | None = None
    backbones: Any = "rekv"
    sizes: list[str] = field(default_factory=list)
    limit_s: float | None = None
    vision: VisionSettings = field(default_factory=VisionSettings)
    prefill: PrefillSettings = field(default_factory=PrefillSettings)
    steps: StepSettings = field(default_factory=StepSettings)
    paths: Any = None


def validate(cfg: DictConfig, sizes: tuple[str, ...]) -> None:
    """Raise ``ValueError`` naming the setting, its value and what is valid."""
    _one_of("device", [cfg.device], DEVICES)
    _one_of("sizes", cfg.sizes, sizes)
    counts = {"num_threads": cfg.num_threads, "limit_s": cfg.limit_s}
    for part in ("vision", "prefill", "steps"):
        keys = [key for key in cfg[part] if key.startswith(("num_", "repeats", "stream_s"))]
        counts |= {f"{part}.{key}": cfg[part][key] for key in keys}
    for name, value in counts.items():
        if value is not None and value <= 0:
            raise ValueError(f"{name}={value}: must be above 0")
    side = round(cfg.prefill.tokens_per_frame**0.5)
    if side * side != cfg.prefill.tokens_per_frame:
        raise ValueError(f"prefill.tokens_per_frame={cfg.prefill.tokens_per_frame}: must be a square number")


def torch_device(name: str) -> torch.device:
    """The device that is meant; raises ``ValueError`` where this machine has none."""
    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    available = {"cuda": torch.cuda.is_available, "mps": torch.backends.mps.is_available}
    if name in available and not available[name]():
        raise ValueError(f"device={name}: not available on this machine; use cpu or auto")
    return torch.device(name)


def torch_dtype(name: str | None, device: torch.device) -> torch.dtype:
    """The type of the weights that is meant; ``None``: the one that models are run in on such a device.

    Raises ``ValueError`` for another name.
    """
    if name is None:
        return torch.bfloat16 if device.type == "cuda" else torch.float32
    _one_of("dtype", [name], DTYPES)
    return getattr(torch, name)


def _one_of(name: str, values: list[str], choices: tuple[str, ...]) -> None:
    wrong = [value for value in values if value not in choices]
    if wrong or not values:
        raise ValueError(f"{name}={', '.join(wrong) or '[]'}: must be among {', '.join(choices)}")


def chosen(name: str, value: Any, choices: tuple[str, ...]) -> list[str]:
    """Names among ``choices``: one, a list, or ``all``. Raises ``ValueError`` naming the setting otherwise."""
    values = [value] if isinstance(value, str) else list(value or ())
    if values == ["all"]:
        return list(choices)
    _one_of(name, values, (*choices, "all"))
    return list(choices) if "all" in values else values


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


REKV = "rekv"


class Bench:
    """Checked settings and the methods they name. Raises ``ValueError`` for what cannot be measured."""

    def __init__(self, cfg: DictConfig) -> None:
        self._backbones = chosen("backbones", cfg.backbones, (REKV, *BACKBONES))
        validate(cfg, tuple(SIZES))
        self._cfg = cfg
        self.device = torch_device(cfg.device)
        self.dtype = torch_dtype(cfg.dtype, self.device)
        self._cachers = _methods("cacher", cfg.vision, cfg.vision.cachers, cfg)
        self._pruners = _methods("pruner", cfg.prefill, cfg.prefill.pruners, cfg, budget=cfg.prefill.budget)
        for pruner in self._pruners.values():
            pruner.check(cfg.prefill.tokens_per_frame)

    def rows(self, announce: Callable[[str], None] = lambda part: None) -> list[Row]:
        """Measure all parts, vision first; ``announce`` is told the name of each before it starts."""
        if self._cfg.num_threads is not None:
            torch.set_num_threads(self._cfg.num_threads)
        rows: list[Row] = []
        # 1. Towers: cachers against the plain tower.
        for tower, sizes in self.towers() if self._cachers else ():
            announce(f"vision tower {tower.name}")
            rows += self._vision(tower, ", ".join(sizes))
        # 2. ReKV: a stream into its memory, pruned against unpruned.
        for name in self._rekv_sizes() if self._pruners else ():
            announce(f"prefill {name}")
            rows += self._prefill(name)
        # 3. Other systems: a step of each, pruned against unpruned.
        for name in self.others() if self._pruners else ():
            announce(f"memory of {name}")
            rows += self._steps(name)
        return rows

    def _rekv_sizes(self) -> list[str]:
        return list(self._cfg.sizes) if REKV in self._backbones else []

    def others(self) -> list[str]:
        return [name for name in self._backbones if name != REKV]

    def towers(self) -> list[tuple[TowerSize, list[str]]]:
        """The towers, each with the names of the sizes that share it."""
        named = [(name, SIZES[name].tower) for name in self._rekv_sizes()]
        named += [(name, BACKBONES[name].tower) for name in self.others()]
        towers = {tower.name: tower for _, tower in named}
        return [(tower, [name for name, own in named if own.name == tower.name]) for tower in towers.values()]

    def _vision(self, tower: TowerSize, sizes: str) -> list[Row]:
        settings = self._cfg.vision
        torch.manual_seed(self._cfg.seed)
        return vision_rows(
            tower.slices(settings.num_layers, self.device, self.dtype),
            self._cachers,
            device=self.device,
            sizes=sizes,
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
        (part,) = size.tower.slices(1, self.device, self.dtype)
        side = isqrt(self._cfg.prefill.tokens_per_frame)
        return {name: probe(part.tower, what, (side, side), self.device) for name, what in needs.items()}

    def _prefill(self, name: str) -> list[Row]:
        settings, size = self._cfg.prefill, SIZES[name]
        torch.manual_seed(self._cfg.seed)
        return prefill_rows(
            random_decoder(size.text, settings.num_layers, self.device, self.dtype),
            self._pruners,
            probed=self._probe_ms(size),
            sizes=name,
            full_layers=size.text["num_hidden_layers"],
            n_local=size.n_local,
            tokens_per_frame=settings.tokens_per_frame,
            num_frames=settings.num_frames,
            limit_s=self._cfg.limit_s,
        )

    def _steps(self, name: str) -> list[Row]:
        """The memory of a backbone other than ReKV, with the pruners that are listed, at the same share of tokens."""
        prefill, steps = self._cfg.prefill, self._cfg.steps
        share = prefill.budget / prefill.tokens_per_frame
        listed = {label: self._pruners[label] for label in prefill.pruners}
        pruners = {label: replace(pruner, budget=None, keep_ratio=share) for label, pruner in listed.items()}
        torch.manual_seed(self._cfg.seed)
        bench = StepBench(self.device, self.dtype, prefill.num_layers, steps.repeats, steps.stream_s, self._cfg.limit_s)
        return bench.rows(name, BACKBONES[name], pruners)


def _methods(group: str, part: DictConfig, listed: DictConfig, cfg: DictConfig, **settings: Any) -> dict[str, Any]:
    """Methods by label: those listed, then, if wanted, all others there are."""
    others = other_methods(group, listed, cfg, **settings) if part.all_methods else {}
    return {label: build(node) for label, node in [*listed.items(), *others.items()]}


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
