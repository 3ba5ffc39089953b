"""How do tokens exchange information? Attention, by its formula and by PyTorch's fused kernel.

Names, in reading order: `attention_weights`, `scaled_dot_product_attention`; `MultiHeadAttention`, `KVCache`.

Masks are boolean, True = may attend, as in `torch.nn.functional.scaled_dot_product_attention`. They have the axes
(queries, keys), or all axes of the scores, of which each may be 1 and then stretches; `torch.nn.MultiheadAttention`
means the opposite by True.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn


def attention_weights(
    query: Float[Tensor, "*batch query d_k"],
    key: Float[Tensor, "*batch key d_k"],
    mask: Bool[Tensor, "*#batch #query #key"] | None = None,
    scale: float | None = None,
) -> Float[Tensor, "*batch query key"]:
    """Say how much each query attends to each key.

    weights = softmax over the keys of (query keyᵀ · scale), where the mask allows, and exactly 0 elsewhere

    A blocked score must be gone before the softmax: zeroed after it, it would still have taken its share of the sum. A
    query with nothing to attend to gets weights of 0, where the softmax of nothing would be NaN.

    Args: scale: None stands for 1 / sqrt(d_k), which gives the scores of random queries and keys variance 1.
    Shape: (..., query, d_k), (..., key, d_k) -> (..., query, key); each query alone, over all keys.
    Raises: ValueError if query and key differ in width or in the axes before the tokens, or the mask is not boolean or
        does not fit the scores.
    Source: Vaswani et al. 2017, section 3.2.1, equation 1, without the values.
    """
    _check_batch(query, key, "keys")
    if query.shape[-1] != key.shape[-1]:
        raise ValueError(
            f"queries are compared with keys of their own width, but got d_k={query.shape[-1]} for the queries and "
            f"d_k={key.shape[-1]} for the keys; project both to the same width"
        )
    scores = query @ key.mT * (max(1, query.shape[-1]) ** -0.5 if scale is None else scale)
    if mask is None:
        return scores.softmax(dim=-1)
    _check_mask(mask, scores.shape)
    # The lowest number, not minus infinity, so that a row of nothing else has no NaN, not even in the backward pass.
    lowest = torch.finfo(scores.dtype).min
    return scores.masked_fill(~mask, lowest).softmax(dim=-1).masked_fill(~mask, 0.0)


def scaled_dot_product_attention(
    query: Float[Tensor, "*batch query d_k"],
    key: Float[Tensor, "*batch key d_k"],
    value: Float[Tensor, "*batch key d_v"],
    mask: Bool[Tensor, "*#batch #query #key"] | None = None,
) -> Float[Tensor, "*batch query d_v"]:
    """Give each query the mean of the values, weighted by how well their keys match it.

    y = softmax over the keys of (query keyᵀ / sqrt(d_k)) value

    A query with nothing to attend to gets zeros.

    Shape: (..., query, d_k), (..., key, d_k), (..., key, d_v) -> (..., query, d_v); tokens mix, and of the features
        only those of query with those of key. Any axis may be empty: without keys y is 0, without features of theirs
        the mean of the values.
    Raises: ValueError if query and key differ in width, the three in the axes before the tokens, key and value in the
        number of tokens, or the mask is not boolean or does not fit the scores.
    Source: Vaswani et al. 2017, section 3.2.1, equation 1; `torch.nn.functional.scaled_dot_product_attention`.
    """
    _check_batch(query, value, "values")
    if key.shape[-2] != value.shape[-2]:
        raise ValueError(
            f"each key has one value, but got {key.shape[-2]} keys and {value.shape[-2]} values; make both from the "
            "same tokens"
        )
    return attention_weights(query, key, mask) @ value


class KVCache:
    """Keep the keys and values of earlier tokens, so that a new token computes only its own.

    keys, values = cache.append(key, value), those of all tokens so far

    Make one for each attention of a model, and new ones for each batch of sentences. Whenever room is short it is
    doubled, so that n tokens that come one by one are copied about twice each, not n/2 times.

    Shape: key (batch, heads, new, d_k) and value (batch, heads, new, d_v) -> the same with all `length` tokens.
    Source: Pope et al. 2022, "Efficiently Scaling Transformer Inference", section 2.1. PyTorch has no counterpart.
    """

    def __init__(self) -> None:
        self.length = 0  # the number of tokens in the cache
        self._rooms: tuple[Tensor, Tensor] | None = None  # for keys and values; their first `length` places are filled

    def append(
        self, key: Float[Tensor, "batch heads new d_k"], value: Float[Tensor, "batch heads new d_v"]
    ) -> tuple[Float[Tensor, "batch heads all d_k"], Float[Tensor, "batch heads all d_v"]]:
        """Add the keys and values of new tokens, and return those of all.

        Shape: (batch, heads, new, d_k) and (batch, heads, new, d_v) -> the same with `length` tokens, to read only.
        Raises: ValueError if a gradient is wanted, or batch, heads, width or type differ from the earlier tokens'.
        Source: Pope et al. 2022, section 2.1.
        """
        if torch.is_grad_enabled() and (key.requires_grad or value.requires_grad):
            raise ValueError(
                "a cache keeps numbers and no graph, so nothing learns through it, but these keys or values want a "
                "gradient; generate under torch.no_grad(), and train without a cache, on all tokens at once"
            )
        start, end = self.length, self.length + key.shape[2]
        rooms = self._rooms = self._with_room(end, key, value)
        for room, new in zip(rooms, (key, value), strict=True):
            room[:, :, start:end] = new
        self.length = end
        return self.read()

    def read(self) -> tuple[Float[Tensor, "batch heads all d_k"], Float[Tensor, "batch heads all d_v"]]:
        """Return the keys and values of all tokens.

        Shape: (batch, heads, length, d_k) and (batch, heads, length, d_v), to read only.
        Raises: ValueError if the cache is empty.
        Source: Pope et al. 2022, section 2.1.
        """
        if self._rooms is None:
            raise ValueError("a cache holds what was appended, and this one has length=0; append keys and values first")
        keys, values = self._rooms
        return keys[:, :, : self.length], values[:, :, : self.length]

    def reorder(self, order: Int[Tensor, " chosen"]) -> None:
        """Let the sentence that was number order[i] be number i: beam search goes on with its best beams.

        A number may come several times, and others not at all; the batch then has as many sentences as order.

        Shape: (chosen); sentences move, as a whole.
        Raises: ValueError if order is not one axis of whole numbers below the batch size.
        Source: Pope et al. 2022, section 2.1; `index_select` of `torch.Tensor`.
        """
        if self._rooms is None:
            return
        batch = len(self._rooms[0])
        whole = order.ndim == 1 and order.dtype in (torch.int64, torch.int32)
        if not whole or (order.numel() and not 0 <= int(order.min()) <= int(order.max()) < batch):
            raise ValueError(
                f"the order of a cache is one axis of sentence numbers from 0 to {batch - 1}, but got {order!r}; "
                "number the sentences of the whole batch, not the beams of each"
            )
        keys, values = self._rooms
        self._rooms = keys.index_select(0, order), values.index_select(0, order)

    def _with_room(self, end: int, key: Tensor, value: Tensor) -> tuple[Tensor, Tensor]:
        """Return rooms for `end` tokens: those at hand, or larger ones with the same content."""
        if self._rooms is None or not self.length:
            return tuple(new.new_empty(new.shape) for new in (key, value))
        for room, new in zip(self._rooms, (key, value), strict=True):
            if room.dtype != new.dtype or room.shape[:2] != new.shape[:2] or room.shape[3] != new.shape[3]:
                batch, heads, _, width = room.shape
                raise ValueError(
                    f"new tokens must be like those in the cache, {room.dtype} of the shape ({batch}, {heads}, new, "
                    f"{width}), but got {new.dtype} of the shape {tuple(new.shape)}; make a new KVCache for each batch"
                )
        size = self._rooms[0].shape[2]
        if end <= size:
            return self._rooms
        return tuple(F.pad(room, (0, 0, 0, max(end, 2 * size) - size)) for room in self._rooms)


class MultiHeadAttention(nn.Module):
    """Let each token gather from others, in several ways at once, what matches its queries.

    heads = softmax(query_h key_hᵀ / sqrt(d_head)) value_h,    y = (all heads side by side) w_o,
    with query = x w_q, key = memory w_k, value = memory w_v, and memory = x in self-attention

    The fused kernel computes it without ever forming all the weights, except, on the CPU, with dropout in training:
    PyTorch has no fused kernel for that there. While somebody records `weights_dropout`, the explicit formula runs in
    its place, on the same queries, keys, values and mask, and `record(model, "weights_dropout")` sees the weights that
    were used, (batch, head, query, key), after dropout. Second derivatives need the same: the fused kernel has none on
    the CPU and raises a RuntimeError, the formula has them.

    Args: n_kv_heads: how many heads of keys and values there are, each shared by n_heads / n_kv_heads heads of queries:
        n_heads (None) is multi-head, fewer is grouped-query, 1 is multi-query attention. d_head: None stands for
        d_model / n_heads. rotary: turns queries and keys by their position in self-attention, called as
        rotary(x, offset=offset): `lib.positions.Rotary(d_head)`.
    Shape: query (batch, query, d_model), key and value (batch, key, d_model) -> (batch, query, d_model); mask (query,
        key) or (batch, head, query, key), each of its axes may be 1; tokens mix within a sentence, and all features.
    Raises: ValueError if a size is below 1 or does not divide, inputs are empty, are not (batch, seq, d_model) or
        do not go together, the mask is not boolean or does not fit, or a causal mask is asked for between
        sequences of different length.
    Source: Vaswani et al. 2017, section 3.2.2; Ainslie et al. 2023, "GQA", for n_kv_heads.
        `torch.nn.MultiheadAttention` with batch_first=True, whose in_proj_weight is w_q, w_k and w_v in one, and whose
        boolean masks mean the opposite. Weights start like those of any `torch.nn.Linear`; PyTorch's start
        Xavier-uniform, with biases of 0. A query with nothing to attend to gets zeros from every head, and so the bias
        of w_o. Query, key and value have one width here: PyTorch's kdim and vdim have no counterpart, since in a
        Transformer all three are tokens of the same model.
    """

    def __init__(
        self,
        d_model: int,
        n_heads: int,
        *,
        n_kv_heads: int | None = None,
        d_head: int | None = None,
        dropout: float = 0.0,
        bias: bool = True,
        rotary: Callable[..., Tensor] | None = None,
    ) -> None:
        super().__init__()
        self.d_model = d_model  # kept, so that w_q may be replaced by any other module
        self.n_heads, self.n_kv_heads = n_heads, n_heads if n_kv_heads is None else n_kv_heads
        _check_heads(d_model, n_heads, self.n_kv_heads, d_head)
        self.d_head = d_model // n_heads if d_head is None else d_head
        self.w_q = nn.Linear(d_model, n_heads * self.d_head, bias=bias)
        self.w_k = nn.Linear(d_model, self.n_kv_heads * self.d_head, bias=bias)
        self.w_v = nn.Linear(d_model, self.n_kv_heads * self.d_head, bias=bias)
        self.rotary = rotary
        self.weights_dropout = nn.Dropout(dropout)
        self.w_o = nn.Linear(n_heads * self.d_head, d_model, bias=bias)

    def forward(
        self,
        query: Float[Tensor, "batch query d_model"],
        key: Float[Tensor, "batch key d_model"] | None = None,
        value: Float[Tensor, "batch key d_model"] | None = None,
        *,
        mask: Bool[Tensor, "*#scores"] | None = None,
        is_causal: bool = False,
        cache: KVCache | None = None,
    ) -> Float[Tensor, "batch query d_model"]:
        """Return what each query gathers; without a key it gathers from its own sentence.

        is_causal=True closes the future, on top of the mask. Alone it costs no mask in memory; together with a mask, or
        for several queries after cached tokens, a mask is made. With a cache, the queries of self-attention come after
        the tokens in it and attend to those as well; in cross-attention the cache keeps what the first call made of
        key and value.
        """
        key = query if key is None else key
        value = key if value is None else value
        self._check_inputs(query, key, value, is_causal)
        if mask is not None:  # before the cache takes anything in, so that a refused call changes nothing
            earlier = cache.length if cache is not None and key is query else 0
            _check_mask(mask, (len(query), self.n_heads, query.shape[1], earlier + key.shape[1]))
        queries, keys, values = self._project(query, key, value, cache)
        mask, is_causal = self._allow(mask, is_causal, queries, keys)
        dropout = self.weights_dropout
        if dropout._forward_hooks:  # somebody looks
            gathered = self._by_formula(queries, keys, values, mask, is_causal)
        else:
            gathered = F.scaled_dot_product_attention(
                queries,
                keys,
                values,
                attn_mask=mask,
                dropout_p=dropout.p if dropout.training else 0.0,
                is_causal=is_causal,
                enable_gqa=self.n_kv_heads != self.n_heads,
            )
        return self.w_o(gathered.transpose(1, 2).flatten(2))

    def extra_repr(self) -> str:
        """Return what `print` shows before the parts.

        Source: `torch.nn.Module.extra_repr`.
        """
        return f"n_heads={self.n_heads}, n_kv_heads={self.n_kv_heads}, d_head={self.d_head}"

    def _project(
        self, query: Tensor, key: Tensor, value: Tensor, cache: KVCache | None
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Return queries, keys and values, (batch, heads, seq, d_head), with what the cache has of them."""
        queries = self._split(self.w_q(query), self.n_heads)
        is_self = key is query
        if cache is not None and cache.length and not is_self:
            _check_memory(key, cache)
            return queries, *cache.read()
        keys, values = self._split(self.w_k(key), self.n_kv_heads), self._split(self.w_v(value), self.n_kv_heads)
        if self.rotary is not None and is_self:
            offset = 0 if cache is None else cache.length
            queries, keys = self.rotary(queries, offset=offset), self.rotary(keys, offset=offset)
        if cache is not None:
            keys, values = cache.append(keys, values)
        return queries, keys, values

    def _split(self, x: Tensor, heads: int) -> Tensor:
        """Give each head its own features: the first d_head are those of head 0."""
        return x.view(x.shape[0], -1, heads, self.d_head).transpose(1, 2)

    def _allow(self, mask: Tensor | None, is_causal: bool, queries: Tensor, keys: Tensor) -> tuple[Tensor | None, bool]:
        """Return the mask and is_causal as PyTorch's kernel takes them: one of the two, or none."""
        n_queries, n_keys = queries.shape[2], keys.shape[2]
        if not is_causal or n_queries == 1:  # the newest token comes after all others, and may see them all
            return mask, False
        if mask is None and n_queries == n_keys:  # else PyTorch would put the first query at the first cached key
            return None, True
        causal = _causal(n_queries, n_keys, keys.device)
        return causal if mask is None else mask & causal, False

    def _by_formula(
        self, queries: Tensor, keys: Tensor, values: Tensor, mask: Tensor | None, is_causal: bool
    ) -> Tensor:
        """Compute what the fused kernel computes, with weights that can be seen."""
        if is_causal:
            mask = _causal(queries.shape[2], keys.shape[2], keys.device)
        shared_by = self.n_heads // self.n_kv_heads
        keys, values = (heads.repeat_interleave(shared_by, dim=1) for heads in (keys, values))
        return self.weights_dropout(attention_weights(queries, keys, mask)) @ values

    def _check_inputs(self, query: Tensor, key: Tensor, value: Tensor, is_causal: bool) -> None:
        for x in (query,) if key is query is value else (query, key, value):
            if x.ndim != 3 or x.shape[-1] != self.d_model:
                raise ValueError(
                    f"attention takes (batch, seq, d_model={self.d_model}), but got the shape {tuple(x.shape)}; put "
                    "the batch first and the features last, and write x[None] for a single sentence"
                )
        fits = key is query is value or (key.shape[0] == query.shape[0] and key.shape[:2] == value.shape[:2])
        if not fits or query.numel() == 0 or key.numel() == 0:
            raise ValueError(
                "attention takes 1 sentence or more, as many of queries as of keys, in each 1 query or more, 1 key or "
                "more, and a value for every key, but got "
                f"the shapes {tuple(query.shape)} for query, {tuple(key.shape)} for key and {tuple(value.shape)} for "
                "value; leave out what is empty, and write key.expand(len(query), -1, -1) for a memory that all share"
            )
        if is_causal and key is not query and key.shape[1] != query.shape[1]:
            raise ValueError(
                "a causal mask compares places in one sequence, but here are "
                f"{query.shape[1]} queries and {key.shape[1]} keys; leave is_causal out in cross-attention"
            )


