"""What a run costs: stage times, matrix-product FLOPs, peak memory."""

from stc_lab.measure.timer import StageTimer, peak_mem_gib, reset_peak_memory

__all__ = ["StageTimer", "peak_mem_gib", "reset_peak_memory"]
