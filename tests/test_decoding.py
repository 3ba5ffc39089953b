"""What is written is what the model finds likely: the likeliest symbol, the right share of each, the best sequence."""

import itertools
import math
import re
from functools import partial

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from lib.attention import KVCache, MultiHeadAttention
from lib.blocks import EncoderBlock
from lib.decoding import beam, greedy, keep_top_k, keep_top_p, sample
from lib.device import generator, seeded
from lib.transformer import Embedding, LanguageModel

DEVICES = [
    "cpu",
    pytest.param(
        "cuda", marks=[pytest.mark.gpu, pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")]
    ),
]
on_each_device = pytest.mark.parametrize("device", DEVICES)

VOCAB, BOS, EOS, PAD = 5, 3, 4, 0


class Chain:
    """A toy model: the logits of what follows depend on the last two symbols, by a table of random numbers."""

    def __init__(self, seed=0, vocab=VOCAB, scale=2.0, dtype=torch.float64, device="cpu"):
        table = scale * torch.randn(vocab, vocab, vocab, generator=generator(seed), dtype=torch.float64)
        self.table = table.to(dtype).to(device)
        self.calls = []

    def __call__(self, ids):
        self.calls.append(tuple(ids.shape))
        before = torch.cat([torch.zeros_like(ids[:, :1]), ids[:, :-1]], dim=1)
        return self.table[before, ids]

    def log_probability(self, row, n_prompt):
        """Return log p of a row's symbols after the prompt, up to the first EOS."""
        ids = row.tolist()
        stop = next((place + 1 for place in range(n_prompt, len(ids)) if ids[place] == EOS), len(ids))
        logs = self(row[None])[0].double().log_softmax(-1)
        return sum(logs[place - 1, ids[place]].item() for place in range(n_prompt, stop))


class Remembering:
    """The same model with a memory: it is called with new symbols only, and keeps the last one of each row."""

    def __init__(self, chain):
        self.chain, self.last, self.length = chain, None, 0

    def __call__(self, ids):
        self.length += ids.shape[1]
        whole = ids if self.last is None else torch.cat([self.last[:, None], ids], dim=1)
        self.last = ids[:, -1]
        return self.chain(whole)[:, -ids.shape[1] :]

    def reorder(self, rows):
        self.last = self.last[rows]


def prompts(*rows, device="cpu"):
    return torch.tensor(rows, device=device)


STARTS = prompts([BOS], [1], [2])


def best_by_trying_all(model, start, max_len):
    """Return the likeliest of all sequences that end with EOS or are max_len long, and its log-probability."""
    n = max_len - 1
    endless = list(itertools.product([s for s in range(VOCAB) if s != EOS], repeat=n))
    ended = [
        (*head, EOS) for k in range(n) for head in itertools.product([s for s in range(VOCAB) if s != EOS], repeat=k)
    ]
    scored = [(model.log_probability(torch.tensor([start, *rest]), 1), rest) for rest in endless + ended]
    return max(scored), scored


# ---- Greedy ----------------------------------------------------------------------------------------------------------


@on_each_device
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16])
def test_greedy_takes_the_likeliest_symbol_each_time_until_the_end(dtype, device):
    model = Chain(dtype=dtype, device=device)
    ids = greedy(model, STARTS.to(device), eos_id=EOS, pad_id=PAD, max_len=12)
    for start, row in zip(STARTS.tolist(), ids.tolist(), strict=True):
        expected = list(start)
        while len(expected) < ids.shape[1] and EOS not in expected:
            expected.append(model(torch.tensor([expected], device=device))[0, -1].argmax().item())
        assert row == expected + [PAD] * (len(row) - len(expected))


def test_greedy_stops_as_soon_as_all_have_ended():
    ends_at = {1: 4, 2: 3, 3: 2}  # the row's first symbol says how long it is when EOS comes

    def model(ids):
        logits = torch.zeros(*ids.shape, VOCAB)
        for row, first in enumerate(ids[:, 0].tolist()):
            logits[row, -1, EOS if ids.shape[1] >= ends_at[first] else 1] = 1.0
        return logits

    ids = greedy(model, prompts([1], [2], [3]), eos_id=EOS, pad_id=PAD, max_len=50)
    assert ids.tolist() == [[1, 1, 1, 1, EOS], [2, 1, 1, EOS, PAD], [3, 1, EOS, PAD, PAD]]


