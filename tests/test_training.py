"""The loop takes PyTorch's steps, and stops where there is nothing to learn from."""

import itertools
import math
import re
import sys
import types

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from lib.device import seeded
from lib.training import (
    cosine_schedule,
    inverse_sqrt_schedule,
    sequence_loss,
    shift_right,
    train,
    warmup_schedule,
)

no_cuda = pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device: torch.cuda.is_available() is False")
on_each_device = pytest.mark.parametrize("device", ["cpu", pytest.param("cuda", marks=[pytest.mark.gpu, no_cuda])])


def linear(device="cpu"):
    with seeded(0):
        return nn.Linear(3, 1).double().to(device)


def batches(n=5, device="cpu"):
    draw = torch.Generator().manual_seed(1)
    return [tuple(torch.randn(8, d, generator=draw, dtype=torch.float64).to(device) for d in (3, 1)) for _ in range(n)]


def squared(model, x, y):
    return F.mse_loss(model(x), y)


@on_each_device
@pytest.mark.parametrize("optimizer", [torch.optim.AdamW, torch.optim.SGD, torch.optim.Adagrad])
@pytest.mark.parametrize("clip", [None, 0.1, math.inf])
@pytest.mark.parametrize("schedule", [None, lambda step: 1 / (1 + step)], ids=["constant", "falling"])
def test_it_takes_the_steps_of_the_loop_that_pytorch_teaches(optimizer, clip, schedule, device):
    by_hand, ours = linear(device), linear(device)
    steps = optimizer(by_hand.parameters(), lr=0.1)
    falling = torch.optim.lr_scheduler.LambdaLR(steps, schedule or (lambda _: 1.0))
    expected = []
    for x, y in batches(device=device):
        steps.zero_grad()
        loss = squared(by_hand, x, y)
        loss.backward()
        if clip:
            nn.utils.clip_grad_norm_(by_hand.parameters(), clip)
        steps.step()
        falling.step()
        expected.append(loss.item())
    options = dict(lr=0.1, optimizer=optimizer, schedule=schedule, clip=clip)
    assert train(ours, squared, batches(device=device), **options) == expected
    assert torch.equal(ours.weight, by_hand.weight)


def test_losses_are_plain_numbers_one_for_each_batch_measured_before_its_step():
    model = linear()
    first = squared(model, *batches()[0]).item()
    losses = train(model, squared, batches(7), lr=0.1)
    assert len(losses) == 7
    assert {type(loss) for loss in losses} == {float}
    assert losses[0] == first


@on_each_device
def test_it_learns_a_linear_map_from_a_generator_of_batches(device):
    model, target = linear(device), torch.tensor([[1.0], [-2.0], [3.0]]).double().to(device)
    draw = torch.Generator().manual_seed(0)
    inputs = (torch.randn(16, 3, generator=draw, dtype=torch.float64).to(device) for _ in range(300))
    losses = train(model, squared, ((x, x @ target) for x in inputs), lr=0.1, optimizer=torch.optim.Adam)
    assert losses[-1] < 1e-6 < losses[0]


def test_groups_with_their_own_rates_keep_their_proportion():
    model = nn.Linear(3, 1).double()

    def optimizer(parameters, lr):
        weight, bias = parameters
        return torch.optim.SGD([{"params": [weight]}, {"params": [bias], "lr": 10 * lr}], lr=lr)

    before = [parameter.detach().clone() for parameter in model.parameters()]
    x, y = batches()[0]
    slopes = torch.autograd.grad(squared(model, x, y), list(model.parameters()))
    train(model, squared, [(x, y)], lr=0.1, optimizer=optimizer, schedule=lambda step: 0.5)
    for parameter, old, slope, rate in zip(model.parameters(), before, slopes, (0.05, 0.5), strict=True):
        torch.testing.assert_close(parameter.detach(), old - rate * slope)


