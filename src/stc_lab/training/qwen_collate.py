"""Streams in turns as tensors: padded, labelled, and what their visual tokens show."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from stc_lab.training.batches import IGNORE
from stc_lab.training.qwen_codes import PairLabels
from stc_lab.training.qwen_strips import TEXT, Asked, Reading, Strip, Words

LETTER, WORD, SPEECH = range(3)
"""Kinds of labels."""


@dataclass
class TurnBatch:
    """S sequences of T tokens: those of the stream, then the O tokens of its questions.

    ``ids`` [S, T]; ``positions`` [3, S, T]; ``visible`` and ``question`` [S, O]: see :func:`packed_hidden`; ``labels``
    [3, S, T]: token to be said next, by kind. ``is_visual`` [S, T] marks N tokens, whose ``cells`` [N], ``fields``
    (label names to [N]) and, from a shelf, ``tokens`` [N, D] are given.
    """

    ids: Tensor
    positions: Tensor
    visible: Tensor
    question: Tensor
    labels: Tensor
    is_visual: Tensor
    cells: Tensor
    fields: dict[str, Tensor]
    tokens: Tensor | None


@dataclass
class Item:
    """A sequence of a batch: ``is_silent`` where nothing was said; ``labels`` of its patches; ``places`` of the patches
    in ``seen``, a stream of a shelf (``None``: from labels alone)."""

    reading: Reading
    is_silent: bool
    labels: PairLabels
    places: list[int]
    seen: np.ndarray | None = None


def collate(words: Words, items: Sequence[Item]) -> TurnBatch:
    """Pad and stack."""
    readings = [item.reading for item in items]
    num_prefix = max(len(r.prefix) for r in readings)
    num_own = max(sum(map(len, r.questions)) for r in readings)
    shape = (len(items), num_prefix + num_own)
    ids, labels = torch.full(shape, words.pad_id), torch.full((3, *shape), IGNORE)
    positions, (patches, cells) = torch.zeros(3, *shape, dtype=torch.double), torch.full((2, *shape), TEXT)
    visible, question = torch.ones(shape[0], num_own, dtype=torch.long), torch.full((shape[0], num_own), -1)
    for row, item in enumerate(items):
        reading = item.reading
        starts = num_prefix + np.cumsum([0, *map(len, reading.questions)])
        for start, strip in [(0, reading.prefix), *zip(starts[:-1], reading.questions, strict=True)]:
            area = slice(start, start + len(strip))
            ids[row, area], patches[row, area] = torch.tensor(strip.ids), torch.tensor(strip.patches)
            cells[row, area], positions[:, row, area] = torch.tensor(strip.cells), strip.positions
        _label_speech(labels[SPEECH, row], reading.prefix, item.is_silent)
        for number, strip in enumerate(reading.questions):
            start = starts[number]
            area = slice(start - num_prefix, start - num_prefix + len(strip))
            visible[row, area], question[row, area] = reading.visible[number], number
            _label_answer(labels[:, row, start : start + len(strip)], strip, words, reading.asked[number])
    batch = TurnBatch(ids, positions, visible, question, labels, patches != TEXT, cells, {}, None)
    return _with_pictures(items, batch, patches)


def _label_speech(labels: Tensor, prefix: Strip, is_silent: bool) -> None:
    if is_silent:
        return
    for index in range(1, len(prefix)):
        if prefix.says[index]:
            labels[index - 1] = prefix.ids[index]


def _label_answer(labels: Tensor, strip: Strip, words: Words, asked: Asked) -> None:
    labels[LETTER, len(strip) - 3 : len(strip) - 1] = torch.tensor(strip.ids[-2:])
    labels[WORD, strip.ids.index(words.token_ids("?")[0])] = words.token_ids(asked.word)[0]


def _with_pictures(items: Sequence[Item], batch: TurnBatch, patches: Tensor) -> TurnBatch:
    """What the visual tokens show, row after row."""
    batch.cells = batch.cells[batch.is_visual]
    parts, tokens, start = [], [], 0
    for row, item in enumerate(items):
        number = patches[row][batch.is_visual[row]].numpy()
        cell = batch.cells[start : start + len(number)].numpy()
        start += len(number)
        parts.append({name: values[number, cell] for name, values in item.labels.fields().items()})
        if item.seen is not None:
            where, back = np.unique(np.array(item.places)[number], return_inverse=True)
            tokens.append(item.seen[where][back, cell])
    batch.fields = {name: torch.from_numpy(np.concatenate([p[name] for p in parts])) for name in parts[0]}
    batch.tokens = torch.from_numpy(np.concatenate(tokens)) if tokens else None
    return batch