def test_nothing_is_longer_than_max_len():
    never_ends = Chain()
    never_ends.table[..., EOS] = -torch.inf
    for decode in (greedy, lambda *args, **kw: sample(*args, generator=generator(0), **kw)):
        assert decode(never_ends, STARTS, eos_id=EOS, pad_id=PAD, max_len=7).shape == (3, 7)
    assert beam(never_ends, STARTS, width=2, eos_id=EOS, pad_id=PAD, max_len=7).ids.shape == (3, 2, 7)


def test_among_equals_the_smallest_id_wins_in_greedy_and_in_beam():
    level = Chain(scale=0.0)
    assert greedy(level, STARTS, eos_id=EOS, max_len=4)[:, 1:].tolist() == [[0, 0, 0]] * 3
    assert beam(level, STARTS, width=1, eos_id=EOS, max_len=4).ids[:, 0, 1:].tolist() == [[0, 0, 0]] * 3


@settings(deadline=None, derandomize=True, max_examples=50)
@given(seed=st.integers(0, 10**6), lengths=st.lists(st.integers(1, 5), min_size=1, max_size=4), cached=st.booleans())
def test_sequences_in_a_batch_are_what_they_are_alone(seed, lengths, cached):
    model = Chain(seed)
    alone = [torch.randint(1, 4, (length,), generator=generator(seed + place)) for place, length in enumerate(lengths)]
    together = torch.nn.utils.rnn.pad_sequence(alone, batch_first=True, padding_value=PAD)
    memory = Remembering(model)
    predict, caches = (memory, [memory]) if cached else (model, [])
    ids = greedy(predict, together, eos_id=EOS, pad_id=PAD, max_len=9, caches=caches)
    options = dict(eos_id=EOS, pad_id=PAD, max_len=9, width=3, length_penalty=float(seed % 2))
    beams = [beam(model, some, **options) for some in (together, *(prompt[None] for prompt in alone))]
    for place, prompt in enumerate(alone):
        mine = greedy(model, prompt[None], eos_id=EOS, pad_id=PAD, max_len=9)[0]
        assert ids[place, : len(mine)].tolist() == mine.tolist()
        assert set(ids[place, len(mine) :].tolist()) <= {PAD}
        n = beams[place + 1].ids.shape[-1]
        assert torch.equal(beams[0].ids[place, :, :n], beams[place + 1].ids[0])
        assert torch.equal(beams[0].log_probabilities[place], beams[place + 1].log_probabilities[0])


def test_without_a_pad_id_the_end_is_repeated_and_may_also_be_the_begin():
    ids = greedy(Chain(1), prompts([EOS], [1]), eos_id=EOS, max_len=30)
    assert (ids == EOS).any(dim=1).all()
    assert ids[0, 0] == EOS
    assert ids[0, 1] != EOS
    for row in ids[:, 1:].tolist():
        assert set(row[row.index(EOS) :]) == {EOS}


def test_no_gradients_are_kept():
    model = nn.Sequential(nn.Embedding(VOCAB, 4), nn.Linear(4, VOCAB))
    found = beam(model, STARTS, width=2, eos_id=EOS, max_len=5)
    assert not found.log_probabilities.requires_grad


def test_the_context_comes_row_by_row_also_when_drafts_multiply():
    wanted = prompts([1, 2, EOS], [2, 2, EOS], [EOS, 0, 0])

    def model(ids, answer, shift):
        logits = torch.zeros(*ids.shape, VOCAB)
        logits[torch.arange(len(ids)), -1, answer[torch.arange(len(ids)), ids.shape[1] - 1]] = 9.0 + shift
        return logits

    context = (wanted, torch.tensor([1.0, 2.0, 3.0]))
    starts = prompts([BOS], [BOS], [BOS])
    expected = [[BOS, 1, 2, EOS], [BOS, 2, 2, EOS], [BOS, EOS, PAD, PAD]]
    assert greedy(model, starts, eos_id=EOS, pad_id=PAD, max_len=4, context=context).tolist() == expected
    assert (
        beam(model, starts, width=3, eos_id=EOS, pad_id=PAD, max_len=4, context=context).ids[:, 0].tolist() == expected
    )


# ---- Cached equals uncached ------------------------------------------------------------------------------------------


@on_each_device
@settings(deadline=None, derandomize=True, max_examples=50)
@given(seed=st.integers(0, 10**6), width=st.integers(1, 6))
def test_with_a_cache_the_same_is_written(seed, width, device):
    model, starts = Chain(seed, device=device), STARTS.to(device)
    options = dict(eos_id=EOS, pad_id=PAD, max_len=10)
    for decode in (
        greedy,
        lambda *args, **more: sample(*args, generator=generator(seed), temperature=1.5, **more),
        lambda *args, **more: beam(*args, width=width, **more).ids,
        lambda *args, **more: beam(*args, width=width, **more).log_probabilities,
    ):
        memory = Remembering(model)
        assert torch.equal(decode(memory, starts, caches=[memory], **options), decode(model, starts, **options))


