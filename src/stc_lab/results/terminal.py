"""Where results are printed."""

from __future__ import annotations

from rich.console import Console

WIDTH_OF_A_FILE = 120


def result_console() -> Console:
    """Standard output; a file or a pipe has no width of its own and gets one that tables fit into."""
    console = Console()
    return console if console.is_terminal else Console(width=WIDTH_OF_A_FILE)
