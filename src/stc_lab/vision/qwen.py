"""Towers over Hugging Face's Qwen2-VL and Qwen2.5-VL vision models, for frames of one size.

A token is a group of 2x2 patches, side by side in the last dimension: the group is what the model merges into one
token of the language model, so it is what a cacher selects. A frame is a temporal patch (two video frames); the model
never attends across temporal patches.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import torch
from torch import Tensor, nn
from torch.nn.functional import linear, pad, scaled_dot_product_attention

from stc_lab.vision.tower import Block, TowerFacts, VisionTower, multi_head_attention

MERGE = 2
"""Rows and columns of patches that become one token of the language model; groups of them stay together."""
GROUP = MERGE * MERGE
PLACE = 2
PLACE_UNIT = 2.0**-12
"""The residual stream carries each group's row and column in two more channels, so that any subset of the tokens still
knows where it stands. Small powers of two: exact in half precision, and too small to matter in a comparison."""


@dataclass(frozen=True)
class Plane:
    """A frame of ``rows`` x ``columns`` groups of 2x2 patches, for heads of width ``head_dim``.

    ``window``: side of an attention window in groups; ``None`` for towers without windows. Group numbers run row by
    row; the tower keeps groups in ``order``, which is window after window.
    """

    rows: int
    columns: int
    head_dim: int
    theta: float = 10000.0
    window: int | None = None

    @property
    def num_groups(self) -> int:
        """Groups of a frame."""
        return self.rows * self.columns

    @cached_property
    def places(self) -> Tensor:
        """(row, column) of the groups [G, 2], row by row."""
        return torch.cartesian_prod(torch.arange(self.rows), torch.arange(self.columns)).view(-1, 2)

    @cached_property
    def windows(self) -> Tensor:
        """Number of the window each group lies in [G], row by row."""
        if self.window is None:
            return torch.zeros(self.num_groups, dtype=torch.long)
        across = -(-self.columns // self.window)
        return (self.places[:, 0] // self.window) * across + self.places[:, 1] // self.window

    @cached_property
    def order(self) -> Tensor:
        """Group numbers [G] in the order in which the tower keeps them."""
        return self.windows.argsort(stable=True)

    @cached_property
    def back(self) -> Tensor:
        """Index [G] that brings what is in ``order`` back to row by row."""
        return self.order.argsort()

    @cached_property
    def window_patches(self) -> list[Tensor]:
        """Patches of the windows in tower order, windows of one size together: a list of [windows, size]."""
        counts = self.windows.bincount()
        stops = counts.cumsum(0).tolist()
        by_size: dict[int, list[Tensor]] = {}
        for stop, count in zip(stops, counts.tolist(), strict=True):
            by_size.setdefault(count, []).append(torch.arange(GROUP * (stop - count), GROUP * stop))
        return [torch.stack(windows) for windows in by_size.values()]

    @cached_property
    def num_window_pairs(self) -> int:
        """Pairs of patches that see each other inside windows."""
        return int((self.windows.bincount() * GROUP).square().sum())

    @cached_property
    def angles(self) -> tuple[Tensor, Tensor]:
        """Cosine and sine [G, 4, head_dim] of each group's patches, row by row, float32.

        The first half of a head turns with the row, the second with the column; angles repeat for both halves of a
        rotated pair.
        """
        # Half of the frequencies of a head for rows, the same again for columns.
        axis = self.head_dim // 2
        steps = torch.arange(0, axis, 2, dtype=torch.float) / axis
        frequencies = 1.0 / (self.theta**steps)
        # Positions count patches: twice the group's, and one more inside it.
        within = torch.cartesian_prod(torch.arange(MERGE), torch.arange(MERGE)).view(GROUP, 2)
        positions = MERGE * self.places[:, None] + within
        both = (positions[..., None].float() * frequencies).flatten(2)
        return torch.cat((both.cos(),) * 2, dim=-1), torch.cat((both.sin(),) * 2, dim=-1)


def rotate(x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    """Turn ``x`` [..., heads, d] by ``cos``, ``sin`` [..., d] in float32, as Hugging Face's vision towers do."""
    half = x.shape[-1] // 2
    precise = x.float()
    swapped = torch.cat((-precise[..., half:], precise[..., :half]), dim=-1)
    return (precise * cos.unsqueeze(-2) + swapped * sin.unsqueeze(-2)).to(x.dtype)


