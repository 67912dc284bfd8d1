"""The pocket tokenizer: one token per word of the pocket world and per fixed phrase of the prompts."""

from __future__ import annotations

from collections.abc import Sequence

from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers
from transformers import PreTrainedTokenizerFast

from stc_lab.pocket.world.vocabulary import COLOR_NAMES, CORNERS, NUMBERS, SHAPES

SPECIAL = ("<|endoftext|>", "<|im_start|>", "<|im_end|>", "<image>", "<video>", "<unk>")
PHRASES = (
    *CORNERS,
    *(f"({letter})" for letter in "ABCDE"),
    "Question:",
    "Options:",
    "Only give the best option.",
    "Best option: (",
    "You are a helpful assistant.",
    "...",
)
WORDS = (
    *"ABCDE",
    *SHAPES,
    *COLOR_NAMES,
    *("0", "8", "9"),
    *NUMBERS,
    *"system user assistant previous text Time".split(),
    *"what which where how is was the a have now ? before at first but here gone has not yet come came".split(),
    *"many times so far last shape shapes color say . , : = - s ( ) yes no and to of in it".split(),
    *"appears leaves moves turns nothing new are there will be next still left right top bottom".split(),
)


def extended_tokenizer(phrases: Sequence[str], markers: Sequence[str]) -> PreTrainedTokenizerFast:
    """The same with phrases and markers of another system behind its own words; numbers are read by digits."""
    tokenizer = build_tokenizer()
    backend = tokenizer.backend_tokenizer
    digits = pre_tokenizers.Digits(individual_digits=True)
    backend.pre_tokenizer = pre_tokenizers.Sequence([backend.pre_tokenizer, digits])
    backend.add_tokens(_whole(phrases))
    backend.add_special_tokens(_whole(markers))
    return tokenizer


def build_tokenizer() -> PreTrainedTokenizerFast:
    """A word-level tokenizer that knows the Qwen2 chat markers; unknown words become ``<unk>``."""
    words = list(dict.fromkeys([*SPECIAL, *PHRASES, *WORDS]))
    tokenizer = Tokenizer(models.WordLevel({word: i for i, word in enumerate(words)}, unk_token="<unk>"))
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [pre_tokenizers.WhitespaceSplit(), pre_tokenizers.Punctuation(behavior="isolated")]
    )
    tokenizer.decoder = decoders.WordPiece(prefix="##", cleanup=False)
    tokenizer.add_tokens(_whole(PHRASES))
    tokenizer.add_special_tokens(_whole(SPECIAL))
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        eos_token="<|im_end|>",
        pad_token="<|endoftext|>",
        unk_token="<unk>",
        additional_special_tokens=["<|im_start|>", "<image>", "<video>"],
        clean_up_tokenization_spaces=False,
    )


def _whole(texts: Sequence[str]) -> list[AddedToken]:
    """Each is one token, whatever blanks stand around it."""
    return [AddedToken(text, lstrip=True, rstrip=True, normalized=False) for text in texts]
