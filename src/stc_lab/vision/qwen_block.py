"""A vision layer of Qwen2-VL or Qwen2.5-VL, step by step, on groups of 2x2 patches."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn.functional import linear, pad, scaled_dot_product_attention

from stc_lab.vision.attention import multi_head_attention
from stc_lab.vision.base import Block
from stc_lab.vision.qwen_plane import GROUP, Plane, rotate

PLACE = 2
PLACE_UNIT = 2.0**-12
"""The residual stream carries each group's row and column in two more channels, so that any subset of the tokens still
knows where it stands. Small powers of two: exact in half precision, and too small to matter in a comparison."""


class Tables:
    """What a plane says, on the device and in the type of the tokens that ask."""

    def __init__(self, plane: Plane) -> None:
        self.plane = plane
        self._tables: dict[tuple[str, torch.device], Tensor] = {}

    def get(self, name: str, device: torch.device) -> Tensor:
        """One of ``cos``, ``sin`` [G, 4, d], ``windows``, ``order``, ``back`` [G], ``places`` [G, 2]; row by row."""
        if (name, device) not in self._tables:
            named = {"cos": 0, "sin": 1}
            table = self.plane.angles[named[name]] if name in named else getattr(self.plane, name)
            self._tables[name, device] = table.to(device)
        return self._tables[name, device]

    def window_patches(self, device: torch.device) -> list[Tensor]:
        """See :attr:`Plane.window_patches`."""
        return [index.to(device) for index in self.plane.window_patches]

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
            mixed = self._attend_windows(*states)
        else:
            mixed = self._attend_masked(*states, _places(query))
        return _joined(mixed)

    def attention_weights(self, query: Tensor, key: Tensor, weights: Tensor | None = None) -> Tensor:
        """Between groups: the mean over a group's queries of what they give to the four keys of a group together."""
        split = (self._attention.num_heads, -1)
        states = [self._patches(x).flatten(1, 2).unflatten(-1, split) for x in (query, key)]
        logits = torch.einsum("fqhd,fkhd->fhqk", states[0] * self._attention.scaling, states[1]).float()
        if self._is_windowed:
            logits = logits.masked_fill(~self._visible(_places(query))[:, None], -torch.inf)
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
        patches = self._patches(x)
        hidden = patches.reshape(-1, self._width)
        hidden = hidden + self._attention.proj(self._fused(self._layer.norm1(hidden), patches.shape))
        hidden = hidden + self._layer.mlp(self._layer.norm2(hidden))
        return _joined(hidden.view(patches.shape), _places(x))

    def _fused(self, normed: Tensor, shape: tuple[int, ...]) -> Tensor:
        """Attention of all patches ``normed`` [F * T, C] of frames ``shape`` [F, G, 4, C] -> [F * T, C]."""
        heads = self._attention.num_heads
        query, key, value = self._attention.qkv(normed).reshape(len(normed), 3, heads, -1).unbind(1)
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
