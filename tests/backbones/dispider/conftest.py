"""A tiny random Dispider in the official key layout, and its frames."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, fields
from pathlib import Path

import numpy as np
import pytest
import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers
from transformers import PreTrainedTokenizerFast

from stc_lab.api import open_session
from stc_lab.backbones.dispider import Dispider
from stc_lab.backbones.dispider.checkpoint import save_dispider
from stc_lab.backbones.dispider.model import DispiderVideoModel
from stc_lab.backbones.dispider.networks import DispiderModel, DispiderSizes, Rows
from stc_lab.memories.dispider import DispiderMemory
from stc_lab.session import StreamSession

CLIP_FRAMES = 3
TEXT = {
    "intermediate_size": 40,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "rope_theta": 10000.0,
}
SIZES = DispiderSizes(
    language={**TEXT, "hidden_size": 32, "tie_word_embeddings": False},
    compressor={**TEXT, "hidden_size": 24, "tie_word_embeddings": True},
    vision={
        "hidden_size": 16,
        "intermediate_size": 32,
        "num_hidden_layers": 3,
        "num_attention_heads": 2,
        "image_size": 16,
        "patch_size": 4,
        "hidden_act": "quick_gelu",
    },
    pixels={"image_mean": [0.5, 0.5, 0.5], "image_std": [0.25, 0.25, 0.25], "resample": 3},
    select_layer=-2,
    pool_num=1,
    uses_image_markers=False,
)


def tiny_tokenizer() -> PreTrainedTokenizerFast:
    """One token per byte, and the markers."""
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    tokenizer = Tokenizer(models.BPE(vocab={symbol: i for i, symbol in enumerate(alphabet)}, merges=[]))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.add_special_tokens(["<|endoftext|>", "<|im_end|>", "<has_answer>", "<to_do>", "<keep_silent>"])
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, eos_token="<|im_end|>", pad_token="<|endoftext|>")


def new_model(sizes: DispiderSizes = SIZES) -> DispiderModel:
    """Random weights, large enough that attention is not flat."""
    torch.manual_seed(11)
    model = DispiderModel(sizes, Rows(261, 261)).eval()
    for parameter in model.parameters():
        if parameter.dim() == 2:
            torch.nn.init.normal_(parameter, std=1.5 * parameter.shape[1] ** -0.5)
    torch.nn.init.normal_(model.silent_head.weight, std=0.5)
    return model


@pytest.fixture(scope="session")
def tiny_model() -> DispiderModel:
    return new_model()


@pytest.fixture(scope="session")
def tiny_folder(tiny_model: DispiderModel, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The model as a checkpoint folder."""
    folder = tmp_path_factory.mktemp("tiny_dispider")
    return save_dispider(folder, tiny_model, SIZES, tiny_tokenizer(), lab_settings={"clip_frames": CLIP_FRAMES})


@dataclass(frozen=True)
class Setup:
    """A loaded model with the memory that its streams have."""

    model: DispiderVideoModel
    memory: DispiderMemory

    def open(self, cacher, pruner) -> StreamSession:
        return open_session(self.model, cacher, pruner, self.memory)


@pytest.fixture(scope="session")
def settings(tiny_folder: Path) -> Callable[..., tuple[Dispider, DispiderMemory]]:
    """Settings of the tiny model and its memory; keyword arguments override those of either."""

    def make(**changes) -> tuple[Dispider, DispiderMemory]:
        given = {"checkpoint": str(tiny_folder), "tokens_per_frame": 4, "max_new_tokens": 3, **changes}
        of_model = {field.name for field in fields(Dispider)}
        model = Dispider(**{key: value for key, value in given.items() if key in of_model})
        return model, DispiderMemory(**{key: value for key, value in given.items() if key not in of_model})

    return make


@pytest.fixture(scope="session")
def new_dispider(settings: Callable[..., tuple[Dispider, DispiderMemory]]) -> Callable[..., Setup]:
    """The tiny model, loaded; keyword arguments override settings."""

    def make(dtype: torch.dtype = torch.float32, **changes) -> Setup:
        model, memory = settings(**changes)
        return Setup(model.load(dtype=dtype), memory)

    return make


@pytest.fixture(scope="session")
def dispider(new_dispider: Callable[..., Setup]) -> Setup:
    return new_dispider()


@pytest.fixture(scope="session")
def frames() -> list[np.ndarray]:
    """Frames of a stream."""
    return moving_frames(14)


def moving_frames(count: int, seed: int = 3) -> list[np.ndarray]:
    """A bright square on its way over noise, in frames that are not square."""
    generator = np.random.default_rng(seed)
    background = generator.integers(0, 120, (20, 26, 3), dtype=np.uint8)
    frames = []
    for index in range(count):
        frame = background.copy()
        left = (2 * index) % 18
        frame[5:13, left : left + 8] = (250, 60 * (index % 4), 90)
        frames.append(frame)
    return frames