def test_with_a_cache_only_new_symbols_are_read():
    never_ends = Chain()
    never_ends.table[..., EOS] = -torch.inf
    seen = []
    memory = Remembering(never_ends)

    def predict(ids):
        seen.append(ids.shape[1])
        return memory(ids)

    greedy(predict, prompts([BOS, 1, 2]), eos_id=EOS, max_len=7, caches=[memory])
    assert seen == [3, 1, 1, 1]
    never_ends.calls.clear()
    greedy(never_ends, prompts([BOS, 1, 2]), eos_id=EOS, max_len=7)
    assert [length for _, length in never_ends.calls] == [3, 4, 5, 6]


@on_each_device
def test_the_cache_of_the_library_is_one(device):
    with seeded(0):
        embed = nn.Embedding(VOCAB, 8).double().to(device)
        attention = MultiHeadAttention(8, 2).double().to(device).eval()

    def model(ids, cache=None):
        x = embed(ids)
        return (x + attention(x, is_causal=True, cache=cache)) @ embed.weight.T

    for width in (1, 3):
        cache, options = KVCache(), dict(width=width, eos_id=EOS, pad_id=PAD, max_len=8)
        quick = beam(lambda ids, cache=cache: model(ids, cache), STARTS.to(device), caches=[cache], **options)
        slow = beam(model, STARTS.to(device), **options)
        assert torch.equal(quick.ids, slow.ids)
        torch.testing.assert_close(quick.log_probabilities, slow.log_probabilities, rtol=0, atol=1e-12)
        assert cache.length == 7


# ---- What may be drawn -----------------------------------------------------------------------------------------------

some_logits = st.lists(st.floats(-8, 8), min_size=1, max_size=12).map(lambda numbers: torch.tensor(numbers).double())


@settings(deadline=None, derandomize=True)
@given(logits=some_logits, data=st.data())
def test_top_k_keeps_the_k_likeliest_and_their_logits(logits, data):
    k = data.draw(st.integers(1, len(logits)))
    kept = keep_top_k(logits, k)
    allowed = kept > -torch.inf
    assert allowed.sum() == k
    assert torch.equal(kept[allowed], logits[allowed])
    assert allowed.all() or logits[allowed].min() >= logits[~allowed].max()


@settings(deadline=None, derandomize=True)
@given(logits=some_logits, p=st.floats(0.01, 1))
def test_top_p_keeps_the_smallest_set_that_has_p(logits, p):
    kept = keep_top_p(logits, p)
    probabilities = logits.softmax(-1)
    allowed = kept > -torch.inf
    assert torch.equal(kept[allowed], logits[allowed])
    assert probabilities[allowed].sum() >= p - 1e-12
    # Smallest: no other set with fewer symbols has p, since even the likeliest ones do not.
    assert probabilities.sort(descending=True).values[: allowed.sum() - 1].sum() < p + 1e-12
    assert allowed.all() or logits[allowed].min() >= logits[~allowed].max()


@pytest.mark.parametrize(("p", "n"), [(0.25, 1), (0.26, 2), (0.5, 2), (0.75, 3), (0.76, 4)])
def test_a_set_that_has_exactly_p_is_enough(p, n):
    assert (keep_top_p(torch.zeros(4), p) > -math.inf).sum() == n


def test_top_p_of_one_keeps_even_what_rounding_leaves_nothing_for():
    logits = torch.tensor([[0.0, -100.0, -200.0]])
    assert torch.equal(keep_top_p(logits, 1.0), logits)
    assert keep_top_p(logits, 0.999).tolist() == [[0.0, -math.inf, -math.inf]]


def test_each_row_is_filtered_alone():
    logits = torch.randn(2, 3, 7, generator=generator(0))
    for keep in (lambda x: keep_top_k(x, 2), lambda x: keep_top_p(x, 0.7)):
        assert torch.equal(keep(logits), torch.stack([torch.stack([keep(row) for row in rows]) for rows in logits]))


CHI_SQUARE_999 = {1: 10.83, 2: 13.82, 3: 16.27, 4: 18.47}  # exceeded by chance once in 1000, by degrees of freedom


