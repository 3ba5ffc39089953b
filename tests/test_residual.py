"""The residual connections are PyTorch's where it has them, and x finds its way through them."""

import copy
import pickle

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn
from torch.testing import assert_close

from lib.device import seeded
from lib.residual import NoResidual, PostNorm, PreNorm, ReZero

no_cuda = pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device: torch.cuda.is_available() is False")
on_each_device = pytest.mark.parametrize("device", ["cpu", pytest.param("cuda", marks=[pytest.mark.gpu, no_cuda])])
settled = settings(deadline=None, max_examples=40, derandomize=True)
shapes = st.lists(st.integers(1, 4), max_size=3)  # of the axes before d_model

RESIDUALS = [PreNorm, PostNorm, ReZero, NoResidual]
every_residual = pytest.mark.parametrize("residual", RESIDUALS)

FORMULAS = {
    PreNorm: lambda module, x, sublayer: x + sublayer(module.norm(x)),
    PostNorm: lambda module, x, sublayer: module.norm(x + sublayer(x)),
    ReZero: lambda module, x, sublayer: x + module.alpha * sublayer(x),
    NoResidual: lambda module, x, sublayer: module.norm(sublayer(x)),
}


def exactly(actual, expected):
    """Compare as float64 allows: rounding of a few sums near one, and nothing more."""
    assert_close(actual, expected, rtol=1e-12, atol=1e-12)


def tokens(*shape, seed=1, device="cpu"):
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64).to(device)


def make(residual, d_model=6, device="cpu", **options):
    """Return a residual around a layer norm whose weights differ from feature to feature; ReZero's alpha is not 0."""
    module = residual(nn.LayerNorm(d_model), **options).double().to(device)
    with torch.no_grad(), seeded(0):
        for parameter in module.parameters():
            parameter.copy_(torch.randn(parameter.shape))
    return module


def make_sublayer(d_model=6, device="cpu"):
    with seeded(1):
        return nn.Sequential(nn.Linear(d_model, 9), nn.Tanh(), nn.Linear(9, d_model)).double().to(device)


def all_gradients(modules, y, x):
    """Return the gradients of a weighted sum of the outputs with respect to the input and every parameter."""
    loss = (y * torch.linspace(-1, 1, y.numel(), dtype=y.dtype, device=y.device).view_as(y)).sum()
    return torch.autograd.grad(loss, [x, *(parameter for module in modules for parameter in module.parameters())])


# ---- The formulas ----------------------------------------------------------------------------------------------------


@on_each_device
@every_residual
def test_a_residual_is_its_formula(residual, device):
    module, sublayer = make(residual, device=device), make_sublayer(device=device)
    x = tokens(2, 5, 6, device=device).requires_grad_()
    y, expected = module(x, sublayer), FORMULAS[residual](module, x, sublayer)
    exactly(y, expected)
    parts = (module, sublayer)
    exactly(all_gradients(parts, y, x), all_gradients(parts, expected, x))


@settled
@given(residual=st.sampled_from(RESIDUALS), d_model=st.integers(1, 7), shape=shapes)
def test_every_shape_comes_back_as_it_went_in(residual, d_model, shape):
    module, sublayer, x = make(residual, d_model), make_sublayer(d_model), tokens(*shape, d_model)
    exactly(module(x, sublayer), FORMULAS[residual](module, x, sublayer))


@on_each_device
@settled
@given(d_model=st.integers(1, 4).map(lambda half: 2 * half), seq_len=st.integers(1, 5), norm_first=st.booleans())
def test_two_of_them_are_pytorchs_encoder_layer(device, d_model, seq_len, norm_first):
    layer = nn.TransformerEncoderLayer(d_model, 2, 9, dropout=0.0, batch_first=True, norm_first=norm_first)
    layer = layer.double().to(device)
    first, second = (make(PreNorm if norm_first else PostNorm, d_model, device) for _ in range(2))
    layer.norm1.load_state_dict(first.norm.state_dict())
    layer.norm2.load_state_dict(second.norm.state_dict())

    def ours(x):
        x = first(x, lambda x: layer.self_attn(x, x, x, need_weights=False)[0])
        return second(x, lambda x: layer.linear2(F.relu(layer.linear1(x))))

    x = tokens(3, seq_len, d_model, device=device).requires_grad_()
    exactly(ours(x), layer(x))
    if d_model > 2:  # of two features a norm makes plus and minus 1, whatever they are: gradients are rounding
        inside = (layer.self_attn, layer.linear1, layer.linear2)
        exactly(all_gradients(inside, ours(x), x), all_gradients(inside, layer(x), x))


