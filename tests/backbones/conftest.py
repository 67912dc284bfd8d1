"""A tiny random LLaVA-OneVision checkpoint folder in the official key layout."""

from __future__ import annotations

import json
import re
import socket
from collections.abc import Callable, Iterator
from dataclasses import dataclass, fields
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file
from tokenizers import Tokenizer, decoders, models, pre_tokenizers
from transformers import (
    LlavaOnevisionConfig,
    LlavaOnevisionForConditionalGeneration,
    PreTrainedTokenizerFast,
    Qwen2Config,
    SiglipVisionConfig,
)

from stc_lab.backbones.base import VideoModel
from stc_lab.backbones.llava_onevision import LlavaOnevision
from stc_lab.cachers.base import Cacher
from stc_lab.measure import StageTimer
from stc_lab.memories.base import Memory
from stc_lab.memories.recent import Recent
from stc_lab.memories.rekv import ReKV
from stc_lab.pruners.base import Pruner
from stc_lab.session import StreamSession
from stc_lab.types import Question

IMAGE_SIZE = 20
TOKENS_PER_FRAME = 9
NUM_FRAMES = 14
PROCESSOR = {
    "do_resize": True,
    "size": {"height": IMAGE_SIZE, "width": IMAGE_SIZE},
    "resample": 3,
    "do_rescale": True,
    "rescale_factor": 1 / 255,
    "do_normalize": True,
    "image_mean": [0.5, 0.5, 0.5],
    "image_std": [0.5, 0.5, 0.5],
}


@dataclass(frozen=True)
class OnMemory:
    """A loaded model with a memory, to open sessions on."""

    model: VideoModel
    memory: Memory

    def open(self, cacher: Cacher, pruner: Pruner, timer: StageTimer | None = None) -> StreamSession:
        return StreamSession(self.model, cacher, pruner, self.memory, timer)


@pytest.fixture
def offline(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Any attempt to reach the network fails the test, and the hub's cache is empty."""

    def refuse(*args, **kwargs):
        raise AssertionError("tried to reach the network")

    monkeypatch.setattr(socket.socket, "connect", refuse)
    monkeypatch.setattr(socket, "getaddrinfo", refuse)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path / "empty"))
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)


