"""What is the least that must be computed? Each part as the barest composition of PyTorch's fused functions.

A floor takes a module of lib and returns a function that computes the same with the very same weights: no module, no
check, no dropout, no choice. What the module takes longer is what its comfort costs.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from lib.attention import MultiHeadAttention
from lib.blocks import DecoderBlock, EncoderBlock, ParallelBlock, Stack
from lib.feed_forward import FeedForward, GatedFeedForward, MixtureOfExperts
from lib.norms import LayerNorm, RMSNorm
from lib.positions import Rotary
from lib.residual import NoResidual, PreNorm, ReZero
from lib.transformer import Embedding, LanguageModel, Transformer

Function = Callable[..., Tensor]


def feed_forward(module: FeedForward) -> Function:
    """Return the plain network as two products around an activation."""
    w_1, b_1, w_2, b_2 = module.parameters()
    activation = module.activation
    return lambda x: F.linear(activation(F.linear(x, w_1, b_1)), w_2, b_2)


def gated_feed_forward(module: GatedFeedForward) -> Function:
    """Return the gated network as three products, around an activation and a multiplication."""
    w_gate, w_1, w_2 = module.parameters()
    activation = module.activation
    return lambda x: F.linear(activation(F.linear(x, w_gate)) * F.linear(x, w_1), w_2)


def mixture(module: MixtureOfExperts) -> Function:
    """Return the mixture with the tokens of each expert gathered and added back by index."""
    router, top_k = module.router.weight, module.top_k
    experts = [feed_forward(expert) for expert in module.experts]

    def floor(x: Tensor) -> Tensor:
        tokens = x.view(-1, x.shape[-1])
        weights, expert_ids = F.linear(tokens, router).softmax(dim=-1).topk(top_k, dim=-1)
        y = torch.zeros_like(tokens)
        for i, expert in enumerate(experts):
            token_ids, rank = (expert_ids == i).nonzero(as_tuple=True)
            y.index_add_(0, token_ids, weights[token_ids, rank, None] * expert(tokens[token_ids]))
        return y.view_as(x)

    return floor


def norm(module: nn.Module) -> Function:
    """Return LayerNorm, RMSNorm or BatchNorm (in training) as its one function."""
    weight, shape, eps = module.weight, module.weight.shape, module.eps
    if isinstance(module, RMSNorm):
        return lambda x: F.rms_norm(x, shape, weight, eps)
    bias = module.bias
    if isinstance(module, LayerNorm):
        return lambda x: F.layer_norm(x, shape, weight, bias, eps)
    mean, variance, count, momentum = (*module.buffers(), module.momentum)

    def floor(x: Tensor) -> Tensor:
        count.add_(1)  # to count the batches is part of what PyTorch's norm computes, and it is in the state dict
        return F.batch_norm(x.view(-1, *shape), mean, variance, weight, bias, True, momentum, eps).view_as(x)

    return floor


def residual(module: nn.Module) -> Function:
    """Return one of the four ways to put a part into a block, to be called with x and the part."""
    if isinstance(module, ReZero):
        return lambda x, sublayer: x + module.alpha * sublayer(x)
    normalise = norm(module.norm)
    if isinstance(module, PreNorm):
        return lambda x, sublayer: x + sublayer(normalise(x))
    if isinstance(module, NoResidual):
        return lambda x, sublayer: normalise(sublayer(x))
    return lambda x, sublayer: normalise(x + sublayer(x))


def attention(module: MultiHeadAttention, *, is_causal: bool = False, rotary: Function | None = None) -> Function:
    """Return attention as one product each for queries, keys, values and output, around the fused kernel."""
    w_q, b_q, w_k, b_k, w_v, b_v, w_o, b_o = module.parameters()
    n_heads, n_kv_heads, d_head = module.n_heads, module.n_kv_heads, module.d_head
    shared = n_heads != n_kv_heads

    def heads(x: Tensor, w: Tensor, b: Tensor, n: int) -> Tensor:
        return F.linear(x, w, b).view(*x.shape[:2], n, d_head).transpose(1, 2)

    def floor(x: Tensor, memory: Tensor | None = None, mask: Tensor | None = None) -> Tensor:
        memory = x if memory is None else memory
        query, key = heads(x, w_q, b_q, n_heads), heads(memory, w_k, b_k, n_kv_heads)
        if rotary is not None:
            query, key = rotary(query), rotary(key)
        value = heads(memory, w_v, b_v, n_kv_heads)
        y = F.scaled_dot_product_attention(query, key, value, mask, is_causal=is_causal, enable_gqa=shared)
        return F.linear(y.transpose(1, 2).flatten(2), w_o, b_o)

    return floor


def packed_attention(module: MultiHeadAttention) -> tuple[Function, list[Tensor]]:
    """Return self-attention with one product for queries, keys and values together, and its own copy of the weights."""
    w_q, b_q, w_k, b_k, w_v, b_v, w_o, b_o = module.parameters()
    w, b = (torch.cat(parts).detach().requires_grad_() for parts in ((w_q, w_k, w_v), (b_q, b_k, b_v)))
    n_heads, d_head = module.n_heads, module.d_head

    def floor(x: Tensor) -> Tensor:
        packed = F.linear(x, w, b).chunk(3, dim=-1)
        query, key, value = (part.view(*x.shape[:2], n_heads, d_head).transpose(1, 2) for part in packed)
        return F.linear(F.scaled_dot_product_attention(query, key, value).transpose(1, 2).flatten(2), w_o, b_o)

    return floor, [w, b, w_o, b_o]


def turning(rotary: Rotary, seq_len: int) -> Function:
    """Return the rotation of neighbouring pairs as one product of complex numbers, which bfloat16 has none of."""
    width = torch.arange(0, rotary.d_head, 2, dtype=torch.float32)
    angles = torch.arange(seq_len)[:, None] * rotary.base ** -(width / rotary.d_head)
    turns = torch.polar(torch.ones_like(angles), angles)

    def floor(x: Tensor) -> Tensor:
        pairs = torch.view_as_complex(x.float().unflatten(-1, (-1, 2)))
        return torch.view_as_real(pairs * turns).flatten(-2).to(x.dtype)

    return floor


def encoder_block(module: EncoderBlock, *, is_causal: bool = False) -> Function:
    """Return the block of attention and feed-forward network."""
    attend, work = attention(module.attention, is_causal=is_causal), feed_forward(module.feed_forward)
    around_attention, around_work = residual(module.attention_residual), residual(module.feed_forward_residual)

    def floor(x: Tensor, mask: Tensor | None = None) -> Tensor:
        x = around_attention(x, lambda x: attend(x, mask=mask))
        return around_work(x, work)

    return floor


def decoder_block(module: DecoderBlock) -> Function:
    """Return the block of causal attention, attention to a memory, and feed-forward network."""
    attend, read = attention(module.attention, is_causal=True), attention(module.cross_attention)
    work = feed_forward(module.feed_forward)
    around_attention, around_reading = residual(module.attention_residual), residual(module.cross_attention_residual)
    around_work = residual(module.feed_forward_residual)

    def floor(x: Tensor, memory: Tensor, memory_mask: Tensor | None = None) -> Tensor:
        x = around_attention(x, attend)
        x = around_reading(x, lambda x: read(x, memory, memory_mask))
        return around_work(x, work)

    return floor


def parallel_block(module: ParallelBlock) -> Function:
    """Return the block that runs attention and feed-forward network side by side."""
    attend, work, around = attention(module.attention), feed_forward(module.feed_forward), residual(module.residual)
    return lambda x: around(x, lambda x: attend(x) + work(x))


def stack(module: Stack) -> Function:
    """Return the parts of a pattern one after the other."""
    parts = [
        (residual(around), attention(part) if letter == "A" else feed_forward(part))
        for letter, part, around in zip(module.pattern, module.parts, module.residuals, strict=True)
    ]

    def floor(x: Tensor) -> Tensor:
        for around, part in parts:
            x = around(x, part)
        return x

    return floor


def embedding(module: Embedding) -> Function:
    """Return the table of ids, scaled, with learned positions added."""
    weight, positions, scale = module.weight, module.positions.weight, module.scale
    if scale == 1:
        return lambda ids: F.embedding(ids, weight) + positions[: ids.shape[1]]
    return lambda ids: F.embedding(ids, weight) * scale + positions[: ids.shape[1]]


def language_model(model: LanguageModel) -> Function:
    """Return the stack of causal blocks between the embedding and its transpose."""
    embed, blocks = embedding(model.embedding), [encoder_block(block, is_causal=True) for block in model.blocks]
    last, weight = norm(model.norm), model.embedding.weight

    def floor(ids: Tensor) -> Tensor:
        x = embed(ids)
        for block in blocks:
            x = block(x)
        return F.linear(last(x), weight)

    return floor


def transformer(model: Transformer) -> Function:
    """Return encoder and decoder, with the padding of the source masked."""
    embed_src, embed_tgt = embedding(model.encoder.embedding), embedding(model.decoder.embedding)
    encoders, decoders = map(encoder_block, model.encoder.blocks), map(decoder_block, model.decoder.blocks)
    encoders, decoders = list(encoders), list(decoders)
    last_src, last_tgt = norm(model.encoder.norm), norm(model.decoder.norm)
    weight, pad_id = model.decoder.embedding.weight, model.pad_id

    def floor(src_ids: Tensor, tgt_ids: Tensor) -> Tensor:
        mask = (src_ids != pad_id)[:, None, None, :]
        memory = embed_src(src_ids)
        for encoder in encoders:
            memory = encoder(memory, mask)
        memory, x = last_src(memory), embed_tgt(tgt_ids)
        for decoder in decoders:
            x = decoder(x, memory, mask)
        return F.linear(last_tgt(x), weight)

    return floor


def writer(model: LanguageModel, prompts: Tensor, length: int) -> Callable[[], Tensor]:
    """Return a call that writes greedily: room for all keys and values made once, logits of the last token only."""
    batch, prompt = prompts.shape
    weight, places, last = model.embedding.weight, model.embedding.positions.weight, norm(model.norm)
    layers = []
    for block in model.blocks:
        room = weight.new_empty(2, batch, block.attention.n_heads, length, block.attention.d_head)
        parts = _remembering(block.attention, *room), feed_forward(block.feed_forward)
        layers.append((residual(block.attention_residual), residual(block.feed_forward_residual), *parts))

    @torch.no_grad()
    def write() -> Tensor:
        page = prompts.new_empty(batch, length)
        page[:, :prompt] = prompts
        start = 0
        for end in range(prompt, length):
            x = F.embedding(page[:, start:end], weight) + places[start:end]  # a language model scales nothing
            for around_attention, around_work, attend, work in layers:
                x = around_work(around_attention(x, partial(attend, start=start)), work)
            page[:, end] = F.linear(last(x[:, -1]), weight).argmax(dim=-1)
            start = end
        return page

    return write


def _remembering(module: MultiHeadAttention, keys: Tensor, values: Tensor) -> Function:
    """Return causal attention that writes keys and values into their rooms."""
    w_q, b_q, w_k, b_k, w_v, b_v, w_o, b_o = module.parameters()

    def heads(x: Tensor, w: Tensor, b: Tensor) -> Tensor:
        return F.linear(x, w, b).view(*x.shape[:2], module.n_heads, module.d_head).transpose(1, 2)

    def floor(x: Tensor, start: int) -> Tensor:
        end = start + x.shape[1]
        keys[:, :, start:end], values[:, :, start:end] = heads(x, w_k, b_k), heads(x, w_v, b_v)
        query, is_causal = heads(x, w_q, b_q), end - start > 1
        y = F.scaled_dot_product_attention(query, keys[:, :, :end], values[:, :, :end], is_causal=is_causal)
        return F.linear(y.transpose(1, 2).flatten(2), w_o, b_o)

    return floor
