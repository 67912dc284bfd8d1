"""What loading any checkpoint as a Hugging Face model needs: quiet, complete, and knowing where answers end."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

from stc_lab.backbones.checkpoints import Checkpoint

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase


@contextmanager
def no_progress_bar() -> Iterator[None]:
    """Bars of transformers would break into those of the run."""
    from transformers.utils import logging

    was_enabled = logging.is_progress_bar_enabled()
    logging.disable_progress_bar()
    try:
        yield
    finally:
        if was_enabled:
            logging.enable_progress_bar()


def require_all_weights(checkpoint: Checkpoint, info: dict) -> None:
    """Raise ``ValueError`` naming missing, left over and misshapen weights; ``info``: the loading report."""
    problems = []
    for kind in ("missing_keys", "unexpected_keys", "mismatched_keys"):
        keys = sorted(map(str, info.get(kind) or ()))
        if keys:
            more = f" and {len(keys) - 5} more" if len(keys) > 5 else ""
            problems.append(f"{kind.replace('_', ' ')}: {', '.join(keys[:5])}{more}")
    if problems:
        raise ValueError(f"backbone.checkpoint={checkpoint.name}: weights do not fit the model; {'; '.join(problems)}")


def stop_ids_of(model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase) -> frozenset[int]:
    """End tokens named by the generation config, the text config and the tokenizer."""
    named: set[int] = set()
    sources = (model.generation_config.eos_token_id, model.config.text_config.eos_token_id, tokenizer.eos_token_id)
    for ids in sources:
        named |= set(ids) if isinstance(ids, (list, tuple)) else {ids}
    return frozenset(i for i in named if i is not None)
