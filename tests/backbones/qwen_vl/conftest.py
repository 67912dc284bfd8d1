"""Tiny random Qwen-VL checkpoint folders in the official key layout."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass, fields
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from tokenizers import Tokenizer, decoders, models, pre_tokenizers
from transformers import (
    PreTrainedModel,
    PreTrainedTokenizerFast,
    Qwen2_5_VLConfig,
    Qwen2_5_VLForConditionalGeneration,
    Qwen2VLConfig,
    Qwen2VLForConditionalGeneration,
)

from stc_lab.backbones.qwen_vl.model import LiveCC, Qwen2_5VL, Qwen2VL, QwenModel, StreamingVLM
from stc_lab.cachers.base import Cacher
from stc_lab.measure import StageTimer
from stc_lab.memories import all, livecc, oneshot, recent, rekv, streamingvlm
from stc_lab.memories.base import Memory
from stc_lab.pruners.base import Pruner
from stc_lab.session import StreamSession

SETTINGS = {"livecc": LiveCC, "streamingvlm": StreamingVLM, "qwen2_vl": Qwen2VL, "qwen2_5_vl": Qwen2_5VL}
MEMORIES = {
    "livecc": livecc.LiveCC,
    "streamingvlm": streamingvlm.StreamingVLM,
    "oneshot": oneshot.OneShot,
    "recent": recent.Recent,
    "rekv": rekv.ReKV,
    "all": all.All,
}
MARKERS = ["<|endoftext|>", "<|im_start|>", "<|im_end|>", "<|vision_start|>", "<|vision_end|>", "<|video_pad|>"]
PROCESSOR = {
    "image_mean": [0.48145466, 0.4578275, 0.40821073],
    "image_std": [0.26862954, 0.26130258, 0.27577711],
    "patch_size": 4,
    "temporal_patch_size": 2,
    "merge_size": 2,
    "min_pixels": 64,
    "max_pixels": 100000,
}
TEXT = {
    "hidden_size": 32,
    "intermediate_size": 56,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "num_key_value_heads": 1,
    "rope_parameters": {"rope_type": "default", "rope_theta": 1e6, "mrope_section": [2, 3, 3]},
    "tie_word_embeddings": False,
    "bos_token_id": None,
}
VISION = {"num_heads": 2, "patch_size": 4, "spatial_merge_size": 2, "temporal_patch_size": 2, "in_channels": 3}


def tiny_tokenizer() -> PreTrainedTokenizerFast:
    """One token per byte, `` ...`` as one token, and the markers."""
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    merges = [(".", "."), ("..", "."), ("\u0120", "...")]
    words = [*alphabet, "..", "...", "\u0120..."]
    tokenizer = Tokenizer(models.BPE(vocab={word: i for i, word in enumerate(words)}, merges=merges))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.add_special_tokens(MARKERS)
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, eos_token="<|im_end|>", pad_token="<|endoftext|>")


def tiny_model(kind: str, vocab_size: int = 265) -> PreTrainedModel:
    """Random weights, large enough that attention is not flat. ``kind``: qwen2_vl or qwen2_5_vl."""
    torch.manual_seed(4)
    text = {**TEXT, "vocab_size": vocab_size, "eos_token_id": 261, "pad_token_id": 259}
    if kind == "qwen2_vl":
        vision = {**VISION, "depth": 2, "embed_dim": 24, "mlp_ratio": 2, "hidden_size": 32}
        model = Qwen2VLForConditionalGeneration(Qwen2VLConfig(text_config=text, vision_config=vision))
    else:
        vision = {**VISION, "depth": 2, "hidden_size": 24, "intermediate_size": 40, "out_hidden_size": 32}
        vision |= {"window_size": 16, "fullatt_block_indexes": [1], "tokens_per_second": 2}
        model = Qwen2_5_VLForConditionalGeneration(Qwen2_5_VLConfig(text_config=text, vision_config=vision))
    for parameter in model.parameters():
        if parameter.dim() > 1:
            torch.nn.init.normal_(parameter, std=1.5 * parameter[0].numel() ** -0.5)
    model.config.video_token_id = vocab_size - 1
    model.generation_config.eos_token_id = [261, 259]
    return model.eval()


def save_checkpoint(
    folder: Path,
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerFast,
    name: str,
    tokens: tuple[int, int] = (6, 30),
) -> Path:
    """A folder as the hub has it; frames have between ``tokens`` visual tokens."""
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    (folder / "preprocessor_config.json").write_text(json.dumps(PROCESSOR))
    lab = {name: {"min_tokens_per_frame": tokens[0], "tokens_per_frame": tokens[1]}}
    (folder / "stc_lab.json").write_text(json.dumps(lab))
    return folder


def golden_folder(shared: Path, folder: Path, kind: str, case: str, name: str) -> Path:
    """The replica of a golden case as a checkpoint folder; ``case``: a JSON file with its configs."""
    golden = shared / "golden" / "backbones"
    facts = json.loads((golden / f"{case}.json").read_text())
    text = dict(facts["text_config"])
    scaling = text.pop("rope_scaling")
    text["rope_parameters"] = {
        "rope_type": "default", "rope_theta": text.pop("rope_theta"), "mrope_section": scaling["mrope_section"]
    }  # fmt: skip
    ids = facts["special_ids"]
    text |= {"eos_token_id": ids["<|im_end|>"], "bos_token_id": None, "pad_token_id": ids["<|im_end|>"]}
    config_class, model_class = {
        "qwen2_vl": (Qwen2VLConfig, Qwen2VLForConditionalGeneration),
        "qwen2_5_vl": (Qwen2_5_VLConfig, Qwen2_5_VLForConditionalGeneration),
    }[kind]
    config = config_class(text_config=text, vision_config=facts["vision_config"], tie_word_embeddings=False)
    config.video_token_id = ids["<|video_pad|>"]
    model = model_class(config)
    model.load_state_dict(load_file(golden / f"{name}_weights.safetensors"))
    model.generation_config.eos_token_id = ids["<|im_end|>"]
    tokenizer = PreTrainedTokenizerFast(tokenizer_file=str(golden / "standin_tokenizer.json"), eos_token="<|im_end|>")
    return save_checkpoint(folder, model, tokenizer, name)


class Golden:
    """One case: facts, tensors and source frames."""

    def __init__(self, shared: Path, case: str, name: str) -> None:
        folder = shared / "golden" / "backbones"
        self.facts = json.loads((folder / f"{case}.json").read_text())
        self.tensors = load_file(folder / f"{case}.safetensors")
        frames = load_file(folder / f"{name}_frames.safetensors")["frames"]
        self.frames = list(frames.permute(0, 2, 3, 1).contiguous().numpy())
        self.run = self.facts["run_config"]


@pytest.fixture(scope="session")
def read_golden(shared_dir: Path) -> Callable[[str, str], Golden]:
    return lambda case, name: Golden(shared_dir, case, name)


@pytest.fixture(scope="session")
def golden_folders(shared_dir: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Checkpoint folders of the two replicas."""
    cases = {"livecc": ("qwen2_vl", "livecc_demo"), "streamingvlm": ("qwen2_5_vl", "streamingvlm_equal")}
    return {
        name: golden_folder(shared_dir, tmp_path_factory.mktemp(name), kind, case, name)
        for name, (kind, case) in cases.items()
    }


