"""Attention is PyTorch's, lets nobody look where the mask says no, and shows the weights that it used."""

import math
import re
from functools import partial

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn
from torch.testing import assert_close
from torch.utils._python_dispatch import TorchDispatchMode

from lib.attention import KVCache, MultiHeadAttention, attention_weights, scaled_dot_product_attention
from lib.device import seeded
from lib.record import record

no_cuda = pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device: torch.cuda.is_available() is False")
on_each_device = pytest.mark.parametrize("device", ["cpu", pytest.param("cuda", marks=[pytest.mark.gpu, no_cuda])])
settled = settings(deadline=None, max_examples=60, derandomize=True)
lengths = st.integers(1, 6)


def exactly(actual, expected):
    """Compare as float64 allows: rounding of a few sums near one, and nothing more."""
    assert_close(actual, expected, rtol=1e-12, atol=1e-12)


def tokens(*shape, seed=1, device="cpu"):
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64).to(device)


def make(*sizes, seed=0, device="cpu", **options):
    with seeded(seed):
        return MultiHeadAttention(*sizes, **options).double().to(device)


def random_mask(*shape, seed, allowed=0.6):
    return torch.rand(shape, generator=torch.Generator().manual_seed(seed)) < allowed


def weighted(y):
    return (y * torch.linspace(-1, 1, y.numel(), dtype=y.dtype, device=y.device).view_as(y)).sum()


def all_gradients(y, inputs):
    return torch.autograd.grad(weighted(y), inputs)


@st.composite
def masks(draw, batch, n_heads, n_queries, n_keys):
    """Draw no mask, or one in any shape that stretches over the scores; its rows may be empty."""
    seed = draw(st.integers(0, 1000))
    shapes = [(n_queries, n_keys), (1, n_keys), (batch, 1, 1, n_keys), (batch, 1, n_queries, n_keys)]
    shapes += [(1, n_heads, n_queries, 1), (batch, n_heads, n_queries, n_keys)]
    shape = draw(st.none() | st.sampled_from(shapes))
    return None if shape is None else random_mask(*shape, seed=seed, allowed=draw(st.sampled_from([0.0, 0.3, 0.9])))


# ---- The formula is PyTorch's ----------------------------------------------------------------------------------------


@on_each_device
@settled
@given(data=st.data(), batch=st.integers(1, 3), n_heads=st.integers(1, 3), d_k=lengths, d_v=lengths)
def test_the_formula_is_pytorchs_fused_kernel(data, batch, n_heads, d_k, d_v, device):
    n_queries, n_keys = data.draw(lengths), data.draw(lengths)
    mask = data.draw(masks(batch, n_heads, n_queries, n_keys))
    mask = None if mask is None else mask.to(device)
    sizes = [(n_queries, d_k), (n_keys, d_k), (n_keys, d_v)]
    inputs = [tokens(batch, n_heads, *size, seed=i, device=device).requires_grad_() for i, size in enumerate(sizes)]
    y, expected = scaled_dot_product_attention(*inputs, mask), F.scaled_dot_product_attention(*inputs, attn_mask=mask)
    exactly(y, expected)
    exactly(all_gradients(y, inputs), all_gradients(expected, inputs))


@pytest.mark.parametrize("shape", [(), (2,), (2, 3), (2, 3, 4)], ids=str)
def test_the_formula_takes_any_axes_before_the_tokens(shape):
    query, key, value = tokens(*shape, 4, 8), tokens(*shape, 5, 8, seed=2), tokens(*shape, 5, 3, seed=3)
    mask = torch.ones(4, 5, dtype=torch.bool).tril()
    expected = F.scaled_dot_product_attention(query, key, value, attn_mask=mask)
    exactly(scaled_dot_product_attention(query, key, value, mask), expected)


@pytest.mark.parametrize(
    ("batch", "n_queries", "n_keys"), [(0, 4, 5), (2, 0, 5), (2, 4, 0)], ids=["batch", "queries", "keys"]
)
def test_the_formula_of_nothing_is_nothing_or_zero(batch, n_queries, n_keys):
    inputs = tokens(batch, n_queries, 8), tokens(batch, n_keys, 8), tokens(batch, n_keys, 3)
    assert torch.equal(scaled_dot_product_attention(*inputs), torch.zeros(batch, n_queries, 3).double())
    assert torch.equal(F.scaled_dot_product_attention(*inputs), torch.zeros(batch, n_queries, 3).double())


@pytest.mark.parametrize("mask", [None, torch.ones(4, 5, dtype=torch.bool).tril()], ids=["all", "causal"])
def test_without_features_to_compare_every_key_counts_alike(mask):
    query, key, value = tokens(2, 4, 0), tokens(2, 5, 0), tokens(2, 5, 3)
    y = scaled_dot_product_attention(query, key, value, mask)
    exactly(y, F.scaled_dot_product_attention(query, key, value, attn_mask=mask))
    exactly(y[:, 3], value[:, : 5 if mask is None else 4].mean(dim=1))


@settled
@given(data=st.data(), n_queries=lengths, n_keys=lengths)
def test_weights_sum_to_one_where_something_is_allowed_and_are_exactly_zero_elsewhere(data, n_queries, n_keys):
    mask = random_mask(n_queries, n_keys, seed=data.draw(st.integers(0, 1000)))
    weights = attention_weights(tokens(n_queries, 4), tokens(n_keys, 4, seed=2), mask)
    exactly(weights.sum(dim=-1), mask.any(dim=-1).double())
    assert not weights[~mask].any()


def test_a_blocked_key_changes_nothing_whatever_its_score():
    query, key, mask = tokens(4, 8), tokens(5, 8, seed=2), torch.ones(4, 5, dtype=torch.bool).tril()
    louder = key.clone()
    louder[4] *= 1e200
    assert torch.equal(attention_weights(query, louder, mask), attention_weights(query, key, mask))


