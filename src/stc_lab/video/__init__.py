"""Video files as streams of frames (see ``open_video``)."""

from stc_lab.video.process import DecoderProcess
from stc_lab.video.sampling import ERROR_KINDS, SampledFrame, VideoError, VideoInfo
from stc_lab.video.source import READERS, FrameSource, check_video_settings, open_video

__all__ = [
    "ERROR_KINDS",
    "READERS",
    "DecoderProcess",
    "FrameSource",
    "SampledFrame",
    "VideoError",
    "VideoInfo",
    "check_video_settings",
    "open_video",
]
