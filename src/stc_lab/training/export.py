"""Write a trained pocket model as a plain LLaVA-OneVision checkpoint folder, loadable by ``from_pretrained``."""

from __future__ import annotations

import json
from pathlib import Path

import torch
from transformers import GenerationConfig, LlavaOnevisionForConditionalGeneration

from stc_lab.pocket.tokenizer import build_tokenizer
from stc_lab.pocket.world.vocabulary import IMAGE_SIZE
from stc_lab.training.batches import QuestionEncoder
from stc_lab.training.language import LanguageModel
from stc_lab.training.models.llava import new_pocket
from stc_lab.training.vision import VisionModel

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


def assemble(vision_file: Path, language_file: Path) -> LlavaOnevisionForConditionalGeneration:
    """The model from the checkpoints of a vision and of a language stage."""
    tokenizer = build_tokenizer()
    model = new_pocket(tokenizer)
    vision = VisionModel(model)
    vision.load_state_dict(torch.load(vision_file, weights_only=True)["model"])
    language = LanguageModel(model, QuestionEncoder(tokenizer))
    language.load_state_dict(torch.load(language_file, weights_only=True)["model"])
    model.tie_weights()
    return model.eval()


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
