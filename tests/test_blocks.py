"""Blocks are PyTorch's layers, put together from parts that stand in for one another."""

import copy
import itertools
import re
import shutil
from functools import partial

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn
from torch.testing import assert_close

from lib.attention import KVCache, MultiHeadAttention
from lib.blocks import (
    DecoderBlock,
    EncoderBlock,
    ParallelBlock,
    Stack,
    attention_flops,
    attention_parameters,
    feed_forward_flops,
    feed_forward_parameters,
    stack_flops,
    stack_parameters,
)
from lib.costs import count_flops, count_parameters
from lib.device import seeded
from lib.feed_forward import FeedForward, GatedFeedForward, MixtureOfExperts
from lib.norms import BatchNorm, LayerNorm, RMSNorm
from lib.positions import Rotary
from lib.record import record
from lib.residual import NoResidual, PostNorm, PreNorm, ReZero

no_cuda = pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device: torch.cuda.is_available() is False")
on_each_device = pytest.mark.parametrize("device", ["cpu", pytest.param("cuda", marks=[pytest.mark.gpu, no_cuda])])
settled = settings(deadline=None, max_examples=50, derandomize=True)
lengths = st.integers(1, 5)

# Every block is called as kind(d_model, n_heads, d_ff, **parts).
SELF = {"encoder": EncoderBlock, "parallel": ParallelBlock, "stack": partial(Stack, "AFFA")}
KINDS = {**SELF, "decoder": DecoderBlock}
RESIDUALS = [PreNorm, PostNorm, ReZero, NoResidual]
each_self_block = pytest.mark.parametrize("kind", SELF.values(), ids=list(SELF))
each_block = pytest.mark.parametrize("kind", KINDS.values(), ids=list(KINDS))
each_residual = pytest.mark.parametrize("residual", RESIDUALS, ids=["pre", "post", "rezero", "none"])
each_precision = pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16], ids=str)


def exactly(actual, expected):
    """Compare as float64 allows: rounding of sums of some ten terms near one, and nothing more."""
    assert_close(actual, expected, rtol=1e-12, atol=1e-12)


def tokens(*shape, seed=1, device="cpu"):
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64).to(device)


def allowed(*shape, seed, share=0.6):
    """Return a random mask, True = may attend; some of its rows are empty."""
    return torch.rand(shape, generator=torch.Generator().manual_seed(seed)) < share


def make(kind, *sizes, seed=0, device="cpu", **parts):
    """Return a block in which no parameter is still at a value like 0 or 1 that could hide a mistake."""
    block, generator = kind(*sizes, **parts).double(), torch.Generator().manual_seed(seed)
    for parameter in block.parameters():
        parameter.data = 0.5 * torch.randn(parameter.shape, generator=generator, dtype=torch.float64)
    return block.to(device)


def causally(block, x, memory, **options):
    """Run any block as a decoder does: no token looks into its future."""
    return block(x, memory, **options) if isinstance(block, DecoderBlock) else block(x, is_causal=True, **options)


def all_gradients(y, inputs):
    """Return the gradients of a weighted sum, in which no two outputs count alike."""
    weights = torch.linspace(-1, 1, y.numel(), dtype=y.dtype, device=y.device).view_as(y)
    return torch.autograd.grad((y * weights).sum(), inputs)


def refused(*rule_number_and_remedy):
    return pytest.raises(ValueError, match=".*".join(map(re.escape, rule_number_and_remedy)))


# ---- Blocks are PyTorch's layers -------------------------------------------------------------------------------------
# PyTorch's layers have two forward passes. These tests take the one for training, which gives an empty row zeros, as we
# do, so that such rows are compared like all others; the one for inference (eval and no_grad) gives it NaN.

WORDS = {"self_attn": "attention", "linear1": "feed_forward.w_1", "linear2": "feed_forward.w_2"}
WORDS |= {"norm1": "attention_residual.norm", "norm2": "feed_forward_residual.norm"}
DECODER_WORDS = {**WORDS, "multihead_attn": "cross_attention"}
DECODER_WORDS |= {"norm2": "cross_attention_residual.norm", "norm3": "feed_forward_residual.norm"}
STACK_WORDS = {"self_attn": "parts.{a}", "linear1": "parts.{f}.w_1", "linear2": "parts.{f}.w_2"}
STACK_WORDS |= {"norm1": "residuals.{a}.norm", "norm2": "residuals.{f}.norm"}


def stack_words(n_layers):
    return {
        f"layers.{i}.{theirs}": ours.format(a=2 * i, f=2 * i + 1)
        for i, (theirs, ours) in itertools.product(range(n_layers), STACK_WORDS.items())
    }


def as_theirs(name, ours, words):
    """Return what PyTorch keeps under this name, from our tensors by name: it has w_q, w_k and w_v in one."""
    part = next(words[part] for part in words if name.startswith(f"{part}."))
    kind = "bias" if name.endswith("bias") else "weight"
    if "in_proj" in name:
        return torch.cat([ours[f"{part}.{projection}.{kind}"] for projection in ("w_q", "w_k", "w_v")])
    return ours[f"{part}.w_o.{kind}" if "out_proj" in name else f"{part}.{kind}"]


def with_our_weights(layer, block, words):
    """Return PyTorch's layer with the parameters of our block, of which none may be left over."""
    layer, ours = layer.to(next(block.parameters())), dict(block.named_parameters())
    with torch.no_grad():
        for name, parameter in layer.named_parameters():
            parameter.copy_(as_theirs(name, ours, words))
    assert count_parameters(layer) == count_parameters(block)
    return layer


def assert_equal_to_pytorch(block, layer, words, inputs, y, expected):
    """Compare the outputs and every gradient, of the inputs and of each parameter."""
    exactly(y, expected)
    names, parameters = zip(*block.named_parameters(), strict=True)
    got, wanted = all_gradients(y, [*inputs, *parameters]), all_gradients(expected, [*inputs, *layer.parameters()])
    exactly(got[: len(inputs)], wanted[: len(inputs)])
    ours = dict(zip(names, got[len(inputs) :], strict=True))
    for (name, _), gradient in zip(layer.named_parameters(), wanted[len(inputs) :], strict=True):
        exactly(as_theirs(name, ours, words), gradient)


