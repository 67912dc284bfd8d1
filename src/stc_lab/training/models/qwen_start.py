"""What a pocket Qwen-VL model can take over from the pocket LLaVA-OneVision of ReKV."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor, nn

from stc_lab.vision.qwen import GROUP

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