def test_scores_are_divided_by_the_root_of_the_width_of_the_keys():
    query, key = tokens(200, 64), tokens(32, 64, seed=2)
    exactly(attention_weights(query, key), (query @ key.T / 8).softmax(dim=-1))
    exactly(attention_weights(query, key, scale=0.5), (query @ key.T / 2).softmax(dim=-1))
    exactly(attention_weights(query, key, scale=0.0), torch.full((200, 32), 1 / 32, dtype=torch.float64))


def test_with_the_scale_wide_keys_do_not_take_all_the_weight():
    query, key = tokens(200, 1024), tokens(32, 1024, seed=2)
    sharpest = [attention_weights(query, key, scale=scale).max(dim=-1).values.mean() for scale in (None, 1.0)]
    assert sharpest[0] < 0.3 < 0.9 < sharpest[1]


def test_attention_is_a_mean_of_the_values():
    query, key, value = tokens(4, 8), tokens(5, 8, seed=2), tokens(5, 3, seed=3)
    exactly(scaled_dot_product_attention(query, key, torch.ones_like(value)), torch.ones(4, 3).double())
    exactly(scaled_dot_product_attention(torch.zeros_like(query), key, value), value.mean(dim=0).expand(4, 3))


def test_the_order_of_keys_with_their_values_does_not_matter():
    query, key, value, order = tokens(4, 8), tokens(5, 8, seed=2), tokens(5, 3, seed=3), torch.tensor([3, 0, 4, 1, 2])
    moved = scaled_dot_product_attention(query, key[order], value[order])
    exactly(moved, scaled_dot_product_attention(query, key, value))


# ---- The module is PyTorch's -----------------------------------------------------------------------------------------


def pytorch_twin(module):
    """Return PyTorch's own module with these weights."""
    twin = nn.MultiheadAttention(
        module.w_q.in_features, module.n_heads, bias=module.w_q.bias is not None, batch_first=True
    ).to(module.w_q.weight)
    with torch.no_grad():
        for name, parameter in twin.named_parameters():
            parameter.copy_(as_theirs(name, dict(module.named_parameters())))
    return twin


def as_theirs(name, ours):
    """Return what PyTorch keeps under this name, from our names."""
    kind = "bias" if name.endswith("bias") else "weight"
    if name.startswith("out_proj"):
        return ours[f"w_o.{kind}"]
    return torch.cat([ours[f"{projection}.{kind}"] for projection in ("w_q", "w_k", "w_v")])


def theirs(mask, n_heads, size):
    """Return a mask as PyTorch's module takes it: True = may not, heads and sentences on one axis."""
    batch, n_queries, n_keys = size
    return None if mask is None else ~mask.expand(batch, n_heads, n_queries, n_keys).flatten(0, 1)


def assert_equal_to_pytorch(module, inputs, mask, is_causal=False):
    """Compare the outputs and every gradient, of the inputs and of the parameters."""
    twin = pytorch_twin(module)
    (query, *others), key = inputs, inputs[-1]
    size = (len(query), query.shape[1], key.shape[1])
    allowed = torch.ones(*size[1:], dtype=torch.bool, device=query.device)
    allowed = allowed.tril() if is_causal else allowed
    allowed = allowed if mask is None else allowed & mask
    y = module(query, *others, mask=mask, is_causal=is_causal)
    blocked = theirs(allowed, module.n_heads, size)
    expected, _ = twin(*(inputs * 3)[:3] if len(inputs) == 1 else inputs, attn_mask=blocked, need_weights=False)
    exactly(y, expected)
    names, our_parameters = zip(*module.named_parameters(), strict=True)
    got = all_gradients(y, [*inputs, *our_parameters])
    wanted = all_gradients(expected, [*inputs, *twin.parameters()])
    exactly(got[: len(inputs)], wanted[: len(inputs)])
    ours = dict(zip(names, got[len(inputs) :], strict=True))
    for (name, _), gradient in zip(twin.named_parameters(), wanted[len(inputs) :], strict=True):
        exactly(as_theirs(name, ours), gradient)


@on_each_device
@settled
@given(data=st.data(), batch=st.integers(1, 3), n_heads=st.integers(1, 3), d_head=st.integers(1, 4), bias=st.booleans())
def test_self_attention_equals_pytorchs(data, batch, n_heads, d_head, bias, device):
    seq_len, is_causal = data.draw(lengths), data.draw(st.booleans())
    mask = data.draw(masks(batch, n_heads, seq_len, seq_len))
    module = make(n_heads * d_head, n_heads, bias=bias, device=device)
    x = tokens(batch, seq_len, n_heads * d_head, device=device).requires_grad_()
    assert_equal_to_pytorch(module, [x], None if mask is None else mask.to(device), is_causal)


@on_each_device
@settled
@given(data=st.data(), batch=st.integers(1, 3), n_heads=st.integers(1, 3), d_head=st.integers(1, 4), bias=st.booleans())
def test_cross_attention_equals_pytorchs(data, batch, n_heads, d_head, bias, device):
    n_queries, n_keys, d_model = data.draw(lengths), data.draw(lengths), n_heads * d_head
    mask = data.draw(masks(batch, n_heads, n_queries, n_keys))
    module = make(d_model, n_heads, bias=bias, device=device)
    inputs = [tokens(batch, n, d_model, seed=n, device=device).requires_grad_() for n in (n_queries, n_keys, n_keys)]
    assert_equal_to_pytorch(module, inputs, None if mask is None else mask.to(device))


def test_a_padding_mask_is_pytorchs_key_padding_mask_the_other_way_round():
    module, x, real = make(8, 2).eval(), tokens(3, 5, 8), torch.arange(5) < torch.tensor([[5], [2], [0]])
    expected, _ = pytorch_twin(module).eval()(x, x, x, key_padding_mask=~real, need_weights=False)
    exactly(module(x, mask=real[:, None, None, :]), expected)


def test_without_a_value_the_keys_are_the_values_and_without_a_key_the_queries_are_both():
    module, x, memory = make(8, 2), tokens(2, 3, 8), tokens(2, 5, 8, seed=2)
    assert torch.equal(module(x, memory), module(x, memory, memory))
    assert torch.equal(module(x), module(x, x, x))


