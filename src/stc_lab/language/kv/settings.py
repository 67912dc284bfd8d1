"""Settings of the ReKV memory."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class ReKVSettings:
    """Sizes of the memory.

    ``n_local``: tokens of the sliding window; ``topk``: blocks retrieved per layer; ``chunk_size``: blocks
    scored together; ``max_cached_blocks``: retrieved blocks kept on a GPU per layer; ``offload``: move blocks
    to host memory once the window has overflowed (``None``: where the device is a GPU). ``upstream_quirks``:
    as the released code, init tokens leave the window's bookkeeping piecemeal while it overflows and are then
    seen twice by queries that still have them in their window; otherwise every token is seen once.
    """

    n_local: int = 15000
    topk: int = 64
    chunk_size: int = 1
    max_cached_blocks: int = 128
    offload: bool | None = None
    upstream_quirks: bool = False
