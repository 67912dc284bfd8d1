"""What the colours mean, in words for somebody who has not read a paper about it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from PIL import Image

from stc_lab.token_maps.cells import Fate, TokenCells, TowerCells
from stc_lab.token_maps.collector import FrameMap
from stc_lab.token_maps.panels import token_panel, tower_panel

WORDS = {
    Fate.KEPT: "clear: kept",
    Fate.DROPPED: "grey: dropped",
    Fate.JOINED: "green: kept, stands for several",
    Fate.MERGED: "purple: merged into a green one",
}
SWATCH = (30, 18)


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
