"""The norms are PyTorch's, and each averages over what its name says and over nothing else."""

import re

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn
from torch.testing import assert_close

from lib.device import seeded
from lib.norms import BatchNorm, LayerNorm, RMSNorm, batch_norm, layer_norm, rms_norm

no_cuda = pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device: torch.cuda.is_available() is False")
on_each_device = pytest.mark.parametrize("device", ["cpu", pytest.param("cuda", marks=[pytest.mark.gpu, no_cuda])])
settled = settings(deadline=None, max_examples=60, derandomize=True)
widths = st.integers(1, 9)
TINY = 1e-30  # an eps that no result shows
shapes = st.lists(st.integers(1, 5), max_size=3)  # of the axes before d_model: none is a single token


def exactly(actual, expected):
    """Compare as float64 allows: rounding of a few sums near one, and nothing more."""
    assert_close(actual, expected, rtol=1e-12, atol=1e-12)


def tokens(*shape, seed=1, device="cpu"):
    """Return random tokens of mean 1, not 0, so that what is subtracted shows."""
    return 1 + torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64).to(device)


def make(norm, d_model, device="cpu", **options):
    """Return a norm with weights that differ from feature to feature."""
    module = norm(d_model, **options).double().to(device)
    with torch.no_grad(), seeded(0):
        for parameter in module.parameters():
            parameter.copy_(torch.randn(d_model))
    return module


def all_gradients(module, run, x):
    """Return the gradients of a weighted sum of the outputs with respect to the input and every parameter."""
    x = x.clone().requires_grad_()
    y = run(x)
    loss = (y * torch.linspace(-1, 1, y.numel(), dtype=y.dtype, device=y.device).view_as(y)).sum()
    return torch.autograd.grad(loss, [x, *module.parameters()])


def pytorch_twin(module):
    """Return PyTorch's own module with these weights, loaded by name, all of them."""
    d_model = len(module.weight)
    if isinstance(module, LayerNorm):
        twin = nn.LayerNorm(d_model, module.eps, bias=module.bias is not None)
    elif isinstance(module, RMSNorm):
        twin = nn.RMSNorm(d_model, module.eps)
    else:
        twin = nn.BatchNorm1d(d_model, module.eps, module.momentum)
    twin = twin.to(module.weight)
    twin.load_state_dict(module.state_dict())
    return twin.train(module.training)


NORMS = {
    "layer": (LayerNorm, {}),
    "layer without bias": (LayerNorm, {"bias": False}),
    "layer, eps 1": (LayerNorm, {"eps": 1.0}),
    "rms": (RMSNorm, {}),
    "rms, eps 1": (RMSNorm, {"eps": 1.0}),
    "batch": (BatchNorm, {}),
    "batch, eps 1": (BatchNorm, {"eps": 1.0, "momentum": 0.3}),
}
every_norm = pytest.mark.parametrize(("norm", "options"), NORMS.values(), ids=NORMS)
of_one_token = pytest.mark.parametrize("norm", [LayerNorm, RMSNorm])


# ---- Equal to PyTorch, values and gradients --------------------------------------------------------------------------


@on_each_device
@every_norm
@pytest.mark.parametrize("training", [True, False])
def test_a_norm_equals_pytorchs_with_its_weights(norm, options, training, device):
    module = make(norm, 6, device=device, **options).train(training)
    twin, x = pytorch_twin(module), tokens(30, 6, device=device)
    exactly(module(x), twin(x))
    exactly(all_gradients(module, module, x), all_gradients(twin, twin, x))
    exactly(dict(module.state_dict()), dict(twin.state_dict()))  # the running averages, twice brought up to date