def _check_batch(query: Tensor, other: Tensor, name: str) -> None:
    if query.ndim < 2 or other.ndim < 2 or query.shape[:-2] != other.shape[:-2]:
        raise ValueError(
            f"queries and {name} are tokens by features, (..., seq, d), with the same axes before them, but got the "
            f"shapes {tuple(query.shape)} and {tuple(other.shape)}; write x[None] and x.expand for what all share"
        )


def _causal(n_queries: int, n_keys: int, device: torch.device) -> Tensor:
    """Let each query see the keys up to its own place; the last query is at the last key."""
    return torch.ones(n_queries, n_keys, dtype=torch.bool, device=device).tril(n_keys - n_queries)


def _check_heads(d_model: int, n_heads: int, n_kv_heads: int, d_head: int | None) -> None:
    if min(d_model, n_heads, n_kv_heads, 1 if d_head is None else d_head) < 1:
        raise ValueError(
            f"sizes count features and heads and must be 1 or more, but got d_model={d_model}, n_heads={n_heads}, "
            f"n_kv_heads={n_kv_heads}, d_head={d_head}; leave out n_kv_heads and d_head for plain multi-head attention"
        )
    if d_head is None and d_model % n_heads:
        raise ValueError(
            f"the heads share the features evenly, but d_model={d_model} is no multiple of n_heads={n_heads}; change "
            "one of them, or set d_head"
        )
    if n_heads % n_kv_heads:
        raise ValueError(
            f"each head of keys serves as many heads of queries, but n_heads={n_heads} is no multiple of "
            f"n_kv_heads={n_kv_heads}; choose a divisor, {n_heads} for multi-head or 1 for multi-query attention"
        )


def _check_mask(mask: Tensor, scores: Sequence[int]) -> None:
    is_tensor = isinstance(mask, Tensor)
    boolean = is_tensor and mask.dtype == torch.bool and mask.ndim in (2, len(scores))
    if boolean and all(map(_stretches, reversed(mask.shape), reversed(scores))):
        return
    got = f"{mask.dtype} of the shape {tuple(mask.shape)}" if is_tensor else f"a {type(mask).__name__}"
    raise ValueError(
        f"a mask is torch.bool, True = may attend, of the shape (queries, keys) = {tuple(scores[-2:])} or of all axes "
        f"of the scores, {tuple(scores)}, each of which may be 1, but got {got}; write mask[:, None] "
        "for one per sentence, ~mask for one that means the opposite, torch.tensor(mask) for a list"
    )


def _stretches(have: int, want: int) -> bool:
    return have in (1, want)


def _check_memory(key: Tensor, cache: KVCache) -> None:
    kept = cache.read()[0]
    if key.shape[:2] != (len(kept), cache.length):
        raise ValueError(
            f"the cache of cross-attention holds one memory, {len(kept)} sentences of {cache.length} tokens, but got "
            f"{len(key)} of {key.shape[1]}; make a new KVCache for each batch, and one for each attention"
        )
