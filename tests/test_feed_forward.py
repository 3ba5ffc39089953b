"""The feed-forward networks are PyTorch's, and every token is on its own."""

import copy

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn
from torch.testing import assert_close

from lib.device import seeded
from lib.feed_forward import (
    FeedForward,
    GatedFeedForward,
    MixtureOfExperts,
    feed_forward,
    gated_feed_forward,
    load_balancing_loss,
    matched_width,
)

no_cuda = pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device: torch.cuda.is_available() is False")
on_each_device = pytest.mark.parametrize("device", ["cpu", pytest.param("cuda", marks=[pytest.mark.gpu, no_cuda])])
settled = settings(deadline=None, max_examples=40, derandomize=True)
widths = st.integers(1, 9)
shapes = st.lists(st.integers(0, 4), max_size=3)  # of the axes before d_model: none is a single token, 0 an empty batch
every_activation = pytest.mark.parametrize(
    "activation", [F.relu, F.gelu, F.silu, torch.tanh, nn.Identity()], ids=["relu", "gelu", "silu", "tanh", "identity"]
)


def exactly(actual, expected):
    """Compare as float64 allows: rounding of a few sums of about a hundred terms near one, and nothing more."""
    assert_close(actual, expected, rtol=1e-12, atol=1e-13)


def make(make_module, seed=0, device="cpu"):
    with seeded(seed):
        return make_module().double().to(device)


def tokens(*shape, seed=1, device="cpu"):
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64).to(device)


def linear(x, layer):
    return F.linear(x, layer.weight, layer.bias)


def barest(module, x):
    return linear(module.activation(linear(x, module.w_1)), module.w_2)


def barest_gated(module, x):
    return linear(module.activation(linear(x, module.w_gate)) * linear(x, module.w_1), module.w_2)


def all_gradients(module, run, x):
    """Return the gradients of a weighted sum of the outputs with respect to the input and every parameter."""
    x = x.clone().requires_grad_()
    y = run(x)
    loss = (y * torch.linspace(-1, 1, y.numel(), dtype=y.dtype, device=y.device).view_as(y)).sum()
    return torch.autograd.grad(loss, [x, *module.parameters()])


NETWORKS = {
    "plain": lambda: FeedForward(6, 20),
    "gated": lambda: GatedFeedForward(6, 20),
    "gated with biases": lambda: GatedFeedForward(6, 20, bias=True),
    "mixture, 1 of 4": lambda: MixtureOfExperts(6, 20, n_experts=4),
    "mixture, 3 of 4, gated": lambda: MixtureOfExperts(6, 20, n_experts=4, top_k=3, feed_forward=GatedFeedForward),
}
every_network = pytest.mark.parametrize("make_network", NETWORKS.values(), ids=NETWORKS)


# ---- Equal to PyTorch, values and gradients --------------------------------------------------------------------------


@on_each_device
@every_activation
@pytest.mark.parametrize("bias", [True, False])
def test_a_feed_forward_network_is_two_linear_maps_around_an_activation(activation, bias, device):
    module = make(lambda: FeedForward(6, 20, activation=activation, bias=bias), device=device)
    x = tokens(2, 5, 6, device=device)
    exactly(module(x), barest(module, x))
    exactly(all_gradients(module, module, x), all_gradients(module, lambda x: barest(module, x), x))


@on_each_device
@every_activation
@pytest.mark.parametrize("bias", [True, False])
def test_a_gated_network_multiplies_an_activated_branch_with_a_plain_one(activation, bias, device):
    module = make(lambda: GatedFeedForward(6, 20, activation=activation, bias=bias), device=device)
    x = tokens(2, 5, 6, device=device)
    exactly(module(x), barest_gated(module, x))
    exactly(all_gradients(module, module, x), all_gradients(module, lambda x: barest_gated(module, x), x))


@on_each_device
@every_activation
def test_the_explicit_formulas_are_what_the_modules_compute(activation, device):
    x = tokens(3, 6, device=device)
    plain = make(lambda: FeedForward(6, 20, activation=activation), device=device)
    formula = feed_forward(x, plain.w_1.weight.T, plain.w_1.bias, plain.w_2.weight.T, plain.w_2.bias, activation)
    exactly(formula, plain(x))
    gated = make(lambda: GatedFeedForward(6, 20, activation=activation), device=device)
    matrices = [layer.weight.T for layer in (gated.w_gate, gated.w_1, gated.w_2)]
    exactly(gated_feed_forward(x, *matrices, activation), gated(x))


