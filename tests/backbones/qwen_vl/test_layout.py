"""Positions of text and clips, with and without pruned tokens."""

from __future__ import annotations

import pytest
import torch
from transformers import Qwen2_5_VLConfig, Qwen2VLConfig
from transformers.models.qwen2_5_vl.modeling_qwen2_5_vl import Qwen2_5_VLModel
from transformers.models.qwen2_vl.modeling_qwen2_vl import Qwen2VLModel

from stc_lab.language.sequence import Clip, Cursor, TimeRowColumn
from stc_lab.types import VisualTokens

VISION = {"depth": 0, "patch_size": 4, "spatial_merge_size": 2}


def clip_of(num_frames: int, rows: int, columns: int) -> Clip:
    frames = [VisualTokens.full(torch.zeros(rows * columns, 2), (rows, columns), float(t)) for t in range(num_frames)]
    return Clip(tuple(frames))


def placed(axes: TimeRowColumn, pieces: list[int | Clip]) -> tuple[torch.Tensor, float]:
    """Positions of texts (their lengths) and clips, one after the other."""
    parts, cursor = [], Cursor()
    for piece in pieces:
        new, cursor = axes.text(cursor, piece) if isinstance(piece, int) else axes.clip(cursor, piece)
        parts.append(new)
    return torch.cat(parts, dim=1), cursor.position


@pytest.mark.parametrize(
    ("kind", "step"),
    [((Qwen2VLModel, Qwen2VLConfig), 1.0), ((Qwen2_5_VLModel, Qwen2_5_VLConfig), 2.0)],
    ids=["2", "2.5"],
)
def test_equals_the_models_own_index(kind, step) -> None:
    """Two clips and text around them; clips no longer than wide, where the library counts as the models do."""
    model_class, config_class = kind
    config = config_class(vision_config={**VISION, "tokens_per_second": 2}, text_config={"num_hidden_layers": 0})
    stand_in = type("Model", (), {"config": config, "get_vision_position_ids": model_class.get_vision_position_ids})()
    types = torch.tensor([[0] * 5 + [2] * 24 + [0] * 3 + [2] * 6 + [0] * 2])
    grids = torch.tensor([[2, 6, 8], [1, 6, 4]])
    extra = {} if step == 1.0 else {"second_per_grid_ts": torch.tensor([1.0, 1.0])}
    expected, delta = model_class.get_rope_index(
        stand_in, types, mm_token_type_ids=types, video_grid_thw=grids, **extra
    )
    positions, following = placed(TimeRowColumn(step), [5, clip_of(2, 3, 4), 3, clip_of(1, 3, 2), 2])
    assert torch.equal(positions, expected[:, 0].double())
    assert following == types.shape[1] + delta.item()


def test_text_follows_the_furthest_axis() -> None:
    assert placed(TimeRowColumn(), [clip_of(7, 2, 3)])[1] == 7
    assert placed(TimeRowColumn(2.0), [clip_of(3, 2, 3)])[1] == 5
    assert placed(TimeRowColumn(), [clip_of(1, 2, 9)])[1] == 9


@pytest.mark.parametrize("is_flat", [False, True])
def test_pruned_tokens_leave_their_places_empty(is_flat: bool) -> None:
    axes, full = TimeRowColumn(is_flat=is_flat), clip_of(2, 3, 4)
    kept = [torch.tensor([0, 5, 11]), torch.tensor([2])]
    pruned = Clip(tuple(frame.keep(indices) for frame, indices in zip(full.frames, kept, strict=True)))
    whole, following = placed(axes, [4, full, 3])
    positions, same = placed(axes, [4, pruned, 3])
    chosen = [*range(4), *(4 + index for index in (0, 5, 11, 12 + 2)), *range(28, 31)]
    assert torch.equal(positions, whole[:, chosen]) and following == same
    assert pruned.num_tokens == 4 and sum(frame.num_full for frame in pruned.frames) == 24
    assert torch.equal(placed(axes, [4, pruned.shape_only(), 3])[0], positions)


def test_flat_clips_count_like_text() -> None:
    positions, following = placed(TimeRowColumn(is_flat=True), [2, clip_of(2, 2, 3), 1])
    assert torch.equal(positions, torch.arange(15.0).double().expand(3, -1)) and following == 15
