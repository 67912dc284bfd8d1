"""SIGTERM ends a run at once, as Ctrl-C does: what is recorded stays, and the same command goes on from there."""

from __future__ import annotations

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

EXIT_STATUS = 128 + signal.SIGTERM


@contextmanager
def ends_on_sigterm() -> Iterator[None]:
    """``SystemExit`` on SIGTERM inside the block, so that loggers are finished and folders released.

    Lightning by itself only takes note of the signal, which its predict loop never looks at; it calls a handler
    that is there before it. One that somebody else has set (submitit) is left in place.
    """
    is_main = threading.current_thread() is threading.main_thread()  # no other may set a handler
    is_ours = is_main and signal.getsignal(signal.SIGTERM) is signal.SIG_DFL
    if is_ours:
        signal.signal(signal.SIGTERM, _exit)
    try:
        yield
    finally:
        if is_ours:
            signal.signal(signal.SIGTERM, signal.SIG_DFL)


def die_on_sigterm() -> None:
    """For one of several processes: nothing of it has to be finished, and the others may be gone already.

    Lightning's handler would tell the others of the signal, and fail or wait in the middle of a stream where one of
    them has died.
    """
    signal.signal(signal.SIGTERM, signal.SIG_DFL)


def _exit(*_: Any) -> None:
    raise SystemExit(EXIT_STATUS)
