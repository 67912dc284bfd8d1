"""Decoding a few frames ahead of the one who asks, on a thread of the decoder process."""

from __future__ import annotations

import threading
from collections.abc import Callable
from queue import SimpleQueue

from stc_lab.video.decoder import Decoder
from stc_lab.video.frames import SampledFrame, VideoInfo


class ReadAhead:
    """Opens a file and keeps up to ``depth`` of its frames ready, so that decoding goes on while others compute.

    Items in order: the ``VideoInfo``, the frames, and last ``None`` or the exception that ended the reading.
    """

    def __init__(self, open_decoder: Callable[[], Decoder], depth: int) -> None:
        self._open_decoder = open_decoder
        self._items: SimpleQueue[VideoInfo | SampledFrame | Exception | None] = SimpleQueue()
        self._free = threading.Semaphore(depth - 1)  # taking the info makes one more free
        self._stop = threading.Event()
        threading.Thread(target=self._run, name="decode", daemon=True).start()

    def take(self) -> VideoInfo | SampledFrame | Exception | None:
        """The next item; waits for it. Not to be called again after the last one."""
        item = self._items.get()
        self._free.release()
        return item

    def close(self) -> None:
        """Stop decoding and let go of the file, as soon as the frame at hand is done; does not wait for that."""
        self._stop.set()
        self._free.release()

    def _run(self) -> None:
        try:
            decoder = self._open_decoder()
            self._items.put(decoder.info)
            try:
                self._fill(decoder)
            finally:
                decoder.close()
        except Exception as error:
            self._items.put(error)

    def _fill(self, decoder: Decoder) -> None:
        while True:
            self._free.acquire()
            if self._stop.is_set():
                return
            sample = decoder.next_sample()
            self._items.put(sample)
            if sample is None:
                return
