"""Attention of new tokens to stored keys and values: grouped heads, several parts in one softmax, and masks.

Shapes: queries [Hkv, G, T, d] (G query heads share a key head), keys and values [Hkv, L, d], additive masks
[T, L]. Nothing is repeated in memory for the groups.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn.functional import pad, scaled_dot_product_attention


@dataclass(frozen=True)
class Rotation:
    """Cosine and signed sine [T, d] of T positions; call it on states [T, heads, d] to rotate them."""

    cos: Tensor
    signed_sin: Tensor

    def __call__(self, states: Tensor) -> Tensor:
        half = states.shape[-1] // 2
        swapped = torch.cat((states[..., half:], states[..., :half]), dim=-1)
        return torch.addcmul(states * self.cos[:, None], swapped, self.signed_sin[:, None])

    def __getitem__(self, rows: slice) -> Rotation:
        return Rotation(self.cos[rows], self.signed_sin[rows])


class Rotary:
    """Rotations of a Hugging Face rotary embedding module.

    Angles are computed in float64: at position 700,000 (an hour at one frame a second) a float32 angle is
    already off by 0.03 rad. The frequencies come from a freshly built module, because casting a model to half
    precision casts its frequency buffer as well.
    """

    def __init__(self, inv_freq: Tensor, scaling: float = 1.0) -> None:
        self._inv_freq = inv_freq.detach().double()
        self._scaling = scaling

    @classmethod
    def of(cls, module: nn.Module) -> Rotary:
        """``module``: the ``rotary_emb`` of a Qwen2-like text model (default and static scaled types)."""
        fresh = type(module)(module.config)
        return cls(fresh.inv_freq, float(fresh.attention_scaling))

    def __call__(self, positions: Tensor, dtype: torch.dtype) -> Rotation:
        """Rotation for ``positions`` [T] (integers or floats) on their device."""
        device = positions.device
        if device.type == "mps":  # has no float64
            positions = positions.cpu()
        if self._inv_freq.device != positions.device:
            self._inv_freq = self._inv_freq.to(positions.device)
        # In double precision: after hours of video a position has seven digits.
        angles = self.spread(positions.double()) * self._inv_freq
        cos, sin = ((wave * self._scaling).to(device, dtype) for wave in (angles.cos(), angles.sin()))
        # Half-split layout of Hugging Face: component i turns with component i + d / 2.
        return Rotation(torch.cat((cos, cos), dim=-1), torch.cat((-sin, sin), dim=-1))

    def spread(self, positions: Tensor) -> Tensor:
        """Positions [T] -> [T, 1] or [T, d / 2]: what the frequencies are multiplied with."""
        return positions[:, None]

    def span(self, start: int, stop: int, like: Tensor) -> Rotation:
        """Rotation for the positions ``start .. stop - 1`` in the dtype and on the device of ``like``."""
        return self(torch.arange(start, stop, device=like.device), like.dtype)


class RotationTable:
    """Rotations of the positions 0, 1, 2, ... kept for reuse; grows by doubling."""

    def __init__(self, rotary: Rotary) -> None:
        self._rotary = rotary
        self._table: Rotation | None = None

    def span(self, start: int, stop: int, like: Tensor) -> Rotation:
        """Rotation for the positions ``start .. stop - 1`` in the dtype and on the device of ``like``."""
        table = self._table
        if table is None or table.cos.shape[0] < stop or table.cos.dtype != like.dtype:
            size = 2 * (stop if table is None else max(stop, table.cos.shape[0]))
            table = self._table = self._rotary.span(0, size, like)
        return table[start:stop]


class MultiAxisRotary(Rotary):
    """Every frequency turns with one of three positions (Qwen2-VL, arXiv:2409.12191, section 2.1).

    ``sections``: number of frequencies of the time, row and column axis. With one position per token, or three equal
    ones, this is the ordinary rotary embedding.
    """

    def __init__(self, inv_freq: Tensor, sections: Sequence[int], scaling: float = 1.0) -> None:
        super().__init__(inv_freq, scaling)
        if sum(sections) != len(inv_freq):
            raise ValueError(f"mrope_section={list(sections)}: must add up to {len(inv_freq)}, half the head size")
        self._axis = torch.arange(3).repeat_interleave(torch.tensor(sections))

    def spread(self, positions: Tensor) -> Tensor:
        """Positions [T] or [3, T] -> the one that each frequency turns with, [T, d / 2]."""
        if positions.dim() == 1:
            return super().spread(positions)
        return positions[self._axis.to(positions.device)].T


def rotary_of(module: nn.Module) -> Rotary:
    """``module``: the ``rotary_emb`` of a text model, with one axis or three."""
    sections = (module.config.rope_parameters or {}).get("mrope_section")
    if sections is None:
        return Rotary.of(module)
    fresh = type(module)(module.config)
    # Made anew in full precision: a cast of the model has rounded the frequencies in the module.
    return MultiAxisRotary(fresh.inv_freq, sections, float(fresh.attention_scaling))


def grouped(queries: Tensor, num_kv_heads: int) -> Tensor:
    """[T, Hq, d] -> [Hkv, G, T, d]."""
    num_tokens, _, head_dim = queries.shape
    return queries.view(num_tokens, num_kv_heads, -1, head_dim).permute(1, 2, 0, 3)


def ungrouped(outputs: Tensor) -> Tensor:
    """[Hkv, G, T, d] -> [T, Hq * d]."""
    return outputs.permute(2, 0, 1, 3).reshape(outputs.shape[2], -1)


def attend(queries: Tensor, keys: Tensor, values: Tensor, mask: Tensor | None, scale: float) -> Tensor:
    """Softmax attention -> [Hkv, G, T, d]; ``mask`` ``None``: every query sees every key."""
    if mask is None:
        # Query heads that share keys are read as one long sequence of queries.
        folded = _folded(queries)[None]
        return scaled_dot_product_attention(folded, keys[None], values[None], scale=scale).view(queries.shape)
    keys, values = _expanded(keys, queries), _expanded(values, queries)
    return scaled_dot_product_attention(queries, keys, values, attn_mask=mask, scale=scale)


@dataclass(frozen=True)
class Part:
    """Keys and values [Hkv, n, d] with the queries that read them and an additive mask [T, n] or ``None``."""

    queries: Tensor
    keys: Tensor
    values: Tensor
    mask: Tensor | None


def attend_parts(main: Part, others: Sequence[Part], scale: float) -> Tensor:
    """One softmax over several sets of keys -> [Hkv, G, T, d].

    ``main`` may be long and goes through a fused kernel; ``others`` are short and may see differently rotated
    queries. Every query must see a key of ``main``.
    """
    # 1. The main part by itself: its output, normalised over its own keys, and the log of what it was divided by.
    output, lse = attend_with_lse(main.queries, main.keys, main.values, main.mask, scale)
    # 2. Plain scores of the few other keys.
    scores = [_scores(part, scale) for part in others]
    # 3. One softmax over all: the whole main part competes as a single key whose score is its log-sum-exp.
    weights = torch.cat((*scores, lse.float()[..., None]), dim=-1).softmax(dim=-1).to(output.dtype)
    # 4. The main output counts by the weight of that key, the others' values by their own.
    result = output * weights[..., -1:]
    start = 0
    for part in others:
        stop = start + part.keys.shape[1]
        result += (_folded(weights[..., start:stop]) @ part.values).view(result.shape)
        start = stop
    return result


def attend_with_lse(
    queries: Tensor, keys: Tensor, values: Tensor, mask: Tensor | None, scale: float
) -> tuple[Tensor, Tensor]:
    """As :func:`attend`, with the log-sum-exp of the scores [Hkv, G, T].

    The public function does not return it; the fused kernels behind it do. Other devices take the plain way.
    """
    kernel = _FUSED.get(queries.device.type, _plain)
    if mask is not None:
        return kernel(queries, _expanded(keys, queries), _expanded(values, queries), mask, scale)
    output, lse = kernel(_folded(queries)[None], keys[None], values[None], None, scale)
    return output.view(queries.shape), lse.view(queries.shape[:-1])


def _expanded(states: Tensor, queries: Tensor) -> Tensor:
    """Each key head once per query of its group, without copying: [Hkv, L, d] -> [Hkv, G, L, d]."""
    return states[:, None].expand(-1, queries.shape[1], -1, -1)


def _folded(queries: Tensor) -> Tensor:
    """The queries of a group as one long sequence: [Hkv, G, T, d] -> [Hkv, G * T, d]; faster, but for no mask."""
    return queries.flatten(1, 2)


def _scores(part: Part, scale: float) -> Tensor:
    """Scores [Hkv, G, T, n], float32."""
    scores = (_folded(part.queries) @ part.keys.transpose(-1, -2)).float().mul_(scale)
    scores = scores.view(*part.queries.shape[:-1], -1)
    return scores if part.mask is None else scores.add_(part.mask)


def _plain(q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None, scale: float) -> tuple[Tensor, Tensor]:
    scores = (q @ k.transpose(-1, -2)).float() * scale
    if mask is not None:
        scores = scores + mask.float()
    return scores.softmax(dim=-1).to(v.dtype) @ v, scores.logsumexp(dim=-1)


def _cpu(q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None, scale: float) -> tuple[Tensor, Tensor]:
    kernel = torch.ops.aten._scaled_dot_product_flash_attention_for_cpu
    return kernel(q, k, v, 0.0, False, attn_mask=mask, scale=scale)


def _cuda(q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None, scale: float) -> tuple[Tensor, Tensor]:
    kernel = torch.ops.aten._scaled_dot_product_efficient_attention
    bias = None if mask is None else _aligned(mask).expand(*q.shape[:2], -1, -1)
    out, lse, *_ = kernel(q, k, v, bias, True, scale=scale)
    return out, lse[..., : q.shape[2]]


def _aligned(mask: Tensor) -> Tensor:
    """The kernel reads masks in rows that start at multiples of 16 elements."""
    columns = mask.shape[-1]
    return pad(mask, (0, -columns % 16))[..., :columns]


_FUSED = {"cpu": _cpu, "cuda": _cuda}


# Additive masks for tokens at the end of a sequence with a sliding window.


def hidden(dtype: torch.dtype) -> float:
    """What is added to a score that must not count; finite, so that a fully hidden tile gives no NaN."""
    return torch.finfo(dtype).min


class BandMask:
    """Shows a query the keys at distance ``0 <= distance < window`` behind it.

    The last query stands on the last key, so every mask is the lower right corner of a larger one: one buffer
    serves all block sizes and all lengths, and a mask is a view.
    """

    def __init__(self, window: int) -> None:
        self._window = window
        self._mask: Tensor | None = None

    def corner(self, num_queries: int, num_keys: int, like: Tensor) -> Tensor | None:
        """Mask [num_queries, num_keys] in the dtype and on the device of ``like``; ``None`` where all is visible."""
        if num_queries == 1 and num_keys <= self._window:
            return None
        mask = self._mask
        if mask is None or mask.dtype != like.dtype or mask.shape[0] < num_queries or mask.shape[1] < num_keys:
            mask = self._mask = self._build(num_queries, num_keys, like)
        return mask[mask.shape[0] - num_queries :, mask.shape[1] - num_keys :]

    def _build(self, num_queries: int, num_keys: int, like: Tensor) -> Tensor:
        rows = num_queries if self._mask is None else max(num_queries, self._mask.shape[0])
        columns = min(2 * num_keys, self._window + rows)
        columns = max(columns, num_keys, 0 if self._mask is None else self._mask.shape[1])
        # The last query stands on the last key.
        row = torch.arange(columns - rows, columns, device=like.device)[:, None]
        distance = row - torch.arange(columns, device=like.device)
        outside = (distance < 0) | (distance >= self._window)
        mask = torch.zeros(rows, columns, dtype=like.dtype, device=like.device)
        return mask.masked_fill_(outside, hidden(like.dtype))


class FadingMask:
    """For the oldest keys of a window, which leave it one by one while a piece of T tokens is read.

    The last query no longer sees any of the n fading keys, the one before it sees the newest of them, and so on.
    """

    def __init__(self) -> None:
        self._mask: Tensor | None = None

    def corner(self, num_queries: int, num_fading: int, like: Tensor) -> Tensor:
        """Mask [num_queries, num_fading], with ``num_fading < num_queries``, in dtype and on device of ``like``."""
        mask = self._mask
        if mask is None or mask.dtype != like.dtype or mask.shape[1] < num_queries:
            # Below num_queries rows that hide nothing, row i hides the first i keys.
            shape = (2 * num_queries, num_queries)
            mask = torch.full(shape, hidden(like.dtype), dtype=like.dtype, device=like.device)
            mask = self._mask = mask.tril_(-1 - num_queries)
        # The row from which on the first query hides all but what it may still see.
        first = mask.shape[1] - (num_queries - 1 - num_fading)
        return mask[first : first + num_queries, :num_fading]


def far_mask(first: int, num_queries: int, num_far: int, window: int, like: Tensor) -> Tensor | None:
    """Shows the queries at positions ``first ...`` those of the keys ``0 .. num_far - 1`` outside their window.

    ``None`` where all of them are outside; [num_queries, num_far] otherwise.
    """
    if first - (num_far - 1) >= window:
        return None
    positions = torch.arange(first, first + num_queries, device=like.device)[:, None]
    inside = positions - torch.arange(num_far, device=like.device) < window
    return torch.zeros(inside.shape, dtype=like.dtype, device=like.device).masked_fill_(inside, hidden(like.dtype))
