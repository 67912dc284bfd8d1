"""Towers over Hugging Face's Qwen2-VL and Qwen2.5-VL vision models, for frames of one size.

A token is a group of 2x2 patches, side by side in the last dimension: the group is what the model merges into one
token of the language model, so it is what a cacher selects. A frame is a temporal patch (two video frames); the model
never attends across temporal patches.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from stc_lab.vision.base import TowerFacts, VisionTower
from stc_lab.vision.qwen_block import PLACE, PLACE_UNIT, QwenBlock, Tables
from stc_lab.vision.qwen_plane import GROUP, MERGE, Plane


class QwenTower(VisionTower):
    """The vision part of a Qwen2-VL or Qwen2.5-VL model for frames of ``patch_grid`` (rows, columns) patches.

    ``visual``: ``model.model.visual`` of either. Blocks run in the model's order (window after window for 2.5);
    :meth:`finish` leaves that order, which :func:`merge` restores as the model does.
    """

    def __init__(self, visual: nn.Module, patch_grid: tuple[int, int]) -> None:
        rows, columns = patch_grid
        if rows % MERGE or columns % MERGE or min(patch_grid) < MERGE:
            raise ValueError(f"patch_grid={patch_grid}: rows and columns must be even, because 2x2 patches are merged")
        self._visual = visual
        config = visual.config
        self._width = visual.blocks[0].attn.qkv.in_features
        window_size = getattr(config, "window_size", None)
        self.plane = Plane(
            rows // MERGE,
            columns // MERGE,
            head_dim=self._width // config.num_heads,
            theta=(getattr(config, "rope_parameters", None) or {}).get("rope_theta", 10000.0),
            window=window_size // (MERGE * config.patch_size) if window_size else None,
        )
        self._tables = Tables(self.plane)
        full = getattr(config, "fullatt_block_indexes", range(len(visual.blocks)))
        windowed = [self.plane.window is not None and index not in full for index in range(len(visual.blocks))]
        self.blocks = [QwenBlock(b, self._tables, w) for b, w in zip(visual.blocks, windowed, strict=True)]
        self.facts = self._read_facts(windowed)

    def embed(self, pixels: Tensor) -> Tensor:
        """Packed patches [F, 4 G, 3 * 2 * patch * patch] of F temporal patches -> tokens [F, G, 4 C + 2]."""
        num_patches = GROUP * self.plane.num_groups
        if pixels.dim() != 3 or pixels.shape[1] != num_patches:
            raise ValueError(f"pixels have shape {tuple(pixels.shape)}, this tower needs [frames, {num_patches}, ...]")
        embedded = self._visual.patch_embed(pixels.flatten(0, 1)).view(len(pixels), self.plane.num_groups, -1)
        order, places = (self._tables.get(name, pixels.device) for name in ("order", "places"))
        places = (places[order] * PLACE_UNIT).to(embedded.dtype).expand(len(pixels), -1, -1)
        return torch.cat((embedded[:, order], places), dim=-1)

    def finish(self, x: Tensor) -> Tensor:
        """Groups [F, G, 4 C] for the merger, in tower order."""
        return x[..., :-PLACE].contiguous()

    def on_grid(self, values: Tensor) -> Tensor:
        """Values of groups [F, G, ...] from tower order to rows and columns."""
        return values[:, self._tables.get("back", values.device)]

    def merge(self, features: Tensor) -> Tensor:
        """What :meth:`finish` gave -> tokens of the language model [F, G, H], row by row."""
        merged = self._visual.merger(features.reshape(-1, self._width)).view(*features.shape[:2], -1)
        return merged[:, self._tables.get("back", features.device)]

    @property
    def merge_flops(self) -> int:
        """FLOPs of :meth:`merge` for one frame: two products over the concatenated group."""
        first, _, second = self._visual.merger.mlp
        products = first.in_features * first.out_features + second.in_features * second.out_features
        return 2 * self.plane.num_groups * products

    def _read_facts(self, windowed: list[bool]) -> TowerFacts:
        config, plane = self._visual.config, self.plane
        dense = (GROUP * plane.num_groups) ** 2
        mlp = self._visual.blocks[0].mlp
        return TowerFacts(
            num_tokens=plane.num_groups,
            grid=(plane.rows, plane.columns),
            num_special_tokens=0,
            hidden_size=self._width,
            num_heads=config.num_heads,
            # A gated MLP has three products where the formula counts two.
            mlp_size=mlp.fc1.out_features if hasattr(mlp, "fc1") else 3 * mlp.gate_proj.out_features // 2,
            num_layers=len(windowed),
            image_size=MERGE * config.patch_size * max(plane.rows, plane.columns),
            patch_size=config.patch_size,
            num_channels=config.in_channels * config.temporal_patch_size,
            patches_per_token=GROUP,
            attention_pairs=tuple(plane.num_window_pairs if w else dense for w in windowed),
        )
