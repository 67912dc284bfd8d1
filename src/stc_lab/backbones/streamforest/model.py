"""The modules of a StreamForest checkpoint, and the names their weights have in it."""

from __future__ import annotations

import torch
from torch import nn
from transformers import Qwen2Config, Qwen2ForCausalLM, SiglipVisionConfig, SiglipVisionModel

OFFICIAL_VISION = "model.vision_tower.vision_tower.vision_model."
OFFICIAL_PROJECTOR = "model.mm_projector.mlp."


class StreamForestModel(nn.Module):
    """Tower, projector and language model; the memory between them has no weights."""

    def __init__(self, text: Qwen2Config, vision: SiglipVisionConfig) -> None:
        super().__init__()
        self.vision = SiglipVisionModel(vision)
        self.projector = nn.Sequential(
            nn.Linear(vision.hidden_size, text.hidden_size),
            nn.GELU(),
            nn.Linear(text.hidden_size, text.hidden_size),
        )
        self.language = Qwen2ForCausalLM(text)

    @property
    def ties_head(self) -> bool:
        """Whether the language model's head is its embedding."""
        return bool(self.language.config.tie_word_embeddings)

    def official_names(self) -> dict[str, str]:
        """Official name of every tensor -> its name here; a tied head is left out."""
        names = {_official(name): name for name in self.state_dict()}
        if self.ties_head:
            names.pop("lm_head.weight", None)
        return names

    def restore_buffers(self) -> None:
        """Fill what no checkpoint holds, after the model was made without memory. All weights must be there."""
        rotary = self.language.model.rotary_emb
        self.language.model.rotary_emb = type(rotary)(rotary.config)
        embeddings = getattr(self.vision, "vision_model", self.vision).embeddings
        embeddings.position_ids = torch.arange(embeddings.position_ids.shape[-1])[None]
        self.language.tie_weights()
        unfilled = [name for name, tensor in [*self.named_parameters(), *self.named_buffers()] if tensor.is_meta]
        assert not unfilled, f"left without values: {unfilled}"


def _official(name: str) -> str:
    """Name here -> official name. Whether SigLIP nests its parts depends on the version of transformers."""
    part, _, rest = name.partition(".")
    if part == "vision":
        return OFFICIAL_VISION + rest.removeprefix("vision_model.")
    return rest if part == "language" else OFFICIAL_PROJECTOR + rest