def test_without_another_word_the_formulas_use_relu_and_silu():
    x, square = tokens(3, 6), tokens(6, 6, seed=2)
    exactly(feed_forward(x, square, x[0], square, x[1]), torch.relu(x @ square + x[0]) @ square + x[1])
    gate = x @ square
    exactly(gated_feed_forward(x, square, square.T, square), (gate * torch.sigmoid(gate) * (x @ square.T)) @ square)


def test_a_feed_forward_network_is_two_convolutions_that_see_one_token():
    module, x = make(lambda: FeedForward(6, 20)), tokens(2, 5, 6)
    wide, narrow = (nn.Conv1d(*sizes, kernel_size=1).double() for sizes in ((6, 20), (20, 6)))
    for convolution, layer in ((wide, module.w_1), (narrow, module.w_2)):
        convolution.load_state_dict({"weight": layer.weight[..., None], "bias": layer.bias})
    exactly(narrow(wide(x.mT).relu()).mT, module(x))


@on_each_device
@pytest.mark.parametrize("activation", ["relu", "gelu"])
def test_pytorch_has_the_same_network_in_its_encoder_layer(activation, device):
    layer = nn.TransformerEncoderLayer(6, 2, 20, dropout=0.0, activation=activation, batch_first=True, norm_first=True)
    layer = layer.double().to(device)
    nn.init.zeros_(layer.self_attn.out_proj.weight)  # attention says nothing: the layer is x + feed_forward(norm2(x))
    nn.init.zeros_(layer.self_attn.out_proj.bias)
    module = make(lambda: FeedForward(6, 20, activation=getattr(F, activation)), device=device)
    module.w_1.load_state_dict(layer.linear1.state_dict())
    module.w_2.load_state_dict(layer.linear2.state_dict())
    x = tokens(2, 5, 6, device=device)
    exactly(x + module(layer.norm2(x)), layer(x))


@settled
@given(d_model=widths, d_ff=widths, shape=shapes, gated=st.booleans(), bias=st.booleans())
def test_every_shape_comes_back_as_it_went_in(d_model, d_ff, shape, gated, bias):
    module = make(lambda: (GatedFeedForward if gated else FeedForward)(d_model, d_ff, bias=bias))
    x = tokens(*shape, d_model)
    exactly(module(x), (barest_gated if gated else barest)(module, x))


@every_network
def test_the_default_initial_weights_are_those_of_pytorch_linear_layers(make_network):
    module = make(make_network)
    for layer in (layer for layer in module.modules() if isinstance(layer, nn.Linear)):
        bound = layer.in_features**-0.5  # torch.nn.Linear: uniform between plus and minus this
        assert layer.weight.abs().max() <= bound
        assert layer.weight.unique().numel() == layer.weight.numel()


# ---- What the chapter claims -----------------------------------------------------------------------------------------


def with_other_neighbours(x):
    others = tokens(*x.shape, seed=2)
    others[1, 3] = x[1, 3]
    return others


@pytest.mark.parametrize("network", [FeedForward, GatedFeedForward])
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16], ids=str)
def test_a_token_never_sees_its_neighbours(network, dtype):
    module, x = make(lambda: network(6, 20)).to(dtype), tokens(2, 5, 6)
    y, among_others = (module(inputs.to(dtype)) for inputs in (x, with_other_neighbours(x)))
    assert torch.equal(y[1, 3], among_others[1, 3])  # to the last bit, not merely closely
    assert not torch.isclose(y, among_others).all(dim=-1).flatten()[:8].any()


@pytest.mark.parametrize("top_k", [1, 3])
def test_in_a_mixture_a_token_meets_its_neighbours_only_in_the_rounding(top_k):
    module, x = make(lambda: MixtureOfExperts(6, 20, n_experts=4, top_k=top_k)), tokens(2, 5, 6)
    # An expert multiplies as many rows at once as it has tokens, and that number decides how the machine sums.
    exactly(module(x)[1, 3], module(with_other_neighbours(x))[1, 3])


