"""Masks, and the join of two parts in one softmax."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from stc_lab.language import attention
from stc_lab.language.attention import (
    BandMask,
    FadingMask,
    Part,
    attend,
    attend_parts,
    attend_with_lse,
    far_mask,
    grouped,
    ungrouped,
)

SCALE = 0.4


def random_states(*shape: int) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(sum(shape)))


def test_grouping_is_undone() -> None:
    queries = random_states(5, 6, 4)
    assert torch.equal(ungrouped(grouped(queries, 2)), queries.flatten(1))
    assert torch.equal(grouped(queries, 2)[1, 2], queries[:, 5])


@pytest.mark.parametrize("window", [4, 9, 2**62])
def test_band_mask_is_a_corner_of_itself(window: int) -> None:
    band = BandMask(window)
    like = torch.zeros(1)
    for num_queries, num_keys in [(3, 3), (5, 8), (1, 9), (2, 12), (7, 10)]:
        mask = band.corner(num_queries, num_keys, like)
        for row in range(num_queries):
            for column in range(num_keys):
                distance = num_keys - num_queries + row - column
                visible = 0 <= distance < window
                assert mask is None or bool(mask[row, column] == 0) == visible
                assert mask is not None or visible


def test_far_mask_complements_the_window() -> None:
    mask = far_mask(first=6, num_queries=4, num_far=3, window=7, like=torch.zeros(1))
    assert (mask == 0).tolist() == [
        [False, False, False],
        [True, False, False],
        [True, True, False],
        [True, True, True],
    ]
    assert far_mask(first=9, num_queries=2, num_far=3, window=7, like=torch.zeros(1)) is None


def dense(queries: Tensor, keys: Tensor, values: Tensor, mask: Tensor | None) -> tuple[Tensor, Tensor]:
    scores = torch.einsum("hgtd,hnd->hgtn", queries, keys).double() * SCALE
    scores = scores if mask is None else scores + mask
    return scores, torch.einsum("hgtn,hnd->hgtd", scores.softmax(-1), values.double())


@pytest.mark.parametrize("is_masked", [False, True])
@pytest.mark.parametrize("kernel", ["fused", "plain"])
def test_log_sum_exp(monkeypatch: pytest.MonkeyPatch, kernel: str, is_masked: bool) -> None:
    if kernel == "plain":
        monkeypatch.setattr(attention, "_FUSED", {})
    queries, keys, values = random_states(2, 3, 5, 8), random_states(2, 11, 8), random_states(2, 12, 8)[:, :11]
    mask = BandMask(7).corner(5, 11, queries) if is_masked else None
    out, lse = attend_with_lse(queries, keys, values, mask, SCALE)
    scores, expected = dense(queries, keys, values, mask)
    torch.testing.assert_close(out.double(), expected, atol=1e-5, rtol=0)
    torch.testing.assert_close(lse.double(), scores.logsumexp(-1), atol=1e-5, rtol=0)
    torch.testing.assert_close(attend(queries, keys, values, mask, SCALE), out, atol=1e-5, rtol=0)


def test_parts_are_one_softmax() -> None:
    near, far = random_states(2, 3, 5, 8), random_states(2, 3, 5, 8) * 2
    keys, values = random_states(2, 11, 8), random_states(2, 11, 9)[..., :8]
    far_keys, far_values = random_states(2, 4, 8), random_states(2, 4, 9)[..., 1:]
    local_mask, mask = BandMask(7).corner(5, 11, near), far_mask(6, 5, 4, 7, near)
    main, more = Part(near, keys, values, local_mask), Part(near, keys[:, :2], values[:, :2] * 3, None)
    out = attend_parts(main, [more, Part(far, far_keys, far_values, mask)], SCALE)
    scores = [dense(p.queries, p.keys, p.values, p.mask)[0] for p in (main, more)]
    scores.append(dense(far, far_keys, far_values, mask)[0])
    joined = torch.cat((values, more.values, far_values), dim=1).double()
    expected = torch.einsum("hgtn,hnd->hgtd", torch.cat(scores, dim=-1).softmax(-1), joined)
    torch.testing.assert_close(out.double(), expected, atol=1e-5, rtol=0)


def test_fading_mask_hides_what_left_the_window() -> None:
    fading = FadingMask()
    for num_queries, num_fading in ((5, 4), (3, 2), (8, 7), (8, 3), (2, 1)):
        visible = fading.corner(num_queries, num_fading, torch.zeros(1)) == 0
        gone = range(num_fading - num_queries + 1, num_fading + 1)
        assert visible.tolist() == [[key >= count for key in range(num_fading)] for count in gone]


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
@pytest.mark.parametrize("is_masked", [False, True])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_cuda_kernel_equals_the_plain_way(dtype: torch.dtype, is_masked: bool) -> None:
    queries, keys = random_states(2, 3, 37, 64).to("cuda", dtype), random_states(2, 101, 64).to("cuda", dtype)
    values = random_states(2, 102, 64)[:, :101].to("cuda", dtype)
    mask = BandMask(77).corner(37, 101, queries) if is_masked else None
    fused = attend_with_lse(queries, keys, values, mask, SCALE)
    expanded = [states[:, None].expand(-1, 3, -1, -1) for states in (keys, values)]
    plain = attention._plain(queries, *expanded, mask, SCALE)
    torch.testing.assert_close(fused[0], plain[0], atol=2e-2, rtol=2e-2)
    torch.testing.assert_close(fused[1], plain[1].float(), atol=2e-2, rtol=2e-2)
