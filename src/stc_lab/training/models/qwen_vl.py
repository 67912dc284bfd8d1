"""Pocket LiveCC and StreamingVLM: the official architectures at small widths, started from the pocket model of ReKV."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from pathlib import Path

import torch
from safetensors.torch import load_file
from torch import Tensor, nn
from transformers import (
    GenerationConfig,
    PreTrainedModel,
    PreTrainedTokenizerFast,
    Qwen2_5_VLConfig,
    Qwen2_5_VLForConditionalGeneration,
    Qwen2VLConfig,
    Qwen2VLForConditionalGeneration,
)

from stc_lab.backbones.checkpoints import POCKET_ROOT
from stc_lab.backbones.qwen_vl.model import ANSWER_START, CHOOSE
from stc_lab.language.chat import VIDEO_PAD, VISION_END, VISION_START
from stc_lab.pocket.tokenizer import extended_tokenizer
from stc_lab.vision.qwen import GROUP

REKV = POCKET_ROOT / "rekv"
TOKENS = 14 * 14
"""Visual tokens of every temporal patch: frames are shown at 112 x 112 pixels, 28 x 28 patches."""
PHRASES = (ANSWER_START.strip(), CHOOSE, "Please describe the video.", "Commentate on this match", "previous text")
MARKERS = (VISION_START, VISION_END, VIDEO_PAD)
THETA = (14 / (2 * math.pi)) ** 16
"""Base of the rotary angles: the second of the 16 frequencies of a head turns once in a row of 14 tokens, so that
columns can be told apart in turns that are placed on one axis."""
SECTIONS = (1, 1, 14)
"""Frequencies of time, row and column, fastest first; the official shares (1/4, 3/8, 3/8) would leave the columns
frequencies that turn by 0.01 rad over the whole picture."""
PLACE_LAYERS = 2
"""Layers below those of the ReKV pocket, which say where a visual token lies: its tokens say so themselves, while a
tower with rotary positions cannot know."""
TEXT = {
    "hidden_size": 128,
    "intermediate_size": 384,
    "num_hidden_layers": PLACE_LAYERS + 5,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 32768,
    "rope_parameters": {"rope_type": "default", "rope_theta": THETA, "mrope_section": list(SECTIONS)},
    "tie_word_embeddings": True,
    "bos_token_id": None,
}
VISION = {"depth": 3, "num_heads": 3, "patch_size": 4, "spatial_merge_size": 2, "temporal_patch_size": 2}
LIVECC_VISION = {**VISION, "embed_dim": 96, "hidden_size": 128, "mlp_ratio": 4, "hidden_act": "gelu_pytorch_tanh"}
STREAMINGVLM_VISION = {
    **VISION,
    "hidden_size": 96,
    "intermediate_size": 256,
    "out_hidden_size": 128,
    "window_size": 32,
    "fullatt_block_indexes": [2],
    "tokens_per_second": 2,
}
PIXELS = {
    "image_mean": [0.5, 0.5, 0.5],
    "image_std": [0.5, 0.5, 0.5],
    "patch_size": 4,
    "temporal_patch_size": 2,
    "merge_size": 2,
    "min_pixels": TOKENS * 64,
    "max_pixels": TOKENS * 64,
}


def pocket_tokenizer() -> PreTrainedTokenizerFast:
    """The pocket tokenizer with the vision markers and phrases behind its own words; numbers are read by digits."""
    return extended_tokenizer(PHRASES, MARKERS)


def new_pocket_livecc(start: Path | None = REKV, seed: int = 0) -> Qwen2VLForConditionalGeneration:
    """A Qwen2-VL of 3 vision and 7 language layers that knows what the ReKV pocket in folder ``start`` knows, as far as
    it fits (``None``: nothing): see :func:`start_from_rekv`. The rest is drawn with a scale that suits small widths.
    """
    tokenizer = pocket_tokenizer()
    config = Qwen2VLConfig(text_config=_text(tokenizer), vision_config=LIVECC_VISION, **_ids(tokenizer))
    return _new(Qwen2VLForConditionalGeneration, config, start, seed)


def new_pocket_streamingvlm(start: Path | None = REKV, seed: int = 0) -> Qwen2_5_VLForConditionalGeneration:
    """As :func:`new_pocket_livecc`, a Qwen2.5-VL: windows of 4 x 4 tokens in all but the last vision layer."""
    tokenizer = pocket_tokenizer()
    config = Qwen2_5_VLConfig(text_config=_text(tokenizer), vision_config=STREAMINGVLM_VISION, **_ids(tokenizer))
    return _new(Qwen2_5_VLForConditionalGeneration, config, start, seed)


def save_pocket(model: PreTrainedModel, folder: Path, backbone: str) -> Path:
    """The trained model of ``backbone`` (livecc or streamingvlm) as a checkpoint folder in the official key layout."""
    tokenizer = pocket_tokenizer()
    end = tokenizer.eos_token_id
    model.generation_config = GenerationConfig(eos_token_id=end, pad_token_id=tokenizer.pad_token_id)
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    _write(folder / "preprocessor_config.json", PIXELS)
    _write(folder / "stc_lab.json", {backbone: {"min_tokens_per_frame": TOKENS, "tokens_per_frame": TOKENS}})
    return folder


def _new(model_class: type[PreTrainedModel], config, start: Path | None, seed: int) -> PreTrainedModel:
    torch.manual_seed(seed)
    model = model_class(config).float()
    for module in model.modules():
        if isinstance(module, (nn.Linear, nn.Conv3d)):
            nn.init.normal_(module.weight, std=module.weight[0].numel() ** -0.5)
            if module.bias is not None:
                nn.init.zeros_(module.bias)
    nn.init.normal_(model.get_input_embeddings().weight, std=0.15)
    if start is not None:
        start_from_rekv(model.model, load_file(start / "model.safetensors"), PLACE_LAYERS)
    model.tie_weights()
    return model


def _text(tokenizer: PreTrainedTokenizerFast) -> dict:
    ids = {"eos_token_id": tokenizer.eos_token_id, "pad_token_id": tokenizer.pad_token_id}
    return {**TEXT, **ids, "vocab_size": len(tokenizer)}


def _ids(tokenizer: PreTrainedTokenizerFast) -> Mapping[str, int | bool]:
    names = ("vision_start_token_id", "vision_end_token_id", "video_token_id")
    ids = dict(zip(names, tokenizer.convert_tokens_to_ids(list(MARKERS)), strict=True))
    # Images are never shown; the configuration wants a token of its own for them.
    return {**ids, "image_token_id": tokenizer.convert_tokens_to_ids("<image>"), "tie_word_embeddings": True}


def _write(path: Path, content: dict) -> None:
    path.write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8")


ROOTS = ("vision_tower.vision_model.", "vision_tower.")
NORMS = {"norm1": "layer_norm1", "norm2": "layer_norm2"}


@torch.no_grad()
def start_from_rekv(model: nn.Module, weights: Mapping[str, Tensor], num_below: int = 0) -> None:
    """Copy what fits of ``weights`` (official key layout) into ``model`` (``visual`` and ``language_model``).

    Language: everything, above ``num_below`` layers that begin by changing nothing; a larger vocabulary shares the
    first rows. Vision: attention (joined to one projection),
    norms, the MLP where it is of the same kind, and patches, each of a pair's two frames counting half. The merger
    begins as the projector of the mean of its four patches. Positions are rotary here and have no counterpart.
    """
    for name, tensor in model.language_model.state_dict().items():
        if (old := _name_above(name, num_below)) is not None:
            trained = weights[f"language_model.model.{old}"]
            tensor[: len(trained)].copy_(trained)
    for layer in model.language_model.layers[:num_below]:
        layer.self_attn.o_proj.weight.zero_()
        layer.mlp.down_proj.weight.zero_()
    root = next(root for root in ROOTS if f"{root}embeddings.patch_embedding.weight" in weights)
    patches = weights[f"{root}embeddings.patch_embedding.weight"]
    kernel = model.visual.patch_embed.proj.weight
    kernel.copy_(patches[:, :, None].expand_as(kernel) / kernel.shape[2])
    for index, block in enumerate(model.visual.blocks):
        _start_block(block, weights, f"{root}encoder.layers.{index}.")
    _start_merger(model.visual.merger.mlp, weights)


def _name_above(name: str, num_below: int) -> str | None:
    """What a parameter is called without the lowest layers, ``None`` for one of theirs."""
    head, *rest = name.split(".", 2)
    if head != "layers":
        return name
    number = int(rest[0]) - num_below
    return f"layers.{number}.{rest[1]}" if number >= 0 else None


def _start_block(block: nn.Module, weights: Mapping[str, Tensor], root: str) -> None:
    for kind in ("weight", "bias"):
        parts = [weights[f"{root}self_attn.{part}_proj.{kind}"] for part in "qkv"]
        getattr(block.attn.qkv, kind).copy_(torch.cat(parts))
        getattr(block.attn.proj, kind).copy_(weights[f"{root}self_attn.out_proj.{kind}"])
        for ours, theirs in NORMS.items():
            if getattr(getattr(block, ours), kind, None) is not None:
                getattr(getattr(block, ours), kind).copy_(weights[f"{root}{theirs}.{kind}"])
        for layer in ("fc1", "fc2"):
            if hasattr(block.mlp, layer):
                getattr(getattr(block.mlp, layer), kind).copy_(weights[f"{root}mlp.{layer}.{kind}"])


def _start_merger(mlp: nn.Sequential, weights: Mapping[str, Tensor]) -> None:
    first, _, second = mlp
    inner, outer = (weights[f"multi_modal_projector.{layer}.weight"] for layer in ("linear_1", "linear_2"))
    first.weight[: len(inner)].copy_(inner.repeat(1, GROUP) / GROUP)
    first.bias[: len(inner)].copy_(weights["multi_modal_projector.linear_1.bias"])
    second.weight.zero_()[:, : outer.shape[1]].copy_(outer)
    second.bias.copy_(weights["multi_modal_projector.linear_2.bias"])
