"""Pictures of a stream's first frames in ``token_maps/`` of a run folder: a strip (PNG) and a film (GIF).

Each frame has two panels with what became of it laid over: what was paid for shows the picture, the rest is veiled. A
legend says in words for somebody who has not read a paper about it what the colours mean.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from stc_lab.token_maps.collector import Collector, Fate, FrameMap, TokenCells, TowerCells

FOLDER = "token_maps"
FILM_FRAME_MS = 700
PALETTE_COLOURS = 256
COLUMNS = 6
STRIP_BOX = (224, 168)  # largest width and height of a frame
FILM_BOX = (320, 240)
GAP = 10
LINE = 24
PAPER, INK = (255, 255, 255), (25, 25, 30)
REUSED = ((38, 84, 176), 0.8)
VEILS = {Fate.KEPT: ((0, 0, 0), 0.0), Fate.DROPPED: ((150, 152, 158), 0.85), Fate.JOINED: ((0, 190, 120), 0.5),
         Fate.MERGED: ((120, 40, 140), 0.8)}  # fmt: skip
"""Colour and opacity. Dropped is grey, since black would pass for a dark picture."""
BORDER = 0.55
WORDS = {
    Fate.KEPT: "clear: kept",
    Fate.DROPPED: "grey: dropped",
    Fate.JOINED: "green: kept, stands for several",
    Fate.MERGED: "purple: merged into a green one",
}
SWATCH = (30, 18)


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
    # The strip shows every frame, so its colours are those of the film.
    palette = palette_of.quantize(PALETTE_COLOURS, method=Image.Quantize.MEDIANCUT)
    first, *rest = [page.quantize(palette=palette, dither=Image.Dither.FLOYDSTEINBERG) for page in pages]
    first.save(path, save_all=True, append_images=rest, duration=FILM_FRAME_MS, loop=0)


def strip(frames: Sequence[FrameMap], title: str, methods: tuple[str, str]) -> Image.Image:
    """All frames, in rows of up to ``COLUMNS``: above what the tower did, below which tokens were kept."""
    blocks = [_block(frame, STRIP_BOX, beside=False) for frame in frames]
    columns = min(COLUMNS, len(blocks))
    width = max(columns * (blocks[0].width + GAP) + GAP, 4 * (STRIP_BOX[0] + GAP))
    header = _header(width, title, _legends(frames, methods, ("Upper", "Lower")))
    page = Image.new("RGB", (width, header.height + -(-len(blocks) // columns) * (blocks[0].height + GAP)), PAPER)
    page.paste(header)
    for number, block in enumerate(blocks):
        row, column = divmod(number, columns)
        page.paste(block, (GAP + column * (block.width + GAP), header.height + row * (block.height + GAP)))
    return page


def film(frames: Sequence[FrameMap], title: str, methods: tuple[str, str]) -> list[Image.Image]:
    """One page per frame: on the left what the tower did, on the right which tokens were kept."""
    blocks = [_block(frame, FILM_BOX, beside=True) for frame in frames]
    width = max(blocks[0].width, 2 * FILM_BOX[0]) + 2 * GAP
    header = _header(width, title, _legends(frames, methods, ("Left", "Right")))
    return [_below(header, block) for block in blocks]


def _below(header: Image.Image, block: Image.Image) -> Image.Image:
    page = Image.new("RGB", (header.width, header.height + block.height + GAP), PAPER)
    page.paste(header)
    page.paste(block, ((header.width - block.width) // 2, header.height))
    return page


def _legends(frames: Sequence[FrameMap], methods: tuple[str, str], places: tuple[str, str]) -> list[list[Entry]]:
    return [tower_legend(frames, methods[0], places[0]), token_legend(frames, methods[1], places[1])]


def _block(frame: FrameMap, box: tuple[int, int], beside: bool) -> Image.Image:
    """A frame's time, and its panels with a caption each, ``beside`` or below one another."""
    picture = _fitted(frame.picture, box)
    panels = [(tower_panel(picture, frame.tower), tower_caption(frame.tower))]
    if frame.tokens is not None:
        panels.append((token_panel(picture, frame.tokens), token_caption(frame.tokens)))
    width, height = max(picture.width, STRIP_BOX[0] * 2 // 3), picture.height + LINE
    across, down = (len(panels), 1) if beside else (1, len(panels))
    block = Image.new("RGB", (across * (width + GAP) - GAP, LINE + down * height), PAPER)
    draw = ImageDraw.Draw(block)
    draw.text((0, 3), f"{frame.time_s:.1f} s", INK, _font(15))
    # The tower's panel first, then that of the tokens, each with its caption below.
    for number, (panel, caption) in enumerate(panels):
        left, top = (number * (width + GAP), LINE) if beside else (0, LINE + number * height)
        block.paste(panel, (left, top))
        draw.text((left, top + panel.height + 3), caption, INK, _font(13))
    return block


def _fitted(picture: Image.Image, box: tuple[int, int]) -> Image.Image:
    scale = min(box[0] / picture.width, box[1] / picture.height)
    return picture.resize((max(1, round(picture.width * scale)), max(1, round(picture.height * scale))))


def _header(width: int, title: str, legends: list[list[Entry]]) -> Image.Image:
    """Title and legends; entries that do not fit go on in the next line."""
    places, top = [], GAP + LINE + 4
    for legend in legends:
        left = GAP
        for entry in legend:
            size = _entry_width(entry)
            if left > GAP and left + size > width:
                left, top = 3 * GAP, top + LINE
            places.append((entry, left, top))
            left += size + 2 * GAP
        top += LINE
    page = Image.new("RGB", (width, top + GAP), PAPER)
    draw = ImageDraw.Draw(page)
    draw.text((GAP, GAP), title, INK, _font(17))
    for entry, left, line in places:
        _draw_entry(page, draw, entry, left, line)
    return page


def _draw_entry(page: Image.Image, draw: ImageDraw.ImageDraw, entry: Entry, left: int, top: int) -> None:
    if entry.swatch is not None:
        page.paste(entry.swatch, (left, top))
        left += entry.swatch.width + 5
    draw.text((left, top + 1), entry.text, INK, _font(14))


def _entry_width(entry: Entry) -> int:
    swatch = 0 if entry.swatch is None else entry.swatch.width + 5
    return swatch + round(_font(14).getlength(entry.text))


def _font(size: int) -> ImageFont.FreeTypeFont | ImageFont.ImageFont:
    """Pillow's own, the same on every machine."""
    return ImageFont.load_default(size)


def tower_panel(picture: Image.Image, cells: TowerCells) -> Image.Image:
    """``picture`` veiled in blue by the share of layers that reused a patch; merged patches in one colour."""
    pixels = _pixels(picture)
    if cells.groups is not None:
        return _image(_mosaic(pixels, cells.groups))
    colour, opacity = REUSED
    return _image(_veiled(pixels, np.array(colour), opacity * (1.0 - _spread(cells.computed, pixels))))


def token_panel(picture: Image.Image, cells: TokenCells) -> Image.Image:
    """``picture`` with the veil of each token's fate."""
    pixels = _pixels(picture)
    fates = _spread(cells.fates, pixels)
    colours = np.array([VEILS[fate][0] for fate in Fate])
    opacities = np.array([VEILS[fate][1] for fate in Fate])
    return _image(_veiled(pixels, colours[fates], opacities[fates]))


def _veiled(pixels: np.ndarray, colour: np.ndarray, opacity: np.ndarray) -> np.ndarray:
    return pixels * (1.0 - opacity[..., None]) + colour * opacity[..., None]


def _mosaic(pixels: np.ndarray, groups: np.ndarray) -> np.ndarray:
    """Every group in its mean colour, with dark lines between groups."""
    _, numbers = np.unique(_spread(groups, pixels), return_inverse=True)
    numbers = numbers.reshape(pixels.shape[:2])
    sums = [np.bincount(numbers.ravel(), pixels[..., channel].ravel()) for channel in range(3)]
    means = np.stack(sums, axis=-1) / np.bincount(numbers.ravel())[:, None]
    # A border runs where a pixel's neighbour above or to the left is of another group.
    is_border = np.zeros(numbers.shape, dtype=bool)
    is_border[1:] |= numbers[1:] != numbers[:-1]
    is_border[:, 1:] |= numbers[:, 1:] != numbers[:, :-1]
    return means[numbers] * np.where(is_border, BORDER, 1.0)[..., None]


def _spread(cells: np.ndarray, pixels: np.ndarray) -> np.ndarray:
    """Values [rows, columns] of cells that divide the frame evenly -> values of its pixels [H, W]."""
    # Cell of each pixel row and column; sizes need not divide evenly.
    rows, columns = (np.arange(size) * count // size for size, count in zip(pixels.shape, cells.shape, strict=False))
    return cells[rows[:, None], columns]


def _pixels(picture: Image.Image) -> np.ndarray:
    return np.asarray(picture, dtype=np.float64)


def _image(pixels: np.ndarray) -> Image.Image:
    return Image.fromarray(np.rint(pixels).clip(0, 255).astype(np.uint8))


@dataclass(frozen=True)
class Entry:
    """A sample of a colour and what it means; a line that begins a row has no ``swatch``."""

    text: str
    swatch: Image.Image | None = None


def tower_legend(frames: Sequence[FrameMap], method: str, place: str) -> list[Entry]:
    """The vision tower; only what occurs in ``frames``. ``place``: where its pictures are on the page."""
    cells = [frame.tower for frame in frames]
    head = Entry(f"{place} pictures, vision tower ({method}):")
    if any(cell.groups is not None for cell in cells):
        return [head, Entry("each area of one colour: patches merged into one token", _merged_sample())]
    # Only colours that occur are explained.
    shares = np.concatenate([cell.computed.ravel() for cell in cells])
    entries = [head, Entry("clear: computed for this frame", _tower_sample(1.0))]
    if ((shares > 0) & (shares < 1)).any():
        entries.append(Entry("light blue: in some layers only", _tower_sample(0.5)))
    if (shares == 0).any():
        entries.append(Entry("blue: not computed, taken from an earlier frame", _tower_sample(0.0)))
    return entries


def token_legend(frames: Sequence[FrameMap], method: str, place: str) -> list[Entry]:
    """What reaches the language model; only what occurs in ``frames``."""
    known = [frame.tokens for frame in frames if frame.tokens is not None]
    if not known:
        return [Entry(f"The pruner ({method}) reduces the memory as a whole, not single frames: nothing to draw.")]
    seen = np.unique(np.concatenate([cell.fates.ravel() for cell in known]))
    entries = [Entry(f"{place} pictures, tokens for the language model ({method}):")]
    return entries + [Entry(WORDS[fate], _token_sample(fate)) for fate in Fate if fate in seen]


def tower_caption(cells: TowerCells) -> str:
    """How much of a frame the tower computed."""
    if cells.groups is not None:
        return f"{cells.groups.size} patches merged to {cells.num_groups}"
    share = float(cells.computed.mean())
    if share == 1.0:
        return "computed in full"
    return f"{share:.0%} computed" if share else "nothing computed"


def token_caption(cells: TokenCells) -> str:
    """How much of a frame reaches the language model."""
    if cells.num_kept == cells.num_full:
        return f"all {cells.num_full} tokens kept"
    is_merged = (cells.fates == Fate.MERGED).any()
    return f"{cells.num_full} tokens merged to {cells.num_kept}" if is_merged else (
        f"{cells.num_kept} of {cells.num_full} tokens kept"
    )  # fmt: skip


def _sample() -> Image.Image:
    """A bit of a colourful picture."""
    across, down = np.meshgrid(np.linspace(0, 1, SWATCH[0]), np.linspace(0, 1, SWATCH[1]))
    channels = (230 - 60 * down, 130 + 90 * across, 70 + 60 * down)
    return Image.fromarray(np.stack(channels, axis=-1).astype(np.uint8))


def _tower_sample(share: float) -> Image.Image:
    return tower_panel(_sample(), TowerCells(np.full((1, 1), share), False))


def _merged_sample() -> Image.Image:
    return tower_panel(_sample(), TowerCells(np.ones((2, 3)), False, np.array([[0, 0, 1], [2, 0, 1]])))


def _token_sample(fate: Fate) -> Image.Image:
    return token_panel(_sample(), TokenCells(np.full((1, 1), fate), 1, 1))
