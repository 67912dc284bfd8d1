"""``token_maps/`` of a run folder: which streams get a map, and the files of each."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

from PIL import Image

from stc_lab.token_maps.collector import Collector, FrameMap
from stc_lab.token_maps.sheet import film, strip

FOLDER = "token_maps"
FILM_FRAME_MS = 700
PALETTE_COLOURS = 256


@dataclass(frozen=True)
class TokenMaps:
    """Maps of the streams ``stream_ids`` below ``run_dir``; ``methods``: cacher and pruner, as they are called.

    A stream whose strip is there already gets no other, so a resumed run makes only what is missing.
    """

    run_dir: Path
    stream_ids: Sequence[str]
    methods: tuple[str, str]

    @contextmanager
    def of(self, stream_id: str) -> Iterator[list[Collector]]:
        """What is to be handed to the stream's first session (none: no map is wanted); afterwards it is drawn.

        A stream that breaks is drawn as far as it came.
        """
        if stream_id not in self.stream_ids or self.strip_path(stream_id).exists():
            yield []
            return
        collector = Collector()
        try:
            yield [collector]
        finally:
            self._write(stream_id, collector.frames())

    def strip_path(self, stream_id: str) -> Path:
        """The picture of a stream; its film has the same name and ends in ``.gif``."""
        return self.run_dir / FOLDER / f"{file_stem(stream_id)}.png"

    def _write(self, stream_id: str, frames: Sequence[FrameMap]) -> None:
        if not frames:
            return
        path = self.strip_path(stream_id)
        path.parent.mkdir(parents=True, exist_ok=True)
        picture = strip(frames, stream_id, self.methods)
        _write_film(path.parent / f"{file_stem(stream_id)}.gif", film(frames, stream_id, self.methods), picture)
        unfinished = path.parent / f".{path.name}"
        picture.save(unfinished, format="PNG")
        unfinished.replace(path)  # last and at once, since it says that the map is made


def described(method: Any) -> str:
    """Name of a cacher or pruner and the settings that are not its defaults: ``stc, interval=4``."""
    defaults = {field.name: field.default for field in fields(method) if field.name != "name"}
    effective = method.answer_settings() if hasattr(method, "answer_settings") else defaults
    changed = [key for key, default in defaults.items() if key in effective and getattr(method, key) != default]
    return ", ".join([method.name, *(f"{key}={getattr(method, key)}" for key in changed)])


def file_stem(stream_id: str) -> str:
    """A file name for a stream; ids that are none get a digest, so that no two share one."""
    plain = re.sub(r"[^\w.-]+", "_", stream_id).lstrip(".")
    if plain == stream_id and len(plain) < 100:
        return plain
    return f"{plain[:80]}-{hashlib.sha256(stream_id.encode()).hexdigest()[:8]}"


def _write_film(path: Path, pages: Sequence[Image.Image], palette_of: Image.Image) -> None:
    """An endless GIF in one palette, so that what does not change does not flicker."""
    palette = palette_of.quantize(PALETTE_COLOURS, method=Image.Quantize.MEDIANCUT)
    first, *rest = [page.quantize(palette=palette, dither=Image.Dither.FLOYDSTEINBERG) for page in pages]
    first.save(path, save_all=True, append_images=rest, duration=FILM_FRAME_MS, loop=0)