@on_each_device
@pytest.mark.parametrize(
    ("options", "expected"),
    [
        ({}, [0.5, 0.25, 0.15, 0.1, 0.0]),
        ({"temperature": 0.5}, [0.25 / 0.345, 0.0625 / 0.345, 0.0225 / 0.345, 0.01 / 0.345, 0.0]),
        ({"top_k": 2}, [2 / 3, 1 / 3, 0.0, 0.0, 0.0]),
        ({"top_p": 0.8}, [5 / 9, 2.5 / 9, 1.5 / 9, 0.0, 0.0]),
        ({"top_k": 3, "top_p": 0.8}, [2 / 3, 1 / 3, 0.0, 0.0, 0.0]),  # of the three, two have 75/90 already
    ],
    ids=str,
)
def test_symbols_come_as_often_as_the_model_says(options, expected, device):
    n = 20_000
    logits = torch.tensor([0.5, 0.25, 0.15, 0.1, 0.0], dtype=torch.float64, device=device).log()
    starts = torch.full((n, 1), BOS, device=device)
    ids = sample(
        lambda ids: logits.expand(*ids.shape, 5), starts, eos_id=EOS, max_len=2, generator=generator(0), **options
    )
    counts = ids[:, 1].bincount(minlength=5).cpu()
    share = torch.tensor(expected, dtype=torch.float64)
    possible = share > 0
    assert counts[~possible].sum() == 0
    chi_square = ((counts - n * share) ** 2 / (n * share))[possible].sum().item()
    assert chi_square < CHI_SQUARE_999[int(possible.sum()) - 1]


def test_draws_repeat_with_the_seed_and_differ_without_it():
    model, options = Chain(scale=0.5), dict(eos_id=EOS, pad_id=PAD, max_len=20)
    one, same, other = (sample(model, STARTS, generator=generator(seed), **options) for seed in (1, 1, 2))
    assert torch.equal(one, same)
    assert one.shape != other.shape or not torch.equal(one, other)


@on_each_device
@pytest.mark.parametrize("options", [{}, {"temperature": 1.5, "top_k": 3}, {"top_p": 0.8}], ids=str)
def test_every_device_draws_the_same_with_a_generator_of_the_cpu(options, device):
    options = options | dict(eos_id=EOS, pad_id=PAD, max_len=20)
    here = sample(Chain(scale=0.5), STARTS, generator=generator(3), **options)
    there = sample(Chain(scale=0.5, device=device), STARTS.to(device), generator=generator(3), **options)
    assert torch.equal(here, there.cpu())
    if device != "cpu":
        own = torch.Generator(device).manual_seed(3)
        assert sample(Chain(device=device), STARTS.to(device), generator=own, **options).device.type == device


def test_the_global_random_numbers_have_no_say_and_stay_where_they_are():
    state = torch.get_rng_state()
    sample(Chain(), STARTS, eos_id=EOS, max_len=9, generator=generator(0))
    assert torch.equal(torch.get_rng_state(), state)


def test_the_smallest_and_the_largest_uniform_number_draw_possible_symbols(monkeypatch):
    logits = torch.tensor([-math.inf, 0.0, -math.inf, 0.0, -math.inf]).double()
    for number, drawn in ((0.0, 1), (1 - 2**-53, 3), (0.5, 3), (0.5 - 2**-53, 1)):
        monkeypatch.setattr(
            torch, "rand", lambda *shape, number=number, **_: torch.full(shape, number, dtype=torch.float64)
        )
        ids = sample(lambda ids: logits.expand(*ids.shape, 5), STARTS, eos_id=EOS, max_len=2, generator=generator(0))
        assert ids[:, 1].tolist() == [drawn] * 3


@on_each_device
@pytest.mark.parametrize("restriction", [{}, {"top_k": 2}, {"top_p": 0.9}], ids=str)
@pytest.mark.parametrize("temperature", [1e-4, 1e-308, 1e-309, 5e-324])
def test_a_low_temperature_is_greedy_decoding(temperature, restriction, device):
    options = dict(eos_id=EOS, pad_id=PAD, max_len=9)
    model, starts = Chain(device=device), STARTS.to(device)
    cold = sample(model, starts, generator=generator(0), temperature=temperature, **restriction, **options)
    assert torch.equal(cold, greedy(model, starts, **options))


# ---- Beam search -----------------------------------------------------------------------------------------------------


@on_each_device
@settings(deadline=None, derandomize=True, max_examples=60)
@given(seed=st.integers(0, 10**6), penalty=st.sampled_from([0.0, 0.5, 1.0]))
def test_a_beam_of_width_1_is_greedy_decoding(seed, penalty, device):
    model, starts, options = Chain(seed, device=device), STARTS.to(device), dict(eos_id=EOS, pad_id=PAD, max_len=9)
    found = beam(model, starts, width=1, length_penalty=penalty, **options)
    assert torch.equal(found.ids[:, 0], greedy(model, starts, **options))