@on_each_device
@every_network
def test_a_token_alone_gets_what_it_gets_in_company(make_network, device):
    module, x = make(make_network, device=device), tokens(2, 5, 6, device=device)
    exactly(torch.stack([torch.stack([module(token) for token in sentence]) for sentence in x]), module(x))


@on_each_device
@every_network
def test_permuting_the_tokens_permutes_the_outputs(make_network, device):
    module, x = make(make_network, device=device), tokens(7, 6, device=device)
    order = torch.randperm(7, generator=torch.Generator().manual_seed(0))
    exactly(module(x[order]), module(x)[order])


@settled
@given(d_model=widths, d_ff=widths, a=st.floats(-3, 3), bias=st.booleans())
def test_with_the_identity_as_activation_it_is_one_affine_map(d_model, d_ff, a, bias):
    module = make(lambda: FeedForward(d_model, d_ff, activation=nn.Identity(), bias=bias))
    x, y = tokens(4, d_model), tokens(4, d_model, seed=2)
    exactly(module(a * x + (1 - a) * y), a * module(x) + (1 - a) * module(y))
    weight = module.w_1.weight.T @ module.w_2.weight.T
    assert torch.linalg.matrix_rank(weight) <= min(d_model, d_ff)
    exactly(module(x) - module(torch.zeros_like(x)), x @ weight)


def test_outputs_lie_in_as_many_directions_as_there_are_hidden_units():
    module, x = make(lambda: FeedForward(16, 3)), tokens(200, 16)
    spread = module(x) - module.w_2.bias
    assert torch.linalg.matrix_rank(spread) == 3


def test_the_output_can_be_negative_though_the_hidden_units_cannot():
    module, x = make(lambda: FeedForward(6, 20)), tokens(50, 6)
    assert (module.hidden(module.activation(module.w_1(x))) >= 0).all()
    assert (module(x) < 0).any()


def test_it_is_the_sum_of_what_each_hidden_unit_adds():
    module, x = make(lambda: FeedForward(6, 20)), tokens(4, 6)
    matches = F.relu(x @ module.w_1.weight.T + module.w_1.bias)
    units = [matches[:, [unit]] * module.w_2.weight[:, unit] for unit in range(20)]
    exactly(sum(units) + module.w_2.bias, module(x))


def test_dropout_falls_on_the_hidden_units_and_only_in_training():
    module = make(lambda: FeedForward(6, 2000, dropout=0.25))
    kept = []
    module.hidden.register_forward_hook(lambda _, inputs, output: kept.append((output[inputs[0] > 0] != 0).double()))
    x = tokens(20, 6)
    with seeded(0):
        module(x)
    assert kept[0].mean().item() == pytest.approx(0.75, abs=0.02)  # 20,000 coins: the standard error is 0.003
    module.eval()
    exactly(module(x), barest(module, x))
    assert kept[1].mean() == 1


def test_dropout_of_everything_leaves_the_last_bias():
    module, x = make(lambda: FeedForward(6, 20, dropout=1.0)), tokens(3, 6)
    exactly(module(x), module.w_2.bias.expand(3, 6))
    gated = make(lambda: GatedFeedForward(6, 20, dropout=1.0))
    exactly(gated(x), torch.zeros_like(x))


@pytest.mark.parametrize("d_ff", [1, 2, 3, 4, 64, 100, 256, 2048])
def test_the_matched_width_has_the_parameters_of_the_plain_network(d_ff):
    plain, gated = FeedForward(8, d_ff, bias=False), GatedFeedForward(8, matched_width(d_ff))
    wanted, got = (sum(parameter.numel() for parameter in module.parameters()) for module in (plain, gated))
    assert abs(got - wanted) / wanted <= 1 / (2 * d_ff)  # what rounding costs; below 1 % from d_ff = 50 on


def test_zero_on_either_branch_of_a_gate_closes_it():
    module, x = make(lambda: GatedFeedForward(6, 20)), tokens(3, 6)
    for layer in (module.w_gate, module.w_1):
        shut = copy.deepcopy(module)
        nn.init.zeros_(getattr(shut, "w_gate" if layer is module.w_gate else "w_1").weight)
        assert torch.equal(shut(x), torch.zeros_like(x))


# ---- Mixture of experts ----------------------------------------------------------------------------------------------