@every_residual
def test_one_word_exchanges_one_for_another(residual):
    module, sublayer = residual(nn.LayerNorm(6), dropout=0.1), make_sublayer().float()
    assert module(torch.randn(2, 5, 6), sublayer).shape == (2, 5, 6)


@every_residual
def test_any_function_is_a_sublayer(residual):
    module, x, linear = make(residual), tokens(2, 5, 6), make_sublayer()[0]
    weight = linear.weight[:6]
    for sublayer in (torch.tanh, lambda x: x @ weight, nn.Identity()):
        exactly(module(x, sublayer), FORMULAS[residual](module, x, sublayer))


def test_the_identity_in_place_of_a_norm_takes_it_away():
    x = tokens(2, 5, 6)
    for residual in (PreNorm, PostNorm):
        exactly(residual(nn.Identity())(x, torch.tanh), x + torch.tanh(x))
    exactly(NoResidual(nn.Identity())(x, torch.tanh), torch.tanh(x))


def test_no_residual_is_post_norm_without_the_sum():
    module, x = make(NoResidual), tokens(2, 5, 6)
    with_sum = make(PostNorm)
    with_sum.load_state_dict(module.state_dict())
    exactly(module(x, torch.tanh), with_sum(x, lambda x: torch.tanh(x) - x))


# ---- The way of x ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16], ids=str)
def test_rezero_is_exactly_the_identity_at_the_start_and_so_is_its_gradient(dtype):
    module, sublayer = ReZero(nn.LayerNorm(6)).to(dtype), make_sublayer().to(dtype)
    x = tokens(2, 5, 6).to(dtype).requires_grad_()
    y = x
    for _ in range(20):
        y = module(y, sublayer)
    assert torch.equal(y, x)
    gradient, *others = all_gradients((sublayer,), y, x)
    assert torch.equal(gradient, torch.linspace(-1, 1, 60, dtype=dtype).view(2, 5, 6))
    assert not any(other.any() for other in others)


def test_of_rezero_only_alpha_learns_in_the_first_step_and_everything_in_the_second():
    module, sublayer, x = ReZero(nn.LayerNorm(6)).double(), make_sublayer(), tokens(2, 5, 6)
    steps = torch.optim.SGD([*module.parameters(), *sublayer.parameters()], lr=0.1)
    learning = []
    for _ in range(2):
        steps.zero_grad()
        (module(x, sublayer) - tokens(2, 5, 6, seed=3)).square().sum().backward()
        learning.append([bool(parameter.grad.any()) for parameter in (module.alpha, *sublayer.parameters())])
        steps.step()
    assert learning == [[True, False, False, False, False], [True] * 5]


def test_rezero_keeps_no_norm_that_would_never_learn():
    assert [name for name, _ in ReZero(nn.LayerNorm(6)).named_parameters()] == ["alpha"]
    assert ReZero(nn.LayerNorm(6)).alpha.shape == ()


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16], ids=str)
def test_a_branch_that_says_zero_leaves_pre_norm_exactly_the_identity(dtype):
    module, sublayer, x = make(PreNorm).to(dtype), make_sublayer().to(dtype), tokens(2, 5, 6).to(dtype)
    nn.init.zeros_(sublayer[-1].weight)
    nn.init.zeros_(sublayer[-1].bias)
    assert torch.equal(module(x, sublayer), x)


def test_twice_the_sublayers_answer_is_twice_the_update():
    x = tokens(2, 5, 6)
    for module in (make(PreNorm), make(ReZero)):
        exactly(module(x, lambda x: 2 * torch.tanh(x)) - x, 2 * (module(x, torch.tanh) - x))


def test_through_a_silent_stack_the_gradient_arrives_whole_with_a_residual_and_not_at_all_without():
    arrived = {}
    for residual in (PreNorm, NoResidual):
        x = tokens(2, 5, 6).requires_grad_()
        y = x
        for _ in range(60):
            y = make(residual)(y, lambda x: 1e-30 * torch.tanh(x))
        (arrived[residual],) = torch.autograd.grad(y.sum(), x)
    assert_close(arrived[PreNorm], torch.ones(2, 5, 6).double())
    assert not arrived[NoResidual].any()


