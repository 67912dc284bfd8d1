"""The pocket LLaVA-OneVision: official classes and token geometry, small widths; its checkpoint folder."""

from __future__ import annotations

import json
from pathlib import Path

import torch
from transformers import (
    GenerationConfig,
    LlavaOnevisionConfig,
    LlavaOnevisionForConditionalGeneration,
    PreTrainedTokenizerFast,
    Qwen2Config,
    SiglipVisionConfig,
)

from stc_lab.pocket.tokenizer import build_tokenizer
from stc_lab.pocket.world.vocabulary import IMAGE_SIZE


def pocket_config(tokenizer: PreTrainedTokenizerFast) -> LlavaOnevisionConfig:
    """27 x 27 = 729 tokens from the tower, 14 x 14 = 196 a frame for the language model."""
    vision = SiglipVisionConfig(
        hidden_size=96,
        intermediate_size=384,
        num_hidden_layers=3,
        num_attention_heads=3,
        image_size=IMAGE_SIZE,
        patch_size=4,
        vision_use_head=False,
    )
    text = Qwen2Config(
        vocab_size=len(tokenizer),
        hidden_size=128,
        intermediate_size=384,
        num_hidden_layers=5,
        num_attention_heads=4,
        num_key_value_heads=2,
        max_position_embeddings=32768,
        rope_parameters={"rope_type": "default", "rope_theta": 100000.0},
        tie_word_embeddings=True,
        bos_token_id=None,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
    )
    return LlavaOnevisionConfig(
        vision_config=vision,
        text_config=text,
        image_token_index=tokenizer.convert_tokens_to_ids("<image>"),
        video_token_index=tokenizer.convert_tokens_to_ids("<video>"),
        vision_feature_layer=-1,
        vision_feature_select_strategy="full",
        vision_aspect_ratio="anyres_max_9",
        image_grid_pinpoints=[[IMAGE_SIZE, IMAGE_SIZE]],
        tie_word_embeddings=True,
    )


def new_pocket(tokenizer: PreTrainedTokenizerFast, seed: int = 0) -> LlavaOnevisionForConditionalGeneration:
    """A fresh model whose linear layers are scaled by fan-in (the default 0.02 is too small at these widths)."""
    torch.manual_seed(seed)
    model = LlavaOnevisionForConditionalGeneration(pocket_config(tokenizer)).float()
    for module in model.modules():
        if isinstance(module, torch.nn.Linear):
            torch.nn.init.normal_(module.weight, std=module.in_features**-0.5)
            if module.bias is not None:
                torch.nn.init.zeros_(module.bias)
    torch.nn.init.normal_(model.get_input_embeddings().weight, std=0.15)
    model.tie_weights()
    return model


LAB_SETTINGS = {"rekv": {"n_local": 16 * 196, "topk": 16}}
"""ReKV's sizes for streams of seconds instead of hours: a window of 16 whole frames, 16 frames retrieved."""
PIXELS = {
    "do_resize": True,
    "size": {"height": IMAGE_SIZE, "width": IMAGE_SIZE},
    "resample": 3,
    "do_rescale": True,
    "rescale_factor": 1 / 255,
    "do_normalize": True,
    "image_mean": [0.5, 0.5, 0.5],
    "image_std": [0.5, 0.5, 0.5],
    "do_convert_rgb": True,
}
CHAT_TEMPLATE = (
    "{% for message in messages %}<|im_start|>{{ message['role'] }} {{ message['content'] }}<|im_end|>{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant {% endif %}"
)


def export(model: LlavaOnevisionForConditionalGeneration, folder: Path) -> None:
    """Weights (float32, official key layout), tokenizer, processor constants and the lab's own sizes."""
    tokenizer = build_tokenizer()
    tokenizer.chat_template = CHAT_TEMPLATE
    end = tokenizer.eos_token_id
    model.generation_config = GenerationConfig(eos_token_id=end, pad_token_id=tokenizer.pad_token_id)
    model.save_pretrained(folder, safe_serialization=True)
    tokenizer.save_pretrained(folder)
    image = {"image_processor_type": "LlavaOnevisionImageProcessor", "image_grid_pinpoints": [[IMAGE_SIZE] * 2]}
    video = {"video_processor_type": "LlavaOnevisionVideoProcessor"}
    _write(folder / "preprocessor_config.json", image | PIXELS)
    _write(folder / "video_preprocessor_config.json", video | PIXELS)
    _write(folder / "stc_lab.json", LAB_SETTINGS)


def _write(path: Path, content: dict) -> None:
    path.write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8")
