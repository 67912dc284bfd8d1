"""What loading any checkpoint as a Hugging Face model needs: quiet, complete, and knowing where answers end."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

NUM_LISTED = 5


class LoadedText:
    """A loaded checkpoint as far as text is concerned; ``stop_ids`` end an answer."""

    tokenizer: PreTrainedTokenizerBase
    stop_ids: frozenset[int]

    def token_ids(self, text: str) -> list[int]:
        """Ids of ``text`` as it stands, chat markers included and nothing added."""
        return self.tokenizer(text, add_special_tokens=False).input_ids

    def text(self, token_ids: Collection[int]) -> str:
        """Text of generated ids without special tokens."""
        return self.tokenizer.decode(list(token_ids), skip_special_tokens=True)


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


def require_fit(name: str, **problems: Iterable[object]) -> None:
    """Raise ``ValueError`` listing the weights of checkpoint ``name`` that do not fit the model.

    ``problems``: kind (``missing``, ``unexpected``, ``mismatched``) -> names; nothing is raised when all are empty.
    """
    found = [f"{kind} keys: {_listed(keys)}" for kind, keys in problems.items() if keys]
    if found:
        raise ValueError(f"backbone.checkpoint={name}: weights do not fit the model; {'; '.join(found)}")


def require_all_weights(name: str, info: dict) -> None:
    """:func:`require_fit` for the loading report ``info`` of transformers."""
    kinds = ("missing", "unexpected", "mismatched")
    require_fit(name, **{kind: info.get(f"{kind}_keys") or () for kind in kinds})


def stop_ids_of(*named: int | list[int] | tuple[int, ...] | None) -> frozenset[int]:
    """End tokens as configurations name them: one, several or none each."""
    ids: set[int | None] = set()
    for some in named:
        ids |= set(some) if isinstance(some, (list, tuple)) else {some}
    return frozenset(i for i in ids if i is not None)


def _listed(keys: Iterable[object]) -> str:
    names = sorted(map(str, keys))
    more = f" and {len(names) - NUM_LISTED} more" if len(names) > NUM_LISTED else ""
    return ", ".join(names[:NUM_LISTED]) + more
