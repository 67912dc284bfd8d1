"""The memory of one stream: clips, the clip that is still open, and what was derived from them."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable

from torch import Tensor

from stc_lab.backbones.dispider.clip import Clip, ClipBorders, ClipFrame
from stc_lab.backbones.dispider.decision import Judge
from stc_lab.language.caches.base import tensor_bytes
from stc_lab.types import VisualTokens

Perceive = Callable[[list[ClipFrame]], tuple[Clip, int]]


class Timeline:
    """Perceives every clip once. A question in the middle of a clip sees the frames so far as a shorter clip.

    That clip and the summary of all clips are kept until the next frame, for further questions at that moment. Their
    FLOPs are reported to each of these, and sizes leave them out: what was asked before does not show.
    """

    def __init__(self, perceive: Perceive, judge: Judge, borders: ClipBorders, offload: bool) -> None:
        self.clips: list[Clip] = []
        self.open_frames: list[ClipFrame] = []
        self._perceive = perceive
        self._judge = judge
        self._borders = borders
        self._offload = offload
        self._waiting: deque[Tensor] = deque()
        self._partial: tuple[Clip, int] | None = None
        self._summary: tuple[Tensor, int] | None = None
        self.close_time_s = 0.0

    @property
    def num_missing(self) -> int:
        """Frames until the open clip is full; at least one."""
        return self._borders.clip_frames - len(self.open_frames)

    def expect(self, mixed: Iterable[Tensor]) -> None:
        """Tokens [N, 4C] of frames that are on their way through the pruner."""
        self._waiting.extend(mixed)

    def take(self, kept: VisualTokens) -> tuple[bool, int]:
        """The next frame as the pruner left it; whether a clip was completed by its coming, and the FLOPs."""
        frame = ClipFrame(self._waiting.popleft(), kept)
        self._partial = self._summary = None
        is_cut = self._borders.starts_new(self.open_frames, frame.mixed)
        flops = self._close() if is_cut else 0
        self.open_frames.append(frame)
        if self._borders.is_full(self.open_frames):
            return True, flops + self._close()
        return is_cut, flops

    def view(self) -> tuple[tuple[Clip, ...], int]:
        """All clips up to this moment, the open one included, and the FLOPs that took."""
        if not self.open_frames:
            return tuple(self.clips), 0
        if self._partial is None:
            self._partial = self._perceive(self.open_frames)
        clip, flops = self._partial
        return (*self.clips, clip), flops

    def summary(self) -> tuple[Tensor, int]:
        """The summarising states [clips, C] of :meth:`view`, and the FLOPs that took."""
        if self._summary is None:
            self._summary = self._judge.summary(self.view()[0])
        return self._summary

    def sizes(self) -> dict[str, int]:
        """Counts and bytes; see the session."""
        open_bytes = sum(tensor_bytes(frame.mixed, frame.kept.tokens) for frame in self.open_frames)
        state_bytes = sum(clip.state_bytes for clip in self.clips)
        token_bytes = sum(clip.token_bytes for clip in self.clips)
        num_open = sum(frame.kept.num_tokens for frame in self.open_frames)
        return {
            "num_tokens": sum(len(clip.tokens) for clip in self.clips) + num_open,
            "num_blocks": len(self.clips),
            "num_open_frames": len(self.open_frames),
            "kv_bytes_device": open_bytes + state_bytes + (0 if self._offload else token_bytes),
            "kv_bytes_host": token_bytes if self._offload else 0,
        }

    def _close(self) -> int:
        clip, flops = self._perceive(self.open_frames)
        self.close_time_s = self.open_frames[-1].time_s
        self.clips.append(clip.offloaded() if self._offload else clip)
        self.open_frames = []
        return flops
