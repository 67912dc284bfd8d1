"""Streams that do not end, on every backbone: time per frame early and late, bytes against formulas.

``python -m stc_lab.bench.endless``: settings in, table and ``endless.json`` out.
"""

from __future__ import annotations

import dataclasses
import json
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import hydra
import numpy as np
import torch
from hydra.core.config_store import ConfigStore
from hydra.core.hydra_config import HydraConfig
from omegaconf import DictConfig, OmegaConf
from rich.console import Console
from rich.table import Table

from stc_lab.api import choice, memory_of
from stc_lab.backbones.base import VideoModel
from stc_lab.bench.app import chosen, device_name, dtype_name, torch_device, torch_dtype
from stc_lab.bench.formulas import Range, Sizes, predicted
from stc_lab.bench.rows import median, quartiles
from stc_lab.cachers.base import Cacher
from stc_lab.config import build, conf_dir, environment
from stc_lab.memories.base import Memory
from stc_lab.pocket.dataset import held_out_script
from stc_lab.pocket.world.render import Renderer
from stc_lab.pruners.base import Pruner
from stc_lab.session import StreamSession

TENTHS, PAIRS = 10, 10
"""A tenth of the stream is measured in ten groups of frames, each paired with one of the other tenth."""


@dataclass(frozen=True)
class Growth:
    """Milliseconds per frame in the second and in the last tenth of a stream, medians over groups of frames.

    ``ratio``: median of late by early, pair by pair, with its quartiles.
    """

    early_ms: float
    late_ms: float
    ratio: float
    ratio_quartiles: tuple[float, float]

    @classmethod
    def of(cls, early_ms: Sequence[float], late_ms: Sequence[float]) -> Growth:
        """From times of groups that were measured in alternation."""
        ratios = [late / early for early, late in zip(early_ms, late_ms, strict=True)]
        return cls(median(early_ms), median(late_ms), median(ratios), quartiles(ratios))


@dataclass(frozen=True)
class Checkpoint:
    """Sizes after ``num_frames`` frames, as the session says and as the formula does."""

    num_frames: int
    stats: dict[str, int]
    sizes: Sizes

    @property
    def misses(self) -> list[str]:
        """What is not as predicted."""
        return [f"after {self.num_frames} frames {miss}" for miss in self.sizes.misses(self.stats)]


@dataclass(frozen=True)
class Endless:
    """The result. ``frame``: all of a frame's way; ``memory``: its step into the memory alone."""

    backbone: str
    num_frames: int
    frame: Growth
    memory: Growth
    checkpoints: list[Checkpoint]

    @property
    def misses(self) -> list[str]:
        """Sizes that are not as predicted."""
        return [miss for checkpoint in self.checkpoints for miss in checkpoint.misses]


class Lane:
    """A stream made of ``clip``, again and again."""

    def __init__(self, session: StreamSession, clip: Sequence[np.ndarray], fps: float) -> None:
        self.session = session
        self.num_frames = 0
        self._clip, self._fps = clip, fps

    def push(self, num_frames: int) -> tuple[float, float]:
        """The next frames, one by one: milliseconds per frame, and those of them in the memory's step."""
        memory_ms, start = 0.0, time.perf_counter()
        for index in range(self.num_frames, self.num_frames + num_frames):
            reports = self.session.push([self._clip[index % len(self._clip)]], [index / self._fps])
            memory_ms += sum(report.latency_ms["prefill"] for report in reports)
        self.num_frames += num_frames
        return 1e3 * (time.perf_counter() - start) / num_frames, memory_ms / num_frames


