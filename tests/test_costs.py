"""Parameters and FLOPs are what PyTorch holds and does."""

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from lib.attention import MultiHeadAttention, scaled_dot_product_attention
from lib.blocks import attention_flops
from lib.costs import count_flops, count_parameters

no_cuda = pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device: torch.cuda.is_available() is False")
on_each_device = pytest.mark.parametrize("device", ["cpu", pytest.param("cuda", marks=[pytest.mark.gpu, no_cuda])])


def test_a_linear_layer_holds_its_weight_and_its_bias():
    assert count_parameters(nn.Linear(7, 5)) == 7 * 5 + 5


def test_a_shared_layer_is_counted_once():
    layer = nn.Linear(3, 3)
    assert count_parameters(nn.Sequential(layer, layer)) == count_parameters(layer)


@on_each_device
@pytest.mark.parametrize(("tokens", "d_in", "d_out"), [(1, 1, 1), (6, 8, 32), (11, 5, 3)])
def test_a_linear_layer_does_two_flops_for_each_weight_and_token(tokens, d_in, d_out, device):
    layer, x = nn.Linear(d_in, d_out).to(device), torch.zeros(tokens, d_in, device=device)
    assert count_flops(layer, x) == 2 * tokens * d_in * d_out


@on_each_device
@pytest.mark.parametrize(("n_heads", "n_kv_heads"), [(2, 2), (4, 1)])
@pytest.mark.parametrize("is_causal", [False, True])
@pytest.mark.parametrize("masked", [False, True])
def test_fused_attention_is_counted_as_the_formula_counts_it(n_heads, n_kv_heads, is_causal, masked, device):
    attention, x = MultiHeadAttention(8, n_heads, n_kv_heads=n_kv_heads).to(device), torch.randn(1, 7, 8, device=device)
    mask = torch.ones(7, 7, dtype=torch.bool, device=device).tril() if masked else None
    counted = count_flops(lambda x: attention(x, mask=mask, is_causal=is_causal), x)
    assert counted == attention_flops(7, 7, 8, n_heads, n_kv_heads=n_kv_heads)


@on_each_device
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16])
def test_the_fused_kernel_has_the_two_products_of_the_explicit_formula(dtype, device):
    inputs = [torch.randn(2, 3, n, 8, dtype=dtype, device=device) for n in (5, 7, 7)]
    fused, explicit = (
        count_flops(run, *inputs) for run in (F.scaled_dot_product_attention, scaled_dot_product_attention)
    )
    assert fused == explicit == 2 * (2 * 3 * 5 * 7 * 8) * 2


def test_its_backward_pass_makes_the_scores_again_and_four_products_more():
    inputs = [torch.randn(2, 3, n, 8, requires_grad=True) for n in (5, 7, 7)]

    def forward_and_backward(*inputs):
        with torch.enable_grad():
            torch.autograd.grad(F.scaled_dot_product_attention(*inputs).sum(), inputs)

    forward = count_flops(F.scaled_dot_product_attention, *inputs)
    assert count_flops(forward_and_backward, *inputs) == forward + 5 * forward // 2


@on_each_device
def test_counting_leaves_no_gradient_behind(device):
    layer = nn.Linear(3, 3).to(device)
    count_flops(layer, torch.zeros(2, 3, device=device))
    assert layer.weight.grad is None


def test_a_call_without_a_matrix_product_is_refused_rather_than_counted_as_free():
    with pytest.raises(ValueError, match="made 0 of them"):
        count_flops(torch.relu, torch.zeros(3))
