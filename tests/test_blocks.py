"""Blocks are PyTorch's layers, put together from parts."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from lib.attention import KVCache, MultiHeadAttention
from lib.blocks import DecoderBlock, EncoderBlock, ParallelBlock, Stack, stack_flops, stack_parameters
from lib.costs import count_flops, count_parameters
from lib.record import record
from lib.residual import PostNorm, PreNorm, ReZero

D_MODEL, N_HEADS, D_FF = 8, 2, 12
SAME = dict(rtol=0, atol=1e-12)


def copy_attention(theirs: nn.MultiheadAttention, ours: MultiHeadAttention) -> None:
    for linear, weight, bias in zip(
        (ours.w_q, ours.w_k, ours.w_v), theirs.in_proj_weight.chunk(3), theirs.in_proj_bias.chunk(3), strict=True
    ):
        linear.weight.data.copy_(weight)
        linear.bias.data.copy_(bias)
    ours.w_o.load_state_dict(theirs.out_proj.state_dict())


def copy_layer(theirs: nn.Module, ours: nn.Module) -> None:
    for parameter in theirs.parameters():
        nn.init.normal_(parameter, std=0.5)
    copy_attention(theirs.self_attn, ours.attention)
    residuals = [ours.attention_residual]
    if isinstance(ours, DecoderBlock):
        copy_attention(theirs.multihead_attn, ours.cross_attention)
        residuals.append(ours.cross_attention_residual)
    ours.feed_forward.w_1.load_state_dict(theirs.linear1.state_dict())
    ours.feed_forward.w_2.load_state_dict(theirs.linear2.state_dict())
    for i, residual in enumerate([*residuals, ours.feed_forward_residual], start=1):
        residual.norm.load_state_dict(getattr(theirs, f"norm{i}").state_dict())


def pair(theirs: type, ours: type, pre: bool) -> tuple[nn.Module, nn.Module]:
    layer = theirs(D_MODEL, N_HEADS, D_FF, 0.0, batch_first=True, norm_first=pre).double()
    block = ours(D_MODEL, N_HEADS, D_FF, residual=PreNorm if pre else PostNorm).double()
    copy_layer(layer, block)
    return layer, block


def gradient_sizes(module: nn.Module) -> torch.Tensor:
    """The squared gradient of all parameters, which does not depend on how they are cut into tensors."""
    return sum(parameter.grad.square().sum() for parameter in module.parameters())


def assert_same(layer, block, inputs, theirs, ours):
    y, want = ours(block), theirs(layer)
    torch.testing.assert_close(y, want, **SAME)
    towards = torch.randn_like(y)
    for got, wanted in zip(
        torch.autograd.grad(y, inputs, towards, retain_graph=True),
        torch.autograd.grad(want, inputs, towards, retain_graph=True),
        strict=True,
    ):
        torch.testing.assert_close(got, wanted, rtol=1e-12, atol=1e-12)
    y.backward(towards)
    want.backward(towards)
    torch.testing.assert_close(gradient_sizes(block), gradient_sizes(layer), rtol=1e-12, atol=1e-12)


@settings(max_examples=12, deadline=None)
@given(st.integers(1, 3), st.integers(1, 5), st.booleans(), st.booleans())
def test_an_encoder_block_is_pytorchs_layer(batch, seq, pre, masked):
    layer, block = pair(nn.TransformerEncoderLayer, EncoderBlock, pre)
    x = torch.randn(batch, seq, D_MODEL, dtype=torch.float64, requires_grad=True)
    mask = torch.ones(seq, seq, dtype=torch.bool).tril() if masked else None
    blocked = None if mask is None else ~mask
    assert_same(layer, block, [x], lambda m: m(x, src_mask=blocked), lambda m: m(x, mask=mask))


@settings(max_examples=12, deadline=None)
@given(st.integers(1, 3), st.integers(1, 5), st.integers(1, 5), st.booleans())
def test_a_decoder_block_is_pytorchs_layer(batch, seq, src, pre):
    layer, block = pair(nn.TransformerDecoderLayer, DecoderBlock, pre)
    x = torch.randn(batch, seq, D_MODEL, dtype=torch.float64, requires_grad=True)
    memory = torch.randn(batch, src, D_MODEL, dtype=torch.float64, requires_grad=True)
    blocked = ~torch.ones(seq, seq, dtype=torch.bool).tril()
    assert_same(layer, block, [x, memory], lambda m: m(x, memory, tgt_mask=blocked), lambda m: m(x, memory))


def test_no_future_token_moves_a_past_output_by_one_bit():
    block, x = EncoderBlock(D_MODEL, N_HEADS, D_FF), torch.randn(2, 6, D_MODEL)
    changed = torch.cat([x[:, :4], torch.randn(2, 2, D_MODEL)], dim=1)
    assert torch.equal(block(x, is_causal=True)[:, :4], block(changed, is_causal=True)[:, :4])


@torch.no_grad()
def test_a_decoder_block_with_caches_computes_what_it_does_without():
    block = DecoderBlock(D_MODEL, N_HEADS, D_FF).double()
    x, memory = torch.randn(2, 5, D_MODEL).double(), torch.randn(2, 3, D_MODEL).double()
    caches = block.new_caches()
    steps = [block(x[:, i : i + 1], memory, caches=caches) for i in range(5)]
    torch.testing.assert_close(torch.cat(steps, dim=1), block(x, memory), **SAME)


def test_what_stands_in_padded_places_of_memory_changes_nothing():
    block = DecoderBlock(D_MODEL, N_HEADS, D_FF)
    x, memory = torch.randn(2, 3, D_MODEL), torch.randn(2, 5, D_MODEL)
    changed = torch.cat([memory[:, :3], torch.randn(2, 2, D_MODEL)], dim=1)
    real = (torch.arange(5) < 3)[None, None, None]
    assert torch.equal(block(x, memory, memory_mask=real), block(x, changed, memory_mask=real))
    assert not torch.allclose(block(x, memory), block(x, changed))


@torch.no_grad()
@pytest.mark.parametrize("kind", [EncoderBlock, ParallelBlock])
def test_a_block_with_a_cache_computes_what_it_does_without(kind):
    block, x = kind(D_MODEL, N_HEADS, D_FF).double(), torch.randn(2, 5, D_MODEL).double()
    caches = block.new_caches()
    steps = [block(x[:, i : i + 1], is_causal=True, caches=caches) for i in range(5)]
    torch.testing.assert_close(torch.cat(steps, dim=1), block(x, is_causal=True), **SAME)


@torch.no_grad()
def test_a_stack_with_caches_computes_what_it_does_without():
    stack, x = Stack("AFFA", D_MODEL, N_HEADS, D_FF).double(), torch.randn(2, 5, D_MODEL).double()
    caches = stack.new_caches()
    steps = [stack(x[:, i : i + 1], is_causal=True, caches=caches) for i in range(5)]
    torch.testing.assert_close(torch.cat(steps, dim=1), stack(x, is_causal=True), **SAME)


@torch.no_grad()
@pytest.mark.parametrize(
    ("make", "attentions"),
    [
        (lambda: EncoderBlock(D_MODEL, N_HEADS, D_FF), 1),
        (lambda: ParallelBlock(D_MODEL, N_HEADS, D_FF), 1),
        (lambda: DecoderBlock(D_MODEL, N_HEADS, D_FF), 2),
        (lambda: Stack("AFAA", D_MODEL, N_HEADS, D_FF), 3),
        (lambda: Stack("FF", D_MODEL, N_HEADS, D_FF), 0),
    ],
    ids=["encoder", "parallel", "decoder", "stack", "stack without attention"],
)
def test_a_block_takes_as_many_caches_as_it_has_attentions(make, attentions):
    block, x = make(), torch.randn(1, 2, D_MODEL)
    inputs = (x, x) if isinstance(block, DecoderBlock) else (x,)
    caches = block.new_caches()
    block(*inputs, caches=caches)
    assert [cache.length for cache in caches] == [2] * attentions
    for wrong in ([*caches, KVCache()], caches[:-1] if caches else [KVCache()], [KVCache()] * 2):
        if len(set(wrong)) == len(wrong) or len(wrong) == attentions:
            with pytest.raises(ValueError, match=f"here there are {attentions}, but got {len(wrong)} caches"):
                block(*inputs, caches=wrong)


def test_a_parallel_block_gives_both_parts_the_same_normalised_input():
    block, x = ParallelBlock(D_MODEL, N_HEADS, D_FF).double(), torch.randn(2, 5, D_MODEL).double()
    normed = block.residual.norm(x)
    want = x + block.attention(normed, is_causal=True) + block.feed_forward(normed)
    torch.testing.assert_close(block(x, is_causal=True), want, **SAME)


@pytest.mark.parametrize("pattern", ["AFAFAF", "AAFAFF", "FFF"])
def test_a_stack_costs_what_the_formulas_say(pattern):
    stack, x = Stack(pattern, D_MODEL, N_HEADS, D_FF), torch.randn(1, 7, D_MODEL)
    assert count_parameters(stack) == stack_parameters(pattern, D_MODEL, D_FF)

    def by_formula(x):  # PyTorch counts matrix products, not what is inside its fused kernel
        if "A" not in pattern:
            return stack(x)
        with record(stack, "*.weights_dropout"):
            return stack(x)

    assert count_flops(by_formula, x) == stack_flops(pattern, 7, D_MODEL, D_FF)


def test_a_stack_of_a_and_f_in_turn_is_pytorchs_encoder():
    layer = nn.TransformerEncoderLayer(D_MODEL, N_HEADS, D_FF, 0.0, batch_first=True)
    encoder = nn.TransformerEncoder(layer, 2, enable_nested_tensor=False).double()
    stack = Stack("AFAF", D_MODEL, N_HEADS, D_FF).double()
    for i, theirs in enumerate(encoder.layers):
        block = EncoderBlock(D_MODEL, N_HEADS, D_FF).double()
        copy_layer(theirs, block)
        stack.parts[2 * i], stack.residuals[2 * i] = block.attention, block.attention_residual
        stack.parts[2 * i + 1], stack.residuals[2 * i + 1] = block.feed_forward, block.feed_forward_residual
    x = torch.randn(2, 4, D_MODEL, dtype=torch.float64, requires_grad=True)
    assert_same(encoder, stack, [x], lambda m: m(x), lambda m: m(x))


def test_without_attention_a_token_never_sees_its_neighbours():
    x = torch.randn(1, 4, D_MODEL)
    changed = torch.cat([x[:, :1], torch.randn(1, 3, D_MODEL)], dim=1)
    alone, mixing = Stack("FFF", D_MODEL, N_HEADS, D_FF), Stack("FAF", D_MODEL, N_HEADS, D_FF)
    assert torch.equal(alone(x)[:, 0], alone(changed)[:, 0])
    assert not torch.allclose(mixing(x)[:, 0], mixing(changed)[:, 0])


def test_a_stack_of_branches_that_start_at_zero_is_the_identity():
    x = torch.randn(2, 3, D_MODEL)
    assert torch.equal(Stack("AFAF", D_MODEL, N_HEADS, D_FF, residual=ReZero)(x), x)


@pytest.mark.parametrize("pattern", ["", "AFX", "af"])
def test_a_pattern_of_other_letters_is_refused(pattern):
    with pytest.raises(ValueError, match=f"A for attention and F for feed-forward, but got '{pattern}'"):
        Stack(pattern, D_MODEL, N_HEADS, D_FF)
