"""Where ``conf/`` lies: in a checkout beside ``src/``, in a wheel inside the package."""

from __future__ import annotations

from pathlib import Path

PACKAGE = Path(__file__).resolve().parents[1]


def checkout() -> Path | None:
    """Root of the source tree this package runs from, ``None`` when it runs from a wheel."""
    root = PACKAGE.parents[1]
    is_checkout = PACKAGE.parent.name == "src" and (root / "pyproject.toml").is_file()
    return root if is_checkout else None


def conf_dir() -> Path:
    """Absolute path of the configuration folder."""
    root = checkout()
    folder = root / "conf" if root else PACKAGE / "conf"
    if not (folder / "config.yaml").is_file():
        raise FileNotFoundError(f"no config.yaml in {folder}: the installation of stc_lab is incomplete")
    return folder