@pytest.fixture(scope="session")
def tiny_folders(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Checkpoint folders of tiny models with random weights."""
    kinds = {"livecc": "qwen2_vl", "streamingvlm": "qwen2_5_vl"}
    return {
        name: save_checkpoint(tmp_path_factory.mktemp(name), tiny_model(kind), tiny_tokenizer(), name)
        for name, kind in kinds.items()
    }


@dataclass(frozen=True)
class OnMemory:
    """A loaded model with a memory, to open sessions on."""

    model: QwenModel
    memory: Memory

    def open(self, cacher: Cacher, pruner: Pruner, timer: StageTimer | None = None) -> StreamSession:
        return StreamSession(self.model, cacher, pruner, self.memory, timer)


@pytest.fixture(scope="session")
def on_memory() -> Callable[..., OnMemory]:
    """``(name, folder, memory, **settings)``: the model in a folder with a memory, by their names; settings go to
    whoever declares them, to both where both do."""

    def make(name: str, folder: Path, memory: str | None = None, **settings) -> OnMemory:
        kinds = SETTINGS[name], MEMORIES[memory or name]
        own = [{field.name for field in fields(kind)} for kind in kinds]
        unknown = settings.keys() - own[0] - own[1]
        assert not unknown, unknown
        made = [
            kind(**{key: value for key, value in settings.items() if key in names})
            for kind, names in zip((partial(kinds[0], checkpoint=str(folder)), kinds[1]), own, strict=True)
        ]
        return OnMemory(made[0].load(dtype=torch.float32), made[1])

    return make


@pytest.fixture(scope="session")
def clip() -> list[np.ndarray]:
    """Frames in which a bright square moves over noise; shown at 16 x 24 pixels, 2 x 3 visual tokens."""
    generator = np.random.default_rng(1)
    background = generator.integers(0, 120, (17, 25, 3), dtype=np.uint8)
    frames = [background.copy() for _ in range(24)]
    for index, frame in enumerate(frames):
        frame[4:12, index % 16 : index % 16 + 8] = (250, 30 * (index % 3), 90)
    return frames