def by_loops(module, x, memory, mask):
    """Compute multi-head attention one sentence, one head and one query at a time, from its definition."""
    queries, keys, values = module.w_q(x), module.w_k(memory), module.w_v(memory)
    gathered = torch.zeros_like(queries)
    for b in range(len(x)):
        for head in range(module.n_heads):
            features = slice(head * module.d_head, (head + 1) * module.d_head)
            shared = head // (module.n_heads // module.n_kv_heads)
            kept = slice(shared * module.d_head, (shared + 1) * module.d_head)
            for i in range(x.shape[1]):
                allowed = mask[i].nonzero().flatten()
                scores = keys[b, allowed, kept] @ queries[b, i, features] / math.sqrt(module.d_head)
                gathered[b, i, features] = scores.softmax(dim=0) @ values[b, allowed, kept]
    return module.w_o(gathered)


@pytest.mark.parametrize("n_kv_heads", [None, 4, 2, 1])
@pytest.mark.parametrize("d_head", [None, 1, 5])
def test_each_head_works_on_its_own_features(n_kv_heads, d_head):
    module = make(8, 4, n_kv_heads=n_kv_heads, d_head=d_head)
    x, memory, mask = tokens(2, 3, 8), tokens(2, 5, 8, seed=2), random_mask(3, 5, seed=0)
    exactly(module(x, memory, mask=mask), by_loops(module, x, memory, mask))


@on_each_device
@settled
@given(n_kv_heads=st.integers(1, 3), shared_by=st.integers(1, 3), seq_len=lengths, is_causal=st.booleans())
def test_shared_heads_are_as_if_each_query_head_had_its_own_copy(n_kv_heads, shared_by, seq_len, is_causal, device):
    n_heads = n_kv_heads * shared_by
    shared = make(6, n_heads, n_kv_heads=n_kv_heads, d_head=2, device=device)
    copied = make(6, n_heads, d_head=2, device=device)
    state = shared.state_dict()
    for name in ("w_k", "w_v"):
        for kind in ("weight", "bias"):
            by_head = state[f"{name}.{kind}"].unflatten(0, (n_kv_heads, 2))
            state[f"{name}.{kind}"] = by_head.repeat_interleave(shared_by, dim=0).flatten(0, 1)
    copied.load_state_dict(state)
    x = tokens(2, seq_len, 6, device=device).requires_grad_()
    y, expected = shared(x, is_causal=is_causal), copied(x, is_causal=is_causal)
    exactly(y, expected)
    got, wanted = (all_gradients(one, [x, *m.parameters()]) for one, m in ((y, shared), (expected, copied)))
    exactly(got[0], wanted[0])
    keys_got, keys_wanted = got[3], wanted[3]  # x, w_q.weight, w_q.bias, w_k.weight
    exactly(keys_got, keys_wanted.unflatten(0, (n_kv_heads, shared_by, 2)).sum(dim=1).flatten(0, 1))


def test_fewer_heads_of_keys_and_values_have_fewer_parameters():
    sizes = [sum(p.numel() for p in make(8, 4, n_kv_heads=n).parameters()) for n in (4, 2, 1)]
    assert sizes == [4 * (64 + 8), 2 * (64 + 8) + 2 * (32 + 4), 2 * (64 + 8) + 2 * (16 + 2)]
    assert sum(p.numel() for p in make(8, 1).parameters()) == sizes[0]  # the number of heads alone changes nothing


# ---- Who sees whom ---------------------------------------------------------------------------------------------------


@on_each_device
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16], ids=str)
@pytest.mark.parametrize("seq_len", [1, 7, 40])
@pytest.mark.parametrize("masked", [False, True])
def test_no_future_token_moves_a_past_output_by_one_bit(dtype, seq_len, masked, device):
    module, x = make(8, 2, device=device).to(dtype), tokens(3, seq_len, 8, device=device).to(dtype)
    causal = torch.ones(seq_len, seq_len, dtype=torch.bool, device=device).tril()
    how = {"mask": causal} if masked else {"is_causal": True}
    y = module(x, **how)
    for i in range(0, seq_len, 3):
        other = x.clone()
        other[:, i:] = 10 * tokens(3, seq_len - i, 8, seed=i + 2, device=device).to(dtype)
        moved = module(other, **how)
        assert torch.equal(moved[:, :i], y[:, :i])
        assert not torch.equal(moved[:, i], y[:, i])


def test_without_a_mask_every_token_sees_every_other_one_of_its_sentence_only():
    module, x = make(8, 2), tokens(3, 5, 8)
    other = x.clone()
    other[1, 4] += 1
    moved = (module(other) != module(x)).any(dim=-1)
    assert moved.tolist() == [[False] * 5, [True] * 5, [False] * 5]


@on_each_device
@settled
@given(seq_len=lengths, more=st.integers(0, 5), content=st.floats(-1e6, 1e6), is_causal=st.booleans())
def test_neither_content_nor_amount_of_padding_changes_a_real_token(seq_len, more, content, is_causal, device):
    module, x = make(8, 2, device=device), tokens(2, seq_len, 8, device=device)
    padded = F.pad(x, (0, 0, 0, more), value=content)
    real = (torch.arange(seq_len + more, device=device) < seq_len)[None, None, None, :]
    y = module(padded, mask=real, is_causal=is_causal)
    exactly(y[:, :seq_len], module(x, is_causal=is_causal))
    other = module(F.pad(x, (0, 0, 0, more), value=7.0), mask=real, is_causal=is_causal)
    assert torch.equal(y[:, :seq_len], other[:, :seq_len])  # of the same size, so to the last bit


def test_is_causal_and_a_mask_together_allow_what_both_allow():
    module, x, mask = make(8, 2), tokens(2, 5, 8), random_mask(2, 1, 5, 5, seed=0)
    both = module(x, mask=mask & torch.ones(5, 5, dtype=torch.bool).tril())
    assert torch.equal(module(x, mask=mask, is_causal=True), both)