@st.composite
def looks(draw, batch, n_heads, n_queries, n_keys):
    """Draw who may look at whom, as (a mask of any shape or None, which keys of each sentence are real or None)."""
    shapes = [(n_queries, n_keys), (batch, 1, n_queries, n_keys), (batch, n_heads, n_queries, n_keys)]
    shape, share = draw(st.none() | st.sampled_from(shapes)), draw(st.sampled_from([0.0, 0.4, 0.8]))
    mask = None if shape is None else allowed(*shape, seed=draw(st.integers(0, 999)), share=share)
    real = draw(st.none() | st.lists(st.integers(0, n_keys), min_size=batch, max_size=batch))  # 0: padding only
    return mask, None if real is None else torch.arange(n_keys) < torch.tensor(real)[:, None]


def in_one(mask, real):
    """Return both as one mask of ours."""
    if real is None:
        return mask
    return real[:, None, None, :] if mask is None else mask & real[:, None, None, :]


def theirs(mask, n_heads):
    """Return a mask as PyTorch's layers take it: True = may not; for each sentence, then also for each head."""
    if mask is None or mask.ndim == 2:
        return None if mask is None else ~mask
    return ~mask.expand(-1, n_heads, -1, -1).flatten(0, 1)


def theirs_real(real):
    return None if real is None else ~real