@on_each_device
@settled
@given(d_model=widths, shape=shapes, bias=st.booleans(), eps=st.floats(1e-8, 2))
def test_layer_norm_is_pytorchs_for_every_shape(d_model, shape, bias, eps, device):
    module, x = make(LayerNorm, d_model, device, eps=eps, bias=bias), tokens(*shape, d_model, device=device)
    twin, shift = pytorch_twin(module), module.bias if bias else torch.zeros_like(module.weight)
    exactly(module(x), twin(x))
    exactly(layer_norm(x, module.weight, shift, eps), twin(x))
    exactly(all_gradients(module, module, x), all_gradients(twin, twin, x))


@on_each_device
@settled
@given(d_model=widths, shape=shapes, eps=st.none() | st.floats(1e-8, 2))
def test_rms_norm_is_pytorchs_for_every_shape(d_model, shape, eps, device):
    module, x = make(RMSNorm, d_model, device, eps=eps), tokens(*shape, d_model, device=device)
    twin = pytorch_twin(module)
    exactly(module(x), twin(x))
    exactly(rms_norm(x, module.weight, eps), twin(x))
    exactly(all_gradients(module, module, x), all_gradients(twin, twin, x))


@on_each_device
@settled
@given(d_model=widths, batch=st.integers(1, 4), seq_len=st.integers(2, 6), training=st.booleans())
def test_batch_norm_is_pytorchs_with_the_features_moved_last(d_model, batch, seq_len, training, device):
    module, x = make(BatchNorm, d_model, device).train(training), tokens(batch, seq_len, d_model, device=device)
    twin = pytorch_twin(module)
    for _ in range(3):
        exactly(module(x), twin(x.mT).mT)
    exactly(all_gradients(module, module, x), all_gradients(twin, lambda x: twin(x.mT).mT, x))
    exactly(dict(module.state_dict()), dict(twin.state_dict()))
    assert module.num_batches_tracked == (4 if training else 0)


@on_each_device
def test_the_explicit_formulas_have_the_gradients_of_the_fused_kernels(device):
    x = tokens(4, 5, 6, device=device)
    for norm, formula in ((LayerNorm, layer_norm), (RMSNorm, rms_norm), (BatchNorm, batch_norm)):
        module = make(norm, 6, device=device)
        explicit = all_gradients(module, lambda x, m=module, f=formula: f(x, *m.parameters(), 1e-5), x)
        module.eps = 1e-5
        exactly(explicit, all_gradients(module, module, x))


def test_weights_load_both_ways():
    for norm, twin in ((LayerNorm, nn.LayerNorm(6)), (RMSNorm, nn.RMSNorm(6)), (BatchNorm, nn.BatchNorm1d(6))):
        module = norm(6)
        assert list(module.state_dict()) == list(twin.state_dict())
        assert [one.shape for one in module.state_dict().values()] == [one.shape for one in twin.state_dict().values()]
        module.load_state_dict(twin.state_dict())
        twin.load_state_dict(module.state_dict())


def test_the_example_of_two_tokens_that_texts_confuse():
    x, one, zero = torch.tensor([[1.0, 2, 3], [4, 5, 6]]).double(), torch.ones(3).double(), torch.zeros(3).double()
    step = 1.5**0.5  # the variance of 1, 2, 3 is 2/3
    exactly(layer_norm(x, one, zero, eps=0.0), torch.tensor([[-step, 0, step]] * 2, dtype=x.dtype))
    exactly(batch_norm(x, one, zero, eps=0.0), torch.tensor([[-1.0] * 3, [1.0] * 3], dtype=x.dtype))


# ---- What is averaged over what --------------------------------------------------------------------------------------


@on_each_device
@of_one_token
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16], ids=str)
def test_a_token_never_sees_its_neighbours(norm, dtype, device):
    module = make(norm, 6, device).to(dtype)
    x, others = (tokens(2, 5, 6, seed=seed, device=device).to(dtype) for seed in (1, 2))
    others[1, 3] = x[1, 3]
    assert torch.equal(module(others)[1, 3], module(x)[1, 3])  # to the last bit, not merely closely


