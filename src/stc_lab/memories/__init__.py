"""What is kept of a stream, and what a question reads of it: one file per method."""

from stc_lab.memories.base import Memory, MemoryState, Query, Reading

__all__ = ["Memory", "MemoryState", "Query", "Reading"]