@on_each_device
def test_a_run_goes_on_with_the_optimiser_of_the_run_before(device):
    together, in_two = linear(device), linear(device)
    train(together, squared, batches(6, device), lr=0.1)
    kept = torch.optim.AdamW(in_two.parameters(), lr=0.1, fused=True)  # as it is where none is given
    train(in_two, squared, batches(6, device)[:3], lr=0.1, optimizer=lambda parameters, lr: kept)
    train(in_two, squared, batches(6, device)[3:], lr=0.1, optimizer=lambda parameters, lr: kept)
    assert torch.equal(in_two.weight, together.weight)


def test_frozen_parameters_stay_where_they_are():
    model = linear()
    model.bias.requires_grad_(False)
    before = model.bias.clone()
    train(model, squared, batches(), lr=0.1, clip=1.0)
    assert torch.equal(model.bias, before)


def test_gradients_left_over_from_before_have_no_say():
    fresh, used = linear(), linear()
    squared(used, *batches()[0]).backward()
    train(fresh, squared, batches(1), lr=0.1)
    train(used, squared, batches(1), lr=0.1)
    assert torch.equal(fresh.weight, used.weight)


def test_it_trains_in_training_mode_and_gives_every_submodule_its_own_mode_back():
    model = nn.Sequential(nn.Linear(3, 1), nn.Dropout(0.5), nn.Dropout(0.5)).double()
    model.eval()
    model[1].train()
    modes = []

    def loss(model, x, y):
        modes.append([module.training for module in model.modules()])
        return squared(model, x, y)

    train(model, loss, batches(1), lr=0.1)
    assert modes == [[True] * 4]
    assert [module.training for module in model.modules()] == [False, False, True, False]


def test_the_modes_come_back_also_after_an_error():
    model = linear().eval()
    with pytest.raises(ZeroDivisionError):
        train(model, lambda model, x, y: 1 / 0, batches(), lr=0.1)
    assert not model.training


@pytest.mark.parametrize("bad", [math.nan, math.inf])
def test_a_loss_that_is_not_finite_stops_it_at_once_and_spares_the_model(bad):
    two_steps, stopped = linear(), linear()
    train(two_steps, squared, batches(2), lr=0.1)
    poisoned = [*batches(2), (torch.full((8, 3), bad, dtype=torch.float64), batches(1)[0][1]), *batches(2)]
    with pytest.raises(ValueError, match=r"at step 2 it is (nan|inf), after [\d.]+ at the step before; lower lr"):
        train(stopped, squared, poisoned, lr=0.1)
    assert torch.equal(stopped.weight, two_steps.weight)


def test_a_first_loss_that_is_not_finite_is_called_the_first():
    with pytest.raises(ValueError, match="at step 0 it is inf, at the very first step"):
        train(linear(), lambda model, x, y: squared(model, x, y) / 0, batches(), lr=0.1)


@pytest.mark.parametrize("clip", [0.0, -1.0, math.nan])
def test_a_clip_that_stops_or_turns_the_steps_is_refused_before_the_first(clip):
    model = linear()
    before = model.weight.clone()
    with pytest.raises(ValueError, match=f"above 0, but got clip={clip}; 1.0 is usual"):
        train(model, squared, batches(), lr=0.1, clip=clip)
    assert torch.equal(model.weight, before)


def square_root(model, x, y):
    """A loss that is finite where x is 0 and the bias too, though the slope of the root there is infinite."""
    return model(x).square().sum().sqrt()


@on_each_device
@pytest.mark.parametrize("clip", [1.0, math.inf])
def test_a_gradient_that_is_not_finite_is_refused_before_its_step(clip, device):
    stopped, one_step = linear(device), linear(device)
    for model in (stopped, one_step):
        model.bias.requires_grad_(False).zero_()
    good, (x, y) = batches(1, device), batches(1, device)[0]
    train(one_step, square_root, good, lr=0.1, clip=clip)
    with pytest.raises(ValueError, match=r"at step 1, where the loss is 0, its norm is nan; look in the model"):
        train(stopped, square_root, [*good, (torch.zeros_like(x), y)], lr=0.1, clip=clip)
    assert torch.equal(stopped.weight, one_step.weight)