@on_each_device
def test_under_batch_norm_every_token_sees_every_other_one_in_training_and_none_in_evaluation(device):
    module, x = make(BatchNorm, 6, device), tokens(2, 5, 6, device=device)
    moved = x.clone()
    moved[1, 4] += 1  # the last token of the last sentence
    assert (module(moved) != module(x)).flatten(0, 1).any(dim=-1).all()
    module.eval()
    assert (module(moved) != module(x)).flatten(0, 1).any(dim=-1).tolist() == [False] * 9 + [True]


@on_each_device
def test_layer_norm_gives_each_token_mean_0_and_variance_1(device):
    y = LayerNorm(50, eps=0.0).double().to(device)(3 * tokens(7, 50, device=device))
    exactly(y.mean(dim=-1), torch.zeros(7).to(y))
    exactly(y.var(dim=-1, correction=0), torch.ones(7).to(y))


@on_each_device
def test_rms_norm_gives_each_token_mean_square_1_and_leaves_its_mean(device):
    y = RMSNorm(50, eps=0.0).double().to(device)(3 * tokens(7, 50, device=device))
    exactly(y.square().mean(dim=-1), torch.ones(7).to(y))
    assert (y.mean(dim=-1) > 0.3).all()


@on_each_device
def test_batch_norm_gives_each_feature_mean_0_and_variance_1(device):
    y = BatchNorm(6, eps=TINY).double().to(device)(3 * tokens(5, 7, 6, device=device))
    exactly(y.mean(dim=(0, 1)), torch.zeros(6).to(y))
    exactly(y.var(dim=(0, 1), correction=0), torch.ones(6).to(y))


CHANGES = {  # of 2 sentences of 5 tokens with 6 features
    "a factor for each token": lambda x: x * torch.linspace(0.5, 2, 10).to(x).view(2, 5, 1),
    "a shift for each token": lambda x: x + torch.linspace(-2, 2, 10).to(x).view(2, 5, 1),
    "a factor for each feature": lambda x: x * torch.linspace(0.5, 2, 6).to(x),
    "a shift for each feature": lambda x: x + torch.linspace(-2, 2, 6).to(x),
}


@on_each_device
@pytest.mark.parametrize(
    ("norm", "unmoved"),
    [
        (LayerNorm, (True, True, False, False)),
        (RMSNorm, (True, False, False, False)),
        (BatchNorm, (False, False, True, True)),
    ],
)
def test_each_norm_ignores_its_own_changes_and_no_others(norm, unmoved, device):
    module, x = make(norm, 6, device, eps=TINY), tokens(2, 5, 6, device=device)
    moves = [(module(change(x)) - module(x)).abs().max().item() for change in CHANGES.values()]
    assert [move < 1e-12 for move in moves] == list(unmoved)
    assert all(move > 0.1 for move, same in zip(moves, unmoved, strict=True) if not same)


@on_each_device
@settled
@given(d_model=st.integers(2, 9), factor=st.floats(0.01, 100))
def test_without_shift_a_norm_is_odd_and_ignores_the_size_of_x(d_model, factor, device):
    x = tokens(4, d_model, device=device)
    for module in (LayerNorm(d_model, eps=0.0, bias=False), RMSNorm(d_model, eps=0.0), BatchNorm(d_model, eps=TINY)):
        y = module.double().to(device)(x)
        assert_close(module(-x), -y, rtol=1e-9, atol=1e-9)
        assert_close(module(factor * x), y, rtol=1e-9, atol=1e-9)  # two features, or four tokens, may nearly agree


@on_each_device
def test_on_centred_tokens_rms_norm_is_layer_norm(device):
    x = tokens(5, 6, device=device)
    one, zero = torch.ones(6).to(x), torch.zeros(6).to(x)
    exactly(rms_norm(x - x.mean(dim=-1, keepdim=True), one, 1e-5), layer_norm(x, one, zero, 1e-5))
    assert (rms_norm(x, one, 1e-5) - layer_norm(x, one, zero, 1e-5)).abs().max() > 0.1


