"""The loop takes PyTorch's steps, and stops where there is nothing to learn from."""

import math
import sys
import types

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from lib.device import seeded
from lib.training import train


def linear():
    with seeded(0):
        return nn.Linear(3, 1).double()


def batches(n=5):
    draw = torch.Generator().manual_seed(1)
    return [tuple(torch.randn(8, d, generator=draw, dtype=torch.float64) for d in (3, 1)) for _ in range(n)]


def squared(model, x, y):
    return F.mse_loss(model(x), y)


@pytest.mark.parametrize("optimizer", [torch.optim.AdamW, torch.optim.SGD, torch.optim.Adagrad])
@pytest.mark.parametrize("clip", [None, 0.1])
@pytest.mark.parametrize("schedule", [None, lambda step: 1 / (1 + step)], ids=["constant", "falling"])
def test_it_takes_the_steps_of_the_loop_that_pytorch_teaches(optimizer, clip, schedule):
    by_hand, ours = linear(), linear()
    steps = optimizer(by_hand.parameters(), lr=0.1)
    falling = torch.optim.lr_scheduler.LambdaLR(steps, schedule or (lambda _: 1.0))
    expected = []
    for x, y in batches():
        steps.zero_grad()
        loss = squared(by_hand, x, y)
        loss.backward()
        if clip:
            nn.utils.clip_grad_norm_(by_hand.parameters(), clip)
        steps.step()
        falling.step()
        expected.append(loss.item())
    assert train(ours, squared, batches(), lr=0.1, optimizer=optimizer, schedule=schedule, clip=clip) == expected
    assert torch.equal(ours.weight, by_hand.weight)


def test_losses_are_plain_numbers_one_for_each_batch_measured_before_its_step():
    model = linear()
    first = squared(model, *batches()[0]).item()
    losses = train(model, squared, batches(7), lr=0.1)
    assert len(losses) == 7
    assert {type(loss) for loss in losses} == {float}
    assert losses[0] == first


def test_it_learns_a_linear_map_from_a_generator_of_batches():
    model, target = linear(), torch.tensor([[1.0], [-2.0], [3.0]]).double()
    draw = torch.Generator().manual_seed(0)
    inputs = (torch.randn(16, 3, generator=draw, dtype=torch.float64) for _ in range(300))
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


def test_a_run_goes_on_with_the_optimiser_of_the_run_before():
    together, in_two = linear(), linear()
    train(together, squared, batches(6), lr=0.1)
    kept = torch.optim.AdamW(in_two.parameters(), lr=0.1)
    train(in_two, squared, batches(6)[:3], lr=0.1, optimizer=lambda parameters, lr: kept)
    train(in_two, squared, batches(6)[3:], lr=0.1, optimizer=lambda parameters, lr: kept)
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
