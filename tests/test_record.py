"""What is recorded is what the pass computed, and nothing stays behind."""

import pytest
import torch
from torch import nn

from lib.record import record

no_cuda = pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device: torch.cuda.is_available() is False")


class Block(nn.Module):
    """A module that runs one part twice, keeps parts in a list, and never runs another."""

    def __init__(self):
        super().__init__()
        self.w_1 = nn.Linear(3, 3)
        self.parts = nn.ModuleList([nn.Linear(3, 3), nn.Sequential(nn.ReLU(), nn.Dropout(0.5))])
        self.spare = nn.Linear(3, 3)
        self.tied = self.w_1

    def forward(self, x):
        for part in self.parts:
            x = part(x)
        return self.w_1(self.w_1(x))


@pytest.fixture(params=["cpu", pytest.param("cuda", marks=[pytest.mark.gpu, no_cuda])])
def device(request):
    """Run what uses it on each device: a pass there is recorded like any other."""
    return request.param


@pytest.fixture
def block(device):
    return Block().to(device)


@pytest.fixture
def x(device):
    return torch.randn(2, 3, generator=torch.Generator().manual_seed(0)).to(device)


def hooks_of(model):
    return [hook for module in model.modules() for hook in module._forward_hooks.values()]


def test_it_is_the_tensor_of_the_pass_itself(block, x):
    with record(block, "parts.1.1", "") as seen:
        y = block(x)
    assert seen[""] is y
    assert y.device == x.device
    assert torch.equal(y, block.w_1(block.w_1(seen["parts.1.1"])))


def test_the_gradient_of_what_was_recorded_can_be_asked(block, x):
    with record(block, "parts.0") as seen:
        y = block(x)
    (gradient,) = torch.autograd.grad(y.sum(), seen["parts.0"])
    assert gradient.shape == x.shape


def test_nothing_is_changed_by_watching(block, x):
    block.eval()
    with record(block, "*"):
        watched = block(x)
    assert torch.equal(watched, block(x))


def test_what_runs_several_times_is_a_list_in_order(block, x):
    with record(block, "w_1") as seen:
        y = block(x)
    assert len(seen["w_1"]) == 2
    assert torch.equal(block.w_1(seen["w_1"][0]), seen["w_1"][1])
    assert seen["w_1"][1] is y


def test_several_passes_add_up(block, x):
    with record(block, "parts.0") as seen:
        block(x)
        assert seen["parts.0"].shape == x.shape
        block(x + 1)
        block(x + 2)
    assert torch.equal(torch.stack(seen["parts.0"]), torch.stack([block.parts[0](x + step) for step in range(3)]))


def test_patterns_reach_into_lists_and_keep_the_order_of_running(block, x):
    with record(block, "w_1", "parts.*", "parts.?") as seen:
        block(x)
    assert list(seen) == ["parts.0", "parts.1.0", "parts.1.1", "parts.1", "w_1"]


def test_a_shared_submodule_answers_to_each_of_its_names(block, x):
    with record(block, "tied") as seen:
        y = block(x)
    assert seen["tied"][1] is y


def test_what_did_not_run_has_no_entry(block, x):
    with record(block, "spare", "w_1") as seen:
        block(x)
    assert set(seen) == {"w_1"}


def test_what_is_no_tensor_is_kept_as_it_is(x):
    attention = nn.Sequential(nn.MultiheadAttention(3, 1)).to(x.device)
    with record(attention, "0") as seen:
        attention[0](x, x, x)
    assert [part.shape for part in seen["0"]] == [(2, 3), (2, 2)]


def test_afterwards_no_hook_is_left(block, x):
    with record(block, "*") as seen:
        assert len(hooks_of(block)) == 9  # one for each name: the tied submodule has two
        block(x)
    assert hooks_of(block) == []
    before = dict(seen)
    block(x)
    assert seen == before


def test_an_error_in_the_block_comes_through_and_leaves_no_hook(block, x):
    with pytest.raises(RuntimeError, match="shapes cannot be multiplied"), record(block, "*"):
        block(x[:, :2])
    assert hooks_of(block) == []


def test_two_recordings_at_once_do_not_disturb_each_other(block, x):
    with record(block, "parts.0") as outer:
        with record(block, "parts.0") as inner:
            block(x)
        block(x)
    assert inner["parts.0"] is outer["parts.0"][0]
    assert len(outer["parts.0"]) == 2


def test_the_name_of_nothing_is_refused_with_its_nearest_neighbours():
    block = Block()
    nearest = r"no submodule matches 'part\.0'; the nearest of the model's 9 names: 'parts\.0'"
    with pytest.raises(ValueError, match=nearest), record(block, "w_1", "part.0"):
        pass
    assert hooks_of(block) == []


def test_a_name_near_nothing_is_refused_with_the_first_names():
    block = Block()
    first = r"'Q\*'; the nearest of the model's 9 names: 'w_1', 'parts', 'parts\.0'"
    with pytest.raises(ValueError, match=first), record(block, "Q*"):
        pass


def test_a_model_without_parts_says_so():
    alone = "'w_1'; the nearest of the model's 1 names: ''"
    with pytest.raises(ValueError, match=alone), record(nn.Linear(2, 2), "w_1"):
        pass


def test_no_name_at_all_is_refused_with_the_names_there_are():
    block = Block()
    offered = r"1 or more names, but got 0; choose from w_1, parts, parts\.0"
    with pytest.raises(ValueError, match=offered), record(block):
        pass