def dense(module, x):
    """Run every expert on every token, and weigh them by the router's probabilities, those not chosen by zero."""
    probabilities = F.softmax(x @ module.router.weight.T, dim=-1)
    places = probabilities.argsort(dim=-1, descending=True).argsort(dim=-1)
    weights = probabilities * (places < module.top_k)
    return sum(weights[..., [i]] * expert(x) for i, expert in enumerate(module.experts))


@on_each_device
@pytest.mark.parametrize("top_k", [1, 2, 4])
@pytest.mark.parametrize("shape", [(40,), (4, 5), (2, 3, 4), ()])
def test_a_mixture_is_the_dense_one_with_the_unchosen_experts_weighing_nothing(top_k, shape, device):
    module = make(lambda: MixtureOfExperts(6, 20, n_experts=4, top_k=top_k), device=device)
    x = tokens(*shape, 6, device=device)
    exactly(module(x), dense(module, x))
    exactly(all_gradients(module, module, x), all_gradients(module, lambda x: dense(module, x), x))


@settled
@given(n_experts=st.integers(1, 6), data=st.data(), shape=shapes)
def test_a_mixture_takes_every_shape_and_every_number_of_experts(n_experts, data, shape):
    top_k = data.draw(st.integers(1, n_experts))
    module = make(lambda: MixtureOfExperts(3, 5, n_experts=n_experts, top_k=top_k))
    x = tokens(*shape, 3)
    exactly(module(x), dense(module, x))


def test_a_mixture_of_one_expert_is_that_expert():
    module, x = make(lambda: MixtureOfExperts(6, 20, n_experts=1)), tokens(2, 5, 6)
    exactly(module(x), module.experts[0](x))


@on_each_device
@pytest.mark.parametrize("top_k", [1, 2])
def test_each_expert_runs_on_its_own_tokens_and_on_no_others(top_k, device):
    module = make(lambda: MixtureOfExperts(6, 20, n_experts=4, top_k=top_k), device=device)
    x = tokens(3, 20, 6, device=device)
    given_to = [[] for _ in range(4)]
    for expert, inputs in zip(module.experts, given_to, strict=True):
        expert.register_forward_pre_hook(lambda _, arguments, inputs=inputs: inputs.append(arguments[0]))
    module(x)
    _, expert_ids = module.route(x)
    for expert_id, inputs in enumerate(given_to):
        assert torch.equal(torch.cat(inputs), x[(expert_ids == expert_id).any(dim=-1)])
    assert sum(len(one) for inputs in given_to for one in inputs) == 60 * top_k


def test_experts_that_nobody_needs_do_nothing_and_get_a_gradient_of_zero():
    module, x = make(lambda: MixtureOfExperts(6, 20, n_experts=3)), tokens(10, 6).abs()
    with torch.no_grad():
        module.router.weight.copy_(torch.tensor([[0.0], [9.0], [0.0]]).expand(3, 6))
    y = module(x)
    y.sum().backward()
    exactly(y, module.route(x)[0] * module.experts[1](x))
    idle = [parameter.grad for expert_id in (0, 2) for parameter in module.experts[expert_id].parameters()]
    assert all(not gradient.any() for gradient in idle)


@pytest.mark.parametrize("top_k", [1, 2])
def test_the_router_learns_from_the_output_alone(top_k):
    module = make(lambda: MixtureOfExperts(6, 20, n_experts=4, top_k=top_k))
    module(tokens(30, 6)).square().sum().backward()
    assert (module.router.weight.grad.abs().sum(dim=1) > 0).all()


def test_weights_are_probabilities_and_leave_out_what_the_others_would_have_had():
    module, x = make(lambda: MixtureOfExperts(6, 20, n_experts=4, top_k=2)), tokens(30, 6)
    weights, expert_ids = module.route(x)
    exactly(weights, F.softmax(module.router(x), dim=-1).gather(-1, expert_ids))
    assert (weights.diff(dim=-1) <= 0).all()
    assert (weights.sum(dim=-1) < 1).all()
    all_weights, _ = make(lambda: MixtureOfExperts(6, 20, n_experts=4, top_k=4)).route(x)
    exactly(all_weights.sum(dim=-1), torch.ones(30, dtype=torch.float64))