@on_each_device
@pytest.mark.parametrize("seed", range(8))
@pytest.mark.parametrize("penalty", [0.0, 1.0])
def test_a_beam_that_is_wide_enough_finds_the_best_of_all_sequences(seed, penalty, device):
    model = Chain(seed, device=device)
    _, scored = best_by_trying_all(Chain(seed), BOS, max_len=4)
    expected = sorted(((log / len(rest) ** penalty, log, rest) for log, rest in scored), reverse=True)
    found = beam(
        model,
        prompts([BOS], device=device),
        width=len(scored) + 3,
        eos_id=EOS,
        pad_id=PAD,
        max_len=4,
        length_penalty=penalty,
    )
    for place, (_, log, rest) in enumerate(expected):
        assert found.ids[0, place].tolist() == [BOS, *rest] + [PAD] * (3 - len(rest))
        assert found.log_probabilities[0, place].item() == pytest.approx(log, abs=1e-12)
    assert found.log_probabilities[0, len(scored) :].tolist() == [-math.inf] * 3  # there is no further sequence


def test_there_is_a_model_that_misleads_greedy_decoding_but_not_a_beam_of_two():
    table = torch.full((VOCAB, VOCAB, VOCAB), 1e-9, dtype=torch.float64)
    table[:, BOS, 1], table[:, BOS, 2] = 0.6, 0.4  # 1 is likelier, but what follows it is not: 0.6 * 0.3 < 0.4 * 0.9
    table[:, 1, 0], table[:, 1, 1], table[:, 1, EOS] = 0.35, 0.35, 0.3
    table[:, 2, EOS] = 0.9
    model = Chain()
    model.table = table.log()
    options = dict(eos_id=EOS, pad_id=PAD, max_len=3)
    assert greedy(model, prompts([BOS]), **options)[0, 1] == 1
    assert beam(model, prompts([BOS]), width=2, **options).ids[0, 0].tolist() == [BOS, 2, EOS]


@on_each_device
@settings(deadline=None, derandomize=True, max_examples=50)
@given(seed=st.integers(0, 10**6), width=st.integers(1, 8))
def test_the_log_probability_of_a_beam_is_that_of_its_sequence_and_the_best_comes_first(seed, width, device):
    model = Chain(seed, device=device)
    found = beam(model, STARTS.to(device), width=width, eos_id=EOS, pad_id=PAD, max_len=6)
    for rows, logs in zip(found.ids, found.log_probabilities.tolist(), strict=True):
        assert logs == sorted(logs, reverse=True)
        assert len({tuple(row.tolist()) for row, log in zip(rows, logs, strict=True) if log > -math.inf}) == len(
            [log for log in logs if log > -math.inf]
        )
        for row, log in zip(rows, logs, strict=True):
            if log > -math.inf:
                assert log == pytest.approx(model.log_probability(row, 1), abs=1e-10)


def test_a_beam_stops_where_there_are_no_further_sequences():
    always_ends = Chain()
    always_ends.table[...] = -torch.inf
    always_ends.table[..., EOS] = 0.0
    found = beam(always_ends, prompts([BOS]), width=3, eos_id=EOS, pad_id=PAD, max_len=50)
    assert found.ids[0, 0].tolist() == [BOS, EOS]
    assert found.log_probabilities.tolist() == [[0.0, -math.inf, -math.inf]]


def test_a_length_penalty_favours_longer_sequences():
    model = Chain(2)
    model.table[..., EOS] += 2.0
    lengths = []
    for penalty in (0.0, 1.0, 3.0):
        found = beam(model, STARTS, width=6, eos_id=EOS, pad_id=PAD, max_len=8, length_penalty=penalty)
        lengths.append((found.ids[:, 0] != PAD).sum().item())
    assert lengths == sorted(lengths)
    assert lengths[0] < lengths[-1]


# ---- Any model -------------------------------------------------------------------------------------------------------


@on_each_device
def test_a_transformer_of_pytorch_decodes_too(device):
    with seeded(0):
        layer = nn.TransformerEncoderLayer(8, 2, 16, dropout=0.0, batch_first=True).double().to(device).eval()
        embed = nn.Embedding(VOCAB, 8).double().to(device)

    def model(ids):
        future = torch.ones(ids.shape[1], ids.shape[1], device=ids.device).triu(1).bool()
        return layer(embed(ids), src_mask=future) @ embed.weight.T

    starts = STARTS.to(device)
    assert greedy(model, starts, eos_id=EOS, max_len=6).device.type == device
    found = beam(model, starts, width=4, eos_id=EOS, max_len=6)
    likeliest = greedy(model, starts, eos_id=EOS, max_len=6)
    assert torch.equal(beam(model, starts, width=1, eos_id=EOS, max_len=6).ids[:, 0], likeliest)
    assert found.log_probabilities.device.type == device


