"""What a run costs: stage times, matrix-product FLOPs, peak memory."""

from stc_lab.measure.memory import peak_mem_gib, reset_peak_memory
from stc_lab.measure.timer import StageTimer

__all__ = ["StageTimer", "peak_mem_gib", "reset_peak_memory"]