def run_endless(
    model: VideoModel,
    cacher: Cacher,
    pruner: Pruner,
    memory: Memory,
    clip: Sequence[np.ndarray],
    *,
    num_frames: int,
    fps: float,
    tokens_per_frame: int | None = None,
) -> Endless:
    """Push ``num_frames`` frames; a second stream stands still at the second tenth until the first is at its last.

    Then the two tenths are measured in alternation, so that whatever else the machine does slows down both. Sizes are
    compared after every tenth. Raises ``ValueError`` when ``num_frames`` cannot be divided so.
    """
    check_length(num_frames, len(clip))
    tenth = num_frames // TENTHS
    kept = pruner.num_kept(tokens_per_frame or model.facts.tokens_per_frame)
    early, late = (Lane(StreamSession(model, cacher, pruner, memory), clip, fps) for _ in range(2))
    # 1. One stream waits after a tenth, the other goes on to nine tenths; sizes are compared on the way.
    early.push(tenth)
    checkpoints = []
    for _ in range(TENTHS - 1):
        late.push(tenth)
        checkpoints.append(_checkpoint(late, kept))
    # 2. The second and the last tenth side by side.
    times = _alternate(early, late, tenth // PAIRS)
    checkpoints.append(_checkpoint(late, kept))
    frame, memory = (Growth.of(*(part[:, kind] for part in times)) for kind in (0, 1))
    return Endless(model.settings.name, num_frames, frame, memory, checkpoints)


def check_length(num_frames: int, clip_frames: int) -> None:
    """Raise ``ValueError`` unless both tenths are of whole groups of pairs and see the same frames of the clip."""
    step = 2 * TENTHS * PAIRS
    if num_frames < step or num_frames % step:
        raise ValueError(f"num_frames={num_frames}: must be a multiple of {step}")
    apart = num_frames // TENTHS * (TENTHS - 2)
    if apart % clip_frames:
        raise ValueError(f"num_frames={num_frames}: {apart} frames between the tenths are no multiple of the clip's")


def _alternate(early: Lane, late: Lane, group: int) -> tuple[np.ndarray, np.ndarray]:
    """Times [pairs, 2] of either stream."""
    times: dict[Lane, list[tuple[float, float]]] = {early: [], late: []}
    for pair in range(PAIRS):
        for lane in (early, late) if pair % 2 == 0 else (late, early):
            times[lane].append(lane.push(group))
    return np.array(times[early]), np.array(times[late])


def _checkpoint(lane: Lane, kept: int) -> Checkpoint:
    stats = lane.session.stats()
    return Checkpoint(
        lane.num_frames, stats, predicted(lane.session.settings, lane.session.model, lane.num_frames, kept)
    )


CLIP_FRAMES = 20


def looped_clip(fps: float) -> list[np.ndarray]:
    """Frames, uint8 [H, W, 3], of a pocket stream, ``fps`` a second; it begins anew where the script ends."""
    script = held_out_script("test", 0)
    renderer = Renderer(script)
    return [renderer.frame((index / fps) % script.duration_s) for index in range(CLIP_FRAMES)]


@dataclass
class EndlessSettings:
    """``models`` and ``memories``: settings of every backbone and of its own memory that differ from those of its YAML
    file, by name; ``backbones``: those to run, or ``all``."""

    backbones: Any = "all"
    num_frames: int = 2000
    fps: float = 2.0
    device: str = "auto"
    dtype: str | None = None
    num_threads: int | None = None
    models: dict[str, Any] = field(default_factory=dict)
    memories: dict[str, Any] = field(default_factory=dict)
    cacher: Any = None
    pruner: Any = None
    paths: Any = None


def validate(cfg: DictConfig) -> list[str]:
    """Names of the backbones to run. Raises ``ValueError`` naming the setting, its value and what is valid."""
    check_length(cfg.num_frames, CLIP_FRAMES)
    for name in ("fps", "num_threads"):
        if cfg[name] is not None and cfg[name] <= 0:
            raise ValueError(f"{name}={cfg[name]}: must be above 0")
    return chosen("backbones", cfg.backbones, tuple(cfg.models))


TEXTS = ("backbone",)
COLUMNS = (
    "backbone", "frame early", "late", "late / early", "memory early", "late", "late / early", "tokens", "device",
    "predicted", "host", "predicted",
)  # fmt: skip
UNITS = (("GB", 1e9), ("MB", 1e6), ("kB", 1e3))


def as_table(results: Sequence[Endless], refused: Mapping[str, str], title: str) -> Table:
    """One line per backbone; ``refused``: reasons why one was not run."""
    table = Table(title=title)
    for name in COLUMNS:
        table.add_column(name, justify="left" if name in TEXTS else "right", no_wrap=True)
    for result in results:
        table.add_row(*_cells(result))
    table.caption = "\n".join(
        [
            "ms per frame in the second (early) and last (late) tenth of the stream, measured in alternation: medians, "
            "quartiles of the ratio; memory: the step into the memory alone. Sizes: at the end, against the formula.",
            *(f"{name}: {reason}" for name, reason in refused.items()),
            *(f"NOT AS PREDICTED: {result.backbone} {miss}" for result in results for miss in result.misses),
        ]
    )
    return table


def _cells(result: Endless) -> tuple[str, ...]:
    end = result.checkpoints[-1]
    stats, sizes = end.stats, end.sizes
    return (
        result.backbone,
        *_growth(result.frame),
        *_growth(result.memory),
        f"{stats['num_tokens']:,}",
        amount(stats["kv_bytes_device"]),
        _range(sizes.device),
        amount(stats["kv_bytes_host"]),
        _range(sizes.host),
    )


def _growth(growth: Growth) -> tuple[str, str, str]:
    low, high = growth.ratio_quartiles
    return f"{growth.early_ms:.2f}", f"{growth.late_ms:.2f}", f"{growth.ratio:.2f} ({low:.2f} .. {high:.2f})"


def _range(wanted: Range) -> str:
    return "exact" if wanted.is_exact else f"{amount(wanted.low)} .. {amount(wanted.high)}"


def amount(num_bytes: int) -> str:
    """Bytes in a decimal unit."""
    for unit, size in UNITS:
        if num_bytes >= size:
            return f"{num_bytes / size:.2f} {unit}"
    return f"{num_bytes} B"


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
    dtype = torch_dtype(cfg.dtype, device)
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
    title = f"An endless stream, {cfg.num_frames} frames ({device_name(device)}, {dtype_name(dtype)})"
    console = Console(width=None if sys.stdout.isatty() else TABLE_WIDTH)
    console.print(as_table(results, refused, title))
    _save(results, refused, cfg, run_dir, dtype_name(dtype))
    console.print(f"written to {run_dir / 'endless.json'}")
    return results


def _measure(cfg: DictConfig, name: str, device: torch.device, dtype: torch.dtype) -> Endless:
    cacher, pruner, clip = build(cfg.cacher), build(cfg.pruner), looped_clip(cfg.fps)
    memory = choice("memory", memory_of(name), **(cfg.memories.get(name) or {}))
    settings = choice("backbone", name, **(cfg.models[name] or {}))
    settings.check(cacher, pruner, memory)
    model = settings.load(device, dtype)
    grid = model.encoder(clip[0].shape[:2]).grid
    common = {"num_frames": cfg.num_frames, "fps": cfg.fps, "tokens_per_frame": grid[0] * grid[1]}
    return run_endless(model, cacher, pruner, memory, clip, **common)


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


if __name__ == "__main__":
    main()
