"""The decoder process: opens files, decodes, and sends frames to the process that owns it.

It is a plain program started with ``python -m`` and not a child of ``multiprocessing``, whose ``spawn`` would
import the caller's main module again, and with it torch. It must never import torch itself.

Messages to it: ``("open", path, reader, fps)``, ``("next",)``, ``("close",)``. It answers the first two with
one object: the ``VideoInfo``; a ``SampledFrame`` with the shape in the place of its pixels, which lie in shared
memory until the next message; ``None`` at the end; or an exception.
"""

from __future__ import annotations

import os
import signal
import sys
import threading
import traceback
from dataclasses import replace
from functools import partial
from multiprocessing.connection import Connection
from pathlib import Path

from stc_lab.video.decoder import Decoder, ReadAhead
from stc_lab.video.process import SharedFrame
from stc_lab.video.sampling import SampledFrame, VideoError, VideoInfo

READY = "ready"


def serve(channel: Connection, shared: SharedFrame, read_ahead: int) -> None:
    """Answer messages until the owner hangs up."""
    ahead: ReadAhead | None = None
    channel.send(READY)
    while True:
        command, *arguments = channel.recv()
        if command != "next" and ahead is not None:
            ahead.close()
            ahead = None
        if command == "open":
            path, reader, fps = arguments
            ahead = ReadAhead(partial(Decoder, Path(path), reader, fps), read_ahead)
        if ahead is not None:
            _answer(channel, shared, ahead.take())


def _answer(
    channel: Connection, shared: SharedFrame, item: VideoInfo | SampledFrame | Exception | None
) -> None:
    if isinstance(item, SampledFrame):
        shared.write(item.pixels)
        channel.send(replace(item, pixels=item.pixels.shape))
    elif isinstance(item, Exception) and not isinstance(item, VideoError):
        channel.send(RuntimeError("".join(traceback.format_exception(item))))
    else:
        channel.send(item)


def _exit_with_owner() -> None:
    """Standard input is held open by the owner; when it ends, so do we, even in the middle of a read that hangs."""
    sys.stdin.buffer.read()
    os._exit(0)


def main() -> None:
    """Entry point: ``python -m stc_lab.video.worker CHANNEL_FD SHARED_FD READ_AHEAD``."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is for the owner, which then lets go of us
    threading.Thread(target=_exit_with_owner, name="owner", daemon=True).start()
    try:
        channel, shared, read_ahead = map(int, sys.argv[1:])
        serve(Connection(channel), SharedFrame(shared), read_ahead)
    except (EOFError, ConnectionError):
        pass  # the owner hung up: the normal end
    sys.stderr.flush()
    os._exit(0)  # at once, whatever the decoding thread is doing


if __name__ == "__main__":
    main()
