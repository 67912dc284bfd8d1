"""Keep the terminal for what a user must read: our messages, and what libraries call a problem."""

from __future__ import annotations

import logging

LIBRARIES = ("lightning", "pytorch_lightning", "transformers", "huggingface_hub", "httpx", "wandb", "torch", "fsspec")


class OwnMessages(logging.Filter):
    """Lets pass our records and the warnings and errors of others (tips and banners stay in the log file)."""

    def filter(self, record: logging.LogRecord) -> bool:
        """Whether the record goes to the terminal."""
        is_library = record.name.split(".", 1)[0] in LIBRARIES
        return not is_library or record.levelno >= logging.WARNING


def quiet_transformers() -> None:
    """Only errors and no loading bars of transformers, which sets up its own terminal output when imported."""
    from transformers.utils import logging as transformers_logging

    transformers_logging.set_verbosity_error()
    transformers_logging.disable_progress_bar()
