"""Options with and without their letters; annotation files have them either way."""

from __future__ import annotations

from collections.abc import Sequence

from stc_lab.benchmarks.prompts import LETTERS


def lettered(options: Sequence[str]) -> tuple[str, ...]:
    """The options with their letters, which some of the files leave out."""
    if options[0].startswith("A."):
        return tuple(options)
    return tuple(f"{letter}. {option}" for letter, option in zip(LETTERS, options, strict=False))


def plain(options: Sequence[str]) -> tuple[str, ...]:
    """The options without their letters."""
    bare = []
    for letter, option in zip(LETTERS, lettered(options), strict=False):
        bare.append(option.removeprefix(f"{letter}.").strip())
    return tuple(bare)
