"""Pixels equal those of the checkpoint's processor."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from transformers.models.siglip.image_processing_pil_siglip import SiglipImageProcessorPil

from stc_lab.vision.tower import FramePreprocessor

CONFIG = {
    "size": {"height": 54, "width": 54},
    "resample": 3,
    "image_mean": [0.5, 0.4, 0.3],
    "image_std": [0.5, 0.25, 0.2],
    "rescale_factor": 1 / 255,
}
CPU = torch.device("cpu")


def frame(height: int, width: int) -> np.ndarray:
    """Smooth shading with an edge and noise."""
    y, x = np.mgrid[0:height, 0:width]
    shades = np.stack((255 * x / width, 255 * y / height, np.where(x > y, 220, 30)), axis=-1)
    return (shades + np.random.default_rng(0).integers(-20, 20, shades.shape)).clip(0, 255).astype(np.uint8)


@pytest.mark.parametrize("size", [(54, 54), (108, 108), (60, 97), (33, 20), (240, 426)])
@pytest.mark.parametrize("resample", [2, 3])
def test_pixels_equal_the_hf_processor(size: tuple[int, int], resample: int) -> None:
    config = {**CONFIG, "resample": resample}
    ours = FramePreprocessor.from_config(config, "test")([frame(*size)], CPU, torch.float32)
    theirs = SiglipImageProcessorPil(**config)(frame(*size), return_tensors="pt").pixel_values
    torch.testing.assert_close(ours, theirs, atol=1e-5, rtol=0)


def test_resizing_stays_within_a_step_of_torch() -> None:
    """The torchvision processors resize as torch does, rounding differently."""
    picture = frame(240, 426)
    tensor = torch.from_numpy(picture).permute(2, 0, 1)[None]
    torch_resized = torch.nn.functional.interpolate(tensor, size=(54, 54), mode="bicubic", antialias=True)
    ours = FramePreprocessor.from_config(CONFIG, "test").resize(picture)
    difference = torch.from_numpy(ours.astype(int)).permute(2, 0, 1) - torch_resized[0].int()
    assert difference.abs().max() <= 1


def test_frames_of_different_sizes_make_one_batch() -> None:
    preprocessor = FramePreprocessor.from_config(CONFIG, "test")
    batch = preprocessor([frame(54, 54), frame(90, 60)], CPU, torch.float32)
    assert batch.shape == (2, 3, 54, 54)
    assert torch.equal(batch[:1], preprocessor([frame(54, 54)], CPU, torch.float32))


def test_steps_can_be_switched_off() -> None:
    raw = FramePreprocessor.from_config({**CONFIG, "do_normalize": False, "do_rescale": False}, "test")
    picture = frame(54, 54)
    assert torch.equal(raw([picture], CPU, torch.float32)[0], torch.from_numpy(picture).permute(2, 0, 1).float())


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"size": {"shortest_edge": 54}}, "must give height and width"),
        ({"do_center_crop": True}, "do_center_crop=true is not supported"),
        ({"image_std": None}, "image_std missing"),
    ],
)
def test_other_processors_are_refused(change: dict, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        FramePreprocessor.from_config({**CONFIG, **change}, "test")