@st.composite
def sizes(draw):
    """Draw d_model, n_heads and d_ff; below 4 features, LayerNorm leaves next to nothing of a token."""
    n_heads = draw(st.sampled_from([1, 2, 4]))
    return n_heads * draw(st.integers(max(4 // n_heads, 1), 8 // n_heads)), n_heads, draw(st.integers(1, 9))


@st.composite
def layer_options(draw):
    """Draw how a layer is made, as (our parts, PyTorch's keywords)."""
    pre, activation, bias = draw(st.booleans()), draw(st.sampled_from([F.relu, F.gelu])), draw(st.booleans())
    ours = {
        "residual": PreNorm if pre else PostNorm,
        "norm": partial(LayerNorm, bias=bias),
        "feed_forward": partial(FeedForward, activation=activation, bias=bias),
        "attention": partial(MultiHeadAttention, bias=bias),
    }
    return ours, {"dropout": 0.0, "batch_first": True, "norm_first": pre, "activation": activation, "bias": bias}


@on_each_device
@settled
@given(data=st.data(), batch=st.integers(1, 3), seq_len=lengths, size=sizes(), options=layer_options())
def test_an_encoder_block_is_pytorchs_layer(data, batch, seq_len, size, options, device):
    (d_model, n_heads, _), (parts, keywords) = size, options
    mask, real = data.draw(looks(batch, n_heads, seq_len, seq_len))
    mask, real = (None if one is None else one.to(device) for one in (mask, real))
    is_causal = data.draw(st.booleans())
    past = torch.ones(seq_len, seq_len, dtype=torch.bool, device=device).tril()
    block = make(EncoderBlock, *size, device=device, **parts)
    layer = with_our_weights(nn.TransformerEncoderLayer(*size, **keywords), block, WORDS)
    x = tokens(batch, seq_len, d_model, device=device).requires_grad_()
    y = block(x, mask=in_one(mask, real), is_causal=is_causal)
    blocked = theirs((past if mask is None else past & mask) if is_causal else mask, n_heads)
    expected = layer(x, src_mask=blocked, src_key_padding_mask=theirs_real(real))
    assert_equal_to_pytorch(block, layer, WORDS, [x], y, expected)


@on_each_device
@settled
@given(data=st.data(), batch=st.integers(1, 3), seq_len=lengths, src_len=lengths, size=sizes(), options=layer_options())
def test_a_decoder_block_is_pytorchs_layer(data, batch, seq_len, src_len, size, options, device):
    (d_model, n_heads, _), (parts, keywords) = size, options
    drawn = *data.draw(looks(batch, n_heads, seq_len, seq_len)), *data.draw(looks(batch, n_heads, seq_len, src_len))
    mask, real, memory_mask, memory_real = (None if one is None else one.to(device) for one in drawn)
    past = torch.ones(seq_len, seq_len, dtype=torch.bool, device=device).tril()
    block = make(DecoderBlock, *size, device=device, **parts)
    layer = with_our_weights(nn.TransformerDecoderLayer(*size, **keywords), block, DECODER_WORDS)
    x = tokens(batch, seq_len, d_model, device=device).requires_grad_()
    memory = tokens(batch, src_len, d_model, seed=2, device=device).requires_grad_()
    y = block(x, memory, mask=in_one(mask, real), memory_mask=in_one(memory_mask, memory_real))
    expected = layer(
        x,
        memory,
        tgt_mask=theirs(past if mask is None else past & mask, n_heads),
        tgt_key_padding_mask=theirs_real(real),
        memory_mask=theirs(memory_mask, n_heads),
        memory_key_padding_mask=theirs_real(memory_real),
    )
    assert_equal_to_pytorch(block, layer, DECODER_WORDS, [x, memory], y, expected)


@on_each_device
@settled
@given(data=st.data(), n_layers=st.integers(1, 3), batch=st.integers(1, 3), size=sizes(), options=layer_options())
def test_a_stack_of_a_and_f_in_turn_is_pytorchs_encoder(data, n_layers, batch, size, options, device):
    (d_model, n_heads, _), (parts, keywords), seq_len = size, options, data.draw(lengths)
    mask, real = data.draw(looks(batch, n_heads, seq_len, seq_len))
    mask, real = (None if one is None else one.to(device) for one in (mask, real))
    stack, words = make(partial(Stack, "AF" * n_layers), *size, device=device, **parts), stack_words(n_layers)
    layer = nn.TransformerEncoderLayer(*size, **keywords)
    encoder = with_our_weights(nn.TransformerEncoder(layer, n_layers, enable_nested_tensor=False), stack, words)
    x = tokens(batch, seq_len, d_model, device=device).requires_grad_()
    # A pre-norm stack ends with one more norm, which stands outside of it in both libraries.
    last = make(LayerNorm, d_model, device=device) if parts["residual"] is PreNorm else nn.Identity()
    y = stack(x, mask=in_one(mask, real))
    expected = encoder(x, mask=theirs(mask, n_heads), src_key_padding_mask=theirs_real(real))
    assert_equal_to_pytorch(stack, encoder, words, [x], last(y), last(expected))


class DecoderBlocks(nn.Module):
    """Decoder blocks on top of one another, with or without a norm after the last, as `lib.transformer` has them."""

    def __init__(self, n_layers, last_norm, d_model, n_heads, d_ff, **parts):
        super().__init__()
        self.blocks = nn.ModuleList(DecoderBlock(d_model, n_heads, d_ff, **parts) for _ in range(n_layers))
        self.norm = LayerNorm(d_model) if last_norm else nn.Identity()

    def forward(self, x, memory, **masks):
        for block in self.blocks:
            x = block(x, memory, **masks)
        return self.norm(x)


@on_each_device
@settings(settled, max_examples=40)
@given(
    data=st.data(), n_layers=st.integers(1, 3), norm=st.booleans(), batch=st.integers(1, 3), size=sizes(),
    options=layer_options(),
)  # fmt: skip
def test_a_stack_of_decoder_blocks_is_pytorchs_decoder(data, n_layers, norm, batch, size, options, device):
    (d_model, n_heads, _), (parts, keywords) = size, options
    seq_len, src_len = data.draw(lengths), data.draw(lengths)
    drawn = *data.draw(looks(batch, n_heads, seq_len, seq_len)), *data.draw(looks(batch, n_heads, seq_len, src_len))
    mask, real, memory_mask, memory_real = (None if one is None else one.to(device) for one in drawn)
    past = torch.ones(seq_len, seq_len, dtype=torch.bool, device=device).tril()
    stack = make(partial(DecoderBlocks, n_layers, norm), *size, device=device, **parts)
    layer = nn.TransformerDecoderLayer(*size, **keywords)
    words = {
        f"layers.{i}.{word}": f"blocks.{i}.{ours}" for i in range(n_layers) for word, ours in DECODER_WORDS.items()
    }
    words |= {"norm": "norm"} if norm else {}
    decoder = nn.TransformerDecoder(layer, n_layers, nn.LayerNorm(d_model) if norm else None)
    decoder = with_our_weights(decoder, stack, words)
    x = tokens(batch, seq_len, d_model, device=device).requires_grad_()
    memory = tokens(batch, src_len, d_model, seed=2, device=device).requires_grad_()
    y = stack(x, memory, mask=in_one(mask, real), memory_mask=in_one(memory_mask, memory_real))
    expected = decoder(
        x,
        memory,
        tgt_mask=theirs(past if mask is None else past & mask, n_heads),
        tgt_key_padding_mask=theirs_real(real),
        memory_mask=theirs(memory_mask, n_heads),
        memory_key_padding_mask=theirs_real(memory_real),
    )
    assert_equal_to_pytorch(stack, decoder, words, [x, memory], y, expected)


@pytest.mark.parametrize("kind", [EncoderBlock, partial(Stack, "AF")], ids=["encoder", "stack"])
def test_by_default_a_block_has_what_pytorchs_layer_has_by_default_but_no_dropout(kind):
    block, x = make(kind, 8, 2, 12), tokens(2, 5, 8)
    words = WORDS if kind is EncoderBlock else {theirs: ours.format(a=0, f=1) for theirs, ours in STACK_WORDS.items()}
    layer = with_our_weights(nn.TransformerEncoderLayer(8, 2, 12, dropout=0.0, batch_first=True), block, words)
    exactly(block(x), layer(x))


def test_by_default_a_decoder_block_has_what_pytorchs_layer_has_by_default_but_no_dropout():
    block, x, memory = make(DecoderBlock, 8, 2, 12), tokens(2, 5, 8), tokens(2, 4, 8, seed=2)
    layer = nn.TransformerDecoderLayer(8, 2, 12, dropout=0.0, batch_first=True)
    past = torch.ones(5, 5, dtype=torch.bool).tril()
    exactly(block(x, memory), with_our_weights(layer, block, DECODER_WORDS)(x, memory, tgt_mask=~past))


@pytest.mark.parametrize("pre", [True, False], ids=["pre", "post"])
@pytest.mark.parametrize("kind", [EncoderBlock, DecoderBlock])
@torch.no_grad()
def test_with_dropout_in_every_part_the_same_numbers_fall_as_in_pytorchs_layer(kind, pre):
    # For a single sentence only: PyTorch's attention puts the batch second, and so draws in another order.
    parts = {
        "residual": PreNorm if pre else PostNorm,
        "dropout": 0.5,
        "attention": partial(MultiHeadAttention, dropout=0.5),
        "feed_forward": partial(FeedForward, dropout=0.5),
    }
    block, is_encoder = make(kind, 8, 2, 12, **parts), kind is EncoderBlock
    layer = nn.TransformerEncoderLayer if is_encoder else nn.TransformerDecoderLayer
    layer = layer(8, 2, 12, dropout=0.5, batch_first=True, norm_first=pre)
    layer = with_our_weights(layer, block, WORDS if is_encoder else DECODER_WORDS)
    inputs = [tokens(1, 5, 8)] if is_encoder else [tokens(1, 5, 8), tokens(1, 4, 8, seed=2)]
    masked = {} if is_encoder else {"tgt_mask": ~torch.ones(5, 5, dtype=torch.bool).tril()}
    with seeded(0):
        y = block(*inputs)
    with seeded(0):
        exactly(y, layer(*inputs, **masked))
    assert not torch.allclose(y, block.eval()(*inputs))


def test_a_parallel_block_gives_both_parts_the_same_normalised_input():
    block, x = make(ParallelBlock, 8, 2, 12), tokens(2, 5, 8).requires_grad_()
    normed = block.residual.norm(x)
    expected = x + block.attention(normed, is_causal=True) + block.feed_forward(normed)
    y, inputs = block(x, is_causal=True), [x, *block.parameters()]
    exactly(y, expected)
    exactly(all_gradients(y, inputs), all_gradients(expected, inputs))


@pytest.mark.parametrize("kind", [EncoderBlock, ParallelBlock, DecoderBlock])
def test_when_dropout_takes_all_that_the_parts_say_x_is_left(kind):
    block, x = make(kind, 8, 2, 12, residual=PreNorm, dropout=1.0), tokens(2, 5, 8)
    assert torch.equal(causally(block, x, tokens(2, 4, 8, seed=2)), x)


@pytest.mark.parametrize("residual", [PreNorm, PostNorm], ids=["pre", "post"])
def test_a_stack_applies_its_parts_in_the_order_of_the_pattern(residual):
    stack, x = make(partial(Stack, "FAAF"), 8, 2, 12, residual=residual), tokens(2, 5, 8)
    f, a, b, g = stack.parts
    expected = x
    for wrap, part in zip(stack.residuals, (f, partial(a, is_causal=True), partial(b, is_causal=True), g), strict=True):
        expected = wrap(expected, part)
    assert [type(part) for part in stack.parts] == [FeedForward, MultiHeadAttention, MultiHeadAttention, FeedForward]
    assert torch.equal(stack(x, is_causal=True), expected)


@each_block
@each_residual
@pytest.mark.parametrize("norm", [LayerNorm, RMSNorm, BatchNorm])
@pytest.mark.parametrize(
    "feed_forward",
    [FeedForward, GatedFeedForward, partial(MixtureOfExperts, n_experts=2, top_k=2)],
    ids=["plain", "gated", "experts"],
)
def test_any_part_fits_any_block_and_every_matrix_learns(kind, residual, norm, feed_forward):
    block = make(kind, 8, 2, 12, residual=residual, norm=norm, feed_forward=feed_forward)
    # Not every bias does: no softmax notices that of w_k, and no BatchNorm what is the same for all tokens.
    matrices = [parameter for parameter in block.parameters() if parameter.ndim == 2]
    y = causally(block, tokens(3, 5, 8), tokens(3, 4, 8, seed=2))
    assert all(gradient.abs().max() > 1e-6 for gradient in all_gradients(y, matrices))


# ---- Who sees whom ---------------------------------------------------------------------------------------------------


@on_each_device
@each_block
@each_precision
@pytest.mark.parametrize("seq_len", [1, 6, 40])
def test_no_future_token_moves_a_past_output_by_one_bit(kind, dtype, seq_len, device):
    block = make(kind, 8, 2, 12, device=device).to(dtype)
    x, memory = (tokens(2, n, 8, seed=n, device=device).to(dtype) for n in (seq_len, 4))
    y = causally(block, x, memory)
    for i in {0, seq_len // 2, seq_len - 1}:
        other = x.clone()
        other[:, i:] = 10 * tokens(2, seq_len - i, 8, seed=99, device=device).to(dtype)
        moved = causally(block, other, memory)
        assert torch.equal(moved[:, :i], y[:, :i])
        assert not torch.equal(moved[:, i], y[:, i])


@on_each_device
@each_precision
@pytest.mark.parametrize("residual", [PreNorm, PostNorm], ids=["pre", "post"])
def test_no_future_token_of_a_long_sentence_moves_a_past_output_by_one_bit(residual, dtype, device):
    # PyTorch's fused kernels take the tokens in blocks of 32 or 64: 130 of them fill several.
    block = make(EncoderBlock, 16, 2, 32, residual=residual, device=device).to(dtype)
    x = tokens(2, 130, 16, device=device).to(dtype)
    y = block(x, is_causal=True)
    for i in (1, 31, 32, 64, 128, 129):
        other = x.clone()
        other[:, i:] = 10 * tokens(2, 130 - i, 16, seed=99, device=device).to(dtype)
        moved = block(other, is_causal=True)
        assert torch.equal(moved[:, :i], y[:, :i])
        assert not torch.equal(moved[:, i], y[:, i])


@each_self_block
def test_without_a_causal_mask_the_past_sees_the_future(kind):
    block, x = make(kind, 8, 2, 12), tokens(2, 5, 8)
    assert ((block(x) - block(x, is_causal=True))[:, :4].abs().amax(dim=-1) > 1e-3).all()


@on_each_device
@settled
@given(lengths=st.lists(lengths, min_size=1, max_size=3), more=st.integers(0, 4), kind=st.sampled_from(list(SELF)))
def test_neither_what_stands_in_padding_nor_how_much_changes_a_real_token(lengths, more, kind, device):
    block, seq_len = make(SELF[kind], 8, 2, 12, device=device), max(lengths) + more
    x, other = (tokens(len(lengths), seq_len, 8, seed=seed, device=device) for seed in (1, 2))
    real = torch.arange(seq_len, device=device) < torch.tensor(lengths, device=device)[:, None]
    mask = real[:, None, None, :]
    y = block(x, mask=mask)
    assert torch.equal(block(torch.where(real[..., None], x, 10 * other), mask=mask)[real], y[real])
    for i, length in enumerate(lengths):
        exactly(y[i : i + 1, :length], block(x[i : i + 1, :length]))


@on_each_device
@settled
@given(batch_lengths=st.lists(st.tuples(lengths, lengths), min_size=1, max_size=3), more=st.integers(0, 4))
def test_neither_padding_of_the_target_nor_of_memory_changes_a_real_token_of_a_decoder(batch_lengths, more, device):
    block, (tgt, src) = make(DecoderBlock, 8, 2, 12, device=device), zip(*batch_lengths, strict=True)
    (x, x_real), (memory, real) = (
        (
            tokens(len(lengths), max(lengths) + more, 8, seed=seed, device=device),
            torch.arange(max(lengths) + more, device=device) < torch.tensor(lengths, device=device)[:, None],
        )
        for seed, lengths in ((1, tgt), (2, src))
    )
    masks = {"mask": x_real[:, None, None, :], "memory_mask": real[:, None, None, :]}
    y = block(x, memory, **masks)
    changed = [torch.where(one[..., None], z, 10 * z.flip(1) + 1) for z, one in ((x, x_real), (memory, real))]
    assert torch.equal(block(*changed, **masks)[x_real], y[x_real])
    for i, (n, m) in enumerate(batch_lengths):
        exactly(y[i : i + 1, :n], block(x[i : i + 1, :n], memory[i : i + 1, :m]))


@on_each_device
@each_block
@each_residual
def test_a_sentence_of_padding_only_has_nothing_to_attend_to_and_no_nan(kind, residual, device):
    block = make(kind, 8, 2, 12, residual=residual, device=device)
    x, memory = (tokens(2, n, 8, seed=n, device=device).requires_grad_() for n in (3, 4))
    real = torch.tensor([[True], [False]], device=device)[:, None, None, :]
    options = {"mask": real, "memory_mask": real} if kind is DecoderBlock else {"mask": real}
    inputs = [x, memory, *block.parameters()] if kind is DecoderBlock else [x, *block.parameters()]
    with torch.autograd.set_detect_anomaly(True):
        y = causally(block, x, memory, **options)
        gradients = all_gradients(y, inputs)
    assert y.isfinite().all()
    assert all(gradient.isfinite().all() for gradient in gradients)
    with record(block, "*weights_dropout") as seen:
        exactly(causally(block, x, memory, **options), y)
    assert all(weights[0].any() and not weights[1].any() for weights in seen.values())
    if kind is DecoderBlock:  # and so memory that nobody sees gets no gradient
        assert gradients[1][0].any()
        assert not gradients[1][1].any()


@each_self_block
@pytest.mark.parametrize("residual", [PreNorm, PostNorm], ids=["pre", "post"])
def test_with_batch_norm_padding_moves_real_tokens_of_a_block_in_training_but_not_in_evaluation(kind, residual):
    block, x = make(kind, 8, 2, 12, norm=BatchNorm, residual=residual), tokens(2, 5, 8)
    real = torch.arange(5) < torch.tensor([[5], [3]])
    other = torch.where(real[..., None], x, 10 * tokens(2, 5, 8, seed=2))
    y, moved = (block(z, mask=real[:, None, None, :])[real] for z in (x, other))
    assert (moved - y).abs().max() > 0.1
    block.eval()
    y, moved = (block(z, mask=real[:, None, None, :])[real] for z in (x, other))
    assert torch.equal(moved, y)


@each_self_block
@settled
@given(order=st.permutations(range(5)))
def test_permuting_tokens_permutes_outputs(kind, order):
    block, x = make(kind, 8, 2, 12), tokens(2, 5, 8)
    exactly(block(x[:, order]), block(x)[:, order])


@settled
@given(order=st.permutations(range(5)))
def test_the_order_of_memory_does_not_matter_but_that_of_the_targets_does(order):
    block, x, memory = make(DecoderBlock, 8, 2, 12), tokens(2, 5, 8), tokens(2, 5, 8, seed=2)
    exactly(block(x, memory[:, order]), block(x, memory))
    if list(order) != sorted(order):  # from the first exchanged token on, each has another past
        assert (block(x[:, order], memory) - block(x, memory)[:, order]).abs().max() > 1e-3


@each_block
def test_a_sentence_does_not_see_the_others_of_its_batch(kind):
    block, x, memory = make(kind, 8, 2, 12), tokens(3, 5, 8), tokens(3, 4, 8, seed=2)
    y = causally(block, x, memory)
    for i in range(3):
        exactly(causally(block, x[i : i + 1], memory[i : i + 1]), y[i : i + 1])


def test_without_attention_a_token_never_sees_its_neighbours():
    x, other = tokens(1, 4, 8), tokens(1, 4, 8, seed=2)
    other[:, 0] = x[:, 0]
    alone, mixing = (make(partial(Stack, pattern), 8, 2, 12) for pattern in ("FFF", "FAF"))
    assert torch.equal(alone(x)[:, 0], alone(other)[:, 0])
    assert (mixing(x) - mixing(other))[:, 0].abs().max() > 1e-3


# ---- Caches ----------------------------------------------------------------------------------------------------------


@on_each_device
@each_block
@pytest.mark.parametrize(
    "attention",
    [MultiHeadAttention, partial(MultiHeadAttention, n_kv_heads=1, rotary=Rotary(4))],
    ids=["plain", "grouped and rotary"],
)
@settings(settled, max_examples=12)
@given(chunks=st.lists(st.integers(1, 4), min_size=1, max_size=4))
@torch.no_grad()
def test_with_caches_a_block_computes_what_it_does_without(kind, attention, chunks, device):
    block, x = make(kind, 8, 2, 12, attention=attention, device=device), tokens(2, sum(chunks), 8, device=device)
    memory, caches = tokens(2, 3, 8, seed=2, device=device), block.new_caches()
    pieces = [causally(block, piece, memory, caches=caches) for piece in x.split(chunks, dim=1)]
    exactly(torch.cat(pieces, dim=1), causally(block, x, memory))
    own = caches[:1] if kind is DecoderBlock else caches
    assert all(cache.length == sum(chunks) for cache in own)


@torch.no_grad()
def test_with_caches_padded_prompts_and_memory_stay_hidden():
    block, x, memory = make(DecoderBlock, 8, 2, 12), tokens(2, 5, 8), tokens(2, 4, 8, seed=2)
    real, memory_mask = torch.ones(2, 1, 1, 5).bool(), torch.ones(2, 1, 1, 4).bool()
    real[1, ..., :2], memory_mask[0, ..., 2:] = False, False  # a prompt that is padded on the left
    caches, pieces = block.new_caches(), []
    for start, end in ((0, 3), (3, 4), (4, 5)):
        masks = {"mask": real[..., :end], "memory_mask": memory_mask}
        pieces.append(block(x[:, start:end], memory, caches=caches, **masks))
    exactly(torch.cat(pieces, dim=1), block(x, memory, mask=real, memory_mask=memory_mask))


@torch.no_grad()
def test_memory_is_read_once_and_then_remembered():
    block, x, memory = make(DecoderBlock, 8, 2, 12), tokens(2, 3, 8), tokens(2, 4, 8, seed=2)
    caches = block.new_caches()
    block(x, memory, caches=caches)
    assert [cache.length for cache in caches] == [3, 4]
    with record(block, "cross_attention.w_k") as seen:
        block(x[:, :1], memory, caches=caches)
    assert [cache.length for cache in caches] == [4, 4]
    assert seen == {}


@torch.no_grad()
@pytest.mark.parametrize(
    ("kind", "attentions"),
    [(EncoderBlock, 1), (ParallelBlock, 1), (DecoderBlock, 2), (partial(Stack, "AFAA"), 3), (partial(Stack, "FF"), 0)],
    ids=["encoder", "parallel", "decoder", "stack", "stack without attention"],
)
def test_each_attention_takes_one_cache_of_its_own(kind, attentions, without_shape_checks):
    block, x = make(kind, 8, 2, 12), tokens(1, 3, 8)
    assert [cache.length for cache in block.new_caches()] == [0] * attentions
    causally(block, x, x.clone(), caches=block.new_caches())
    some = [KVCache() for _ in range(attentions + 1)]
    wrong = [some]  # one too many
    if attentions:
        wrong += [some[2:], [*some[1:], some[1]]]  # one too few; as many as there should be, and one of them again
    if attentions > 1:
        wrong += [[some[0]] * attentions]  # the same for all
    for caches in wrong:
        arrived = f"here there are {attentions}, but got {len(caches)} caches, {len(set(caches))} of them different"
        with refused("a cache of its own", arrived, "pass what new_caches() returns"):
            causally(block, x, x.clone(), caches=caches)


@each_block
@torch.no_grad()
def test_a_cache_alone_is_refused_where_a_sequence_of_them_belongs(kind, without_shape_checks):
    block, x, cache = make(kind, 8, 2, 12), tokens(1, 3, 8), KVCache()
    attentions = len(block.new_caches())
    with refused(f"one for each attention, here {attentions}, but got a KVCache of length=0 alone", "new_caches()"):
        causally(block, x, x.clone(), caches=cache)
    assert cache.length == 0


# ---- A branch that starts at zero ------------------------------------------------------------------------------------


def assert_identity(block):
    x, memory, towards = tokens(2, 3, 8).requires_grad_(), tokens(2, 4, 8, seed=2), tokens(2, 3, 8, seed=3)
    y = causally(block, x, memory)
    assert torch.equal(y, x)
    (gradient,) = torch.autograd.grad(y, x, towards)
    assert torch.equal(gradient, towards)


@each_block
def test_with_rezero_a_new_block_is_exactly_the_identity_forward_and_backward(kind):
    assert_identity(kind(8, 2, 12, residual=ReZero).double())


@each_block
def test_with_pre_norm_and_last_matrices_of_zero_a_block_is_exactly_the_identity(kind):
    block = make(kind, 8, 2, 12, residual=PreNorm)
    for name, parameter in block.named_parameters():
        if "w_o" in name or "w_2" in name:
            parameter.data.zero_()
    assert_identity(block)


# ---- What blocks cost ------------------------------------------------------------------------------------------------


def counted_flops(block, seq_len, src_len, d_model):
    """Count while the weights are recorded: what PyTorch's fused kernel on the CPU multiplies, its counter misses."""

    def run(x, memory):
        with record(block, "*weights_dropout"):
            return causally(block, x, memory)

    return count_flops(run, torch.randn(1, seq_len, d_model), torch.randn(1, src_len, d_model))


@settings(settled, max_examples=25)
@given(data=st.data(), n_kv_heads=st.integers(1, 2), shared_by=st.integers(1, 2), bias=st.booleans())
def test_blocks_of_any_parts_cost_what_the_formulas_say(data, n_kv_heads, shared_by, bias):
    n_heads, (d_ff, seq_len, src_len) = n_kv_heads * shared_by, (data.draw(st.integers(1, 9)) for _ in range(3))
    d_head = data.draw(st.none() | st.integers(1, 5))
    d_model = n_heads * data.draw(st.integers(1, 3)) if d_head is None else data.draw(st.integers(1, 9))
    ff, n_matrices = data.draw(st.sampled_from([(FeedForward, 2), (GatedFeedForward, 3)]))
    norm, norm_parameters = data.draw(st.sampled_from([(LayerNorm, 2 * d_model), (RMSNorm, d_model)]))
    residual = data.draw(st.sampled_from(RESIDUALS))

    heads = {"n_kv_heads": n_kv_heads, "d_head": d_head}
    own = attention_flops(seq_len, seq_len, d_model, n_heads, **heads)
    of_memory = attention_flops(seq_len, src_len, d_model, n_heads, **heads)
    does = {"attention": own, "feed_forward": feed_forward_flops(seq_len, d_model, d_ff, n_matrices=n_matrices)}
    has = {
        "attention": attention_parameters(d_model, n_heads, bias=bias, **heads),
        "feed_forward": feed_forward_parameters(d_model, d_ff, n_matrices=n_matrices, bias=bias),
        "norm": 1 if residual is ReZero else norm_parameters,
    }
    costs = {  # of each kind: parameters and FLOPs
        EncoderBlock: (
            stack_parameters("AF", d_model, d_ff, **has),
            stack_flops("AF", seq_len, d_model, d_ff, **does),
        ),
        DecoderBlock: (
            stack_parameters("AAF", d_model, d_ff, **has),
            stack_flops("AF", seq_len, d_model, d_ff, **does) + of_memory,
        ),
        ParallelBlock: (
            stack_parameters("AF", d_model, d_ff, **has) - has["norm"],
            stack_flops("AF", seq_len, d_model, d_ff, **does),
        ),
        partial(Stack, "AFFAA"): (
            stack_parameters("AFFAA", d_model, d_ff, **has),
            stack_flops("AFFAA", seq_len, d_model, d_ff, **does),
        ),
    }
    parts = {
        "residual": residual,
        "norm": norm,
        "feed_forward": partial(ff, bias=bias),
        "attention": partial(MultiHeadAttention, bias=bias, **heads),
    }
    for kind, expected in costs.items():
        block = kind(d_model, n_heads, d_ff, **parts)
        assert (count_parameters(block), counted_flops(block, seq_len, src_len, d_model)) == expected


@settings(settled, max_examples=15)
@given(sizes=sizes(), seq_len=lengths, src_len=lengths, pattern=st.text("AF", min_size=1, max_size=6).map("A".__add__))
def test_of_default_parts_the_formulas_need_no_more_than_the_widths(sizes, seq_len, src_len, pattern):
    d_model, n_heads, d_ff = sizes
    parameters = partial(stack_parameters, d_model=d_model, d_ff=d_ff)
    flops = partial(stack_flops, seq_len=seq_len, d_model=d_model, d_ff=d_ff)
    to_memory = attention_flops(seq_len, src_len, d_model, n_heads)
    for kind, expected in {
        EncoderBlock: (parameters("AF"), flops("AF")),
        DecoderBlock: (parameters("AAF"), flops("AF") + to_memory),
        ParallelBlock: (parameters("AF") - 2 * d_model, flops("AF")),
        partial(Stack, pattern): (parameters(pattern), flops(pattern)),
    }.items():
        block = kind(*sizes)
        assert (count_parameters(block), counted_flops(block, seq_len, src_len, d_model)) == expected


def test_a_stack_without_attention_costs_what_the_formulas_say():
    stack = Stack("FFF", 8, 2, 12)
    assert count_parameters(stack) == stack_parameters("FFF", 8, 12)
    assert count_flops(stack, torch.randn(1, 7, 8)) == stack_flops("FFF", 7, 8, 12)


def test_a_mixture_of_experts_costs_its_chosen_experts_and_its_router():
    mixture = partial(MixtureOfExperts, n_experts=4, top_k=2)
    expert, router = feed_forward_flops(7, 8, 12), 2 * 7 * 8 * 4
    flops = stack_flops("AF", 7, 8, 12, feed_forward=2 * expert + router)
    parameters = stack_parameters("AF", 8, 12, feed_forward=4 * feed_forward_parameters(8, 12) + 8 * 4)
    block = EncoderBlock(8, 2, 12, feed_forward=mixture)
    assert (count_parameters(block), counted_flops(block, 7, 7, 8)) == (parameters, flops)


@pytest.mark.parametrize("d_model", [8, 512, 768])
def test_four_times_as_wide_in_the_middle_a_block_has_twelve_squares_of_its_width_and_doubles_them_per_token(d_model):
    assert stack_parameters("AF", d_model, 4 * d_model) == 12 * d_model**2 + 13 * d_model
    assert stack_flops("AF", 100, d_model, 4 * d_model) == 100 * (2 * 12 * d_model**2 + 4 * 100 * d_model)


# ---- Other precisions, devices and the compiler ----------------------------------------------------------------------


def distance(got, wanted):
    """Return how far apart two lists of tensors are, all numbers together, relative to the second's length."""
    got, wanted = (torch.cat([one.detach().double().flatten() for one in tensors]) for tensors in (got, wanted))
    return ((got - wanted).norm() / wanted.norm()).item()


@on_each_device
@each_block
@each_residual
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
def test_shorter_numbers_give_the_same_up_to_their_precision(kind, residual, dtype, device):
    with seeded(0):
        short = kind(16, 4, 32, residual=residual).to(device, dtype)
    for alpha in (parameter for parameter in short.parameters() if parameter.ndim == 0):
        alpha.data.fill_(0.5)  # of ReZero, whose output would be x itself
    long, eps = copy.deepcopy(short).double(), torch.finfo(dtype).eps  # 1.2e-7 and 7.8e-3
    x, memory = (tokens(3, n, 16, seed=n, device=device).to(dtype) for n in (20, 7))
    y, expected = causally(short, x, memory), causally(long, x.double(), memory.double())
    got, wanted = (all_gradients(z, list(block.parameters())) for z, block in ((y, short), (expected, long)))
    assert {one.dtype for one in (y, *got)} == {dtype}
    # Roundings are of either sign and partly cancel. The way back has twice as many, and bends that flip from 0 to 1.
    assert distance([y], [expected]) < 4 * eps
    assert distance(got, wanted) < 16 * eps


@on_each_device
@each_block
def test_mixed_precision_runs_forward_and_backward(kind, device):
    block = make(kind, 8, 2, 12, device=device).float()
    x, memory = (tokens(2, n, 8, seed=n, device=device).float() for n in (5, 4))
    with torch.autocast(device, dtype=torch.bfloat16):
        y = causally(block, x, memory)
    assert all(gradient.isfinite().all() for gradient in all_gradients(y.float(), list(block.parameters())))


def assert_compiled_is_the_same(block, backend):
    device = next(block.parameters()).device
    x, memory = (tokens(2, n, 8, seed=n, device=device).requires_grad_() for n in (5, 4))
    inputs, options = [x, *block.parameters()], {"mask": allowed(2, 1, 5, 5, seed=0).to(device)}
    compiled = torch.compile(block, backend=backend, fullgraph=True)
    try:
        y = compiled(x, memory, **options) if isinstance(block, DecoderBlock) else compiled(x, **options)
        expected = block(x, memory, **options) if isinstance(block, DecoderBlock) else block(x, **options)
        exactly(y, expected)
        exactly(all_gradients(y, inputs), all_gradients(expected, inputs))
    finally:
        torch.compiler.reset()


@pytest.mark.parametrize(("kind", "residual"), list(zip(KINDS.values(), RESIDUALS, strict=True)), ids=list(KINDS))
def test_compiled_a_block_computes_the_same_forward_and_backward(kind, residual, without_shape_checks):
    assert_compiled_is_the_same(make(kind, 8, 2, 12, residual=residual), "aot_eager")


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:.*torch.jit.script:DeprecationWarning")  # inductor's own, torch 2.13
@pytest.mark.skipif(shutil.which("g++") is None, reason="no C++ compiler: g++ is not on the PATH")
@on_each_device
def test_compiled_to_machine_code_a_block_computes_the_same(device, without_shape_checks):
    assert_compiled_is_the_same(make(EncoderBlock, 8, 2, 12, residual=PreNorm, device=device), "inductor")


# ---- What is refused -------------------------------------------------------------------------------------------------


@each_block
@pytest.mark.parametrize(
    ("sizes", "says"),
    [
        ((8, 3, 12), ("share the features evenly", "d_model=8 is no multiple of n_heads=3", "change one of them")),
        ((8, 0, 12), ("count features and heads and must be 1 or more", "n_heads=0")),
        ((8, 2, 0), ("must be 1 or more", "d_ff=0")),
    ],
    ids=["heads that do not divide", "no heads", "no hidden units"],
)
def test_sizes_that_do_not_fit_are_refused_through_every_block(kind, sizes, says):
    with refused(*says):
        kind(*sizes)


@each_block
@pytest.mark.parametrize("residual", [PreNorm, PostNorm], ids=["pre", "post"])
@pytest.mark.parametrize(
    ("shape", "says"),
    [
        ((2, 3, 7), ("d_model=8", "the shape (2, 3, 7)", "the features last")),
        ((3, 8), ("(batch, seq, d_model=8)", "the shape (3, 8)", "x[None] for a single sentence")),
        ((0, 3, 8), ("1 sentence or more", "(0, 3, 8) for query")),
        ((2, 0, 8), ("1 query or more", "(2, 0, 8) for query")),
    ],
    ids=["width", "no batch axis", "empty batch", "no tokens"],
)
def test_tokens_that_do_not_fit_are_refused_through_every_block(kind, residual, shape, says, without_shape_checks):
    x = torch.zeros(shape)
    with refused(*says):
        causally(kind(8, 2, 12, residual=residual), x, x.clone())


@each_block
@pytest.mark.parametrize(
    ("mask", "says"),
    [
        (torch.ones(3, 3), ("a mask is torch.bool, True = may attend", "got torch.float32 of the shape (3, 3)")),
        (torch.ones(2, 3, 3).bool(), ("all axes of the scores, (2, 2, 3, 3)", "(2, 3, 3)", "write mask[:, None]")),
        (torch.ones(3, 4).bool(), ("the shape (queries, keys) = (3, 3)", "got torch.bool of the shape (3, 4)")),
    ],
    ids=["not boolean", "three axes", "another length"],
)
def test_masks_that_do_not_fit_are_refused_through_every_block(kind, mask, says, without_shape_checks):
    with refused(*says):
        causally(kind(8, 2, 12), torch.zeros(2, 3, 8), torch.zeros(2, 4, 8), mask=mask)


@pytest.mark.parametrize(
    ("memory", "mask", "says"),
    [
        ((2, 4, 7), (3, 4), ("(batch, seq, d_model=8)", "the shape (2, 4, 7)", "the features last")),
        ((1, 4, 8), (3, 4), ("as many of queries as of keys", "(2, 3, 8) for query, (1, 4, 8) for key")),
        ((2, 0, 8), (3, 4), ("1 key or more", "(2, 0, 8) for key")),
        ((2, 4, 8), (3, 3), ("the shape (queries, keys) = (3, 4)", "got torch.bool of the shape (3, 3)")),
    ],
    ids=["width", "another batch", "no tokens", "mask of the target"],
)
def test_memory_that_does_not_fit_is_refused(memory, mask, says, without_shape_checks):
    with refused(*says):
        DecoderBlock(8, 2, 12)(torch.zeros(2, 3, 8), torch.zeros(memory), memory_mask=torch.ones(mask).bool())


@each_block
def test_training_with_caches_is_refused(kind):
    block = kind(8, 2, 12)
    with refused("a cache keeps numbers and no graph", "train without a cache"):
        causally(block, tokens(2, 3, 8).float(), tokens(2, 4, 8).float(), caches=block.new_caches())


@torch.no_grad()
def test_another_memory_than_the_cache_has_is_refused():
    block, x, memory = make(DecoderBlock, 8, 2, 12), tokens(2, 3, 8), tokens(2, 4, 8, seed=2)
    caches = block.new_caches()
    block(x, memory, caches=caches)
    with refused("holds one memory, 2 sentences of 4 tokens, but got 2 of 3", "make a new KVCache"):
        block(x, memory[:, :3], caches=caches)


@pytest.mark.parametrize("pattern", ["", "AFX", "af"])
@pytest.mark.parametrize(
    "run",
    [
        lambda pattern: Stack(pattern, 8, 2, 12),
        lambda pattern: stack_parameters(pattern, 8, 12),
        lambda pattern: stack_flops(pattern, 3, 8, 12),
    ],
    ids=["stack", "parameters", "flops"],
)
def test_a_pattern_of_other_letters_is_refused(run, pattern):
    with refused("A for attention and F for feed-forward", f"but got {pattern!r}", "three encoder blocks are 'AFAFAF'"):
        run(pattern)


@pytest.mark.parametrize(
    "run", [lambda: attention_parameters(8, 3), lambda: attention_flops(2, 2, 8, 3)], ids=["parameters", "flops"]
)
def test_what_heads_that_do_not_divide_would_cost_is_refused(run):
    with refused("share the features evenly", "d_model=8 is no multiple of n_heads=3", "set d_head"):
        run()


@pytest.mark.parametrize(
    ("d_model", "n_heads", "options"),
    [(0, 1, {}), (8, 0, {}), (-8, 2, {}), (8, -2, {}), (8, 2, {"n_kv_heads": 0}), (8, 2, {"d_head": 0}),
     (8, 4, {"n_kv_heads": 3}), (8, 2, {"n_kv_heads": 4})],
)  # fmt: skip
def test_what_no_attention_has_costs_nothing_that_could_be_counted(d_model, n_heads, options):
    with pytest.raises(ValueError, match=r"must be 1 or more|no multiple"):
        MultiHeadAttention(d_model, n_heads, **options)
    for count in (attention_parameters, partial(attention_flops, 2, 2)):
        with refused("sizes are 1 or more", f"d_model={d_model}, n_heads={n_heads}", "count what MultiHeadAttention"):
            count(d_model, n_heads, **options)


@pytest.mark.parametrize(
    ("count", "sizes"),
    [
        (partial(attention_flops, d_model=8, n_heads=2), ("n_queries", "n_keys")),
        (feed_forward_parameters, ("d_model", "d_ff", "n_matrices")),
        (feed_forward_flops, ("seq_len", "d_model", "d_ff", "n_matrices")),
        (partial(stack_parameters, "AF"), ("d_model", "d_ff")),
        (partial(stack_parameters, "AF", attention=1, feed_forward=1, norm=1), ("d_model", "d_ff")),
        (partial(stack_flops, "AF"), ("seq_len", "d_model", "d_ff")),
        (partial(stack_flops, "AF", attention=1, feed_forward=1), ("seq_len", "d_model", "d_ff")),
    ],
    ids=["attention", "parameters", "flops", "stack", "stack of other parts", "its flops", "flops of other parts"],
)
@pytest.mark.parametrize("wrong", [0, -3])
def test_what_no_length_and_no_width_would_cost_is_refused(count, sizes, wrong):
    assert count(**dict.fromkeys(sizes, 8)) > 0
    for size in sizes:
        with refused("sizes are 1 or more", f"{size}={wrong}", "give those of a model"):
            count(**dict.fromkeys(sizes, 8) | {size: wrong})


@torch.no_grad()
@pytest.mark.parametrize("begun", [0, 2])
@pytest.mark.parametrize(
    "wrong", [{"memory_mask": torch.ones(3, 9).bool()}, {"memory": tokens(1, 4, 8)}], ids=["mask", "memory"]
)
def test_a_decoder_block_that_refuses_memory_leaves_every_cache_as_it_was(wrong, begun, without_shape_checks):
    block, x, memory = make(DecoderBlock, 8, 2, 12), tokens(2, 5, 8), tokens(2, 4, 8, seed=2)
    caches = block.new_caches()
    if begun:
        block(x[:, :begun], memory, caches=caches)
    before, rest = [cache.length for cache in caches], x[:, begun : begun + 3]
    with pytest.raises(ValueError):  # noqa: PT011 - which of the two refusals it is, other tests say
        block(rest, **{"memory": memory, "caches": caches} | wrong)
    assert [cache.length for cache in caches] == before
    exactly(block(rest, memory, caches=caches), block(x[:, : begun + 3], memory)[:, begun:])
    if not begun:  # and a batch of another size may come into a cache that is still empty
        other = block.new_caches()
        with pytest.raises(ValueError):  # noqa: PT011
            block(rest, **{"memory": memory, "caches": other} | wrong)
        block(rest[:1], memory[:1], caches=other)