@pytest.fixture(autouse=True)
def _two_threads() -> Iterator[None]:
    """One thread: these matrices are too small to share."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


def tiny_tokenizer() -> PreTrainedTokenizerFast:
    """One token per byte, and the chat markers."""
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    tokenizer = Tokenizer(models.BPE(vocab={symbol: i for i, symbol in enumerate(alphabet)}, merges=[]))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.add_special_tokens(["<|im_start|>", "<|im_end|>", "<image>", "<video>"])
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, eos_token="<|im_end|>", pad_token="<|im_end|>")


def tiny_model(vocab_size: int = 260) -> LlavaOnevisionForConditionalGeneration:
    """Random weights, large enough that attention is not flat."""
    torch.manual_seed(5)
    vision = SiglipVisionConfig(
        hidden_size=24,
        intermediate_size=48,
        num_hidden_layers=2,
        num_attention_heads=2,
        image_size=IMAGE_SIZE,
        patch_size=4,
        vision_use_head=False,
    )
    text = Qwen2Config(
        hidden_size=32,
        intermediate_size=48,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        vocab_size=vocab_size,
        tie_word_embeddings=False,
        eos_token_id=vocab_size - 3,
        bos_token_id=None,
    )
    config = LlavaOnevisionConfig(
        vision_config=vision,
        text_config=text,
        image_token_index=vocab_size - 2,
        video_token_index=vocab_size - 1,
        vision_feature_layer=-1,
        vision_feature_select_strategy="full",
        image_grid_pinpoints=[[IMAGE_SIZE, IMAGE_SIZE]],
        tie_word_embeddings=False,
    )
    model = LlavaOnevisionForConditionalGeneration(config).eval()
    for parameter in model.parameters():
        if parameter.dim() == 2:
            torch.nn.init.normal_(parameter, std=1.5 * parameter.shape[1] ** -0.5)
    return model


def save_checkpoint(folder: Path, model: LlavaOnevisionForConditionalGeneration) -> Path:
    """A folder as the hub has it: weights in the key layout of the official checkpoints."""
    model.save_pretrained(folder)
    weights = load_file(folder / "model.safetensors")
    prefix = re.compile(r"^vision_tower\.(?!vision_model)")
    official = {prefix.sub("vision_tower.vision_model.", key): value for key, value in weights.items()}
    save_file(official, folder / "model.safetensors", metadata={"format": "pt"})
    tiny_tokenizer().save_pretrained(folder)
    for name in ("preprocessor_config.json", "video_preprocessor_config.json"):
        (folder / name).write_text(json.dumps(PROCESSOR))
    return folder


@pytest.fixture(scope="session")
def checkpoint_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_checkpoint(tmp_path_factory.mktemp("tiny"), tiny_model())


def on_memory(folder: Path, kind: type[Memory], sizes: dict, dtype: torch.dtype | None = None) -> OnMemory:
    """A tiny LLaVA-OneVision with a memory of ``kind``; ``sizes`` go to whoever declares them."""
    own = {field.name for field in fields(kind)}
    memory = kind(**{key: value for key, value in sizes.items() if key in own})
    settings = {key: value for key, value in sizes.items() if key not in own}
    return OnMemory(LlavaOnevision(checkpoint=str(folder), name=kind().name, **settings).load(dtype=dtype), memory)


@pytest.fixture(scope="session")
def new_backbone(checkpoint_folder: Path) -> Callable[..., OnMemory]:
    """ReKV on the tiny checkpoint with a small window; keyword arguments override."""

    def make(dtype: torch.dtype = torch.float32, **changes) -> OnMemory:
        sizes = {"tokens_per_frame": TOKENS_PER_FRAME, "n_local": 90, "topk": 4, **changes}
        return on_memory(checkpoint_folder, ReKV, sizes, dtype)

    return make


@pytest.fixture(scope="session")
def new_recent(checkpoint_folder: Path) -> Callable[..., OnMemory]:
    """The last three frames on the tiny checkpoint; keyword arguments override."""

    def make(**changes) -> OnMemory:
        sizes = {"tokens_per_frame": TOKENS_PER_FRAME, "num_frames": 3, **changes}
        return on_memory(checkpoint_folder, Recent, sizes, torch.float32)

    return make


@pytest.fixture(scope="session")
def backbone(new_backbone: Callable[..., OnMemory]) -> OnMemory:
    return new_backbone()


@pytest.fixture(scope="session")
def video() -> list[np.ndarray]:
    """Frames of an uneven size in which a bright square moves over noise."""
    generator = np.random.default_rng(1)
    background = generator.integers(0, 120, (30, 44, 3), dtype=np.uint8)
    frames = [background.copy() for _ in range(NUM_FRAMES)]
    for index, frame in enumerate(frames):
        frame[8:20, 2 * index : 2 * index + 12] = (250, 30 * (index % 3), 90)
    return frames


@pytest.fixture(scope="session")
def question() -> Question:
    return Question("q", 9.0, "What moves?", ("a dot", "a square", "a line"), "B")


@pytest.fixture(scope="session")
def forest_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny random StreamForest checkpoint in the official key layout: 16 tokens a frame from the tower."""
    from stc_lab.backbones.streamforest.checkpoint import StreamForestModel, save_streamforest

    torch.manual_seed(7)
    vision = SiglipVisionConfig(
        hidden_size=32,
        intermediate_size=48,
        num_hidden_layers=2,
        num_attention_heads=2,
        image_size=28,
        patch_size=7,
        vision_use_head=False,
    )
    text = Qwen2Config(
        hidden_size=32,
        intermediate_size=48,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        vocab_size=260,
        tie_word_embeddings=False,
        eos_token_id=257,
        bos_token_id=None,
    )
    model = StreamForestModel(text, vision).eval()
    for parameter in model.parameters():
        if parameter.dim() == 2:
            torch.nn.init.normal_(parameter, std=1.5 * parameter.shape[1] ** -0.5)
    folder = tmp_path_factory.mktemp("tiny_forest")
    save_streamforest(model, tiny_tokenizer(), folder)
    return folder