@on_each_device
def test_a_mixture_gives_the_same_bits_twice(device):
    module, x = make(lambda: MixtureOfExperts(6, 20, n_experts=4, top_k=3), device=device).float(), tokens(500, 6)
    x = x.float().to(device)
    assert torch.equal(module(x), module(x))


def test_a_mixture_keeps_nothing_after_a_pass():
    module = make(lambda: MixtureOfExperts(6, 20, n_experts=4))
    before = {name: set(vars(part)) for name, part in module.named_modules()}
    module(tokens(3, 6))
    assert {name: set(vars(part)) for name, part in module.named_modules()} == before


@pytest.mark.parametrize("n_experts", [1, 2, 5])
@pytest.mark.parametrize("top_k", [1, 2])
def test_the_load_balancing_loss_is_one_for_an_even_load_and_the_number_of_experts_for_one_favourite(n_experts, top_k):
    top_k = min(top_k, n_experts)
    even = torch.full((2, 5 * n_experts, n_experts), 1 / n_experts, dtype=torch.float64)
    each_in_turn = torch.stack([torch.arange(10 * n_experts) + rank for rank in range(top_k)], dim=-1) % n_experts
    exactly(load_balancing_loss(even, each_in_turn.view(2, -1, top_k), n_experts), torch.tensor(1.0).double())
    sure = F.one_hot(torch.zeros(7, dtype=torch.long), n_experts).double()
    exactly(load_balancing_loss(sure, sure.argmax(-1, keepdim=True), n_experts), torch.tensor(n_experts).double())


@settled
@given(choices=st.lists(st.integers(0, 3), min_size=1, max_size=30))
def test_for_a_router_that_is_sure_of_itself_an_even_load_has_the_smallest_loss(choices):
    expert_ids = torch.tensor(choices)[:, None]
    probabilities = F.one_hot(expert_ids[:, 0], 4).double()
    loss = load_balancing_loss(probabilities, expert_ids, 4).item()
    counts = probabilities.sum(dim=0)
    assert loss >= 1 - 1e-12
    assert (loss <= 1 + 1e-12) == bool((counts == counts[0]).all())


def test_for_an_unsure_router_an_uneven_load_can_have_a_loss_below_one():
    probabilities = torch.tensor([[0.51, 0.49]] * 3 + [[0.01, 0.99]], dtype=torch.float64)
    by_hand = 2 * (3 / 4 * (3 * 0.51 + 0.01) / 4 + 1 / 4 * (3 * 0.49 + 0.99) / 4)
    loss = load_balancing_loss(probabilities, probabilities.argmax(-1, keepdim=True), 2).item()
    assert loss == pytest.approx(by_hand)
    assert loss < 1


@on_each_device
def test_the_load_balancing_loss_pushes_down_the_probability_of_the_favourite(device):
    logits = torch.tensor([[2.0, 0.0, 0.0]] * 4, dtype=torch.float64, device=device, requires_grad=True)
    probabilities = logits.softmax(dim=-1)
    load_balancing_loss(probabilities, probabilities.topk(1).indices, 3).backward()
    assert (logits.grad[:, 0] > 0).all()
    assert (logits.grad[:, 1:] < 0).all()


# ---- Other precisions and devices ------------------------------------------------------------------------------------


@on_each_device
@every_network
@pytest.mark.parametrize(
    ("dtype", "tolerance"),
    [
        (torch.float32, 2e-6),  # eps 1.2e-7, sums of 20 terms below one
        (torch.bfloat16, 3e-2),  # eps 7.8e-3, the same sums, hidden units rounded once more
    ],
    ids=str,
)
def test_shorter_numbers_give_the_same_up_to_their_precision(make_network, dtype, tolerance, device):
    short, x = make(make_network, device=device).to(dtype), tokens(200, 6, device=device).to(dtype)
    y = short(x)
    long = copy.deepcopy(short).double()  # the rounded weights, computed with in full
    if hasattr(long, "router"):
        sure = long.router(x.double()).softmax(-1).sort(-1).values  # not about tokens where rounding changes the choice
        keep = (sure.diff(dim=-1) > tolerance).all(dim=-1)
        assert keep.sum() >= 20
        x, y = x[keep], y[keep]
    assert y.dtype == dtype
    assert_close(y.double(), long(x.double()), rtol=tolerance, atol=tolerance)