# ---- Refusals --------------------------------------------------------------------------------------------------------

greedily = dict(eos_id=EOS, max_len=5)


@pytest.mark.parametrize(
    ("given", "options", "message"),
    [
        (torch.zeros(0, 1).long(), {}, "1 or more prompts of 1 or more symbols, but got 0 prompts"),
        (torch.zeros(2, 0).long(), {}, "but got 2 prompts, the shortest of length 0; begin each with bos_id"),
        (prompts([BOS, 1], [PAD, PAD]), {"pad_id": PAD}, "but got 2 prompts, the shortest of length 0"),
        (prompts([BOS] * 5), {}, "max_len=5 and prompts of length 5; pass a larger max_len"),
        (prompts([BOS]), {"eos_id": 5}, "eos_id must be one of the model's ids, 0 to 4, but is 5"),
        (prompts([BOS]), {"pad_id": -1}, "pad_id must be one of the model's ids, 0 to 4, but is -1"),
        (prompts([BOS]), {"context": [torch.zeros(2)]}, "got 2 rows for 1 sequences; encode as many"),
        (
            prompts([BOS, 1], [PAD, 1], [BOS, PAD]),
            {"pad_id": PAD},
            "of 3 prompts 1, such as number 1, have pad_id before a symbol; move",
        ),
        (
            prompts([BOS, PAD, 1], [PAD, PAD, 1]),
            {"pad_id": PAD},
            "of 2 prompts 2, such as number 0, have pad_id before a symbol; move",
        ),
    ],
)
def test_what_cannot_be_continued_is_refused(given, options, message):
    with pytest.raises(ValueError, match=message):
        greedy(lambda ids, *context: Chain()(ids), given, **greedily | options)


def test_a_cache_that_remembers_something_else_is_refused():
    memory = Remembering(Chain())
    greedy(memory, STARTS, caches=[memory], **greedily)
    with pytest.raises(ValueError, match=r"caches begin empty, with length=0, but one has length=4; make new ones"):
        greedy(memory, STARTS, caches=[memory], **greedily)


DECODERS = {
    "greedy": greedy,
    "sample": lambda *args, **more: sample(*args, generator=generator(0), **more),
    "beam": lambda *args, **more: beam(*args, width=2, **more),
}
every_decoder = pytest.mark.parametrize("decode", DECODERS.values(), ids=DECODERS)


@every_decoder
@pytest.mark.parametrize("shape", [(), (3,), (1, 2, 3)], ids=str)
def test_prompts_of_another_number_of_axes_are_refused(decode, shape, without_shape_checks):
    with pytest.raises(ValueError, match=r"two axes, \(batch, prompt\), but got the shape \(.*; for a single prompt"):
        decode(Chain(), torch.ones(shape, dtype=torch.long), **greedily)


@every_decoder
@pytest.mark.parametrize(
    ("given", "arrived"),
    [
        (None, "NoneType"),
        ([[BOS], [1]], "list"),
        (prompts([BOS]).float(), r"torch\.float32"),
        (prompts([BOS]) > 0, r"torch\.bool"),
        (prompts([BOS]).to(torch.int8), r"torch\.int8"),  # an id above 127 would become another one
    ],
    ids=["None", "list", "float", "bool", "int8"],
)
def test_prompts_that_are_no_ids_are_refused(decode, given, arrived, without_shape_checks):
    with pytest.raises(ValueError, match=rf"of torch.int64 or torch.int32 .*, but got {arrived}; for a single prompt"):
        decode(Chain(), given, **greedily)


@every_decoder
def test_ids_of_32_bits_are_continued_as_those_of_64(decode):
    for short, long in zip(decode(Chain(), STARTS.int(), **greedily), decode(Chain(), STARTS, **greedily), strict=True):
        assert torch.equal(short, long.to(short.dtype))


