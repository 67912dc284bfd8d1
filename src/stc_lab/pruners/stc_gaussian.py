"""STC-Pruner as released: Gaussian closeness to frame and memory, on the quieter half of the channels."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor
from torch.nn.functional import normalize

from stc_lab.pruners.base import ScorePruner
from stc_lab.pruners.stc import MeanHistory
from stc_lab.pruners.vidcom2 import gaussian_closeness, quiet_channels


@dataclass(frozen=True, kw_only=True)
class STCGaussianPruner(ScorePruner):
    """The score of the code published with STC (arXiv 2512.00891), which differs from the paper's formula.

    In the half of the channels with the lowest variance, tokens are scaled to unit length; the tokens kept are the
    least close, in a sum of Gaussian kernels, to the mean of their frame and to the mean of the whole stream.

    ``memory_includes_current``: the frame itself counts in the stream's mean (as released); otherwise the first
    frame has no memory and the frame's mean counts alone. ``channel_mixing``: as released, remember only the chosen
    channels in order of their variance; since the choice changes from frame to frame, the mean then mixes different
    channels. Off, all channels are remembered and the choice is made afterwards. ``chunk_size``: frames scored
    together, with one choice of channels (above 1 a frame sees the later frames of its chunk).
    """

    memory_includes_current: bool = True
    channel_mixing: bool = False
    chunk_size: int = 1
    name: str = "stc_gaussian"

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.chunk_size < 1:
            raise ValueError(f"pruner.chunk_size={self.chunk_size}: must be at least 1")

    @property
    def window_frames(self) -> int:  # type: ignore[override]
        """Frames scored together."""
        return self.chunk_size

    def new_state(self) -> MeanHistory:
        return MeanHistory(window=None)

    def score(self, tokens: Tensor, state: MeanHistory) -> Tensor:
        # The released code measures as VidCom2 does: unit length in the quieter half of the channels.
        channels = quiet_channels(tokens)
        unit = normalize(tokens.index_select(-1, channels), dim=-1)
        closeness = gaussian_closeness(unit, unit.mean(1, keepdim=True))
        memory = self._memory(tokens, channels, state)
        if memory is not None:
            closeness = closeness + gaussian_closeness(unit, normalize(memory, dim=-1))
        return -closeness

    def remember(self, tokens: Tensor, state: MeanHistory) -> None:
        state.add(self._summary(tokens, quiet_channels(tokens) if self.channel_mixing else None))

    def flops(self, num_tokens: int, dim: int) -> int:
        """Variance of all channels; in half of them length, and distance to two means."""
        return 2 * num_tokens * dim + 3 * num_tokens * dim

    def _memory(self, tokens: Tensor, channels: Tensor, state: MeanHistory) -> Tensor | None:
        includes = self.memory_includes_current
        memory = state.mean_with(self._summary(tokens, channels)) if includes else state.mean()
        return memory if memory is None or self.channel_mixing else memory[channels]

    def _summary(self, tokens: Tensor, channels: Tensor | None) -> Tensor:
        """What the memory keeps of a window: its mean token, with ``channel_mixing`` only the chosen ``channels``."""
        mean = tokens.flatten(0, 1).mean(0)
        return mean[channels] if self.channel_mixing else mean