@on_each_device
@every_network
def test_mixed_precision_runs_forward_and_backward(make_network, device):
    module, x = make(make_network, device=device).float(), tokens(8, 6, device=device).float()
    with torch.autocast(device, dtype=torch.bfloat16):
        y = module(x.bfloat16())
    y.float().sum().backward()
    assert all(parameter.grad.isfinite().all() for parameter in module.parameters())


@every_network
def test_a_copy_from_the_state_dict_computes_the_same(make_network):
    module, other, x = make(make_network), make(make_network, seed=1), tokens(3, 6)
    assert not torch.equal(module(x), other(x))
    other.load_state_dict(module.state_dict())
    assert torch.equal(module(x), other(x))


# ---- What is refused -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("network", [FeedForward, GatedFeedForward])
@pytest.mark.parametrize(("d_model", "d_ff"), [(0, 8), (8, 0), (-1, -1)])
def test_widths_below_one_are_refused(network, d_model, d_ff):
    with pytest.raises(ValueError, match=rf"must be 1 or more, but got d_model={d_model}, d_ff={d_ff}"):
        network(d_model, d_ff)


@pytest.mark.parametrize("network", [FeedForward, GatedFeedForward])
@pytest.mark.parametrize("activation", ["relu", nn.ReLU, None], ids=str)
def test_an_activation_that_cannot_be_called_is_refused(network, activation, without_shape_checks):
    with pytest.raises(ValueError, match=r"from tensor to tensor, but got .*; pass for example torch\.nn"):
        network(6, 20, activation=activation)


@every_network
@pytest.mark.parametrize("shape", [(4, 5), (6, 4), (), (7,)], ids=str)
def test_tokens_of_another_width_are_refused(make_network, shape, without_shape_checks):
    module = make(make_network)
    with pytest.raises(ValueError, match=r"must be d_model=6 wide, but x has the shape \(.*\); put the features last"):
        module(tokens(*shape))


SQUARE, WIDE, NARROW = (torch.ones(shape) for shape in ((6, 6), (6, 20), (20, 6)))


@pytest.mark.usefixtures("without_shape_checks")
@pytest.mark.parametrize(
    ("formula", "weights", "message"),
    [
        (feed_forward, (NARROW, SQUARE[0], WIDE, SQUARE[0]), r"w_1 is \(20, 6\) where \(6, 6\) fits; the weight"),
        (feed_forward, (WIDE, SQUARE[0], NARROW, SQUARE[0]), r"b_1 is \(6,\) where \(20,\) fits"),
        (feed_forward, (WIDE, WIDE[0, :1], NARROW, SQUARE[0]), r"b_1 is \(1,\) where \(20,\) fits"),
        (feed_forward, (WIDE, WIDE[0], WIDE, SQUARE[0]), r"w_2 is \(6, 20\) where \(20, 6\) fits; the weight"),
        (feed_forward, (WIDE, WIDE[0], NARROW, WIDE[0]), r"b_2 is \(20,\) where \(6,\) fits"),
        (gated_feed_forward, (NARROW, WIDE, NARROW), r"w_gate is \(20, 6\) where \(6, 20\) fits; the weight"),
        (gated_feed_forward, (SQUARE, WIDE, NARROW), r"w_gate is \(6, 6\) where \(6, 20\) fits"),
        (gated_feed_forward, (WIDE, WIDE, WIDE), r"w_2 is \(6, 20\) where \(20, 6\) fits"),
        (gated_feed_forward, (WIDE[0], WIDE[0], NARROW), r"w_gate is \(20,\) where \(6, 20\) fits"),
    ],
)
def test_weights_that_do_not_fit_are_refused(formula, weights, message):
    with pytest.raises(ValueError, match=rf"with x \(3, 6\), {message}"):
        formula(torch.ones(3, 6), *weights)


@pytest.mark.usefixtures("without_shape_checks")
def test_a_number_is_no_token():
    with pytest.raises(ValueError, match=r"with x \(\), w_1 is"):
        feed_forward(torch.tensor(1.0), torch.ones(6), torch.ones(6), torch.ones(6), torch.ones(()))


def test_a_matched_width_for_no_units_is_refused():
    with pytest.raises(ValueError, match="must be 1 or more, but got d_ff=0"):
        matched_width(0)