@settled
@given(data=st.data(), seq_len=lengths)
def test_permuting_the_tokens_permutes_the_outputs(data, seq_len):
    module, x = make(8, 2), tokens(2, seq_len, 8)
    order = torch.tensor(data.draw(st.permutations(range(seq_len))))
    exactly(module(x[:, order]), module(x)[:, order])


def test_a_causal_mask_breaks_the_symmetry_but_cannot_count_equal_tokens():
    module, x, order = make(8, 2), tokens(2, 5, 8), torch.tensor([3, 0, 4, 1, 2])
    assert (module(x[:, order], is_causal=True) - module(x, is_causal=True)[:, order]).abs().max() > 0.01
    same = module(x[:, :1].expand(2, 5, 8), is_causal=True)
    exactly(same, same[:, :1].expand(2, 5, 8))


# ---- Nothing to attend to --------------------------------------------------------------------------------------------


@on_each_device
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16], ids=str)
@pytest.mark.parametrize("recorded", [False, True])
@pytest.mark.parametrize("empty", ["one query", "one sentence", "everything"])
def test_an_empty_row_gives_zeros_and_no_nan_forward_or_backward(dtype, recorded, empty, device):
    module, x = make(8, 2, device=device).to(dtype), tokens(2, 5, 8, device=device).to(dtype).requires_grad_()
    mask = torch.ones(2, 1, 5, 5, dtype=torch.bool, device=device)
    rows = {"one query": (0, 0, 3), "one sentence": 0, "everything": ...}[empty]
    mask[rows] = False
    with (
        torch.autograd.set_detect_anomaly(True),
        record(module, "weights_dropout" if recorded else "w_o") as seen,
    ):
        y = module(x, mask=mask)
        gradients = all_gradients(y, [x, *module.parameters()])
    closed = ~mask.any(dim=-1)[:, 0]
    assert torch.equal(y[closed], module.w_o.bias.expand_as(y[closed]))
    assert all(gradient.isfinite().all() for gradient in gradients)
    if recorded:
        assert not seen["weights_dropout"].transpose(1, 2)[closed].any()


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16], ids=str)
def test_the_formula_gives_zeros_for_an_empty_row_and_a_gradient_of_zero(dtype):
    query, key, value = (tokens(4, 8, seed=i).to(dtype).requires_grad_() for i in range(3))
    mask = torch.ones(4, 4, dtype=torch.bool).tril(-1)  # the diagonal closed, so that the first sees nothing
    with torch.autograd.set_detect_anomaly(True):
        y = scaled_dot_product_attention(query, key, value, mask)
        gradients = all_gradients(y, [query, key, value])
    assert not y[0].any()
    assert not gradients[0][0].any()
    assert all(gradient.isfinite().all() for gradient in gradients)


# ---- The weights that were used --------------------------------------------------------------------------------------


@on_each_device
@settled
@given(data=st.data(), n_kv_heads=st.integers(1, 2), shared_by=st.integers(1, 2), is_causal=st.booleans())
def test_watching_changes_nothing(data, n_kv_heads, shared_by, is_causal, device):
    seq_len, n_heads = data.draw(lengths), n_kv_heads * shared_by
    mask = data.draw(masks(2, n_heads, seq_len, seq_len))
    mask = None if mask is None else mask.to(device)
    module = make(12, n_heads, n_kv_heads=n_kv_heads, device=device)
    x = tokens(2, seq_len, 12, device=device).requires_grad_()
    with record(module, "weights_dropout") as seen:
        watched = module(x, mask=mask, is_causal=is_causal)
    assert seen["weights_dropout"].shape == (2, n_heads, seq_len, seq_len)
    fused, inputs = module(x, mask=mask, is_causal=is_causal), [x, *module.parameters()]
    exactly(watched, fused)
    exactly(all_gradients(watched, inputs), all_gradients(fused, inputs))


def test_the_recorded_weights_are_those_of_the_formula_mask_included():
    module, x, mask = make(8, 2), tokens(2, 5, 8), random_mask(2, 1, 1, 5, seed=0)
    with record(module, "w_q", "w_k", "w_v", "weights_dropout", "w_o") as seen:
        y = module(x, mask=mask, is_causal=True)
    query, key, value = (seen[name].unflatten(-1, (2, 4)).transpose(1, 2) for name in ("w_q", "w_k", "w_v"))
    allowed = mask & torch.ones(5, 5, dtype=torch.bool).tril()
    assert torch.equal(seen["weights_dropout"], attention_weights(query, key, allowed))
    exactly(module.w_o((seen["weights_dropout"] @ value).transpose(1, 2).flatten(2)), y)
    assert seen["w_o"] is y


def test_a_pattern_finds_the_weights_of_every_attention_in_a_model():
    model, x = nn.Sequential(make(8, 2), make(8, 4, seed=1)), tokens(2, 5, 8)
    with record(model, "*.weights_dropout") as seen:
        model(x)
    assert {name: weights.shape[1] for name, weights in seen.items()} == {
        "0.weights_dropout": 2,
        "1.weights_dropout": 4,
    }


def test_the_formula_runs_only_while_somebody_watches(monkeypatch):
    module, x, calls = make(8, 2), tokens(2, 5, 8), []
    kernel = F.scaled_dot_product_attention
    monkeypatch.setattr(
        F, "scaled_dot_product_attention", lambda *inputs, **options: calls.append(1) or kernel(*inputs, **options)
    )
    module(x)
    with record(module, "weights_dropout"):
        module(x)
    assert len(calls) == 1
    module(x)
    assert len(calls) == 2


