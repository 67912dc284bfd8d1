"""Architecture of the pocket StreamForest: official modules and token geometry, small widths."""

from __future__ import annotations

import torch
from safetensors.torch import load_file
from tokenizers import AddedToken
from transformers import PreTrainedTokenizerFast

from stc_lab.backbones.checkpoints import POCKET_ROOT
from stc_lab.backbones.streamforest.checkpoint import StreamForestModel
from stc_lab.pocket.tokenizer import build_tokenizer
from stc_lab.training.models import warm
from stc_lab.training.models.llava import pocket_config

POCKET_SIZES = {"short_frames": 4, "split_window": 4, "quota": 512}
"""Sizes of the memory for streams of seconds instead of hours; tokens per frame stay the official ones."""
PHRASES = (
    "The video contains",
    "frames sampled from the past",
    "seconds ago",
    "s of the entire video",
    "up to the present moment",
    "Answer with the option's letter from the given choices directly.",
)
"""Parts of the prompts that become one token each, as those of ReKV's prompts are."""
NUMBERS = tuple(str(number) for number in range(10, 100))


def pocket_tokenizer() -> PreTrainedTokenizerFast:
    """The pocket tokenizer with the words of StreamForest's prompts behind its own, whose ids stay."""
    tokenizer = build_tokenizer()
    phrases = [AddedToken(phrase, lstrip=True, rstrip=True, normalized=False) for phrase in PHRASES]
    numbers = [AddedToken(number, single_word=True, normalized=False) for number in NUMBERS]
    tokenizer.add_tokens([*phrases, *numbers])
    return tokenizer


def new_pocket_streamforest(
    tokenizer: PreTrainedTokenizerFast | None = None, seed: int = 0, warm_start: bool = True
) -> StreamForestModel:
    """A tower of 27 x 27 = 729 tokens, 96 wide and 3 layers deep, and a Qwen2 of width 128 and 5 layers.

    ``warm_start``: tower, projector, language model and the embeddings of known words start from the shipped
    ReKV model; everything else, and all without it, is random by ``seed``. Raises ``FileNotFoundError`` where that
    model is missing.
    """
    config = pocket_config(tokenizer or pocket_tokenizer())
    torch.manual_seed(seed)
    model = StreamForestModel(config.text_config, config.vision_config).float()
    for module in model.modules():
        if isinstance(module, torch.nn.Linear):
            torch.nn.init.normal_(module.weight, std=module.in_features**-0.5)
            torch.nn.init.zeros_(module.bias) if module.bias is not None else None
    torch.nn.init.normal_(model.language.get_input_embeddings().weight, std=0.15)
    if warm_start:
        _start_from_rekv(model)
    model.language.tie_weights()
    return model


@torch.no_grad()
def _start_from_rekv(model: StreamForestModel) -> None:
    weights = load_file(POCKET_ROOT / "rekv" / "model.safetensors")
    renamed = {
        "vision.": "vision_tower.",
        "projector.0.": "multi_modal_projector.linear_1.",
        "projector.2.": "multi_modal_projector.linear_2.",
        "language.": "language_model.",
    }
    warm.warm_start(model, weights, renamed)
    known = weights["language_model.model.embed_tokens.weight"]
    model.language.get_input_embeddings().weight[: len(known)] = known
