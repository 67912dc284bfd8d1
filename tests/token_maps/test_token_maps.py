"""What is drawn is what happened: cells, panels, captions, file names."""

from __future__ import annotations

from types import SimpleNamespace

import numpy as np
import pytest
import torch
from PIL import Image

from stc_lab.cachers.base import FrameTrace
from stc_lab.cachers.stc import STCCacher
from stc_lab.pruners.uniform import UniformPruner
from stc_lab.token_maps.collector import Fate, FrameMap, TokenCells, TokenFacts, TowerCells, token_cells, tower_cells
from stc_lab.token_maps.drawing import (
    COLUMNS,
    described,
    file_stem,
    film,
    strip,
    token_caption,
    token_legend,
    token_panel,
    tower_caption,
    tower_legend,
    tower_panel,
)

FACTS = SimpleNamespace(grid=(2, 3), num_tokens=7)  # with a class token
TOWER = SimpleNamespace(facts=FACTS, on_grid=lambda values: values[:, 1:])
PICTURE = Image.fromarray(np.random.default_rng(0).integers(0, 256, (24, 36, 3), dtype=np.uint8))


def tokens(positions: list[int], sizes: list[float] | None = None, sizes_full: list[float] | None = None) -> TokenFacts:
    as_tensor = lambda values: None if values is None else torch.tensor(values)  # noqa: E731
    return TokenFacts((2, 3), 6, as_tensor(sizes_full), torch.tensor(positions), as_tensor(sizes))


def test_share_of_layers_that_computed_a_patch_class_token_left_out() -> None:
    trace = FrameTrace(False, [3, 2], [torch.tensor([0, 1, 6]), torch.tensor([0, 6])])
    cells = tower_cells(trace, TOWER)
    assert cells.computed.tolist() == [[0.5, 0, 0], [0, 0, 1.0]]
    assert tower_caption(cells) == "25% computed"
    assert (tower_cells(FrameTrace(True, [7, 7]), TOWER).computed == 1).all()


def test_patches_that_were_merged_share_a_number() -> None:
    trace = FrameTrace(False, [4], groups=[torch.arange(7), torch.tensor([0, 1, 1, 2, 1, 3, 3])])
    cells = tower_cells(trace, TOWER)
    assert cells.groups.tolist() == [[1, 1, 2], [1, 3, 3]]
    assert tower_caption(cells) == "6 patches merged to 3"


def test_dropped_and_kept() -> None:
    cells = token_cells(tokens([1, 5]))
    assert (cells.fates == [[Fate.DROPPED, Fate.KEPT, Fate.DROPPED], [Fate.DROPPED, Fate.DROPPED, Fate.KEPT]]).all()
    assert token_caption(cells) == "2 of 6 tokens kept"


def test_merged_where_nothing_is_lost_and_dropped_where_something_is() -> None:
    merged = token_cells(tokens([0, 4], [1.0, 5.0]))
    assert merged.fates[0, 0] == Fate.KEPT and merged.fates[1, 1] == Fate.JOINED
    assert (merged.fates == Fate.MERGED).sum() == 4
    assert token_caption(merged) == "6 tokens merged to 2"
    assert (token_cells(tokens([0, 4], [1.0, 3.0])).fates == Fate.DROPPED).sum() == 4


def test_tokens_merged_in_the_tower_cover_all_their_patches() -> None:
    facts = TokenFacts((1, 3), 3, torch.tensor([2.0, 1.0, 3.0]), torch.tensor([2]), torch.tensor([3.0]))
    groups = np.array([[0, 0, 1], [2, 2, 2]])
    assert (token_cells(facts, groups).fates[1] == Fate.KEPT).all()
    assert (token_cells(facts, groups).fates[0] == Fate.DROPPED).all()


def test_what_was_paid_for_shows_the_picture_and_nothing_else_does() -> None:
    original = np.asarray(PICTURE)
    kept = np.zeros((24, 36), dtype=bool)
    kept[:12, 12:24] = kept[12:, 24:] = True
    shown = np.asarray(token_panel(PICTURE, token_cells(tokens([1, 5]))))
    assert (shown == original)[kept].all()
    assert (shown != original).any(-1)[~kept].mean() > 0.99
    computed = kept[::12, ::12].astype(float)
    assert ((np.asarray(tower_panel(PICTURE, TowerCells(computed, False))) == original).all(-1)[kept]).all()


def test_merged_patches_have_one_colour() -> None:
    panel = np.asarray(tower_panel(PICTURE, TowerCells(np.ones((1, 2)), False, np.array([[0, 1]]))))
    assert len(np.unique(panel[:, :18].reshape(-1, 3), axis=0)) == 1
    assert abs(panel[0, 0].astype(float) - np.asarray(PICTURE)[:, :18].mean((0, 1))).max() <= 0.5


def frames(count: int, with_tokens: bool = True) -> list[FrameMap]:
    cells = TokenCells(np.array([[Fate.KEPT, Fate.DROPPED]]), 1, 2) if with_tokens else None
    return [FrameMap(PICTURE, float(number), TowerCells(np.ones((1, 1)), True), cells) for number in range(count)]


def test_the_legend_names_what_occurs_and_nothing_else() -> None:
    text = " ".join(entry.text for entry in token_legend(frames(1), "stc", "Lower"))
    assert "stc" in text and "dropped" in text and "merged" not in text
    assert not any("blue" in entry.text for entry in tower_legend(frames(1), "none", "Upper"))
    (entry,) = token_legend(frames(1, with_tokens=False), "stc", "Lower")
    assert "memory as a whole" in entry.text


@pytest.mark.parametrize("with_tokens", [True, False])
def test_a_strip_has_all_frames_and_a_film_one_page_for_each(with_tokens: bool) -> None:
    heights = [strip(frames(count, with_tokens), "s", ("stc", "stc")).height for count in (1, COLUMNS, COLUMNS + 1)]
    assert heights[0] == heights[1] < heights[2]
    pages = film(frames(3, with_tokens), "s", ("stc", "stc"))
    assert len(pages) == 3 and len({page.size for page in pages}) == 1
    assert np.asarray(pages[0]).tolist() != np.asarray(pages[1]).tolist()  # the time


def test_methods_are_named_with_the_settings_that_matter() -> None:
    assert described(STCCacher(interval=4)) == "stc, interval=4"
    assert described(UniformPruner(budget=16)) == "uniform, budget=16"


def test_file_names_are_safe_and_never_shared() -> None:
    assert file_stem("clip_1.mp4") == "clip_1.mp4"
    names = [file_stem(stream_id) for stream_id in ("a/b", "a_b", "../a", "a:b", "x" * 300)]
    assert len(set(names)) == len(names)
    assert all("/" not in name and not name.startswith(".") and len(name) < 100 for name in names)