def test_dropout_falls_on_the_weights_and_what_is_recorded_has_it():
    module, x = make(8, 2, dropout=0.25), tokens(4, 30, 8)
    with record(module, "w_q", "w_k", "w_v", "weights_dropout") as seen, seeded(0):
        y = module(x)
    query, key, value = (seen[name].unflatten(-1, (2, 4)).transpose(1, 2) for name in ("w_q", "w_k", "w_v"))
    weights, before = seen["weights_dropout"], attention_weights(query, key)
    kept = weights != 0
    assert kept.double().mean().item() == pytest.approx(0.75, abs=0.02)  # 7,200 coins: the standard error is 0.005
    exactly(weights[kept], before[kept] / 0.75)
    exactly(module.w_o((weights @ value).transpose(1, 2).flatten(2)), y)


def test_the_fused_kernel_drops_as_often_as_the_formula():
    module, x = make(1, 1, dropout=0.25, bias=False), torch.ones(200, 30, 1).double()
    with torch.no_grad():
        module.w_v.weight.fill_(1)
        module.w_o.weight.fill_(1)
        spread = []
        for names in (["w_o"], ["weights_dropout"]):
            with record(module, *names), seeded(0):
                y = module(x)
            spread.append((y.mean().item(), y.var().item()))
    # Equal weights of 1/30: the sum of 30 coins worth 1/22.5 each has mean 1 and variance 1/90; 6,000 of them.
    for mean, variance in spread:
        assert mean == pytest.approx(1, abs=0.006)
        assert variance == pytest.approx(1 / 90, rel=0.1)


def test_dropout_rests_in_evaluation():
    module, x = make(8, 2, dropout=0.5), tokens(2, 5, 8)
    assert not torch.equal(module(x), module(x))
    module.eval()
    plain = make(8, 2)
    exactly(module(x), plain(x))
    with record(module, "weights_dropout"):
        exactly(module(x), plain(x))


# ---- With a cache ----------------------------------------------------------------------------------------------------


@st.composite
def in_chunks(draw):
    return draw(st.lists(st.integers(1, 4), min_size=1, max_size=5))


@on_each_device
@settled
@given(chunks=in_chunks(), n_kv_heads=st.sampled_from([1, 2, 4]), recorded=st.booleans())
def test_with_a_cache_the_tokens_can_come_in_any_pieces(chunks, n_kv_heads, recorded, device):
    module, x = make(8, 4, n_kv_heads=n_kv_heads, device=device), tokens(2, sum(chunks), 8, device=device)
    cache, pieces = KVCache(), []
    with torch.no_grad(), record(module, "weights_dropout" if recorded else "w_o"):
        for piece in x.split(chunks, dim=1):
            pieces.append(module(piece, is_causal=True, cache=cache))
        exactly(torch.cat(pieces, dim=1), module(x, is_causal=True))
    assert cache.length == sum(chunks)


@settled
@given(chunks=in_chunks(), seed=st.integers(0, 1000))
def test_with_a_cache_the_mask_speaks_of_all_keys(chunks, seed):
    module, x, total = make(8, 2), tokens(3, sum(chunks), 8), sum(chunks)
    real = random_mask(3, 1, 1, total, seed=seed)
    cache, pieces = KVCache(), []
    with torch.no_grad():
        for piece in x.split(chunks, dim=1):
            mask = real[..., : cache.length + piece.shape[1]]
            pieces.append(module(piece, mask=mask, is_causal=True, cache=cache))
        exactly(torch.cat(pieces, dim=1), module(x, mask=real, is_causal=True))


def test_the_newest_of_the_cached_tokens_sees_all_of_them():
    module, x, cache = make(8, 2), tokens(1, 6, 8), KVCache()
    with torch.no_grad():
        module(x[:, :5], is_causal=True, cache=cache)
        newest = module(x[:, 5:], is_causal=True, cache=cache)
        exactly(newest, module(x[:, 5:], x))
        trap = F.scaled_dot_product_attention(*(tokens(1, 1, n, 4) for n in (1, 6, 6)), is_causal=True)
    exactly(trap, tokens(1, 1, 6, 4)[:, :, :1])  # what PyTorch's kernel makes of it: key 0 and no other


def test_in_cross_attention_the_memory_is_projected_once():
    module, x, memory, cache = make(8, 2), tokens(2, 3, 8), tokens(2, 5, 8, seed=2), KVCache()
    mask = random_mask(2, 1, 1, 5, seed=0)
    with torch.no_grad(), record(module, "w_k", "w_v") as seen:
        stepwise = [module(x[:, [i]], memory, mask=mask, cache=cache) for i in range(3)]
    assert seen["w_k"].shape == seen["w_v"].shape == (2, 5, 8)  # a list, had they run more than once
    assert cache.length == 5
    exactly(torch.cat(stepwise, dim=1), module(x, memory, mask=mask))


def test_rotary_turns_by_the_place_in_the_sentence_cached_or_not_and_stays_out_of_cross_attention():
    def turn(x, offset=0):
        places = torch.arange(offset, offset + x.shape[2], dtype=x.dtype)
        return x * places.cos()[:, None]

    module, x, cache = make(8, 2, rotary=turn), tokens(2, 6, 8), KVCache()
    plain = make(8, 2)
    query, key, value = (layer(x).unflatten(-1, (2, 4)).transpose(1, 2) for layer in (plain.w_q, plain.w_k, plain.w_v))
    causal = torch.ones(6, 6, dtype=torch.bool).tril()
    expected = scaled_dot_product_attention(turn(query), turn(key), value, causal)
    exactly(module(x, is_causal=True), plain.w_o(expected.transpose(1, 2).flatten(2)))
    with torch.no_grad():
        pieces = [module(piece, is_causal=True, cache=cache) for piece in x.split([2, 1, 3], dim=1)]
    exactly(torch.cat(pieces, dim=1), module(x, is_causal=True))
    exactly(module(x, tokens(2, 3, 8, seed=2)), plain(x, tokens(2, 3, 8, seed=2)))


