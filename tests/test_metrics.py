"""Errors are counted as by hand, and against the nearest right answer."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from lib.metrics import edit_distance, phoneme_error_rate, word_error_rate

CAT, CUT, TRUEST = ("K", "AE", "T"), ("K", "AH", "T"), ("T", "R", "UW", "IH", "S", "T")
sequences = st.lists(st.sampled_from(["AA", "A", "B", "T", "TH"]), max_size=7).map(tuple)
words = st.lists(st.tuples(sequences, st.lists(sequences.filter(len), min_size=1, max_size=3)), min_size=1, max_size=6)


def by_definition(one, other):
    """Levenshtein's recursion, in as many lines."""
    row = list(range(len(other) + 1))
    for i, a in enumerate(one, start=1):
        above, row = row, [i]
        for j, b in enumerate(other, start=1):
            row.append(min(above[j] + 1, row[-1] + 1, above[j - 1] + (a != b)))
    return row[-1]


@settings(deadline=None, derandomize=True)
@given(one=sequences, other=sequences, third=sequences)
def test_the_distance_is_levenshteins_and_a_distance(one, other, third):
    assert edit_distance(one, other) == by_definition(one, other) == edit_distance(list(other), list(one))
    assert (edit_distance(one, other) == 0) == (one == other)
    assert edit_distance(one, third) <= edit_distance(one, other) + edit_distance(other, third)
    assert abs(len(one) - len(other)) <= edit_distance(one, other) <= max(len(one), len(other))


@pytest.mark.parametrize(
    ("one", "other", "distance"),
    [("kitten", "sitting", 3), (("TH",), ("T", "HH"), 2), ([1, 2, 3], [2, 3], 1), ([-1], [-2], 1), ((), CAT, 3)],
)
def test_symbols_are_whole_whatever_they_are(one, other, distance):
    assert edit_distance(one, other) == distance


def test_errors_are_divided_by_what_there_should_be():
    predictions = [CUT, ("T", "R", "UW", "S", "T")]  # one changed, one left out, of three and six phonemes
    references = [[CAT], [TRUEST]]
    assert phoneme_error_rate(predictions, references) == 2 / 9
    assert word_error_rate(predictions, references) == 1.0


def test_a_word_counts_against_its_nearest_pronunciation():
    been = [("B", "IH", "N"), ("B", "AH", "N")]
    assert phoneme_error_rate([("B", "AH", "N")], [been]) == 0.0
    assert word_error_rate([("B", "AH", "N"), CAT], [been, [CUT]]) == 0.5
    assert phoneme_error_rate([CAT], [[TRUEST, CUT]]) == 1 / 3


def test_among_equally_near_pronunciations_the_first_counts():
    near = [("K", "AE"), ("K", "AE", "T", "S")]
    assert phoneme_error_rate([CAT], [near]) == 1 / 2
    assert phoneme_error_rate([CAT], [near[::-1]]) == 1 / 4


def test_the_rate_is_not_the_mean_of_the_words_rates():
    rates = [phoneme_error_rate([said], [[right]]) for said, right in ((CUT, CAT), (TRUEST, TRUEST))]
    assert sum(rates) / 2 == 1 / 6
    assert phoneme_error_rate([CUT, TRUEST], [[CAT], [TRUEST]]) == 1 / 9


def test_more_can_be_wrong_than_there_should_be():
    assert phoneme_error_rate([TRUEST], [[("B",)]]) == 6.0


@settings(deadline=None, derandomize=True)
@given(words=words)
def test_both_rates_follow_their_definitions(words):
    predictions, references = zip(*words, strict=True)
    nearest = [min(right, key=lambda one, said=said: by_definition(said, one)) for said, right in words]
    edits = sum(map(by_definition, predictions, nearest))
    assert phoneme_error_rate(predictions, references) == edits / sum(map(len, nearest))
    assert word_error_rate(predictions, references) == sum(said not in right for said, right in words) / len(words)


@settings(deadline=None, derandomize=True)
@given(words=words)
def test_lists_and_tuples_are_the_same(words):
    predictions, references = zip(*words, strict=True)
    as_lists = [list(said) for said in predictions], [[list(one) for one in right] for right in references]
    for rate in (phoneme_error_rate, word_error_rate):
        assert rate(*as_lists) == rate(predictions, references)


@pytest.mark.parametrize("rate", [phoneme_error_rate, word_error_rate])
@pytest.mark.parametrize(
    ("predictions", "references", "message"),
    [
        ([], [], "got 0 predictions and 0 references"),
        ([CAT], [[CAT], [CUT]], "got 1 predictions and 2 references"),
        ([CAT, CAT], [[CAT], []], r"but word 1 has \[\]; leave it out"),
        ([CAT], [[CAT, ()]], r"but word 0 has \[\('K', 'AE', 'T'\), \(\)\]"),
        (["K AE T"], [[CAT]], "word 0 has the string 'K AE T'; split it"),
        ([CAT], [["K AE T"]], "word 0 has the string 'K AE T'; split it"),
        ([CAT], [CAT], "word 0 has the string 'K'; split it, and put all right pronunciations of a word into one list"),
    ],
)
def test_what_cannot_be_compared_is_refused(rate, predictions, references, message):
    with pytest.raises(ValueError, match=message):
        rate(predictions, references)


IDS = torch.tensor([1, 2, 3])


@pytest.mark.parametrize(
    ("one", "other", "arrived"),
    [
        (IDS, [1, 2, 3], r"is a tensor \(3,\)"),
        ([1, 2, 3], IDS[None], r"is a tensor \(1, 3\)"),
        (list(IDS), list(IDS), "holds tensors"),
        ([], (IDS[0],), "holds tensors"),
    ],
)
@pytest.mark.usefixtures("without_shape_checks")
def test_tensors_are_refused_rather_than_compared_by_where_they_are_stored(one, other, arrived):
    with pytest.raises(ValueError, match=rf"a sequence {arrived}; pass ids.tolist\(\)"):
        edit_distance(one, other)
    assert edit_distance(IDS.tolist(), IDS.tolist()) == 0


@pytest.mark.parametrize("rate", [phoneme_error_rate, word_error_rate])
@pytest.mark.parametrize(
    ("predictions", "references", "message"),
    [
        (IDS[None], [[[1, 2, 3]]], r"the list of predictions is a tensor \(1, 3\)"),
        ([IDS], [[[1, 2, 3]]], "the list of predictions holds tensors"),
        ([[1, 2, 3]], IDS[None, None], r"the list of references is a tensor \(1, 1, 3\)"),
        ([[1, 2, 3]], [[IDS]], "word 0 holds tensors"),
        ([[1], list(IDS)], [[[1]], [[1, 2, 3]]], "word 1 holds tensors"),
        ([[1, 2, 3]], [[list(IDS)]], "word 0 holds tensors"),
    ],
)
@pytest.mark.usefixtures("without_shape_checks")
def test_rates_of_tensors_are_refused(rate, predictions, references, message):
    with pytest.raises(ValueError, match=message):
        rate(predictions, references)