def test_a_constant_token_gives_the_bias():
    module = make(LayerNorm, 6)
    exactly(module(torch.full((3, 6), 7.0).double()), module.bias.expand(3, 6))


def test_with_two_tokens_batch_norm_gives_plus_and_minus_one_whatever_they_are():
    y = BatchNorm(6, eps=TINY).double()(tokens(2, 6))
    exactly(y.abs(), torch.ones(2, 6).double())


def test_batch_norm_without_momentum_keeps_its_averages_and_with_all_of_it_takes_the_newest():
    x = tokens(9, 6)
    still, newest = make(BatchNorm, 6, momentum=0.0), make(BatchNorm, 6, momentum=1.0)
    for module in (still, newest):
        module(tokens(9, 6, seed=2))
        module(x)
    exactly(still.running_mean, torch.zeros(6).double())
    exactly(newest.running_mean, x.mean(dim=0))
    exactly(newest.running_var, x.var(dim=0))  # over one less than the number of tokens


# ---- Padding ---------------------------------------------------------------------------------------------------------


@st.composite
def padded(draw):
    lengths = draw(st.lists(st.integers(0, 5), min_size=1, max_size=4).filter(lambda lengths: sum(lengths) >= 2))
    width = max(lengths) + draw(st.integers(0, 3))
    return torch.arange(width) < torch.tensor(lengths)[:, None]


@on_each_device
@settled
@given(mask=padded(), training=st.booleans())
def test_batch_norm_of_padded_sentences_is_that_of_their_real_tokens(mask, training, device):
    module, x, mask = make(BatchNorm, 4, device).train(training), tokens(*mask.shape, 4, device=device), mask.to(device)
    twin = pytorch_twin(module)
    y, expected = module(x, mask), twin(x[mask])
    exactly(y[mask], expected)
    assert not y[~mask].any()
    ours, theirs = (
        all_gradients(one, run, x)
        for one, run in ((module, lambda x: module(x, mask)[mask]), (twin, lambda x: twin(x[mask])))
    )
    exactly(ours, theirs)
    exactly(dict(module.state_dict()), dict(twin.state_dict()))
    if training:
        exactly(batch_norm(x, module.weight, module.bias, mask=mask), y)


@on_each_device
@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize("content", [0.0, 99.0, 1e30, float("inf"), float("nan")])
def test_neither_the_content_nor_the_amount_of_padding_changes_a_real_token(content, training, device):
    module, x = make(BatchNorm, 6, device).train(training), tokens(2, 5, 6, device=device)
    mask = torch.ones(2, 5, dtype=torch.bool, device=device)
    longer = torch.cat([x, torch.full((2, 7, 6), content).to(x)], dim=1).requires_grad_()
    y = module(longer, F.pad(mask, (0, 7)))
    assert torch.equal(y[:, :5], module(x))
    gradients = torch.autograd.grad(y.square().sum(), [longer, *module.parameters()])
    assert all(gradient.isfinite().all() for gradient in gradients)


@on_each_device
def test_padding_that_is_not_masked_does_change_the_real_tokens(device):
    module, other, x = make(BatchNorm, 6, device), make(LayerNorm, 6, device), tokens(2, 5, 6, device=device)
    assert (module(F.pad(x, (0, 0, 0, 5)))[:, :5] - module(x)).abs().max() > 0.1
    exactly(other(F.pad(x, (0, 0, 0, 5)))[:, :5], other(x))  # layer norm never minds


def test_batch_norm_in_evaluation_takes_a_single_token_and_none():
    module = make(BatchNorm, 6)
    module(tokens(9, 6))
    module.eval()
    x = tokens(3, 6)
    exactly(module(x[:1]), module(x)[:1])
    assert torch.equal(module(x, torch.zeros(3, dtype=torch.bool)), torch.zeros(3, 6).double())