@settled
@given(chunks=in_chunks())
def test_a_cache_returns_everything_in_order(chunks):
    cache, keys, values = KVCache(), tokens(2, 3, sum(chunks), 4), tokens(2, 3, sum(chunks), 5, seed=2)
    for key, value in zip(keys.split(chunks, dim=2), values.split(chunks, dim=2), strict=True):
        all_keys, all_values = cache.append(key, value)
        assert torch.equal(all_keys, keys[:, :, : cache.length])
        assert torch.equal(all_values, values[:, :, : cache.length])
    assert torch.equal(cache.read()[0], keys)


def test_a_cache_makes_room_rarely_and_copies_each_token_a_few_times_only():
    cache, places = KVCache(), []
    for step in range(300):
        key = tokens(1, 2, 1, 4, seed=step)
        places.append(cache.append(key, key)[0].data_ptr())
    assert len(set(places)) <= 10  # it has grown to 2, 4, 8, ... 512
    assert cache.length == 300


def test_a_cache_does_not_hold_on_to_what_it_was_given():
    cache, key = KVCache(), tokens(1, 2, 3, 4)
    cache.append(key, key)
    before = key.clone()
    key.zero_()
    assert torch.equal(cache.read()[0], before)


def test_beams_take_their_sentences_keys_and_values_with_them():
    module, x, order = make(8, 2), tokens(3, 4, 8), torch.tensor([2, 0, 0, 1, 2])
    cache, newest = KVCache(), tokens(5, 1, 8, seed=2)
    with torch.no_grad():
        module(x, is_causal=True, cache=cache)
        cache.reorder(order)
        y = module(newest, is_causal=True, cache=cache)
        exactly(y, module(torch.cat([x[order], newest], dim=1), is_causal=True)[:, -1:])


def test_reordering_an_empty_cache_does_nothing():
    cache = KVCache()
    cache.reorder(torch.tensor([5, 1]))
    assert cache.length == 0


# ---- Other precisions, devices and the compiler ----------------------------------------------------------------------


@on_each_device
@pytest.mark.parametrize("how", [{}, {"is_causal": True}, {"masked": True}], ids=str)
@pytest.mark.parametrize("n_kv_heads", [4, 1])
@pytest.mark.parametrize(
    ("dtype", "tolerance"),
    [
        (torch.float32, 5e-6),  # eps 1.2e-7, sums of 16 terms below one, four times
        (torch.bfloat16, 3e-2),  # eps 7.8e-3, the same, of results below one
    ],
    ids=str,
)
def test_shorter_numbers_give_the_same_up_to_their_precision(how, n_kv_heads, dtype, tolerance, device):
    short, x = make(16, 4, n_kv_heads=n_kv_heads, device=device).to(dtype), tokens(3, 20, 16, device=device).to(dtype)
    long = make(16, 4, n_kv_heads=n_kv_heads, device=device)
    long.load_state_dict(short.state_dict())
    how = {"mask": random_mask(3, 1, 20, 20, seed=0).to(device)} if "masked" in how else how
    y = short(x, **how)
    assert y.dtype == dtype
    expected = long(x.double(), **how)
    assert_close(y.double(), expected, rtol=tolerance, atol=tolerance)
    with record(short, "weights_dropout"):
        assert_close(short(x, **how).double(), expected, rtol=tolerance, atol=tolerance)


@on_each_device
@pytest.mark.parametrize("recorded", [False, True])
def test_mixed_precision_runs_forward_and_backward(recorded, device):
    module, x = make(16, 4, device=device).float(), tokens(3, 5, 16, device=device).float()
    mask = random_mask(3, 1, 5, 5, seed=0).to(device)
    with torch.autocast(device, dtype=torch.bfloat16), record(module, "weights_dropout" if recorded else "w_o"):
        y = module(x, mask=mask)
    y.float().square().sum().backward()
    assert all(parameter.grad.isfinite().all() for parameter in module.parameters())


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:.*torch.jit.script:DeprecationWarning")  # inductor's own, torch 2.13
@on_each_device
@pytest.mark.parametrize("n_kv_heads", [4, 2])
def test_compiled_it_computes_the_same_forward_and_backward(n_kv_heads, device, without_shape_checks):
    module, x = make(16, 4, n_kv_heads=n_kv_heads, device=device), tokens(2, 5, 16, device=device).requires_grad_()
    memory, inputs = tokens(2, 7, 16, seed=2, device=device), [x, *module.parameters()]
    compiled = torch.compile(module, fullgraph=True)
    mask = random_mask(2, 1, 5, 7, seed=0).to(device)
    for how in ({"is_causal": True}, {"key": memory, "mask": mask}):
        y, expected = compiled(x, **how), module(x, **how)
        exactly(y, expected)
        exactly(all_gradients(y, inputs), all_gradients(expected, inputs))
    torch.compiler.reset()


def test_a_copy_from_the_state_dict_computes_the_same():
    module, other, x = make(8, 2), make(8, 2, seed=1), tokens(2, 5, 8)
    assert not torch.equal(module(x), other(x))
    other.load_state_dict(module.state_dict())
    assert torch.equal(module(x), other(x))
    assert list(module.state_dict()) == [f"w_{p}.{kind}" for p in "qkvo" for kind in ("weight", "bias")]


class LowRank(nn.Module):
    """A layer with a correction of rank 1 beside it, as LoRA puts one in the place of a matrix."""

    def __init__(self, layer):
        super().__init__()
        self.layer = layer
        self.down, self.up = nn.Linear(8, 1, bias=False).double(), nn.Linear(1, 8, bias=False).double()

    def forward(self, x):
        return self.layer(x) + self.up(self.down(x))


def test_each_of_its_matrices_can_be_replaced_by_another_module():
    module, x = make(8, 2), tokens(2, 5, 8)
    merged = make(8, 2)
    for name in ("w_q", "w_k", "w_v", "w_o"):
        low = LowRank(getattr(module, name))
        setattr(module, name, low)
        with torch.no_grad():
            getattr(merged, name).weight += low.up.weight @ low.down.weight
    exactly(module(x), merged(x))
    assert module.d_model == 8