class Tables:
    """What a plane says, on the device and in the type of the tokens that ask."""

    def __init__(self, plane: Plane) -> None:
        self.plane = plane
        self._tables: dict[tuple[str, torch.device], Tensor] = {}
        self._windows: dict[torch.device, list[Tensor]] = {}

    def get(self, name: str, device: torch.device) -> Tensor:
        """One of ``cos``, ``sin`` [G, 4, d], ``windows``, ``order``, ``back`` [G], ``places`` [G, 2]; row by row."""
        if (name, device) not in self._tables:
            named = {"cos": 0, "sin": 1}
            table = self.plane.angles[named[name]] if name in named else getattr(self.plane, name)
            self._tables[name, device] = table.to(device)
        return self._tables[name, device]

    def window_patches(self, device: torch.device) -> list[Tensor]:
        """``Plane.window_patches`` on ``device``."""
        if device not in self._windows:
            self._windows[device] = [index.to(device) for index in self.plane.window_patches]
        return self._windows[device]

    def groups(self, places: Tensor) -> Tensor:
        """Group numbers [...] of ``places`` [..., 2] as the residual stream carries them; the nearest group."""
        row, column = (places.float() / PLACE_UNIT).round().long().unbind(-1)
        return row * self.plane.columns + column


class QwenBlock(Block):
    """A vision layer of either model, step by step over its leaf modules; tokens are groups [..., 4 C + 2].

    All steps keep the width. The last two channels are the place in the residual stream, after ``norm1`` and in
    queries, and nothing (zeros) elsewhere. ``is_windowed``: a patch sees only its window.
    """

    def __init__(self, layer: nn.Module, tables: Tables, is_windowed: bool) -> None:
        self._layer = layer
        self._attention = layer.attn
        self._tables = tables
        self._is_windowed = is_windowed
        self._width = layer.attn.qkv.in_features

    def norm1(self, x: Tensor) -> Tensor:
        return _joined(self._layer.norm1(self._patches(x)), _places(x))

    def query(self, normed: Tensor) -> Tensor:
        return _joined(self._turned(normed, 0), _places(normed))

    def key(self, normed: Tensor) -> Tensor:
        return _joined(self._turned(normed, 1))

    def value(self, normed: Tensor) -> Tensor:
        return _joined(self._projected(normed, 2))

    def attend(self, query: Tensor, key: Tensor, value: Tensor) -> Tensor:
        states = [self._patches(x) for x in (query, key, value)]
        if not self._is_windowed:
            mixed = self._attend_all(*states)
        elif query.shape[1] == key.shape[1]:
            # All groups are there, in tower order: window after window.
            mixed = self._attend_windows(*states)
        else:
            # Some groups only, whose windows are told by their places.
            mixed = self._attend_masked(*states, _places(query))
        return _joined(mixed)

    def attention_weights(self, query: Tensor, key: Tensor, weights: Tensor | None = None) -> Tensor:
        """Between groups: the mean over a group's queries of what they give to the four keys of a group together."""
        split = (self._attention.num_heads, -1)
        states = [self._patches(x).flatten(1, 2).unflatten(-1, split) for x in (query, key)]
        logits = torch.einsum("fqhd,fkhd->fhqk", states[0] * self._attention.scaling, states[1]).float()
        if self._is_windowed:
            logits = logits.masked_fill(~self._visible(_places(query))[:, None], -torch.inf)
        # Shares of a group's keys add up, those of its queries are averaged: rows still add up to one.
        groups = logits.softmax(-1).unflatten(-1, (-1, GROUP)).sum(-1)
        return groups.unflatten(-2, (-1, GROUP)).mean(-2)

    def heads(self, projected: Tensor) -> Tensor:
        """Heads apart, the four patches of a group side by side in each: [F, T, heads, 4 * head size]."""
        return self._patches(projected).unflatten(-1, (self._attention.num_heads, -1)).transpose(2, 3).flatten(3)

    def project(self, mixed: Tensor) -> Tensor:
        return _joined(self._attention.proj(self._patches(mixed)))

    def norm2(self, x: Tensor) -> Tensor:
        return _joined(self._layer.norm2(self._patches(x)))

    def mlp(self, normed: Tensor) -> Tensor:
        return _joined(self._layer.mlp(self._patches(normed)))

    def __call__(self, x: Tensor) -> Tensor:
        """The whole layer for ``x`` [F, G, 4 C + 2], with the fused projection of the original."""
        # All patches of all frames as rows, as the model has them; the places pass by.
        patches = self._patches(x)
        hidden = patches.reshape(-1, self._width)
        hidden = hidden + self._attention.proj(self._fused(self._layer.norm1(hidden), patches.shape))
        hidden = hidden + self._layer.mlp(self._layer.norm2(hidden))
        return _joined(hidden.view(patches.shape), _places(x))

    def _fused(self, normed: Tensor, shape: tuple[int, ...]) -> Tensor:
        """Attention of all patches ``normed`` [F * T, C] of frames ``shape`` [F, G, 4, C] -> [F * T, C]."""
        heads = self._attention.num_heads
        query, key, value = self._attention.qkv(normed).reshape(len(normed), 3, heads, -1).unbind(1)
        # Rotary angles in tower order, the same for every frame.
        order = self._tables.get("order", normed.device)
        turns = (self._tables.get(name, normed.device)[order].flatten(0, 1) for name in ("cos", "sin"))
        cos, sin = (turn.repeat(shape[0], 1) for turn in turns)
        states = (x.reshape(shape) for x in (rotate(query, cos, sin), rotate(key, cos, sin), value))
        attend = self._attend_windows if self._is_windowed else self._attend_all
        return attend(*states).reshape(-1, self._width)

    def _patches(self, x: Tensor) -> Tensor:
        """[..., 4 C + 2] -> [..., 4, C], in one piece: ``linear`` with frozen weights takes rows that stand apart as
        many small products."""
        return x[..., :-PLACE].contiguous().unflatten(-1, (GROUP, self._width))

    def _projected(self, normed: Tensor, part: int) -> Tensor:
        """Query (0), key (1) or value (2) projection [..., 4, C]."""
        qkv, rows = self._attention.qkv, slice(part * self._width, (part + 1) * self._width)
        return linear(self._patches(normed), qkv.weight[rows], qkv.bias[rows])

    def _turned(self, normed: Tensor, part: int) -> Tensor:
        # Any subset of the groups: each is turned by the angles of the place it carries.
        groups = self._tables.groups(_places(normed))
        cos, sin = (self._tables.get(name, normed.device)[groups] for name in ("cos", "sin"))
        states = self._projected(normed, part).unflatten(-1, (self._attention.num_heads, -1))
        return rotate(states, cos, sin).flatten(-2)

    def _attend_all(self, query: Tensor, key: Tensor, value: Tensor) -> Tensor:
        """[F, Q, 4, C] over [F, G, 4, C]."""
        states = (x.flatten(1, 2) for x in (query, key, value))
        mixed = multi_head_attention(*states, self._attention.num_heads, self._attention.scaling)
        return mixed.view(query.shape)

    def _heads(self, x: Tensor) -> Tensor:
        """[F, G, 4, C] -> [F, heads, T, d]."""
        return x.flatten(1, 2).unflatten(-1, (self._attention.num_heads, -1)).transpose(1, 2)

    def _attend_windows(self, query: Tensor, key: Tensor, value: Tensor) -> Tensor:
        """All patches, each window by itself."""
        states = [self._heads(x) for x in (query, key, value)]
        mixed = torch.empty_like(states[0])
        # Windows of one size are one batch; those at the right and lower edge may be smaller.
        for patches in self._tables.window_patches(query.device):
            inside = [x[:, :, patches].transpose(1, 2).flatten(0, 1) for x in states]
            seen = scaled_dot_product_attention(*inside, scale=self._attention.scaling)
            mixed[:, :, patches] = seen.unflatten(0, (-1, len(patches))).transpose(1, 2)
        return mixed.transpose(1, 2).reshape(query.shape)

    def _attend_masked(self, query: Tensor, key: Tensor, value: Tensor, places: Tensor) -> Tensor:
        """Some groups' patches, over the patches of their windows."""
        states = (self._heads(x) for x in (query, key, value))
        visible = self._visible(places)[:, None]
        mixed = scaled_dot_product_attention(*states, attn_mask=visible, scale=self._attention.scaling)
        return mixed.transpose(1, 2).reshape(query.shape)

    def _visible(self, places: Tensor) -> Tensor:
        """Which patches [F, 4 Q, 4 G] share a window with those of the groups at ``places`` [F, Q, 2]."""
        windows, order = (self._tables.get(name, places.device) for name in ("windows", "order"))
        own = windows[self._tables.groups(places)]
        return (own[..., None] == windows[order]).repeat_interleave(GROUP, 1).repeat_interleave(GROUP, 2)


def _places(x: Tensor) -> Tensor:
    return x[..., -PLACE:]


def _joined(patches: Tensor, places: Tensor | None = None) -> Tensor:
    """[..., 4, C] -> [..., 4 C + 2]."""
    flat = patches.flatten(-2)
    return pad(flat, (0, PLACE)) if places is None else torch.cat((flat, places), dim=-1)


class QwenTower(VisionTower):
    """The vision part of a Qwen2-VL or Qwen2.5-VL model for frames of ``patch_grid`` (rows, columns) patches.

    ``visual``: ``model.model.visual`` of either. Blocks run in the model's order (window after window for 2.5);
    ``finish`` leaves that order, which ``merge`` restores as the model does.
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
        # The preprocessor hands over groups row by row; the tower keeps them window by window, each with its place.
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
        """What ``finish`` gave -> tokens of the language model [F, G, H], row by row."""
        merged = self._visual.merger(features.reshape(-1, self._width)).view(*features.shape[:2], -1)
        return merged[:, self._tables.get("back", features.device)]

    @property
    def merge_flops(self) -> int:
        """FLOPs of ``merge`` for one frame: two products over the concatenated group."""
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
