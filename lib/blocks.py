"""How do the parts make a layer? Attention and feed-forward networks, each in a residual connection.

Names, in reading order: `EncoderBlock`, `DecoderBlock`, `ParallelBlock`; `Stack`. What they cost, by formula:
`attention_parameters`, `attention_flops`; `feed_forward_parameters`, `feed_forward_flops`; `stack_parameters`,
`stack_flops`.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial

from jaxtyping import Bool, Float
from torch import Tensor, nn

from lib.attention import KVCache, MultiHeadAttention
from lib.feed_forward import FeedForward
from lib.norms import LayerNorm
from lib.residual import PostNorm, PreNorm

Part = Callable[..., nn.Module]


class EncoderBlock(nn.Module):
    """Let the tokens exchange information, then let each work alone.

    x = residual(x, attention),    y = residual(x, feed_forward)

    With is_causal=True it is the block of a language model, which has no memory to attend to.

    Args: norm, residual, feed_forward, attention: what makes the parts, called as norm(d_model), residual(norm,
        dropout=dropout), feed_forward(d_model, d_ff), attention(d_model, n_heads); `functools.partial` sets the rest.
        With norm=BatchNorm padding enters the averages in training, since no residual connection has the mask; in
        evaluation it does not.
    Shape: x (batch, seq, d_model) and mask as for `MultiHeadAttention` -> (batch, seq, d_model); tokens mix within a
        sentence.
    Raises: ValueError if there is not one cache for each attention, or a part refuses what it gets.
    Source: Vaswani et al. 2017, section 3.1; `torch.nn.TransformerEncoderLayer` with batch_first=True, which also drops
        hidden units and attention weights: `partial(FeedForward, dropout=...)` and that of MultiHeadAttention do so.
    """

    def __init__(
        self,
        d_model: int,
        n_heads: int,
        d_ff: int,
        *,
        dropout: float = 0.0,
        norm: Part = LayerNorm,
        residual: Part = PostNorm,
        feed_forward: Part = FeedForward,
        attention: Part = MultiHeadAttention,
    ) -> None:
        super().__init__()
        self.attention = attention(d_model, n_heads)
        self.attention_residual = residual(norm(d_model), dropout=dropout)
        self.feed_forward = feed_forward(d_model, d_ff)
        self.feed_forward_residual = residual(norm(d_model), dropout=dropout)

    def forward(
        self,
        x: Float[Tensor, "batch seq d_model"],
        *,
        mask: Bool[Tensor, "*#scores"] | None = None,
        is_causal: bool = False,
        caches: Sequence[KVCache] | None = None,
    ) -> Float[Tensor, "batch seq d_model"]:
        """Return the tokens after both parts; caches are those of `new_caches`, or None."""
        (cache,) = _one_each(caches, 1)
        x = self.attention_residual(x, partial(self.attention, mask=mask, is_causal=is_causal, cache=cache))
        return self.feed_forward_residual(x, self.feed_forward)

    def new_caches(self) -> tuple[KVCache]:
        """Make what the block remembers a batch of sentences with: an empty cache for its attention."""
        return (KVCache(),)


class DecoderBlock(nn.Module):
    """Let the tokens look at their past, then at the memory, then let each work alone.

    x = residual(x, causal attention),    x = residual(x, attention to memory),    y = residual(x, feed_forward)

    Shape: x (batch, seq, d_model), memory (batch, src, d_model), masks as for `MultiHeadAttention` -> (batch, seq,
        d_model); a token takes from its past and from all of memory.
    Raises: ValueError if there is not one cache for each attention, or a part refuses what it gets.
    Source: Vaswani et al. 2017, section 3.1; `torch.nn.TransformerDecoderLayer` with batch_first=True and
        a causal tgt_mask.
    """

    def __init__(
        self,
        d_model: int,
        n_heads: int,
        d_ff: int,
        *,
        dropout: float = 0.0,
        norm: Part = LayerNorm,
        residual: Part = PostNorm,
        feed_forward: Part = FeedForward,
        attention: Part = MultiHeadAttention,
    ) -> None:
        super().__init__()
        self.attention = attention(d_model, n_heads)
        self.attention_residual = residual(norm(d_model), dropout=dropout)
        self.cross_attention = attention(d_model, n_heads)
        self.cross_attention_residual = residual(norm(d_model), dropout=dropout)
        self.feed_forward = feed_forward(d_model, d_ff)
        self.feed_forward_residual = residual(norm(d_model), dropout=dropout)

    def forward(
        self,
        x: Float[Tensor, "batch seq d_model"],
        memory: Float[Tensor, "batch src d_model"],
        *,
        mask: Bool[Tensor, "*#scores"] | None = None,
        memory_mask: Bool[Tensor, "*#memory_scores"] | None = None,
        caches: Sequence[KVCache] | None = None,
    ) -> Float[Tensor, "batch seq d_model"]:
        """Return the tokens after the three parts; caches are those of `new_caches`, or None."""
        own, of_memory = _one_each(caches, 2)
        attend_to_memory = partial(self.cross_attention, key=memory, mask=memory_mask, cache=of_memory)
        x = self.attention_residual(x, partial(self.attention, mask=mask, is_causal=True, cache=own))
        try:
            x = self.cross_attention_residual(x, attend_to_memory)
        except ValueError:  # a refused call changes no cache: what attention has just put in is taken out again
            if own is not None:
                own.length -= x.shape[1]
            raise
        return self.feed_forward_residual(x, self.feed_forward)

    def new_caches(self) -> tuple[KVCache, KVCache]:
        """Make what the block remembers a batch of sentences with: empty caches, of its own tokens and of memory."""
        return KVCache(), KVCache()


class ParallelBlock(nn.Module):
    """Let the tokens exchange information and work alone at the same time, both from the same input.

    y = residual(x, attention + feed_forward)

    One norm in place of two; the feed-forward network does not see what attention of this block has gathered.

    Shape: x (batch, seq, d_model) and mask as for `MultiHeadAttention` -> (batch, seq, d_model); tokens mix within a
        sentence.
    Raises: ValueError if there is not one cache for each attention, or a part refuses what it gets.
    Source: Wang and Komatsuzaki 2021, GPT-J; Chowdhery et al. 2022, "PaLM", section 2. PyTorch has no counterpart.
    """

    def __init__(
        self,
        d_model: int,
        n_heads: int,
        d_ff: int,
        *,
        dropout: float = 0.0,
        norm: Part = LayerNorm,
        residual: Part = PreNorm,
        feed_forward: Part = FeedForward,
        attention: Part = MultiHeadAttention,
    ) -> None:
        super().__init__()
        self.attention = attention(d_model, n_heads)
        self.feed_forward = feed_forward(d_model, d_ff)
        self.residual = residual(norm(d_model), dropout=dropout)

    def forward(
        self,
        x: Float[Tensor, "batch seq d_model"],
        *,
        mask: Bool[Tensor, "*#scores"] | None = None,
        is_causal: bool = False,
        caches: Sequence[KVCache] | None = None,
    ) -> Float[Tensor, "batch seq d_model"]:
        """Return the tokens after both parts; caches are those of `new_caches`, or None."""
        (cache,) = _one_each(caches, 1)
        return self.residual(
            x, lambda x: self.attention(x, mask=mask, is_causal=is_causal, cache=cache) + self.feed_forward(x)
        )

    def new_caches(self) -> tuple[KVCache]:
        """Make what the block remembers a batch of sentences with: an empty cache for its attention."""
        return (KVCache(),)


class Stack(nn.Module):
    """Put attention (A) and feed-forward networks (F) on top of one another, in the order of a pattern.

    x = residual_i(x, part_i), for each letter of the pattern

    "AFAFAF" is three encoder blocks; other orders show what each part is there for.

    Args: norm, residual, feed_forward, attention: as for `EncoderBlock`, but residual is called as residual(norm), so
        that dropout comes with it: `partial(PostNorm, dropout=0.1)`.
    Shape: x (batch, seq, d_model) and mask as for `MultiHeadAttention` -> (batch, seq, d_model); tokens mix within a
        sentence where the pattern has an A.
    Raises: ValueError if the pattern is empty or has a letter other than A and F, there is not one cache for each A, or
        a part refuses what it gets.
    Source: Press et al. 2020, "Improving Transformer Models by Reordering their Sublayers", who write s and f.
    """

    def __init__(
        self,
        pattern: str,
        d_model: int,
        n_heads: int,
        d_ff: int,
        *,
        norm: Part = LayerNorm,
        residual: Part = PostNorm,
        feed_forward: Part = FeedForward,
        attention: Part = MultiHeadAttention,
    ) -> None:
        super().__init__()
        _check_pattern(pattern)
        self.pattern = pattern
        self.parts = nn.ModuleList(
            attention(d_model, n_heads) if letter == "A" else feed_forward(d_model, d_ff) for letter in pattern
        )
        self.residuals = nn.ModuleList(residual(norm(d_model)) for _ in pattern)

    def forward(
        self,
        x: Float[Tensor, "batch seq d_model"],
        *,
        mask: Bool[Tensor, "*#scores"] | None = None,
        is_causal: bool = False,
        caches: Sequence[KVCache] | None = None,
    ) -> Float[Tensor, "batch seq d_model"]:
        """Return the tokens after all parts; caches are those of `new_caches`, or None."""
        each = iter(_one_each(caches, self.pattern.count("A")))
        for letter, part, residual in zip(self.pattern, self.parts, self.residuals, strict=True):
            if letter == "A":
                part = partial(part, mask=mask, is_causal=is_causal, cache=next(each))
            x = residual(x, part)
        return x

    def new_caches(self) -> tuple[KVCache, ...]:
        """Make what the stack remembers a batch of sentences with: an empty cache for each A, in their order."""
        return tuple(KVCache() for letter in self.pattern if letter == "A")


def attention_parameters(
    d_model: int, n_heads: int, *, n_kv_heads: int | None = None, d_head: int | None = None, bias: bool = True
) -> int:
    """Count the parameters of a MultiHeadAttention.

    2 d_model d_head (n_heads + n_kv_heads), and d_head (n_heads + 2 n_kv_heads) + d_model in the biases

    In plain multi-head attention that is 4 d_model² + 4 d_model: how many heads share the width does not come into it.

    Raises: ValueError if a size is below 1, or MultiHeadAttention refuses to share the heads out like that.
    """
    n_kv_heads, d_head = _heads(d_model, n_heads, n_kv_heads, d_head)
    weights = 2 * d_model * d_head * (n_heads + n_kv_heads)
    biases = d_head * (n_heads + 2 * n_kv_heads) + d_model
    return weights + biases if bias else weights


def attention_flops(
    n_queries: int, n_keys: int, d_model: int, n_heads: int, *, n_kv_heads: int | None = None, d_head: int | None = None
) -> int:
    """Count the FLOPs of the matrix products of a MultiHeadAttention, for one sentence.

    4 d_model d_head (n_queries n_heads + n_keys n_kv_heads) + 4 n_queries n_keys n_heads d_head

    The projections grow with the length, scores and weighted sums with its square. A causal mask takes nothing off: the
    matrix products compute the blocked scores too. A kernel may skip some of them, and is then better than this count.

    Raises: ValueError if a size is below 1, or MultiHeadAttention refuses to share the heads out like that.
    """
    _check_sizes(n_queries=n_queries, n_keys=n_keys)
    n_kv_heads, d_head = _heads(d_model, n_heads, n_kv_heads, d_head)
    projections = 4 * d_model * d_head * (n_queries * n_heads + n_keys * n_kv_heads)
    return projections + 4 * n_queries * n_keys * n_heads * d_head


def feed_forward_parameters(d_model: int, d_ff: int, *, n_matrices: int = 2, bias: bool = True) -> int:
    """Count the parameters of a FeedForward, or with n_matrices=3 of a GatedFeedForward, whose default is bias=False.

    n_matrices d_model d_ff, and (n_matrices - 1) d_ff + d_model in the biases

    Raises: ValueError if a size is below 1.
    """
    _check_sizes(d_model=d_model, d_ff=d_ff, n_matrices=n_matrices)
    weights, biases = n_matrices * d_model * d_ff, (n_matrices - 1) * d_ff + d_model
    return weights + biases if bias else weights


def feed_forward_flops(seq_len: int, d_model: int, d_ff: int, *, n_matrices: int = 2) -> int:
    """Count the FLOPs of the matrix products of a FeedForward, or with n_matrices=3 of a GatedFeedForward.

    2 seq_len n_matrices d_model d_ff

    Raises: ValueError if a size is below 1.
    """
    _check_sizes(seq_len=seq_len, d_model=d_model, d_ff=d_ff, n_matrices=n_matrices)
    return 2 * seq_len * n_matrices * d_model * d_ff


def stack_parameters(
    pattern: str,
    d_model: int,
    d_ff: int,
    *,
    attention: int | None = None,
    feed_forward: int | None = None,
    norm: int | None = None,
) -> int:
    """Count the parameters of a Stack, by default of the default parts.

    sum over the pattern of attention (A) or feed_forward (F), and a norm for each letter

    An EncoderBlock has those of "AF", a DecoderBlock those of "AAF", a ParallelBlock those of "AF" less one norm.

    Args: attention, feed_forward, norm: what one of each has; None stands for attention_parameters and
        feed_forward_parameters of these widths, and for the 2 d_model of LayerNorm. RMSNorm has d_model, ReZero 1.
    Raises: ValueError if the pattern is empty or has a letter other than A and F, or a width is below 1.
    """
    _check_pattern(pattern)
    _check_sizes(d_model=d_model, d_ff=d_ff)
    attention = attention_parameters(d_model, n_heads=1) if attention is None else attention
    feed_forward = feed_forward_parameters(d_model, d_ff) if feed_forward is None else feed_forward
    norm = 2 * d_model if norm is None else norm
    return pattern.count("A") * attention + pattern.count("F") * feed_forward + len(pattern) * norm


def stack_flops(
    pattern: str,
    seq_len: int,
    d_model: int,
    d_ff: int,
    *,
    attention: int | None = None,
    feed_forward: int | None = None,
) -> int:
    """Count the FLOPs of the matrix products of a Stack, by default of the default parts, for one sentence.

    sum over the pattern of attention (A) or feed_forward (F)

    A multiplication and its addition are two FLOPs; norms and activations multiply no matrices. EncoderBlock and
    ParallelBlock do those of "AF", a DecoderBlock as many and its attention_flops from seq_len to the memory's length.

    Args: attention, feed_forward: what one of each does; None stands for attention_flops and feed_forward_flops.
    Raises: ValueError if the pattern is empty or has a letter other than A and F, or a size is below 1.
    """
    _check_pattern(pattern)
    _check_sizes(seq_len=seq_len, d_model=d_model, d_ff=d_ff)
    attention = attention_flops(seq_len, seq_len, d_model, n_heads=1) if attention is None else attention
    feed_forward = feed_forward_flops(seq_len, d_model, d_ff) if feed_forward is None else feed_forward
    return pattern.count("A") * attention + pattern.count("F") * feed_forward


def _heads(d_model: int, n_heads: int, n_kv_heads: int | None, d_head: int | None) -> tuple[int, int]:
    """Return n_kv_heads and d_head as MultiHeadAttention chooses them, where it would take them."""
    n_kv_heads = n_heads if n_kv_heads is None else n_kv_heads
    if min(d_model, n_heads, n_kv_heads, 1 if d_head is None else d_head) < 1 or n_heads % n_kv_heads:
        raise ValueError(
            "sizes are 1 or more, and each head of keys serves as many heads of queries, but got "
            f"d_model={d_model}, n_heads={n_heads}, n_kv_heads={n_kv_heads}, d_head={d_head}; count what "
            "MultiHeadAttention takes"
        )
    if d_head is None and d_model % n_heads:
        raise ValueError(
            f"the heads share the features evenly, but d_model={d_model} is no multiple of n_heads={n_heads}; change "
            "one of them, or set d_head"
        )
    return n_kv_heads, d_model // n_heads if d_head is None else d_head


def _check_sizes(**sizes: int) -> None:
    if min(sizes.values()) < 1:
        got = ", ".join(f"{name}={size}" for name, size in sizes.items())
        raise ValueError(f"sizes are 1 or more, but got {got}; give those of a model and of what it reads")


def _check_pattern(pattern: str) -> None:
    if not pattern or set(pattern) - {"A", "F"}:
        raise ValueError(
            f"a pattern is one letter or more, A for attention and F for feed-forward, but got {pattern!r}; "
            "three encoder blocks are 'AFAFAF'"
        )


def _one_each(caches: Sequence[KVCache] | None, attentions: int) -> Sequence[KVCache | None]:
    """Return a cache for each attention, or None for each where nothing is to be remembered."""
    if caches is None:
        return (None,) * attentions
    if isinstance(caches, KVCache):
        raise ValueError(
            f"caches are a sequence, one for each attention, here {attentions}, but got a KVCache of length="
            f"{caches.length} alone; pass what new_caches() returns"
        )
    if len(caches) != attentions or len(set(caches)) != attentions:
        raise ValueError(
            f"each attention remembers in a cache of its own, and here there are {attentions}, but got "
            f"{len(caches)} caches, {len(set(caches))} of them different; pass what new_caches() returns, or None"
        )
    return caches
