"""The tiny random checkpoints of all models, in the official key layouts, by the name of their backbone."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from backbones import conftest as llava
from backbones.conftest import forest_folder
from backbones.dispider import conftest as dispider
from backbones.qwen_vl import conftest as qwen

from stc_lab.backbones.base import Backbone, VideoModel
from stc_lab.backbones.dispider import Dispider
from stc_lab.backbones.dispider.checkpoint import save_dispider
from stc_lab.backbones.llava_onevision import LlavaOnevision
from stc_lab.backbones.qwen_vl.model import LiveCC, Qwen2_5VL, Qwen2VL, StreamingVLM
from stc_lab.backbones.streamforest import StreamForest

__all__ = ["forest_folder", "new_model", "tiny_frames"]

NUM_FRAMES = 16
SETTINGS: dict[str, tuple[type[Backbone], dict]] = {
    "llava_onevision": (LlavaOnevision, {"tokens_per_frame": llava.TOKENS_PER_FRAME}),
    "qwen2_vl": (Qwen2VL, {}),
    "qwen2_5_vl": (Qwen2_5VL, {}),
    "livecc": (LiveCC, {}),
    "streamingvlm": (StreamingVLM, {}),
    "streamforest": (StreamForest, {"tokens_per_frame": 8}),
    "dispider": (Dispider, {"tokens_per_frame": 4}),
}
KINDS = {"livecc": "qwen2_vl", "qwen2_vl": "qwen2_vl", "streamingvlm": "qwen2_5_vl", "qwen2_5_vl": "qwen2_5_vl"}


@pytest.fixture(autouse=True)
def _one_thread() -> None:
    """For tensors this small a second thread only waits for the first."""
    torch.set_num_threads(1)


@pytest.fixture(scope="session")
def new_model(tmp_path_factory: pytest.TempPathFactory, forest_folder: Path) -> Callable[..., VideoModel]:
    """``(backbone, **settings)``: the tiny model of that name in float32, loaded once for the same settings."""
    folders: dict[str, Path] = {"streamforest": forest_folder}
    models: dict[tuple, VideoModel] = {}

    def saved(name: str) -> Path:
        folder = tmp_path_factory.mktemp(f"tiny_{name}")
        if name == "llava_onevision":
            return llava.save_checkpoint(folder, llava.tiny_model())
        if name == "dispider":
            sizes = {"clip_frames": dispider.CLIP_FRAMES}
            made = dispider.new_model()
            return save_dispider(folder, made, dispider.SIZES, dispider.tiny_tokenizer(), lab_settings=sizes)
        # The sizes of frames that a checkpoint suggests stand under the name of its pocket model.
        pocket = SETTINGS[name][0].pocket
        return qwen.save_checkpoint(folder, qwen.tiny_model(KINDS[name]), qwen.tiny_tokenizer(), pocket, tokens=(6, 12))

    def make(name: str, **settings) -> VideoModel:
        key = name, *sorted(settings.items())
        if key not in models:
            if name not in folders:
                folders[name] = saved(name)
            kind, own = SETTINGS[name]
            made = kind(checkpoint=str(folders[name]), **{"max_new_tokens": 3, **own, **settings})
            models[key] = made.load(dtype=torch.float32)
        return models[key]

    return make


@pytest.fixture(scope="session")
def tiny_frames() -> list[np.ndarray]:
    """Frames in which a bright square moves over noise that is another one in every frame."""
    generator = np.random.default_rng(4)
    frames = dispider.moving_frames(NUM_FRAMES)
    return [frame // 2 + generator.integers(0, 120, frame.shape, dtype=np.uint8) for frame in frames]
