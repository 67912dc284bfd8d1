"""What a run ran on: versions, device, threads, revision, command. Saved as ``environment.json``."""

from __future__ import annotations

import os
import platform
import shlex
import subprocess
import sys
from datetime import UTC, datetime
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from stc_lab import __version__
from stc_lab.config.resolvers import checkout

PACKAGES = (
    "torch",
    "transformers",
    "lightning",
    "hydra-core",
    "omegaconf",
    "tokenizers",
    "safetensors",
    "numpy",
    "scipy",
    "pillow",
    "decord",
    "av",
    "wandb",
)


def environment() -> dict[str, Any]:
    """Plain data, ready for JSON. Imports torch."""
    return {
        "time": datetime.now(UTC).isoformat(timespec="seconds"),
        "command": command_line(),
        "working_directory": str(Path.cwd()),
        "stc_lab": __version__,
        "git": git_revision(),
        "python": platform.python_version(),
        "platform": platform.platform(),
        "packages": {name: _version(name) for name in PACKAGES},
        "cpu": {"model": cpu_model(), "num_cores": os.cpu_count(), "num_usable_cores": usable_cores()},
        "torch": torch_state(),
    }


def command_line() -> str:
    """The command that started this process, as one would type it."""
    main = sys.modules.get("__main__")
    spec = getattr(main, "__spec__", None)
    # A module run with -m shows its file in sys.argv, not what was typed.
    if spec is None:
        return shlex.join([Path(sys.argv[0]).name, *sys.argv[1:]])
    return shlex.join(["python", "-m", spec.name.removesuffix(".__main__"), *sys.argv[1:]])


def git_revision() -> dict[str, Any] | None:
    """Commit of the checkout and whether files differ from it; ``None`` outside a checkout or without git."""
    root = checkout()
    if root is None:
        return None
    commit = _git(root, "rev-parse", "HEAD")
    if commit is None:
        return None
    return {"commit": commit, "modified": bool(_git(root, "status", "--porcelain", "--untracked-files=no"))}


def cpu_model() -> str:
    """Name of the processor, as far as the system tells."""
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return platform.processor() or platform.machine()
    names = [line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.machine()


def usable_cores() -> int | None:
    """Cores this process may use (affinity), which in a container are fewer than the machine has."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()


def torch_state() -> dict[str, Any]:
    """Threads, attention kernels that scaled_dot_product_attention may pick, and the GPUs."""
    import torch

    backends = torch.backends.cuda
    kernels = {
        "flash": backends.flash_sdp_enabled(),
        "memory_efficient": backends.mem_efficient_sdp_enabled(),
        "cudnn": backends.cudnn_sdp_enabled(),
        "math": backends.math_sdp_enabled(),
    }
    return {
        "num_threads": torch.get_num_threads(),
        "attention": {"implementation": "scaled_dot_product_attention", "enabled_kernels": kernels},
        "tf32": {"matmul": backends.matmul.allow_tf32, "cudnn": torch.backends.cudnn.allow_tf32},
        "cuda": torch.version.cuda,
        "gpus": [torch.cuda.get_device_name(index) for index in range(torch.cuda.device_count())],
    }


def _git(root: Path, *arguments: str) -> str | None:
    command = ["git", "-C", str(root), *arguments]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=10, check=False)
    except (OSError, subprocess.TimeoutExpired):
        return None
    return done.stdout.strip() if done.returncode == 0 else None


def _version(package: str) -> str | None:
    try:
        return version(package)
    except PackageNotFoundError:
        return None