def test_without_a_clip_such_a_gradient_shows_in_the_next_loss():
    model = linear()
    model.bias.requires_grad_(False).zero_()
    x, y = batches(1)[0]
    with pytest.raises(ValueError, match=r"at step 1 it is nan, after 0 at the step before; lower lr, set clip=1.0"):
        train(model, square_root, [(torch.zeros_like(x), y), (x, y)], lr=0.1)


def test_a_loss_of_several_numbers_is_refused():
    with pytest.raises(ValueError, match=r"1 number, but at step 0 it returned the shape \(8, 1\)"):
        train(linear(), lambda model, x, y: (model(x) - y) ** 2, batches(), lr=0.1)


@pytest.mark.parametrize("nothing", [None, 0.5])
def test_a_loss_that_is_no_tensor_is_refused(nothing):
    with pytest.raises(ValueError, match=f"1 number, but at step 0 it returned {nothing}"):
        train(linear(), lambda model, x, y: nothing, batches(), lr=0.1)


def test_a_generator_that_was_used_up_is_refused_rather_than_trained_on():
    given = (batch for batch in batches(2))
    train(linear(), squared, given, lr=0.1)
    with pytest.raises(ValueError, match="1 batch or more, but got 0; a generator that was used up"):
        train(linear(), squared, given, lr=0.1)


# ---- The bar ---------------------------------------------------------------------------------------------------------


@pytest.fixture
def terminal(monkeypatch, capsys):
    """Let somebody watch: a terminal that remembers what was shown on it."""
    monkeypatch.delenv("EXPLORE_MODE", raising=False)
    monkeypatch.setattr(sys.stderr, "isatty", lambda: True, raising=False)
    return capsys


def test_who_watches_a_terminal_sees_a_bar(terminal):
    train(linear(), squared, batches(), lr=0.1)
    assert "5/5" in terminal.readouterr().err


def test_who_asks_for_no_bar_sees_none(terminal):
    train(linear(), squared, batches(), lr=0.1, progress=False)
    assert terminal.readouterr() == ("", "")


def test_a_notebook_that_is_executed_to_be_stored_has_no_bar(terminal, monkeypatch):
    monkeypatch.setenv("EXPLORE_MODE", "static")
    train(linear(), squared, batches(), lr=0.1)
    assert terminal.readouterr() == ("", "")


def test_a_log_file_has_no_bar_and_a_live_notebook_has_one(monkeypatch, capsys):
    monkeypatch.delenv("EXPLORE_MODE", raising=False)
    monkeypatch.delitem(sys.modules, "ipykernel", raising=False)
    train(linear(), squared, batches(), lr=0.1)
    assert capsys.readouterr() == ("", "")
    monkeypatch.setitem(sys.modules, "ipykernel", types.ModuleType("ipykernel"))
    train(linear(), squared, batches(), lr=0.1)
    assert "5/5" in capsys.readouterr().err


# ---- Teaching sequences ----------------------------------------------------------------------------------------------

BOS, EOS, PAD, VOCAB = 1, 2, 0, 7


class Writer(nn.Module):
    """A small language model that sees no future: causal attention by PyTorch's own layer."""

    def __init__(self):
        super().__init__()
        self.embed = nn.Embedding(VOCAB, 8)
        self.layer = nn.TransformerEncoderLayer(8, 2, 16, dropout=0.0, batch_first=True)

    def forward(self, ids):
        future = torch.ones(ids.shape[1], ids.shape[1], device=ids.device).triu(1).bool()
        return self.layer(self.embed(ids), src_mask=future) @ self.embed.weight.T


