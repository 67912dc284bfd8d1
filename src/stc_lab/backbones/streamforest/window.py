"""Fine-grained spatio-temporal window: the last frames in detail, and where an event ends."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn.functional import cosine_similarity

from stc_lab.backbones.streamforest.settings import MemorySettings
from stc_lab.backbones.streamforest.tome import merge_flops, merge_tokens


@dataclass(frozen=True)
class Cut:
    """Frames that leave the window together, [n, short tokens, C]: an event.

    ``similarities``: those between neighbours among which the lowest was looked for.
    """

    frames: Tensor
    similarities: Tensor


class FineWindow:
    """``now``: newest frames, [now tokens, C] each; ``short``: those before them, [short tokens, C] each."""

    def __init__(self, settings: MemorySettings, num_heads: int) -> None:
        self._settings, self._num_heads = settings, num_heads
        self.now: list[Tensor] = []
        self.short: list[Tensor] = []
        self.similarities: list[Tensor] = []
        """Cosines (0-d) of each frame in the window to the one after it, as whole frames before any merging."""
        self.last_frame: Tensor | None = None

    def __len__(self) -> int:
        return len(self.now) + len(self.short)

    def push(self, frame: Tensor) -> list[Cut]:
        """Take the next frame [T, C]; returns the events that this ends."""
        if self.last_frame is not None:
            pair = (self.last_frame.flatten().float(), frame.flatten().float())
            self.similarities.append(cosine_similarity(*pair, dim=0))
        self.last_frame = frame
        self.now.append(self._merged(frame, self._settings.now_tokens))
        while len(self.now) > self._settings.now_frames:
            self.short.append(self._merged(self.now.pop(0), self._settings.short_tokens))
        cuts = []
        while len(self.short) >= self._settings.short_frames + self._settings.split_window:
            cuts.append(self._cut())
        return cuts

    def push_flops(self, num_tokens: int, width: int) -> int:
        """FLOPs of taking one frame: its cosine to the last one, and its merging on the way to the short window."""
        sizes = self._settings
        down = ((num_tokens, sizes.now_tokens), (sizes.now_tokens, sizes.short_tokens))
        merging = sum(merge_flops(*step, width, self._num_heads) for step in down)
        return 6 * num_tokens * width + merging

    def _cut(self) -> Cut:
        """The oldest frames up to the least similar pair of neighbours among the first ``split_window`` pairs."""
        looked_at = torch.stack(self.similarities[: self._settings.split_window])
        num_frames = int(looked_at.argmin()) + 1
        frames = torch.stack(self.short[:num_frames])
        del self.short[:num_frames], self.similarities[:num_frames]
        return Cut(frames, looked_at)

    def _merged(self, frame: Tensor, num_tokens: int) -> Tensor:
        return merge_tokens(frame[None], num_tokens, self._num_heads)[0] if len(frame) > num_tokens else frame