# ---- Other precisions and devices ------------------------------------------------------------------------------------


@on_each_device
@every_norm
@pytest.mark.parametrize(
    ("dtype", "tolerance"),
    [
        (torch.float32, 1e-5),  # eps 1.2e-7, results to 10, cancellation where a mean is subtracted
        (torch.bfloat16, 4e-2),  # eps 7.8e-3, results to 10
    ],
    ids=str,
)
def test_shorter_numbers_give_the_same_up_to_their_precision(norm, options, dtype, tolerance, device):
    short, x = make(norm, 6, device=device, **options).to(dtype), tokens(20, 6, device=device).to(dtype)
    eps = torch.finfo(torch.float32).eps if short.eps is None else short.eps  # what PyTorch takes for either
    long = make(norm, 6, device=device, **options | {"eps": eps})
    long.load_state_dict(short.state_dict())
    y = short(x)
    assert y.dtype == dtype
    assert_close(y.double(), long(x.double()), rtol=tolerance, atol=tolerance)


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16], ids=str)
def test_the_machine_epsilon_of_rms_norm_is_pytorchs(dtype):
    x = torch.full((1, 4), 1e-5, dtype=dtype)  # so small that the epsilon decides
    assert_close(rms_norm(x, torch.ones(4, dtype=dtype)), RMSNorm(4).to(dtype)(x), rtol=2e-2, atol=0)


@on_each_device
@every_norm
def test_mixed_precision_runs_forward_and_backward(norm, options, device):
    module, x = make(norm, 6, device=device, **options).float(), tokens(8, 6, device=device).float()
    mask = torch.tensor([True] * 6 + [False] * 2, device=device)
    with torch.autocast(device, dtype=torch.bfloat16):
        y = module(x, mask) if norm is BatchNorm else module(x)
    y.float().square().sum().backward()
    assert all(parameter.grad.isfinite().all() for parameter in module.parameters())


@on_each_device
@pytest.mark.parametrize("norm", [LayerNorm, RMSNorm, BatchNorm])
@pytest.mark.parametrize("training", [True, False])
def test_compiled_in_one_graph_a_norm_computes_the_same_with_a_mask_too(norm, training, device, without_shape_checks):
    module, x = make(norm, 6, device).train(training), tokens(2, 5, 6, device=device)
    masks = [()]
    if norm is BatchNorm:
        masks += [(torch.arange(5, device=device) < torch.tensor([[5], [2]], device=device),)]
    compiled = torch.compile(module, backend="aot_eager", fullgraph=True)
    try:
        for mask in masks:
            exactly(compiled(x, *mask), module(x, *mask))
            got, expected = (
                all_gradients(module, lambda x, run=run, mask=mask: run(x, *mask), x) for run in (compiled, module)
            )
            exactly(got, expected)
        if norm is BatchNorm and training:
            with pytest.raises(RuntimeError, match="takes 2 of them or more"):
                compiled(x, torch.zeros(2, 5, dtype=torch.bool, device=device))
    finally:
        torch.compiler.reset()


@of_one_token
def test_of_no_tokens_there_is_nothing_to_normalise(norm):
    module, nothing = make(norm, 6), tokens(0, 5, 6)
    formula = {LayerNorm: layer_norm, RMSNorm: rms_norm}[norm]
    assert torch.equal(module(nothing), nothing)
    assert torch.equal(formula(nothing, *module.parameters()), nothing)
    assert torch.equal(make(BatchNorm, 6).eval()(nothing), nothing)


@every_norm
def test_a_norm_prints_what_it_was_made_with(norm, options):
    printed = repr(norm(6, **options))
    assert printed.startswith(f"{norm.__name__}(6, eps=")
    assert all(f"{name}={value}" in printed for name, value in options.items())


