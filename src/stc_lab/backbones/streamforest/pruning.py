"""A frame pruner on a memory that has no frames: every unit of the memory is treated as one.

Units are what one frame holds at its age: now, in the window, or a frame's share of an event. A pruner keeps of each
the share that its budget is of a frame in the window, so that merging and pruning multiply.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from torch import Tensor

from stc_lab.backbones.streamforest.settings import MemorySettings
from stc_lab.pruners.base import Pruner
from stc_lab.types import VisualTokens


def unit_pruner(pruner: Pruner, settings: MemorySettings) -> Pruner:
    """``pruner`` with its budget as a share. Raises ``ValueError`` where it cannot work on a memory."""
    wanted = [*sorted(pruner.needs), *(["places"] if pruner.uses_places else [])]
    if wanted:
        raise ValueError(
            f"pruner={getattr(pruner, 'name', type(pruner).__name__)} needs {', '.join(wanted)} of each patch of a "
            "frame, but backbone=streamforest prunes its memory, where patches are merged across places and frames; "
            "choose a pruner that looks at the tokens alone, such as pruner=stc"
        )
    share = pruner.num_kept(settings.short_tokens) / settings.short_tokens
    shared = replace(pruner, budget=None, keep_ratio=share)
    for num_tokens in (settings.event_tokens, settings.short_tokens, settings.now_tokens):
        shared.check(num_tokens)
    return shared


def prune_units(pruner: Pruner, segments: Sequence[Sequence[VisualTokens]]) -> tuple[list[Tensor], int]:
    """Tokens kept of each unit, and the method's FLOPs.

    ``segments``: units of equal size, in time order throughout; the pruner's history runs from the oldest unit to
    the newest one and starts anew with each question.
    """
    state, kept, flops = pruner.new_state(), [], 0
    for units in segments:
        if units:
            kept += [unit.tokens for unit in pruner.compress(units, state)]
            flops += len(units) * pruner.flops(*units[0].tokens.shape)
    return kept, flops
