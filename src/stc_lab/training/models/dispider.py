"""A pocket Dispider: the official architecture at small widths, started from the pocket model of ReKV."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import torch
from safetensors.torch import load_file
from torch import Tensor, nn
from torch.nn.functional import interpolate
from transformers import PreTrainedTokenizerFast

from stc_lab.backbones.checkpoints import POCKET_ROOT
from stc_lab.backbones.dispider.checkpoint import SILENT, save_dispider
from stc_lab.backbones.dispider.model import CHOICE_START, SYSTEM
from stc_lab.backbones.dispider.networks import DispiderModel, DispiderSizes, Rows
from stc_lab.memories.dispider import ANSWERED, TO_DO
from stc_lab.pocket.tokenizer import extended_tokenizer

MARKERS = (ANSWERED, TO_DO, SILENT)
PHRASES = (SYSTEM, CHOICE_START, "USER:", "ASSISTANT:", "This contains a clip sampled in", "seconds")
LIKE = {
    SYSTEM: "You are a helpful assistant.",
    "USER:": "user",
    "ASSISTANT:": "assistant",
    CHOICE_START: "Best option: (",
}
"""Phrases of Dispider's prompt that stand where the ReKV pocket has others: they start from those."""
LAB_SETTINGS = {"clip_frames": 4, "topk": 4}
"""Streams of seconds: a decision every four frames."""

TEXT = {
    "hidden_size": 128,
    "intermediate_size": 384,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 32768,
    "rope_theta": 100000.0,
    "tie_word_embeddings": True,
    "bos_token_id": None,
}
VISION = {
    "hidden_size": 96,
    "intermediate_size": 384,
    "num_hidden_layers": 3,
    "num_attention_heads": 3,
    "image_size": 112,
    "patch_size": 4,
    "hidden_act": "gelu_pytorch_tanh",
}
PIXELS = {"image_mean": [0.5, 0.5, 0.5], "image_std": [0.5, 0.5, 0.5], "resample": 3}
SIZES = DispiderSizes(
    language={**TEXT, "num_hidden_layers": 5},
    compressor={**TEXT, "num_hidden_layers": 3},
    vision=VISION,
    pixels=PIXELS,
    select_layer=-1,
    pool_num=1,
    uses_image_markers=False,
)
"""28 x 28 patches, 14 x 14 tokens a frame: the grid of the pocket world's labels."""


def pocket_tokenizer() -> PreTrainedTokenizerFast:
    """The pocket tokenizer with Dispider's markers and phrases after its own words; numbers are read by digits."""
    return extended_tokenizer(PHRASES, MARKERS)


def new_pocket_dispider(start: Path | None = POCKET_ROOT / "rekv", seed: int = 0) -> DispiderModel:
    """A model that knows what the ReKV pocket in folder ``start`` knows, as far as it fits; ``None``: nothing.

    Taken over: both language networks (the compressor gets the first layers), the tower's layers and patches, its
    position table at the new grid, and the projector, applied to the mean of the four patches of a token. The rest
    is drawn with a scale that suits small widths.
    """
    torch.manual_seed(seed)
    num_words = len(pocket_tokenizer())
    model = DispiderModel(SIZES, Rows(num_words, num_words)).float()
    for module in model.modules():
        if isinstance(module, nn.Linear) and module is not model.language.lm_head:
            nn.init.normal_(module.weight, std=module.in_features**-0.5)
            if module.bias is not None:
                nn.init.zeros_(module.bias)
    for text in (model.language.model, model.compressor["model"]):
        nn.init.normal_(text.embed_tokens.weight, std=0.15)
    if start is not None:
        warm_start(model, load_file(start / "model.safetensors"))
        _start_phrases(model.language.model.embed_tokens)
    return model


def save_pocket_dispider(model: DispiderModel, folder: Path) -> Path:
    """The trained model as a checkpoint folder that ``backbone.checkpoint`` takes."""
    return save_dispider(folder, model, SIZES, pocket_tokenizer(), lab_settings=LAB_SETTINGS)


@torch.no_grad()
def warm_start(model: DispiderModel, weights: Mapping[str, Tensor]) -> None:
    """Copy what fits of a LLaVA-OneVision pocket's ``weights`` (official key layout)."""
    for text in (model.language.model, model.compressor["model"]):
        for name, tensor in text.state_dict().items():
            _copy_rows(tensor, weights[f"language_model.model.{name}"])
    # The official key layout, or that of a folder saved by transformers 5.
    root = "vision_tower.vision_model."
    if not any(name.startswith(root) for name in weights):
        root = "vision_tower."
    for name, tensor in model.vision.encoder.state_dict().items():
        tensor.copy_(weights[f"{root}encoder.{name}"])
    _start_patches(model.vision.embeddings, weights, f"{root}embeddings.")
    for part in (model.mm_projector["mlp"], model.clip_projector):
        _start_projector(part, weights)


@torch.no_grad()
def _start_phrases(words: nn.Embedding) -> None:
    """An answer is known by the phrase in front of it; with an unknown one, letters would have to be learnt again."""
    tokenizer = pocket_tokenizer()
    for phrase, known in LIKE.items():
        new, old = tokenizer.convert_tokens_to_ids([phrase, known])
        words.weight[new] = words.weight[old]


def _copy_rows(tensor: Tensor, trained: Tensor) -> None:
    """All of it, or the rows that the larger vocabulary shares with the trained one."""
    tensor[: len(trained)].copy_(trained)


def _start_patches(embeddings: nn.Module, weights: Mapping[str, Tensor], root: str) -> None:
    """CLIP's patches have no bias: it moves into the position table, which is stretched to the new grid."""
    embeddings.patch_embedding.weight.copy_(weights[f"{root}patch_embedding.weight"])
    table = weights[f"{root}position_embedding.weight"]
    side, new_side = round(len(table) ** 0.5), round((embeddings.num_positions - 1) ** 0.5)
    # The position table of the trained grid, stretched.
    grid = table.T.view(1, -1, side, side)
    stretched = interpolate(grid, size=(new_side, new_side), mode="bicubic", align_corners=False)
    positions = embeddings.position_embedding.weight[1:]
    positions.copy_(stretched.flatten(2)[0].T + weights[f"{root}patch_embedding.bias"])


def _start_projector(projector: nn.Sequential, weights: Mapping[str, Tensor]) -> None:
    """The trained projector took one patch; here it takes the mean of four."""
    for index, layer in ((0, "linear_1"), (2, "linear_2")):
        trained = weights[f"multi_modal_projector.{layer}.weight"]
        # Four patches side by side, each with a quarter of the weight: their mean.
        copies = projector[index].in_features // trained.shape[1]
        projector[index].weight.copy_(trained.repeat(1, copies) / copies)
        projector[index].bias.copy_(weights[f"multi_modal_projector.{layer}.bias"])