# ---- What is refused -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("norm", [LayerNorm, RMSNorm, BatchNorm])
def test_a_norm_of_no_features_is_refused(norm):
    with pytest.raises(ValueError, match="must be 1 or more, but got d_model=0; give the width"):
        norm(0)


@pytest.mark.parametrize("norm", [LayerNorm, RMSNorm, BatchNorm])
def test_a_negative_eps_is_refused(norm):
    with pytest.raises(ValueError, match=r"must be 0 or more, but got eps=-0\.1; leave it out"):
        norm(6, eps=-0.1)


def test_batch_norm_without_eps_is_refused():
    with pytest.raises(ValueError, match=r"wants eps above 0, but got eps=0\.0; 1e-30"):
        BatchNorm(6, eps=0.0)


@pytest.mark.parametrize("momentum", [-0.1, 1.1, 10, None, float("nan")])
def test_a_momentum_that_is_no_share_is_refused(momentum, without_shape_checks):
    with pytest.raises(ValueError, match=f"between 0 and 1, but got momentum={momentum}"):
        BatchNorm(6, momentum=momentum)


@pytest.mark.parametrize("norm", [LayerNorm, RMSNorm, BatchNorm])
@pytest.mark.parametrize("shape", [(4, 5), (6, 4), (), (4, 1)], ids=str)
def test_tokens_of_another_width_are_refused(norm, shape, without_shape_checks):
    with pytest.raises(ValueError, match=r"must be d_model=6 wide, but x has the shape \(.*\); put the features last"):
        make(norm, 6)(tokens(*shape))


@pytest.mark.parametrize("number", [0, 1])
def test_a_variance_over_fewer_than_two_tokens_is_refused_and_leaves_the_averages_alone(number):
    module, x = make(BatchNorm, 6), tokens(5, 6)
    before = {name: value.clone() for name, value in module.state_dict().items()}
    with pytest.raises(ValueError, match=rf"takes 2 of them or more, but got {number}; give more tokens, or call norm"):
        module(x[:number])
    with pytest.raises(ValueError, match=f"but got {number}"):
        module(x, torch.arange(5) < number)
    with pytest.raises(ValueError, match=f"but got {number}"):
        batch_norm(x[:number], module.weight, module.bias)
    assert all(torch.equal(value, before[name]) for name, value in module.state_dict().items())


@pytest.mark.parametrize(
    "mask", [torch.ones(2, 5), torch.ones(2, 5).long(), torch.ones(5).bool(), torch.ones(2, 5, 1).bool()], ids=str
)
def test_a_mask_of_another_type_or_shape_is_refused(mask, without_shape_checks):
    for training in (True, False):
        with pytest.raises(ValueError, match=r"must be torch\.bool of the shape \(2, 5\), but it is torch\..*\)"):
            make(BatchNorm, 6).train(training)(tokens(2, 5, 6), mask)


@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize("mask", [[[True] * 5] * 2, torch.ones(2, 5).bool().numpy()], ids=["list", "numpy"])
def test_a_mask_that_is_no_tensor_is_refused(mask, training, without_shape_checks):
    message = rf"\(2, 5\), but it is a {type(mask).__name__}; ids != .* torch\.tensor"
    with pytest.raises(ValueError, match=message):
        make(BatchNorm, 6).train(training)(tokens(2, 5, 6), mask)


@pytest.mark.parametrize("shape", [(5,), (1,), (), (2, 6)], ids=lambda shape: f"{shape}")
def test_weights_of_another_width_than_the_tokens_are_refused(shape, without_shape_checks):
    x, good, wrong = tokens(2, 5, 6), tokens(6), tokens(*shape)
    calls = [(layer_norm, wrong, good), (layer_norm, good, wrong), (rms_norm, wrong)]
    for formula, *weights in [*calls, (batch_norm, wrong, good), (batch_norm, good, wrong)]:
        with pytest.raises(ValueError, match=rf"\(2, 5, 6\) and got one .* {re.escape(str(shape))}; give both"):
            formula(x, *weights)
