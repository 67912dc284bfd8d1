"""How the released scripts sample a whole video, for comparison with their numbers.

They need the length of the video, so a stream cannot be sampled this way: there, frames come from the sampling grid
of ``dataset.fps``, and at one frame a second the clips are about the same.
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class VideoSamples:
    """Frame indices, ``clip_frames`` per clip, with start and end of each clip in seconds."""

    indices: tuple[int, ...]
    start_s: tuple[float, ...]
    end_s: tuple[float, ...]

    @property
    def num_clips(self) -> int:
        """Number of clips."""
        return len(self.start_s)


def sample_video(num_frames: int, fps: float, clip_frames: int = 16, max_clips: int = 100) -> VideoSamples:
    """Clips of about ``clip_frames`` seconds, with frames in the middle of equal segments of the whole video.

    At least one clip and at most ``max_clips``; halves are rounded to even. A clip ends with the end of its last
    frame.
    """
    num_clips = min(max(round(num_frames / fps / clip_frames), 1), max_clips)
    total = num_clips * clip_frames
    segment = (num_frames - 1) / total
    indices = [(round(segment * i) + round(segment * (i + 1))) // 2 for i in range(total)]
    return VideoSamples(
        indices=tuple(indices),
        start_s=tuple(indices[i] / fps for i in range(0, total, clip_frames)),
        end_s=tuple((indices[i] + 1) / fps for i in range(clip_frames - 1, total, clip_frames)),
    )