@every_decoder
@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"max_len": 5.0}, r"max_len is a whole number, but got 5\.0; pass an int"),
        ({"max_len": None}, "max_len is a whole number, but got None"),
        ({"max_len": -3}, "must leave room for 1 symbol or more, but got max_len=-3"),
        ({"eos_id": None}, "eos_id is a whole number, but got None"),
        ({"eos_id": 1.5}, r"eos_id is a whole number, but got 1\.5"),
        ({"eos_id": "</s>"}, "eos_id is a whole number, but got '</s>'"),
        ({"pad_id": 0.5}, r"pad_id is a whole number, but got 0\.5"),
        ({"context": None}, r"is a sequence of tensors, but got one NoneType; pass \(memory,\)"),
        ({"context": torch.zeros(3, 2)}, r"is a sequence of tensors, but got one Tensor; pass \(memory,\)"),
        ({"context": [STARTS, None]}, "each of the 3 sequences, but got NoneType among its 2; bind what"),
        ({"context": [torch.tensor(1.0)]}, "each of the 3 sequences, but got one without axes among its 1; bind what"),
        ({"context": [STARTS[:2]]}, "got 2 rows for 3 sequences; encode as many"),
        ({"caches": None}, r"objects with length and reorder, but got NoneType; pass model\.new_caches\(\)"),
        ({"caches": [3]}, "objects with length and reorder, but got int"),
    ],
)
def test_what_is_of_another_kind_is_refused(decode, options, message, without_shape_checks):
    with pytest.raises(ValueError, match=message):
        decode(lambda ids, *context: Chain()(ids), STARTS, **greedily | options)


@every_decoder
@pytest.mark.parametrize(
    ("predict", "message"),
    [
        (None, "returns logits, but got NoneType; pass the model itself"),
        (lambda ids: None, "one tensor of numbers .*, but returned NoneType; take the logits out"),
        (lambda ids: (Chain()(ids), None), "but returned tuple; take the logits out"),
        (lambda ids: Chain()(ids) > 0, r"but returned torch\.bool; take"),
        (lambda ids: Chain()(ids).to(torch.complex64), r"but returned torch\.complex64; take"),
        (lambda ids: Chain()(ids)[:, :0], r"returned the shape \(\d, 0, 5\)"),
    ],
    ids=["no model", "nothing", "a pair", "no numbers", "complex numbers", "no position"],
)
def test_what_returns_no_logits_is_refused(decode, predict, message, without_shape_checks):
    with pytest.raises(ValueError, match=message):
        decode(predict, STARTS, **greedily)


@every_decoder
@pytest.mark.parametrize(
    ("poison", "said"),
    [([math.nan] * VOCAB, "nan"), ([0.0, math.nan, 0.0, 0.0, 0.0], "nan"), ([-math.inf] * VOCAB, "-inf")],
    ids=["all NaN", "one NaN", "all forbidden"],
)
def test_logits_that_leave_no_symbol_are_refused_where_they_appear(decode, poison, said):
    model = Chain()
    model.table[..., 0] = 9.0  # never ends, and always writes 0
    options = dict(eos_id=EOS, max_len=7)

    def breaking(ids):
        logits = model(ids).clone()
        if ids.shape[1] == 3:
            logits[-1, -1] = torch.tensor(poison, dtype=logits.dtype)
        return logits

    with pytest.raises(ValueError, match=rf"at position 3 that of row \d is {said}, as in 1 of \d rows; look with"):
        decode(breaking, STARTS, **options)


@every_decoder
def test_what_a_model_says_where_a_sequence_has_ended_does_not_matter(decode):
    model = Chain()
    model.table[:, 1, :], model.table[:, 1, EOS] = -math.inf, 0.0  # 1 is always followed by the end

    def breaking(ids):
        logits = model(ids).clone()
        logits[:, -1] = torch.where((ids == EOS).any(dim=1, keepdim=True), math.nan, logits[:, -1])
        return logits

    options = dict(eos_id=EOS, pad_id=PAD, max_len=7)
    for found, expected in zip(decode(breaking, STARTS, **options), decode(model, STARTS, **options), strict=True):
        assert torch.equal(found, expected)


def small_model():
    with seeded(0):
        return LanguageModel(Embedding(VOCAB, 8), [EncoderBlock(8, 2, 16)]).double().eval()


@every_decoder
def test_a_cache_that_is_named_in_one_place_only_is_refused(decode):
    model = small_model()
    with pytest.raises(
        ValueError, match=r"after 1 symbols the first one has length=0; give predict and decoding the same"
    ):
        decode(model, STARTS, caches=model.new_caches(), **greedily)
    holding = partial(model, caches=model.new_caches())
    for named in ([], model.new_caches()):
        with pytest.raises(
            ValueError, match=r"it holds 1 caches and 1 of them are not among .*; give predict and decoding"
        ):
            decode(holding, STARTS, caches=named, **greedily)
    caches = model.new_caches()
    with_cache = decode(partial(model, caches=caches), STARTS, caches=caches, **greedily)
    for quick, slow in zip(with_cache, decode(model, STARTS, **greedily), strict=True):
        torch.testing.assert_close(quick, slow, rtol=0, atol=1e-12)