class Called(TorchDispatchMode):
    """The names of the operators of PyTorch that run inside the block."""

    def __init__(self):
        super().__init__()
        self.names = set()

    def __torch_dispatch__(self, operator, types, args=(), kwargs=None):
        self.names.add(operator.__name__.partition(".")[0])
        return operator(*args, **(kwargs or {}))


@pytest.mark.parametrize(
    ("options", "training", "forms"),
    [
        ({}, True, False),
        ({"n_kv_heads": 1}, True, False),
        ({"dropout": 0.1}, False, False),
        ({"dropout": 0.1}, True, True),
    ],
    ids=["plain", "grouped", "dropout in evaluation", "dropout in training"],
)
def test_on_the_cpu_only_dropout_in_training_forms_the_weights(options, training, forms):
    with Called() as called:
        make(8, 2, **options).train(training)(tokens(2, 5, 8), is_causal=True)
    assert any("softmax" in name for name in called.names) == forms  # if not with dropout, the docstring has to change
    assert any("flash_attention" in name for name in called.names) != forms


@torch.no_grad()
@pytest.mark.parametrize(
    ("cached", "n_queries", "masked", "makes"),
    [(0, 3, False, False), (4, 1, False, False), (4, 3, False, True), (0, 3, True, True)],
    ids=["alone", "one after the cache", "several after the cache", "with a mask"],
)
def test_a_causal_mask_is_made_only_with_another_or_for_several_after_the_cache(cached, n_queries, masked, makes):
    module, cache = make(8, 2), KVCache()
    if cached:
        module(tokens(2, cached, 8), cache=cache)
    mask = torch.ones(n_queries, n_queries, dtype=torch.bool) if masked else None
    with Called() as called:
        module(tokens(2, n_queries, 8), mask=mask, is_causal=True, cache=cache)
    assert ("tril" in called.names) == makes


def test_while_the_weights_are_recorded_there_are_second_derivatives():
    module, x = make(4, 2), tokens(1, 3, 4).requires_grad_()
    with record(module, "weights_dropout"):
        assert torch.autograd.gradgradcheck(partial(module, is_causal=True), x)
    (gradient,) = torch.autograd.grad(weighted(module(x)), x, create_graph=True)
    with pytest.raises(RuntimeError, match="is not implemented"):  # should it come, the docstring has to change
        gradient.sum().backward()


def test_it_prints_its_heads():
    assert "n_heads=4, n_kv_heads=2, d_head=3" in repr(MultiHeadAttention(8, 4, n_kv_heads=2, d_head=3))


# ---- What is refused -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("d_model", "n_heads"), [(0, 1), (8, 0), (8, -2)])
def test_sizes_below_one_are_refused(d_model, n_heads):
    with pytest.raises(ValueError, match=f"must be 1 or more, but got d_model={d_model}, n_heads={n_heads}"):
        MultiHeadAttention(d_model, n_heads)


@pytest.mark.parametrize("option", [{"n_kv_heads": 0}, {"d_head": 0}, {"d_head": -3}], ids=str)
def test_options_below_one_are_refused(option):
    ((name, size),) = option.items()
    with pytest.raises(ValueError, match=f"must be 1 or more, but got .*{name}={size}.*; leave out"):
        MultiHeadAttention(8, 2, **option)


def test_heads_that_do_not_divide_the_features_are_refused():
    with pytest.raises(ValueError, match="d_model=8 is no multiple of n_heads=3; change one of them, or set d_head"):
        MultiHeadAttention(8, 3)
    assert MultiHeadAttention(8, 3, d_head=4)(torch.zeros(1, 2, 8)).shape == (1, 2, 8)


@pytest.mark.parametrize("n_kv_heads", [3, 8])
def test_heads_that_cannot_be_shared_evenly_are_refused(n_kv_heads):
    with pytest.raises(ValueError, match=f"n_heads=4 is no multiple of n_kv_heads={n_kv_heads}; choose a divisor"):
        MultiHeadAttention(8, 4, n_kv_heads=n_kv_heads)


@pytest.mark.parametrize("shape", [(2, 5, 7), (5, 8), (2, 1, 5, 8), (8,)], ids=str)
def test_tokens_of_another_shape_are_refused(shape, without_shape_checks):
    with pytest.raises(
        ValueError, match=r"takes \(batch, seq, d_model=8\), but got the shape \(.*\); put the batch fir"
    ):
        make(8, 2)(tokens(*shape))
    with pytest.raises(ValueError, match=r"d_model=8\), but got the shape"):
        make(8, 2)(tokens(2, 5, 8), tokens(*shape))


@pytest.mark.parametrize(
    ("key", "value"),
    [((3, 5, 8), (3, 5, 8)), ((2, 5, 8), (2, 4, 8)), ((2, 0, 8), (2, 0, 8)), ((2, 5, 8), (1, 5, 8))],
    ids=str,
)
def test_keys_and_values_that_do_not_go_together_are_refused(key, value, without_shape_checks):
    with pytest.raises(ValueError, match=r"as many of queries as of keys.* \(2, 3, 8\) for query, \(.*\) for value"):
        make(8, 2)(tokens(2, 3, 8), tokens(*key), tokens(*value))


@pytest.mark.parametrize("shape", [(0, 3, 8), (2, 0, 8)], ids=str)
def test_an_empty_batch_and_an_empty_sentence_are_refused(shape):
    with pytest.raises(ValueError, match="1 sentence or more"):
        make(8, 2)(tokens(*shape))


@pytest.mark.parametrize(
    "mask",
    [torch.ones(3, 5), torch.ones(3, 5).long(), torch.ones(3, 4).bool(), torch.ones(5).bool(),
     torch.ones(2, 3, 5).bool(), torch.ones(3, 1, 3, 5).bool(), torch.ones(2, 3, 3, 5).bool()],
    ids=lambda mask: f"{mask.dtype} {tuple(mask.shape)}",
)  # fmt: skip
def test_a_mask_of_another_type_or_shape_is_refused(mask, without_shape_checks):
    message = (
        r"= \(3, 5\) or of all axes of the scores, \(2, 2, 3, 5\), .* but got torch\..* of the shape \(.*\); write"
    )
    with pytest.raises(ValueError, match=message):
        make(8, 2)(tokens(2, 3, 8), tokens(2, 5, 8), mask=mask)
    with pytest.raises(ValueError, match=message):
        attention_weights(tokens(2, 2, 3, 4), tokens(2, 2, 5, 4), mask)


