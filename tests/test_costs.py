"""Parameters and FLOPs are what PyTorch holds and does."""

import pytest
import torch
from torch import nn

from lib.costs import count_flops, count_parameters


def test_a_linear_layer_holds_its_weight_and_its_bias():
    assert count_parameters(nn.Linear(7, 5)) == 7 * 5 + 5


def test_a_shared_layer_is_counted_once():
    layer = nn.Linear(3, 3)
    assert count_parameters(nn.Sequential(layer, layer)) == count_parameters(layer)


@pytest.mark.parametrize(("tokens", "d_in", "d_out"), [(1, 1, 1), (6, 8, 32), (11, 5, 3)])
def test_a_linear_layer_does_two_flops_for_each_weight_and_token(tokens, d_in, d_out):
    assert count_flops(nn.Linear(d_in, d_out), torch.zeros(tokens, d_in)) == 2 * tokens * d_in * d_out


def test_counting_leaves_no_gradient_behind():
    layer = nn.Linear(3, 3)
    count_flops(layer, torch.zeros(2, 3))
    assert layer.weight.grad is None


def test_a_call_without_a_matrix_product_is_refused_rather_than_counted_as_free():
    with pytest.raises(ValueError, match="made 0 of them"):
        count_flops(torch.relu, torch.zeros(3))
