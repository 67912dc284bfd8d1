"""From video frames to packed patches: sizes, pixels, pairs and their clock."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from transformers.models.qwen2_vl.image_processing_pil_qwen2_vl import Qwen2VLImageProcessorPil, smart_resize

from stc_lab.backbones.qwen_vl.checkpoint import FrameBudget, PairPreprocessor
from stc_lab.backbones.qwen_vl.model import Pairing

MEAN, STD = [0.48145466, 0.4578275, 0.40821073], [0.26862954, 0.26130258, 0.27577711]
CONFIG = {"image_mean": MEAN, "image_std": STD}


@pytest.mark.parametrize("size", [(720, 1280), (240, 320), (1080, 607), (50, 40), (108, 108), (14, 2000)], ids=str)
def test_sizes_are_those_of_the_processor(size: tuple[int, int]) -> None:
    budget = FrameBudget.of_tokens(28, 100, 384)
    expected = smart_resize(*size, factor=28, min_pixels=budget.min_pixels, max_pixels=budget.max_pixels)
    assert budget.fit(*size) == expected
    assert FrameBudget.of_tokens(8, 196, 196).fit(108, 108) == (112, 112)


def test_extreme_shapes_are_refused() -> None:
    with pytest.raises(ValueError, match="aspect ratios above 200"):
        FrameBudget.of_tokens(28, 100, 384).fit(4, 1000)


@pytest.mark.parametrize("size", [(56, 84), (61, 95)], ids=str)
def test_pixels_are_those_of_the_processor(size: tuple[int, int]) -> None:
    """Equal where nothing is resized; else within one step of 255, as PIL and torch differ."""
    frame = np.random.default_rng(0).integers(0, 256, (*size, 3), dtype=np.uint8)
    processor = Qwen2VLImageProcessorPil(min_pixels=4 * 28**2, max_pixels=40 * 28**2)
    output = processor(frame, return_tensors="pt")
    preprocess = PairPreprocessor.from_config(CONFIG, 14, 2, "test")
    fitted = FrameBudget(28, 4 * 28**2, 40 * 28**2).fit(*size)
    assert output["image_grid_thw"].tolist() == [[1, fitted[0] // 14, fitted[1] // 14]]
    pixels = preprocess([np.stack((frame, frame))], fitted, torch.device("cpu"), torch.float32)
    step = 0 if size == fitted else 1.01 / 255 / min(STD)
    torch.testing.assert_close(pixels[0], output["pixel_values"], atol=step + 1e-6, rtol=0)


def test_other_processors_are_refused() -> None:
    with pytest.raises(ValueError, match="here: image_std missing"):
        PairPreprocessor.from_config({"image_mean": MEAN}, 14, 2, "here")
    with pytest.raises(ValueError, match="here: merge_size=4 is not supported, it must be 2"):
        PairPreprocessor.from_config({**CONFIG, "merge_size": 4}, 14, 2, "here")


def frames_of(count: int) -> list[np.ndarray]:
    return [np.full((4, 4, 3), index, dtype=np.uint8) for index in range(count)]


def test_pairs_and_their_clock() -> None:
    """Frames that arrive in any division; the clock follows the grid, not the timestamps, until frames are missing."""
    pairing = Pairing(2.0)
    first = pairing.take(frames_of(3), [0.0, 0.48, 0.96])
    second = pairing.take(frames_of(2), [1.46, 7.0])
    assert [[pair[:, 0, 0, 0].tolist() for pair in pairs] for pairs, *_ in (first, second)] == [[[0, 1]], [[2, 0]]]
    assert (first[1], second[1]) == ([0.48], [1.46])
    assert (first[2], second[2]) == ([(0.0, 1.0)], [(1.0, 2.0)])
    assert pairing.half()[1] == (7.0, 8.0) and pairing.num_frames == 5
    pair, span = pairing.commit_half()
    assert span == (7.0, 8.0) and torch.equal(torch.from_numpy(pair[0]), torch.from_numpy(pair[1]))
    assert pairing.take(frames_of(2), [7.5, 8.0])[1:] == ([8.0], [(7.5, 8.5)])


def test_broken_frames_are_named() -> None:
    with pytest.raises(ValueError, match=r"uint8 \[H, W, 3\], got float64 \[4, 4\]"):
        Pairing(2.0).take([np.zeros((4, 4))], [0.0])
    with pytest.raises(ValueError, match=r"different sizes: \(4, 4\) and \(6, 4\)"):
        Pairing(2.0).take([*frames_of(1), np.zeros((6, 4, 3), dtype=np.uint8)], [0.0, 0.5])