def writer(device="cpu"):
    with seeded(0):
        return Writer().double().to(device)


def targets(*lengths, seed=0):
    """Return rows of random symbols that end with EOS, filled up with PAD."""
    draw = torch.Generator().manual_seed(seed)
    rows = [torch.cat([torch.randint(3, VOCAB, (n - 1,), generator=draw), torch.tensor([EOS])]) for n in lengths]
    return nn.utils.rnn.pad_sequence(rows, batch_first=True, padding_value=PAD)


def some_logits(*shape, seed=0):
    return torch.randn(*shape, VOCAB, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


row_lengths = st.lists(st.integers(1, 6), min_size=1, max_size=4)


@settings(deadline=None, derandomize=True)
@given(lengths=row_lengths)
def test_shifted_inputs_begin_with_bos_and_are_one_behind_their_targets(lengths):
    tgt_ids = targets(*lengths)
    before = tgt_ids.clone()
    inputs = shift_right(tgt_ids, BOS)
    assert inputs.shape == tgt_ids.shape
    assert (inputs[:, 0] == BOS).all()
    assert torch.equal(inputs[:, 1:], tgt_ids[:, :-1])
    assert torch.equal(tgt_ids, before)


@on_each_device
@settings(deadline=None, derandomize=True, max_examples=20)
@given(lengths=row_lengths, smoothing=st.sampled_from([0.0, 0.1]))
def test_one_parallel_pass_has_the_loss_and_the_gradient_of_one_step_after_the_other(lengths, smoothing, device):
    model, tgt_ids = writer(device), targets(*lengths).to(device)
    inputs, real = shift_right(tgt_ids, BOS), tgt_ids != PAD
    parallel = sequence_loss(model(inputs), tgt_ids, PAD, label_smoothing=smoothing)
    stepwise = 0
    for step in range(tgt_ids.shape[1]):  # the model has read the right symbols so far, and is asked for the next
        here = real[:, step]
        logits = model(inputs[here, : step + 1])[:, -1]
        stepwise = stepwise + F.cross_entropy(logits, tgt_ids[here, step], reduction="sum", label_smoothing=smoothing)
    stepwise = stepwise / real.sum()
    torch.testing.assert_close(parallel, stepwise, rtol=0, atol=1e-12)
    gradients = (torch.autograd.grad(loss, list(model.parameters())) for loss in (parallel, stepwise))
    torch.testing.assert_close(*gradients, rtol=0, atol=1e-12)


@pytest.mark.parametrize("smoothing", [0.0, 0.1, 1.0])
@pytest.mark.parametrize("vocab", [2, 7, 1000])
def test_a_model_that_knows_nothing_has_the_logarithm_of_the_vocabulary(vocab, smoothing):
    logits = torch.full((2, 3, vocab), 5.0, dtype=torch.float64)
    tgt_ids = torch.tensor([[1, 1, 0], [1, 0, 0]])
    loss = sequence_loss(logits, tgt_ids, pad_id=0, label_smoothing=smoothing)
    assert loss.item() == pytest.approx(math.log(vocab), abs=1e-12)


def test_a_model_that_knows_everything_has_loss_zero():
    tgt_ids = targets(3, 5)
    assert sequence_loss(100 * F.one_hot(tgt_ids, VOCAB).double(), tgt_ids, PAD).item() == pytest.approx(0, abs=1e-12)


@settings(deadline=None, derandomize=True)
@given(lengths=row_lengths, more=st.integers(1, 5), smoothing=st.sampled_from([0.0, 0.1]))
def test_more_padding_and_what_is_said_there_change_nothing(lengths, more, smoothing):
    tgt_ids = targets(*lengths)
    logits = some_logits(*tgt_ids.shape).requires_grad_()
    padded_ids = F.pad(tgt_ids, (0, more), value=PAD)
    elsewhere = some_logits(len(lengths), more, seed=1) * 100
    padded = torch.cat([logits, elsewhere], dim=1)
    padded = torch.where((padded_ids == PAD)[..., None], some_logits(*padded_ids.shape, seed=2), padded)
    losses = [
        sequence_loss(said, asked, PAD, label_smoothing=smoothing)
        for said, asked in ((logits, tgt_ids), (padded, padded_ids))
    ]
    torch.testing.assert_close(*losses, rtol=1e-13, atol=0)
    gradients = [torch.autograd.grad(loss, logits)[0] for loss in losses]
    torch.testing.assert_close(*gradients, rtol=1e-12, atol=1e-15)
    assert (gradients[0][tgt_ids == PAD] == 0).all()


@pytest.mark.parametrize("smoothing", [0.0, 0.1])
def test_nan_in_padding_stays_there(smoothing):  # should its gradient become 0, the docstring has to change
    tgt_ids = targets(2, 5)
    padded, logits = tgt_ids == PAD, some_logits(2, 5)
    spoilt = logits.masked_fill(padded[..., None], torch.nan).requires_grad_()
    losses = [
        sequence_loss(said, tgt_ids, PAD, label_smoothing=smoothing) for said in (spoilt, logits.requires_grad_())
    ]
    assert torch.equal(*losses)
    bad, good = (torch.autograd.grad(loss, said)[0] for loss, said in zip(losses, (spoilt, logits), strict=True))
    assert torch.equal(bad[~padded], good[~padded])
    assert bad[padded].isnan().all()


@pytest.mark.parametrize("smoothing", [0.0, 0.1])
def test_every_real_token_weighs_the_same(smoothing):
    tgt_ids = targets(2, 6)
    logits = some_logits(*tgt_ids.shape)
    rows = [sequence_loss(logits[[row]], tgt_ids[[row]], PAD, label_smoothing=smoothing) for row in (0, 1)]
    loss = sequence_loss(logits, tgt_ids, PAD, label_smoothing=smoothing)
    torch.testing.assert_close(loss, (2 * rows[0] + 6 * rows[1]) / 8)
    assert abs(loss - sum(rows) / 2) > 0.01


def test_label_smoothing_is_a_target_that_gives_every_symbol_a_share():
    tgt_ids = targets(4, 4)
    logits = some_logits(2, 4)
    target = 0.9 * F.one_hot(tgt_ids, VOCAB) + 0.1 / VOCAB
    expected = -(target * logits.log_softmax(-1)).sum(-1).mean()
    torch.testing.assert_close(sequence_loss(logits, tgt_ids, PAD, label_smoothing=0.1), expected)


@pytest.mark.parametrize("dtype", [torch.int32, torch.int16], ids=str)
def test_targets_may_be_shorter_whole_numbers(dtype):
    tgt_ids, logits = targets(2, 5), some_logits(2, 5)
    assert torch.equal(sequence_loss(logits, tgt_ids.to(dtype), PAD), sequence_loss(logits, tgt_ids, PAD))


def test_padding_may_have_an_id_that_no_symbol_has():
    tgt_ids = targets(2, 5)
    logits = some_logits(2, 5)
    outside = tgt_ids.masked_fill(tgt_ids == PAD, -100)
    assert torch.equal(sequence_loss(logits, outside, -100), sequence_loss(logits, tgt_ids, PAD))


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision_logits_are_summed_in_float32(dtype):
    tgt_ids = targets(2, 5)
    logits = some_logits(2, 5).to(dtype)
    loss = sequence_loss(logits, tgt_ids, PAD)
    assert loss.dtype == torch.float32
    torch.testing.assert_close(loss, sequence_loss(logits.float(), tgt_ids, PAD), rtol=0, atol=0)


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
@pytest.mark.parametrize(
    ("dtype", "tolerance"), [(torch.float64, 1e-12), (torch.float32, 1e-5), (torch.bfloat16, 2e-2)]
)
def test_the_loss_on_a_gpu_is_the_same(dtype, tolerance):
    tgt_ids = targets(2, 5)
    logits = some_logits(2, 5)
    there = sequence_loss(logits.to("cuda", dtype), tgt_ids.cuda(), PAD).double().cpu()
    torch.testing.assert_close(there, sequence_loss(logits, tgt_ids, PAD), rtol=tolerance, atol=0)


@pytest.mark.parametrize(
    ("shape", "tgt_ids", "options", "message"),
    [
        (
            (2, 4),
            targets(3, 3),
            {},
            r"logits \(2, 4, 7\) and targets \(2, 3\); feed the model shift_right",
        ),
        ((3,), torch.ones(3).long(), {}, r"logits \(3, 7\) and targets \(3,\); .* a batch of 1: logits\[None\]"),
        ((1, 2, 3), torch.ones(1, 2, 3).long(), {}, r"logits \(1, 2, 3, 7\) and targets \(1, 2, 3\)"),
        ((1, 2), torch.ones(1, 2), {}, "whole numbers, but got torch.float32; pass the ids themselves"),
        ((1, 2), torch.ones(1, 2).bool(), {}, "whole numbers, but got torch.bool"),
        ((2, 3), torch.zeros(2, 3).long(), {}, "1 real token or more, but all 6 targets are padding; leave this batch"),
        ((0, 3), torch.zeros(0, 3).long(), {}, "but all 0 targets are padding"),
        ((1, 2), torch.tensor([[3, 7]]), {}, "ids from 0 to 6, as many as there are logits, but got 7;"),
        ((1, 2), torch.tensor([[3, -100]]), {}, "but got -100; make the model's vocabulary larger, or pass the pad_id"),
        ((1, 2), targets(2), {"label_smoothing": 1.5}, "a share from 0 to 1, but got 1.5"),
    ],
)
@pytest.mark.usefixtures("without_shape_checks")
def test_targets_that_cannot_be_learned_from_are_refused(shape, tgt_ids, options, message):
    with pytest.raises(ValueError, match=message):
        sequence_loss(some_logits(*shape), tgt_ids, PAD, **options)


@pytest.mark.parametrize("shape", [(2, 0), (0, 3), (0, 0)], ids=str)
def test_targets_without_a_symbol_are_refused(shape):
    message = rf"1 symbol or more, eos_id at least, but got the shape {re.escape(str(shape))}; end every"
    with pytest.raises(ValueError, match=message):
        shift_right(torch.zeros(shape).long(), BOS)


@pytest.mark.usefixtures("without_shape_checks")
@pytest.mark.parametrize("dtype", [torch.float32, torch.bool], ids=str)
def test_what_is_no_id_is_not_shifted(dtype):
    with pytest.raises(ValueError, match=f"whole numbers, but got {dtype}; pass the ids"):
        shift_right(torch.ones(2, 3, dtype=dtype), BOS)


@pytest.mark.usefixtures("without_shape_checks")
@pytest.mark.parametrize("bos_id", [1.7, None, "b"])
def test_a_sequence_does_not_begin_with_what_is_no_id(bos_id):
    with pytest.raises(ValueError, match=f"a whole number, but got {bos_id!r}; pass the vocabulary's"):
        shift_right(torch.ones(2, 3, dtype=torch.long), bos_id)


@pytest.mark.usefixtures("without_shape_checks")
@pytest.mark.parametrize("shape", [(3,), (1, 2, 3)], ids=str)
def test_targets_without_two_axes_are_not_shifted(shape):
    with pytest.raises(ValueError, match=r"are \(batch, seq\) .* but got the shape \(.*, and pass a single one as"):
        shift_right(torch.ones(shape, dtype=torch.long), BOS)


def test_without_the_shift_a_model_learns_to_copy_what_cannot_be_learned():
    model = nn.Sequential(nn.Embedding(VOCAB, 16), nn.Linear(16, VOCAB))
    losses = {}
    for name, inputs_of in {"shifted": lambda ids: shift_right(ids, BOS), "unshifted": lambda ids: ids}.items():
        with seeded(0):
            for layer in model:
                layer.reset_parameters()
        random_targets = ((targets(*[9] * 32, seed=seed)[:, :-1],) for seed in range(60))

        def loss(model, ids, inputs_of=inputs_of):
            return sequence_loss(model(inputs_of(ids)), ids, PAD)

        losses[name] = train(model, loss, random_targets, lr=0.05, progress=False)[-1]
    assert losses["unshifted"] < 0.05
    assert losses["shifted"] > 0.95 * math.log(VOCAB - 3)  # the targets are 4 symbols, all equally likely


# ---- Schedules -------------------------------------------------------------------------------------------------------


@settings(deadline=None, derandomize=True)
@given(n_steps=st.integers(1, 300), data=st.data())
def test_the_cosine_rises_in_equal_parts_and_falls_along_half_a_cosine(n_steps, data):
    n_warmup = data.draw(st.integers(0, n_steps - 1))
    floor = data.draw(st.floats(0, 1))
    factor = cosine_schedule(n_steps, n_warmup=n_warmup, floor=floor)
    factors = [factor(step) for step in range(n_steps + 5)]
    assert factors[:n_warmup] == [(step + 1) / n_warmup for step in range(n_warmup)]
    assert factors[n_warmup] == pytest.approx(1)
    falling = factors[n_warmup:]
    assert all(a >= b - 1e-12 for a, b in itertools.pairwise(falling))
    assert falling[-5:] == [pytest.approx(floor)] * 5
    middle = factor(n_warmup + (n_steps - n_warmup) // 2)
    if (n_steps - n_warmup) % 2 == 0:
        assert middle == pytest.approx((1 + floor) / 2)


def test_the_cosine_is_pytorchs():
    steps = torch.optim.SGD([nn.Parameter(torch.zeros(1))], lr=1.0)
    theirs = torch.optim.lr_scheduler.CosineAnnealingLR(steps, T_max=20, eta_min=0.1)
    ours = cosine_schedule(20, floor=0.1)
    for step in range(20):
        assert steps.param_groups[0]["lr"] == pytest.approx(ours(step))
        steps.step()
        theirs.step()


def test_warm_up_reaches_the_full_rate_and_stays():
    assert [warmup_schedule(4)(step) for step in range(6)] == [0.25, 0.5, 0.75, 1, 1, 1]
    assert warmup_schedule(1)(0) == 1


@pytest.mark.parametrize("d_model", [32, 512])
def test_the_inverse_square_root_is_the_papers(d_model):
    factor, n_warmup = inverse_sqrt_schedule(4000), 4000
    for step in (0, 1, 100, 3998, 3999, 4000, 10**5):
        number = step + 1  # the paper counts from 1
        paper = d_model**-0.5 * min(number**-0.5, number * n_warmup**-1.5)
        assert factor(step) * d_model**-0.5 * n_warmup**-0.5 == pytest.approx(paper)
    assert max(map(factor, range(10_000))) == factor(3999) == 1


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: warmup_schedule(0), "1 or more steps, but got n_warmup=0"),
        (lambda: inverse_sqrt_schedule(-1), "1 or more steps, but got n_warmup=-1"),
        (lambda: cosine_schedule(10, n_warmup=10), "n_warmup=10 of n_steps=10"),
        (lambda: cosine_schedule(10, n_warmup=-1), "n_warmup=-1 of n_steps=10"),
        (lambda: cosine_schedule(0), "n_warmup=0 of n_steps=0"),
        (lambda: cosine_schedule(10, floor=1.5), "from 0 to 1, but got 1.5; divide a rate by lr"),
    ],
)
def test_a_schedule_without_steps_is_refused(make, message):
    with pytest.raises(ValueError, match=message):
        make()
