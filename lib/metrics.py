"""How wrong is a pronunciation? Counted in phonemes, and in words.

Names, in reading order: `edit_distance`, `phoneme_error_rate`, `word_error_rate`.
"""

from __future__ import annotations

from collections.abc import Hashable, Sequence

from rapidfuzz.distance import Levenshtein
from torch import Tensor

Symbols = Sequence[Hashable]


def edit_distance(one: Symbols, other: Symbols) -> int:
    """Count the fewest insertions, deletions and substitutions of one symbol that turn one sequence into the other.

    Symbols may be anything that can be compared and hashed: phonemes, ids, the letters of a string. Tensors cannot:
    two of them with the same number in them have different hashes.

    Raises: ValueError if a sequence or a symbol is a tensor.
    Source: Levenshtein 1966. Computed by RapidFuzz, which compares sequences of any symbols (most libraries know
        strings only), comes compiled for the usual platforms, has no dependencies, and is what jiwer and Levenshtein
        are built on.
    """
    _check_no_tensor(one, "a sequence")
    _check_no_tensor(other, "a sequence")
    return Levenshtein.distance(one, other)


def phoneme_error_rate(predictions: Sequence[Symbols], references: Sequence[Sequence[Symbols]]) -> float:
    """Return how many phonemes must be changed for each phoneme there should be; it can exceed 1.

    PER = sum of edit_distance(prediction, nearest reference) / sum of the lengths of these references

    A word has several right pronunciations, and counts against the one that is nearest to what was said; among equally
    near ones, against the one listed first. Both sums run over all words before they are divided, so that a long word
    weighs more than a short one; the mean of the words' own rates is another, usually larger number.

    Args: references: for each prediction all right pronunciations, as in `Word.pronunciations`.
    Raises: ValueError if there are not as many predictions as references, there are none, a word has no reference, a
        reference is empty, or a pronunciation is one string, or a tensor.
    Source: the rate in which results on this dictionary are published, such as those of Yao and Zweig 2015,
        "Sequence-to-Sequence Neural Net Models for Grapheme-to-Phoneme Conversion".
    """
    _check(predictions, references)
    edits = total = 0
    for prediction, right in zip(predictions, references, strict=True):
        distances = [edit_distance(prediction, reference) for reference in right]
        nearest = min(distances)
        edits += nearest
        total += len(right[distances.index(nearest)])
    return edits / total


def word_error_rate(predictions: Sequence[Symbols], references: Sequence[Sequence[Symbols]]) -> float:
    """Return the share of words whose prediction equals none of their right pronunciations.

    It is no edit distance: in speech recognition the word error rate counts changed words of a sentence and can exceed
    1; here each word is right or wrong.

    Args: references: for each prediction all right pronunciations, as in `Word.pronunciations`.
    Raises: ValueError as phoneme_error_rate.
    Source: as phoneme_error_rate.
    """
    _check(predictions, references)
    wrong = [
        tuple(prediction) not in {tuple(reference) for reference in right}
        for prediction, right in zip(predictions, references, strict=True)
    ]
    return sum(wrong) / len(wrong)


def _check_no_tensor(symbols: Sequence[object], name: str) -> None:
    if isinstance(symbols, Tensor) or any(isinstance(symbol, Tensor) for symbol in symbols):
        arrived = f"is a tensor {tuple(symbols.shape)}" if isinstance(symbols, Tensor) else "holds tensors"
        raise ValueError(
            f"symbols are compared by their hashes, which tensors of the same number do not share, but {name} "
            f"{arrived}; pass ids.tolist(), or what a vocabulary's decode returns"
        )


def _check(predictions: Sequence[Symbols], references: Sequence[Sequence[Symbols]]) -> None:
    _check_no_tensor(predictions, "the list of predictions")
    _check_no_tensor(references, "the list of references")
    if len(predictions) != len(references) or not predictions:
        raise ValueError(
            f"1 or more predictions are compared with as many references, but got {len(predictions)} predictions and "
            f"{len(references)} references; pass one list of right pronunciations for each prediction"
        )
    for place, (prediction, right) in enumerate(zip(predictions, references, strict=True)):
        if any(isinstance(one, str) for one in (prediction, right, *right)):
            raise ValueError(
                f"a pronunciation is a sequence of phonemes, such as ('K', 'AE', 'T'), but word {place} has the string "
                f"{next(one for one in (prediction, right, *right) if isinstance(one, str))!r}; split it, and put all "
                "right pronunciations of a word into one list"
            )
        for one in (prediction, right, *right):
            _check_no_tensor(one, f"word {place}")
        if not right or not all(right):
            raise ValueError(
                f"every word has 1 or more right pronunciations of 1 or more phonemes, but word {place} has "
                f"{list(right)!r}; leave it out of both lists"
            )
