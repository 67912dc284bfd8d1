"""Lightning without its own messages: tips, device lists, launch banners."""

from __future__ import annotations

import logging
import warnings
from collections.abc import Iterator
from contextlib import contextmanager

LOGGERS = ("lightning.pytorch", "lightning.fabric", "lightning.pytorch.utilities.rank_zero")
WARNINGS = (
    ".*does not have many workers.*",
    ".*predict returned None.*",
    ".*isinstance.treespec, LeafSpec.*",
    ".*`srun` command is available.*",
)


def silence_lightning() -> None:
    """The same for the rest of this process: for processes that end with the predict loop."""
    for message in WARNINGS:
        warnings.filterwarnings("ignore", message=message)
    for name in LOGGERS:
        logging.getLogger(name).setLevel(logging.ERROR)


@contextmanager
def quiet_lightning() -> Iterator[None]:
    """Only errors of Lightning's loggers, and none of its advice on loading data, inside the block."""
    levels = {name: logging.getLogger(name).level for name in LOGGERS}
    with warnings.catch_warnings():
        silence_lightning()
        try:
            yield
        finally:
            for name, level in levels.items():
                logging.getLogger(name).setLevel(level)