# ---- Dropout ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("residual", [PreNorm, PostNorm, ReZero, NoResidual])
def test_dropout_falls_on_the_sublayers_answer_and_only_in_training(residual):
    module, x = make(residual, dropout=0.25), tokens(500, 6)
    kept = []
    module.dropout.register_forward_hook(lambda _, inputs, output: kept.append(output / inputs[0]))
    with seeded(0):
        y = module(x, torch.tanh)
    factors = kept[0]
    assert_close(factors[factors != 0], torch.full_like(factors[factors != 0], 1 / 0.75))
    assert (factors == 0).double().mean().item() == pytest.approx(0.25, abs=0.03)  # 3,000 coins: standard error 0.008
    exactly(y, FORMULAS[residual](module, x, lambda x: torch.tanh(x) * factors))
    module.eval()
    exactly(module(x, torch.tanh), FORMULAS[residual](module, x, torch.tanh))


@every_residual
def test_without_dropout_there_is_no_module_for_it_until_one_is_put_there(residual):
    module, x = copy.deepcopy(pickle.loads(pickle.dumps(make(residual)))), tokens(2, 5, 6)
    assert {name for name, _ in module.named_modules()} <= {"", "norm"}
    exactly(module(x, torch.tanh), FORMULAS[residual](module, x, torch.tanh))
    module.dropout = nn.Dropout(1.0)
    exactly(module(x, torch.tanh), FORMULAS[residual](module, x, torch.zeros_like))


def test_with_everything_dropped_only_x_is_left():
    x = tokens(2, 5, 6)
    assert torch.equal(make(PreNorm, dropout=1.0)(x, torch.tanh), x)
    assert torch.equal(make(ReZero, dropout=1.0)(x, torch.tanh), x)


# ---- Other precisions and devices ------------------------------------------------------------------------------------


@on_each_device
@every_residual
@pytest.mark.parametrize(
    ("dtype", "tolerance"),
    [
        (torch.float32, 1e-5),  # eps 1.2e-7, results to 6, cancellation where a mean is subtracted
        (torch.bfloat16, 6e-2),  # eps 7.8e-3, the same, rounded after every step
    ],
    ids=str,
)
def test_shorter_numbers_give_the_same_up_to_their_precision(residual, dtype, tolerance, device):
    short, x = make(residual, device=device).to(dtype), tokens(2, 5, 6, device=device).to(dtype)
    long = make(residual, device=device)
    long.load_state_dict(short.state_dict())
    y = short(x, torch.tanh)
    assert y.dtype == dtype
    assert_close(y.double(), long(x.double(), torch.tanh), rtol=tolerance, atol=tolerance)


@on_each_device
@every_residual
def test_mixed_precision_runs_forward_and_backward(residual, device):
    module, sublayer = (module.float() for module in (make(residual, device=device), make_sublayer(device=device)))
    with torch.autocast(device, dtype=torch.bfloat16):
        y = module(tokens(2, 5, 6, device=device).float(), sublayer)
    y.float().square().sum().backward()
    assert all(parameter.grad.isfinite().all() for part in (module, sublayer) for parameter in part.parameters())


# ---- What is refused -------------------------------------------------------------------------------------------------


@every_residual
@pytest.mark.parametrize("norm", [nn.LayerNorm, torch.tanh, None, 6], ids=["a class", "a function", "None", "a number"])
def test_a_norm_that_is_no_module_is_refused(residual, norm, without_shape_checks):
    with pytest.raises(ValueError, match=r"a module that is made already, but got .*; pass for example LayerNorm"):
        residual(norm)


@every_residual
@pytest.mark.parametrize("shape", [(2, 5, 5), (2, 5, 1), (6,), (1, 5, 6)], ids=str)
def test_an_answer_of_another_shape_is_refused_even_if_it_would_stretch(residual, shape):
    with pytest.raises(
        ValueError, match=r"shape of x, \(2, 5, 6\), but it returned a tensor of the shape \(.*\); give"
    ):
        make(residual)(tokens(2, 5, 6), lambda x: tokens(*shape))


@every_residual
def test_the_pair_that_pytorchs_attention_returns_is_refused(residual):
    attention = nn.MultiheadAttention(6, 2).double()
    with pytest.raises(ValueError, match="but it returned a tuple"):
        make(residual)(tokens(2, 5, 6), lambda x: attention(x, x, x))