def test_a_model_that_forgets_the_drafts_is_told_to_use_the_context():
    with pytest.raises(ValueError, match=r"for 4 sequences, but returned the shape \(2, 1, 5\); pass what differs"):
        beam(lambda ids: torch.zeros(2, 1, VOCAB), STARTS[:2], width=2, eos_id=EOS, max_len=5)
    with pytest.raises(ValueError, match=r"returned the shape \(2, 5\)"):
        greedy(lambda ids: torch.zeros(2, VOCAB), STARTS[:2], **greedily)


@pytest.mark.parametrize("temperature", [0.0, -1.0, math.nan, math.inf, None, "1"])
def test_a_temperature_that_is_not_positive_is_refused(temperature, without_shape_checks):
    with pytest.raises(ValueError, match=f"a finite temperature above 0, but got {temperature}; for 0, use greedy"):
        sample(Chain(), STARTS, generator=generator(0), temperature=temperature, **greedily)


@pytest.mark.parametrize("k", [0, -1, 6])
def test_k_out_of_range_is_refused(k):
    with pytest.raises(ValueError, match=f"got k={k} of 5 symbols; choose k from 1 to 5"):
        sample(Chain(), STARTS, generator=generator(0), top_k=k, **greedily)


@pytest.mark.parametrize("k", [2.5, None, "a"])
def test_k_that_is_no_whole_number_is_refused(k, without_shape_checks):
    with pytest.raises(ValueError, match=re.escape(f"k is a whole number, but got {k!r}; pass an int")):
        keep_top_k(torch.zeros(4), k)


@pytest.mark.parametrize("p", [0.0, -0.1, 1.1, math.nan, "a"])
def test_p_out_of_range_is_refused(p, without_shape_checks):
    for keep in (keep_top_p, lambda _, p: sample(Chain(), STARTS, generator=generator(0), top_p=p, **greedily)):
        with pytest.raises(ValueError, match=f"above 0 and at most 1, but got p={p}; 0.9 is usual"):
            keep(torch.zeros(4), p)


@pytest.mark.parametrize("keep", [partial(keep_top_k, k=1), partial(keep_top_p, p=0.5)], ids=["top k", "top p"])
@pytest.mark.parametrize(
    ("logits", "arrived"),
    [
        (None, "None"),
        ([1.0, 2.0], "[1.0, 2.0]"),
        (torch.zeros(3).long(), "torch.int64 of the shape (3,)"),
        (torch.tensor(1.0), "torch.float32 of the shape ()"),
    ],
    ids=["None", "list", "int", "no axis"],
)
def test_logits_that_cannot_be_filtered_are_refused(keep, logits, arrived, without_shape_checks):
    with pytest.raises(ValueError, match=re.escape(f"but got {arrived}; pass what a model returns")):
        keep(logits)


@pytest.mark.parametrize("none", [None, 3])
def test_a_seed_in_place_of_a_generator_is_refused(none, without_shape_checks):
    with pytest.raises(ValueError, match=rf"drawn again, but got {none}; make one from a seed: torch\.Generator\(\)"):
        sample(Chain(), STARTS, generator=none, **greedily)


@pytest.mark.parametrize("width", [0, -1])
def test_a_beam_without_width_is_refused(width):
    with pytest.raises(ValueError, match=f"1 or more drafts, but got width={width}; 4 or 5 are usual"):
        beam(Chain(), STARTS, width=width, **greedily)


@pytest.mark.parametrize("width", [1.5, 2.0, None])
def test_a_width_that_is_no_whole_number_is_refused(width, without_shape_checks):
    with pytest.raises(ValueError, match=f"width is a whole number, but got {width}; pass an int"):
        beam(Chain(), STARTS, width=width, **greedily)


def test_a_beam_that_no_memory_holds_is_refused():
    with pytest.raises(ValueError, match=f"{10**18} drafts of 3 sequences are more than the memory holds"):
        beam(Chain(), STARTS, width=10**18, **greedily)


@pytest.mark.parametrize("penalty", [math.nan, math.inf, -math.inf, None, "a"])
def test_a_length_penalty_that_is_not_finite_is_refused(penalty, without_shape_checks):
    with pytest.raises(ValueError, match=f"a finite length_penalty, but got {penalty}; 0 is none"):
        beam(Chain(), STARTS, width=2, length_penalty=penalty, **greedily)
