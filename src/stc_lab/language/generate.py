"""Greedy decoding on a key-value store."""

from __future__ import annotations

from collections.abc import Collection

import torch
from torch import Tensor

from stc_lab.language.decoder import TextDecoder
from stc_lab.language.kv.base import KVStore


def greedy(
    decoder: TextDecoder, store: KVStore, first_logits: Tensor, max_new_tokens: int, stop_ids: Collection[int] = ()
) -> list[int]:
    """Token ids after a prefilled prompt, the most likely one at each step; a stop token ends it and is left out.

    ``first_logits`` [V]: logits of the last prompt token.
    """
    return greedy_with_logits(decoder, store, first_logits, max_new_tokens, stop_ids)[0]


def greedy_with_logits(
    decoder: TextDecoder, store: KVStore, first_logits: Tensor, max_new_tokens: int, stop_ids: Collection[int] = ()
) -> tuple[list[int], Tensor]:
    """As :func:`greedy`, with the logits [N, V] from which each id was taken (the stop token's included)."""
    ids: list[int] = []
    logits = [first_logits]
    for step in range(max_new_tokens):
        token = int(logits[-1].argmax())
        if token in stop_ids:
            break
        ids.append(token)
        if step + 1 < max_new_tokens:
            logits.append(decoder.logits(decoder(decoder.embed([token]), store)[-1]))
    return ids, torch.stack(logits)
