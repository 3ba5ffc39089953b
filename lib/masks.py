"""Who may look at whom? Boolean masks for attention: True = may attend.

Names, in reading order: `causal_mask`, `padding_mask`. Combine masks with `&`: what both allow is allowed.
"""

from __future__ import annotations

import torch
from jaxtyping import Bool, Int
from torch import Tensor


def causal_mask(
    seq_len: int, *, device: torch.device | str | None = None, offset: int = 0
) -> Bool[Tensor, "query key"]:
    """Let each token look at itself and at what came before it.

    mask[i, j] = j <= offset + i

    The diagonal stays open: with it closed the first token would have nothing to attend to. True = may attend, as in
    `torch.nn.functional.scaled_dot_product_attention`; `torch.nn.MultiheadAttention` means the opposite.

    Args: offset: how many earlier tokens wait in a cache; the seq_len queries come after them.
    Shape: (seq_len, offset + seq_len), queries by keys, the same for every sentence and head.
    Raises: ValueError if seq_len is below 1 or offset below 0.
    Source: Vaswani et al. 2017, section 3.2.3. The opposite of
        `torch.nn.Transformer.generate_square_subsequent_mask`, which holds minus infinity where this holds False.
    """
    if seq_len < 1 or offset < 0:
        raise ValueError(
            f"a causal mask is for 1 query or more after 0 earlier tokens or more, but got seq_len={seq_len}, "
            f"offset={offset}; offset is the length of the cache before the new tokens"
        )
    return torch.ones(seq_len, offset + seq_len, dtype=torch.bool, device=device).tril(offset)


def padding_mask(ids: Int[Tensor, "batch key"], pad_id: int) -> Bool[Tensor, "batch 1 1 key"]:
    """Let nobody look at padding.

    mask[b, 0, 0, j] = ids[b, j] != pad_id

    The ids are those of the keys: in cross-attention of the source, whatever the length of the target. What a padded
    place itself computes is not prevented, since nobody reads it; leave it out of the loss instead. A sentence of
    padding only has nothing to attend to, and attention then gives zeros.

    Shape: (batch, key) -> (batch, 1, 1, key), which stretches over heads and queries.
    Raises: ValueError if ids are not whole numbers of the shape (batch, key).
    Source: the `key_padding_mask` of `torch.nn.MultiheadAttention`, which means the opposite: True = ignore.
    """
    if ids.ndim != 2 or ids.is_floating_point() or ids.dtype == torch.bool:
        raise ValueError(
            f"a padding mask is read off token ids, whole numbers of the shape (batch, seq), but got {ids.dtype} of "
            f"the shape {tuple(ids.shape)}; pass the ids, not their embeddings, and ids[None] for a single sentence"
        )
    return (ids != pad_id)[:, None, None, :]
