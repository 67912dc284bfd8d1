"""Frames with their legend on one page: the strip (PNG), and the pages of the film (GIF)."""

from __future__ import annotations

from collections.abc import Sequence

from PIL import Image, ImageDraw, ImageFont

from stc_lab.token_maps.collector import FrameMap
from stc_lab.token_maps.legend import Entry, token_caption, token_legend, tower_caption, tower_legend
from stc_lab.token_maps.panels import token_panel, tower_panel

COLUMNS = 6
STRIP_BOX = (224, 168)  # largest width and height of a frame
FILM_BOX = (320, 240)
GAP = 10
LINE = 24
PAPER, INK = (255, 255, 255), (25, 25, 30)


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
