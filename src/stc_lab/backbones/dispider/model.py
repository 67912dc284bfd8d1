"""The networks of Dispider (arXiv:2501.03218) as one module: CLIP, the compressor with its head, the language model."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from torch import Tensor, nn
from transformers import CLIPVisionConfig, CLIPVisionModel, Qwen2Config, Qwen2ForCausalLM, Qwen2Model

from stc_lab.backbones.dispider.sizes import DispiderSizes

NAMES_OF_A_KIND = ("model_type", "architectures", "auto_map", "transformers_version", "torch_dtype", "dtype")


@dataclass(frozen=True)
class Rows:
    """What only the weights know: embedding rows, and linear layers of the two projectors of the language model.

    ``None`` for a projector: a plain linear layer that is not inside a list.
    """

    language: int
    compressor: int
    compress_projector: int | None = 2
    clip_projector: int | None = 2


class DispiderModel(nn.Module):
    """``language`` reads, ``compressor`` remembers and decides, ``vision`` sees; projectors between them.

    ``silent_head``: the score of responding now, positive for yes despite its name.
    """

    def __init__(self, sizes: DispiderSizes, rows: Rows) -> None:
        super().__init__()
        language = Qwen2Config(**_settings(sizes.language, rows.language))
        compressor = Qwen2Config(**_settings(sizes.compressor, rows.compressor))
        self.language = Qwen2ForCausalLM(language)
        self.compressor = nn.ModuleDict({"model": Qwen2Model(compressor)})
        self.vision = CLIPVisionModel(CLIPVisionConfig(**_settings(sizes.vision)))
        self.mm_projector = nn.ModuleDict({"mlp": projector(sizes.mixed_size, compressor.hidden_size, 2)})
        self.silent_head = nn.Linear(compressor.hidden_size, 1, bias=False)
        self.compress_projector = projector(compressor.hidden_size, language.hidden_size, rows.compress_projector)
        self.clip_projector = projector(sizes.mixed_size, language.hidden_size, rows.clip_projector)


def projector(in_size: int, out_size: int, depth: int | None) -> nn.Module:
    """``depth`` linear layers with GELU between them; ``None``: one linear layer alone; 0: nothing."""
    if depth is None:
        return nn.Linear(in_size, out_size)
    if depth == 0:
        return nn.Identity()
    layers: list[nn.Module] = [nn.Linear(in_size, out_size)]
    for _ in range(depth - 1):
        layers += [nn.GELU(), nn.Linear(out_size, out_size)]
    return nn.Sequential(*layers)


def mix(features: Tensor) -> Tensor:
    """Patches of a square grid [F, T, C] -> each two by two neighbours side by side in one token [F, T/4, 4C]."""
    num_frames, num_patches, width = features.shape
    half = round(num_patches**0.5) // 2
    blocks = features.reshape(num_frames, half, 2, half, 2, width).transpose(2, 3)
    return blocks.reshape(num_frames, half * half, 4 * width)


def pool(mixed: Tensor, pool_num: int) -> Tensor:
    """Means of ``pool_num`` square blocks of each frame: [F, N, D] -> [F * pool_num, D], frame by frame."""
    num_frames, num_tokens, width = mixed.shape
    blocks, side = round(pool_num**0.5), round(num_tokens**0.5)
    grid = mixed.view(num_frames, blocks, side // blocks, blocks, side // blocks, width)
    return grid.mean(dim=(2, 4)).view(num_frames * pool_num, width)


def _settings(config: Mapping[str, Any], num_rows: int | None = None) -> dict[str, Any]:
    """Settings without the names of model classes that need code of their own."""
    settings = {key: value for key, value in config.items() if key not in NAMES_OF_A_KIND}
    return settings if num_rows is None else {**settings, "vocab_size": num_rows}
