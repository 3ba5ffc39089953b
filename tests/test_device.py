"""Devices are checked when they are named, and seeds leave no trace."""

import pytest
import torch

from lib.device import generator, pick_device, seeded, use_threads

no_cuda = pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device: torch.cuda.is_available() is False")


def test_without_a_name_it_is_cuda_where_there_is_one(monkeypatch):
    monkeypatch.delenv("LOCAL_RANK", raising=False)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    assert pick_device() == torch.device("cuda")
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert pick_device() == torch.device("cpu")


def test_under_torchrun_each_process_gets_a_device_of_its_own(monkeypatch):
    monkeypatch.setenv("LOCAL_RANK", "3")
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    assert pick_device() == torch.device("cuda", 3)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert pick_device() == torch.device("cpu")


def test_a_picked_device_computes_in_float64():
    assert torch.ones(2, dtype=torch.float64, device=pick_device()).sum().item() == 2


def test_a_named_device_is_that_device():
    assert pick_device("cpu") == torch.device("cpu")
    assert pick_device("meta") == torch.device("meta")


@pytest.mark.parametrize("name", ["gpu", "cuda:99", "mps", ""])
def test_a_device_that_is_not_there_is_refused_in_one_line(name):
    with pytest.raises(ValueError, match=rf"cannot use the device '{name}' \(.+\); pass 'cpu'") as refusal:
        pick_device(name)
    assert "\n" not in str(refusal.value)
    assert len(str(refusal.value)) < 250


def test_threads_are_set_and_reported():
    before = torch.get_num_threads()
    try:
        assert use_threads(2) == torch.get_num_threads() == 2
        assert use_threads() == 2
        assert use_threads(1) == torch.get_num_threads() == 1
    finally:
        torch.set_num_threads(before)


def test_without_a_number_the_threads_stay_as_they_are():
    assert use_threads() == torch.get_num_threads()


def test_less_than_one_thread_is_refused():
    with pytest.raises(ValueError, match="1 thread or more, but got n=0"):
        use_threads(0)


def test_a_generator_repeats_itself_and_touches_nothing_else():
    before = torch.get_rng_state()
    first, second = (torch.randn(5, generator=generator(3)) for _ in range(2))
    assert torch.equal(first, second)
    assert not torch.equal(first, torch.randn(5, generator=generator(4)))
    assert generator(3).device == torch.device("cpu")
    assert torch.equal(torch.get_rng_state(), before)


def test_a_seeded_block_repeats_itself_and_leaves_the_outside_alone():
    before = torch.get_rng_state()
    drawn = []
    for _ in range(2):
        torch.rand(1)  # whatever was drawn outside before
        outside = torch.get_rng_state()
        with seeded(3):
            drawn.append(torch.nn.Linear(4, 4).weight)
        assert torch.equal(torch.get_rng_state(), outside)
    assert torch.equal(*drawn)
    with seeded(4):
        assert not torch.equal(torch.nn.Linear(4, 4).weight, drawn[0])
    torch.set_rng_state(before)


def test_a_seeded_block_restores_also_after_an_error_and_inside_another():
    before = torch.get_rng_state()
    with seeded(1):
        expected = torch.rand(2)
    with seeded(1):
        first = torch.rand(1)
        with pytest.raises(RuntimeError, match="size"), seeded(2):
            torch.rand(7) + torch.rand(6)
        assert torch.equal(torch.cat([first, torch.rand(1)]), expected)
    assert torch.equal(torch.get_rng_state(), before)


@pytest.mark.gpu
@no_cuda
def test_a_seeded_block_covers_cuda():
    before = torch.cuda.get_rng_state_all()
    drawn = []
    for _ in range(2):
        with seeded(3):
            drawn.append(torch.rand(4, device="cuda"))
    assert torch.equal(*drawn)
    assert all(torch.equal(*states) for states in zip(torch.cuda.get_rng_state_all(), before, strict=True))


@pytest.mark.gpu
@no_cuda
def test_a_named_cuda_device_is_that_device():
    assert pick_device("cuda").type == pick_device().type == "cuda"