@pytest.mark.parametrize(
    "mask", [[[True] * 3] * 3, True, torch.ones(3, 3).bool().numpy()], ids=["list", "bool", "numpy"]
)
def test_a_mask_that_is_no_tensor_is_refused(mask, without_shape_checks):
    message = rf"a mask is torch\.bool, .* but got a {type(mask).__name__}; write .* torch\.tensor\(mask\)"
    with pytest.raises(ValueError, match=message):
        make(8, 2)(tokens(2, 3, 8), mask=mask)
    with pytest.raises(ValueError, match=message):
        attention_weights(tokens(3, 4), tokens(3, 4), mask)


def test_queries_and_keys_of_different_width_are_refused(without_shape_checks):
    with pytest.raises(ValueError, match="but got d_k=4 for the queries and d_k=6 for the keys; project"):
        scaled_dot_product_attention(tokens(3, 4), tokens(5, 6), tokens(5, 6))


@pytest.mark.parametrize("shape", [(4, 6), (2, 5, 6), (1, 5, 6), (6,)], ids=lambda shape: f"{shape}")
def test_values_that_do_not_go_with_the_keys_are_refused(shape, without_shape_checks):
    message = rf"got 5 keys and 4 values; make both|shapes \(3, 4\) and {re.escape(str(shape))}; write"
    with pytest.raises(ValueError, match=message):
        scaled_dot_product_attention(tokens(3, 4), tokens(5, 4), tokens(*shape))


@pytest.mark.parametrize("shape", [(3, 5, 4), (1, 5, 4), (5, 4), (4,)], ids=lambda shape: f"{shape}")
def test_keys_of_another_batch_than_the_queries_are_refused(shape, without_shape_checks):
    with pytest.raises(ValueError, match=rf"shapes \(2, 3, 4\) and {re.escape(str(shape))}; write x\[None\]"):
        attention_weights(tokens(2, 3, 4), tokens(*shape))


def test_a_causal_mask_between_two_sequences_is_refused():
    with pytest.raises(ValueError, match="but here are 3 queries and 5 keys; leave is_causal out"):
        make(8, 2)(tokens(2, 3, 8), tokens(2, 5, 8), is_causal=True)


def test_learning_through_a_cache_is_refused():
    module, x = make(8, 2), tokens(2, 5, 8)
    with pytest.raises(ValueError, match=r"nothing learns through it.*; generate under torch\.no_grad\(\)"):
        module(x, is_causal=True, cache=KVCache())


@pytest.mark.parametrize("shape", [(3, 2, 1, 4), (2, 3, 1, 4), (2, 2, 1, 5)], ids=str)
def test_tokens_unlike_those_in_the_cache_are_refused(shape):
    cache = KVCache()
    cache.append(tokens(2, 2, 3, 4), tokens(2, 2, 3, 4))
    with pytest.raises(ValueError, match=r"float64 of the shape \(2, 2, new, 4\), but got torch.float64 of the shape"):
        cache.append(tokens(*shape), tokens(*shape))
    with pytest.raises(ValueError, match=r"but got torch\.float32"):
        cache.append(tokens(2, 2, 1, 4).float(), tokens(2, 2, 1, 4).float())
    assert cache.length == 3


def test_reading_an_empty_cache_is_refused():
    with pytest.raises(ValueError, match="this one has length=0; append"):
        KVCache().read()


@pytest.mark.parametrize("order", [torch.tensor([0, 2]), torch.tensor([-1]), torch.tensor([[0]]), torch.tensor([0.0])])
def test_an_order_of_other_sentences_is_refused(order, without_shape_checks):
    cache = KVCache()
    cache.append(tokens(2, 2, 3, 4), tokens(2, 2, 3, 4))
    with pytest.raises(ValueError, match=r"sentence numbers from 0 to 1, but got tensor\(.*; number the sentences"):
        cache.reorder(order)


@pytest.mark.parametrize("shape", [(2, 4, 8), (1, 5, 8)], ids=str)
def test_another_memory_than_the_cached_one_is_refused(shape):
    module, cache = make(8, 2), KVCache()
    with torch.no_grad():
        module(tokens(2, 1, 8), tokens(2, 5, 8), cache=cache)
        with pytest.raises(ValueError, match=f"2 sentences of 5 tokens, but got {shape[0]} of {shape[1]}; make a new"):
            module(tokens(shape[0], 1, 8), tokens(*shape), cache=cache)


@pytest.mark.parametrize("is_self", [True, False], ids=["self", "cross"])
@pytest.mark.parametrize("begun", [True, False], ids=["begun", "empty"])
@torch.no_grad()
def test_a_refused_call_leaves_the_cache_as_it_was_and_the_corrected_one_goes_on(is_self, begun):
    module, x, memory, cache = make(8, 2), tokens(2, 5, 8), tokens(2, 4, 8, seed=2), KVCache()
    first, rest = x.split([2, 3], dim=1)
    others = [] if is_self else [memory]
    if begun:
        module(first, *others, cache=cache)
    before = cache.length
    n_keys = (2 * begun + 3) if is_self else 4
    with pytest.raises(ValueError, match=rf"\(queries, keys\) = \(3, {n_keys}\)"):
        module(rest, *others, mask=torch.ones(3, n_keys + 1, dtype=torch.bool), cache=cache)
    assert cache.length == before
    y = module(rest, *others, mask=torch.ones(3, n_keys, dtype=torch.bool), cache=cache)
    exactly(y, module(rest, *(([x] if begun else []) if is_self else others)))
