"""The answers are right, and the same seed asks the same questions."""

import itertools

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from lib.device import generator
from lib.pronunciation import PHONEME_VOCABULARY, Vocabulary
from lib.tasks import Numbers, copy, reverse, sort, task_batches

symbols = st.lists(st.integers(1, 9), max_size=12)


@settings(deadline=None, derandomize=True)
@given(symbols=symbols)
def test_the_answers_are_those_of_the_names(symbols):
    given_symbols = list(symbols)
    assert copy(symbols) == symbols
    assert [reverse(symbols)[-1 - place] for place in range(len(symbols))] == symbols
    answer = sort(symbols)
    assert all(a <= b for a, b in itertools.pairwise(answer))
    assert sorted(map(symbols.count, symbols)) == sorted(map(answer.count, answer))
    assert symbols == given_symbols  # and no question is changed by answering it


# ---- Numbers ---------------------------------------------------------------------------------------------------------


def test_every_id_is_one_thing():
    numbers = Numbers(9)
    assert len(numbers) == 12
    assert sorted([numbers.pad_id, *range(1, 10), numbers.bos_id, numbers.eos_id]) == list(range(12))


@settings(deadline=None, derandomize=True)
@given(symbols=symbols, n_padding=st.integers(0, 3))
def test_ids_lead_back_to_the_symbols(symbols, n_padding):
    numbers = Numbers(9)
    ids = [numbers.bos_id, *numbers.encode(symbols), *[numbers.pad_id] * n_padding]
    assert numbers.decode(ids) == numbers.decode(torch.tensor(ids)) == symbols


def test_nothing_after_the_end_is_read_and_a_sequence_may_lack_one():
    numbers = Numbers(9)
    assert numbers.decode([4, numbers.eos_id, 5, numbers.eos_id]) == [4]
    assert numbers.decode([4, 0, 5]) == [4, 5]
    assert numbers.decode([]) == []


def test_the_numbers_can_be_used_as_the_vocabulary_of_the_words_can():
    def public(of):
        return {name for name in dir(of) if not name.startswith("_")} - {"n", "symbols"}

    assert public(Numbers(3)) == public(PHONEME_VOCABULARY) == {"pad_id", "bos_id", "eos_id", "encode", "decode"}


@pytest.mark.parametrize("strange", [6, 99, -1])
@pytest.mark.parametrize("vocabulary", [Numbers(3), Vocabulary(("a", "b", "c"))], ids=["numbers", "words"])
def test_both_vocabularies_refuse_ids_that_they_have_not_but_read_none_after_the_end(vocabulary, strange):
    for ids in ([1, strange, 2], torch.tensor([1, strange, 2]), [strange, vocabulary.eos_id]):
        with pytest.raises(ValueError, match=f"are 0 to 5, but got {strange}; decode with the"):
            vocabulary.decode(ids)
    assert len(vocabulary.decode([1, vocabulary.eos_id, strange])) == 1


@pytest.mark.parametrize("strange", [0, 10, -1])
def test_other_numbers_are_refused(strange):
    with pytest.raises(ValueError, match=f"the numbers 1 to 9, but got {strange}"):
        Numbers(9).encode([1, strange])


def test_no_numbers_are_refused():
    with pytest.raises(ValueError, match="1 or more different numbers, but got n=0; 9 makes digits"):
        Numbers(0)


# ---- Batches ---------------------------------------------------------------------------------------------------------

sizes = dict(max_length=7, batch_size=40, n_batches=5)


@pytest.mark.parametrize("task", [copy, reverse, sort, lambda question: question[:1]])
def test_each_answer_is_that_of_its_question(task):
    numbers = Numbers(9)
    for src_ids, tgt_ids in task_batches(task, numbers, generator=generator(0), **sizes):
        assert len(src_ids) == len(tgt_ids) == 40
        for question, answer in zip(src_ids, tgt_ids, strict=True):
            assert task(numbers.decode(question)) == numbers.decode(answer)


def test_rows_end_with_eos_and_padding_and_are_no_longer_than_the_longest():
    numbers = Numbers(9)
    for side in next(task_batches(reverse, numbers, generator=generator(0), **sizes)):
        assert side.dtype == torch.long
        ends = (side == numbers.eos_id).int()
        assert (ends.sum(dim=1) == 1).all()
        assert ((side == numbers.pad_id) == (ends.cumsum(dim=1) - ends > 0)).all()
        assert (side[:, -1] != numbers.pad_id).any()


def test_every_length_and_every_symbol_comes():
    numbers = Numbers(9)
    batches = task_batches(copy, numbers, generator=generator(0), min_length=2, **sizes)
    questions = [numbers.decode(row) for src_ids, _ in batches for row in src_ids]
    assert {len(question) for question in questions} == set(range(2, 8))
    assert {symbol for question in questions for symbol in question} == set(range(1, 10))


def test_the_seed_decides_and_the_global_random_numbers_do_not():
    def draw(seed):
        return [torch.cat([side.flatten() for side in batch]) for batch in draw_batches(seed)]

    def draw_batches(seed):
        return task_batches(sort, Numbers(9), generator=generator(seed), **sizes)

    state = torch.get_rng_state()
    first = draw(1)
    torch.testing.assert_close(draw(1), first, rtol=0, atol=0)
    assert any(not torch.equal(a, b) for a, b in zip(draw(2), first, strict=True) if a.shape == b.shape)
    assert torch.equal(torch.get_rng_state(), state)
    assert len(first) == 5


def test_a_task_that_sorts_in_place_does_not_change_the_question():
    def in_place(question):
        question.sort()
        return question

    ours = task_batches(sort, Numbers(9), generator=generator(0), **sizes)
    theirs = task_batches(in_place, Numbers(9), generator=generator(0), **sizes)
    for one, other in zip(ours, theirs, strict=True):
        torch.testing.assert_close(one, other, rtol=0, atol=0)


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_the_batches_on_a_gpu_are_the_same():
    here, there = (
        task_batches(sort, Numbers(9), generator=generator(0), device=device, **sizes) for device in ("cpu", "cuda")
    )
    for one, other in zip(here, there, strict=True):
        assert all(side.device.type == "cuda" for side in other)
        assert all(torch.equal(a, b.cpu()) for a, b in zip(one, other, strict=True))


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"batch_size": 0}, "n_batches=5 of batch_size=0; pass 1 or more"),
        ({"n_batches": 0}, "n_batches=0 of batch_size=40"),
        ({"min_length": 0}, "min_length=0 and max_length=7"),
        ({"min_length": 8}, "min_length=8 and max_length=7; lower min_length"),
    ],
)
def test_sizes_that_make_no_batch_are_refused_at_once(wrong, message):
    with pytest.raises(ValueError, match=message):
        task_batches(copy, Numbers(9), generator=generator(0), **sizes | wrong)


def test_an_answer_with_other_symbols_is_refused():
    batches = task_batches(lambda question: [len(question) + 9], Numbers(9), generator=generator(0), **sizes)
    with pytest.raises(ValueError, match="the numbers 1 to 9, but got 1"):
        next(batches)