@pytest.mark.parametrize("n_experts", [0, -2])
def test_a_mixture_of_nobody_is_refused(n_experts):
    with pytest.raises(ValueError, match=f"1 or more experts, but got n_experts={n_experts}"):
        MixtureOfExperts(6, 20, n_experts=n_experts)


@pytest.mark.parametrize("top_k", [0, 4, -1])
def test_more_choices_than_experts_are_refused(top_k):
    with pytest.raises(ValueError, match=rf"got top_k={top_k} of n_experts=3; choose top_k from 1 to 3"):
        MixtureOfExperts(6, 20, n_experts=3, top_k=top_k)


def test_probabilities_of_another_number_of_experts_are_refused():
    with pytest.raises(ValueError, match="got 2 for n_experts=4; pass the softmax"):
        load_balancing_loss(torch.full((3, 2), 0.5), torch.zeros(3, 1, dtype=torch.long), 4)


CHOICES = torch.zeros(3, 1, dtype=torch.long)


@pytest.mark.usefixtures("without_shape_checks")
@pytest.mark.parametrize(
    ("probabilities", "expert_ids", "message"),
    [
        (torch.tensor([[2.0, -1.0]] * 3), CHOICES, "smallest is -1 and the sums reach from 1 to 1; pass the softmax"),
        (torch.ones(3, 2), CHOICES, "smallest is 1 and the sums reach from 2 to 2"),
        (torch.zeros(3, 2), CHOICES, "smallest is 0 and the sums reach from 0 to 0"),
        (torch.full((3, 2), torch.nan), CHOICES, "smallest is nan and the sums reach from nan to nan"),
        (torch.full((4, 2), 0.5), CHOICES, r"but got tokens \(4,\) and \(3,\); take both from one pass"),
        (torch.full((1, 3, 2), 0.5), CHOICES, r"but got tokens \(1, 3\) and \(3,\)"),
    ],
)
def test_what_is_no_probability_or_of_other_tokens_is_refused(probabilities, expert_ids, message):
    with pytest.raises(ValueError, match=message):
        load_balancing_loss(probabilities, expert_ids, 2)


@on_each_device
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16, torch.float16], ids=str)
@pytest.mark.parametrize("n_experts", [1, 2, 64])
def test_a_softmax_of_any_precision_is_probabilities(dtype, n_experts, device):
    logits = 5 * tokens(500, n_experts, device=device).to(dtype)
    loss = load_balancing_loss(logits.softmax(-1), logits.topk(1).indices, n_experts)
    assert 0.5 < loss.item() < n_experts + 0.5


@pytest.mark.usefixtures("without_shape_checks")
@pytest.mark.parametrize(
    ("expert_ids", "found"),
    [
        (torch.tensor([[0], [5], [1], [0]]), "torch.int64 from 0 to 5"),
        (torch.tensor([[0], [-1], [1], [0]]), "torch.int64 from -1 to 1"),
        (torch.tensor([[0], [2], [1], [0]], dtype=torch.int32), "torch.int32 from 0 to 2"),
        (torch.zeros(4, 1), "torch.float32"),
        (torch.zeros(4, 1, dtype=torch.bool), "torch.bool"),
    ],
)
def test_what_is_no_expert_of_the_mixture_is_refused(expert_ids, found):
    with pytest.raises(ValueError, match=f"from 0 to 1, one for each choice, but got {found}; pass those that"):
        load_balancing_loss(torch.full((4, 2), 0.5), expert_ids, 2)


@pytest.mark.parametrize("dtype", [torch.int32, torch.int8], ids=str)
def test_expert_ids_may_be_shorter_whole_numbers(dtype):
    probabilities, expert_ids = tokens(6, 3).softmax(-1), torch.tensor([[0], [2], [1], [1], [2], [2]])
    expected = load_balancing_loss(probabilities, expert_ids, 3)
    assert torch.equal(load_balancing_loss(probabilities, expert_ids.to(dtype), 3), expected)


def test_the_load_of_no_tokens_is_refused():
    with pytest.raises(ValueError, match="at least 1 token, but got 0"):
        load_balancing_loss(torch.zeros(0, 2), torch.zeros(0, 1, dtype=torch.long), 2)
