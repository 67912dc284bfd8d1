"""The clip that is shown again and again."""

from __future__ import annotations

import numpy as np

from stc_lab.pocket.dataset import held_out_script
from stc_lab.pocket.world.render import Renderer

CLIP_FRAMES = 20


def looped_clip(fps: float) -> list[np.ndarray]:
    """Frames, uint8 [H, W, 3], of a pocket stream, ``fps`` a second; it begins anew where the script ends."""
    script = held_out_script("test", 0)
    renderer = Renderer(script)
    return [renderer.frame((index / fps) % script.duration_s) for index in range(CLIP_FRAMES)]
