"""What a StreamForest ``config.json`` says, and what it leaves unsaid."""

from __future__ import annotations

from typing import Any

MODEL_TYPE = "llava_qwen"
PROJECTOR = "tome729_fstw_pemf"
SO400M = {
    "hidden_size": 1152,
    "intermediate_size": 4304,
    "num_hidden_layers": 26,
    "num_attention_heads": 16,
    "image_size": 384,
    "patch_size": 14,
}
"""SigLIP so400m/14 at 384 pixels without its last layer: the official file names it, without its sizes."""
TEXT_KEYS = (
    "vocab_size",
    "hidden_size",
    "intermediate_size",
    "num_hidden_layers",
    "num_attention_heads",
    "num_key_value_heads",
    "hidden_act",
    "max_position_embeddings",
    "rms_norm_eps",
    "tie_word_embeddings",
    "bos_token_id",
    "eos_token_id",
    "pad_token_id",
)


def check_config(config: dict[str, Any], name: str) -> None:
    """Raise ``ValueError`` when the ``config.json`` of checkpoint ``name`` is not that of a StreamForest model."""
    kind, projector = config.get("model_type"), config.get("mm_projector_type")
    if kind != MODEL_TYPE:
        raise ValueError(
            f"backbone.checkpoint={name}: model_type is {kind}, backbone=streamforest needs {MODEL_TYPE}"
        )
    if projector != PROJECTOR:
        raise ValueError(
            f"backbone.checkpoint={name}: mm_projector_type is {projector}, backbone=streamforest needs {PROJECTOR} "
            "(checkpoints of the earlier training stages have no memory)"
        )
    if "vision_config" not in config and "siglip-so400m-patch14-384" not in str(config.get("mm_vision_tower")):
        raise ValueError(
            f"backbone.checkpoint={name}: mm_vision_tower is {config.get('mm_vision_tower')}, known is only "
            "siglip-so400m-patch14-384; for another tower config.json needs its sizes as vision_config"
        )
    if config.get("rope_scaling"):
        raise ValueError(f"backbone.checkpoint={name}: rope_scaling={config['rope_scaling']} is not supported")


def text_settings(config: dict[str, Any]) -> dict[str, Any]:
    """Arguments of ``Qwen2Config``; both ways to write the base of the rotary embedding are read."""
    rope = config.get("rope_parameters") or {"rope_type": "default", "rope_theta": config.get("rope_theta", 1e6)}
    return {key: config[key] for key in TEXT_KEYS if key in config} | {"rope_parameters": rope}


def vision_settings(config: dict[str, Any]) -> dict[str, Any]:
    """Arguments of ``SiglipVisionConfig``, layers as in the file (one fewer than SigLIP itself has)."""
    given = {key: value for key, value in config.get("vision_config", {}).items() if key != "model_type"}
    return SO400M | given | {"vision_use_head": False}


def tower_tokens(config: dict[str, Any]) -> int:
    """Tokens that the tower makes of a frame."""
    vision = vision_settings(config)
    return (vision["image_size"] // vision["patch_size"]) ** 2
