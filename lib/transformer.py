"""What does the whole machine look like? Blocks on top of one another, from token ids to logits.

Names, in reading order: `Embedding`; `Encoder`, `Decoder`; `Transformer`, `LanguageModel`.

The models are put together from parts that are made already, so that every one of them shows in the call:

    blocks = [EncoderBlock(d_model, n_heads, d_ff) for _ in range(n_layers)]
    encoder = Encoder(Embedding(vocab_size, d_model, Sinusoidal(d_model, max_len)), blocks)
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from itertools import islice

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn

from lib.attention import KVCache
from lib.masks import padding_mask


class Embedding(nn.Module):
    """Turn each id into a vector that knows its place.

    y = dropout(norm(positions(scale * weight[ids] + segments[segment_ids])))

    The same weight can also turn vectors back into logits, `logits`: one table for both, which is called tying. It
    starts with variance 1 / d_model, so that logits start with variance 1, and with the usual scale the vectors too.

    Args: positions: `Sinusoidal(d_model, max_len)`, `Learned(d_model, max_len)` or any module called as
        positions(x, offset=offset); None for tokens without a place, or with rotary attention. scale: None stands for
        sqrt(d_model). norm: a module that is made already, as BERT has one here. n_segments: how many kinds of
        sentences are told apart, 2 in BERT.
    Shape: (batch, seq) -> (batch, seq, d_model); each token alone.
    Raises: ValueError if a size is below 1, norm is no module, ids are not whole numbers of the shape (batch, seq),
        empty, or not in the table, or segment ids are given without segments, or not like ids.
    Source: Vaswani et al. 2017, section 3.4, and section 5.4 for the dropout; Press and Wolf 2017, "Using the Output
        Embedding to Improve Language Models", for tying; Devlin et al. 2019, figure 2, for segments.
    """

    def __init__(
        self,
        vocab_size: int,
        d_model: int,
        positions: nn.Module | None = None,
        *,
        scale: float | None = None,
        norm: nn.Module | None = None,
        dropout: float = 0.0,
        n_segments: int = 0,
    ) -> None:
        super().__init__()
        if vocab_size < 1 or d_model < 1 or n_segments < 0:
            raise ValueError(
                "an embedding has 1 id or more, 1 feature or more and 0 segments or more, but got "
                f"vocab_size={vocab_size}, d_model={d_model}, n_segments={n_segments}; give len(vocabulary) and the "
                "width of the model, and leave n_segments out unless there are several kinds of sentences"
            )
        self.scale = d_model**0.5 if scale is None else scale
        self.weight = nn.Parameter(torch.empty(vocab_size, d_model).normal_(std=d_model**-0.5))
        self.segments = nn.Parameter(torch.empty(n_segments, d_model).normal_(std=0.02)) if n_segments else None
        self.positions = positions
        self.norm = _made(norm, _unchanged)
        self.dropout = nn.Dropout(dropout) if dropout else _unchanged

    def forward(
        self, ids: Int[Tensor, "batch seq"], offset: int = 0, *, segment_ids: Int[Tensor, "batch seq"] | None = None
    ) -> Float[Tensor, "batch seq d_model"]:
        """Return the vectors; the first token stands at offset, and without segment ids all are of segment 0."""
        x = _look_up("ids", ids, self.weight)
        if self.scale != 1:
            x *= self.scale  # in place, since nobody else has x
        if segment_ids is not None:
            _check_segments(ids, segment_ids, self.segments)
            x = x + _look_up("segment_ids", segment_ids, self.segments)
        elif self.segments is not None:
            x = x + self.segments[0]
        if self.positions is not None:
            x = self.positions(x, offset=offset)
        return self.dropout(self.norm(x))

    def logits(self, x: Float[Tensor, "*batch d_model"]) -> Float[Tensor, "*batch vocab"]:
        """Compare vectors with the row of every id.

        logits = x weightᵀ

        Shape: (..., d_model) -> (..., vocab_size); the features of a token mix, tokens never do.
        Raises: ValueError if x is not d_model wide.
        Source: Press and Wolf 2017, section 2; Vaswani et al. 2017, section 3.4.
        """
        if x.shape[-1:] != self.weight.shape[1:]:
            raise ValueError(
                f"vectors are compared with rows of their own width, d_model={self.weight.shape[1]}, but got the shape "
                f"{tuple(x.shape)}; give the model a head of its own where its blocks are of another width"
            )
        return F.linear(x, self.weight)

    def extra_repr(self) -> str:
        """Return what `print` shows before the parts.

        Source: `torch.nn.Module.extra_repr`.
        """
        vocab_size, d_model = self.weight.shape
        return f"{vocab_size}, {d_model}, scale={self.scale:g}"


class Encoder(nn.Module):
    """Let every token of a sentence see every other, block after block.

    x = embedding(ids),    x = block_i(x),    y = norm(x)

    Args: blocks: `EncoderBlock`s, or others that are called alike, from the first to the last. norm: one more at the
        end, which a stack of `PreNorm` needs, since nothing else bounds its sum, and a stack of `PostNorm` does not.
    Shape: ids (batch, seq), and mask as for `MultiHeadAttention` -> (batch, seq, d_model); tokens mix within a
        sentence.
    Raises: ValueError if there is no block, norm is no module, and what embedding and blocks refuse.
    Source: Vaswani et al. 2017, section 3.1; `torch.nn.TransformerEncoder`, which begins after the embedding.
    """

    def __init__(self, embedding: Embedding, blocks: Iterable[nn.Module], norm: nn.Module | None = None) -> None:
        super().__init__()
        self.embedding = embedding
        self.blocks = _listed(blocks)
        self.norm = _made(norm, nn.Identity())

    def forward(
        self,
        ids: Int[Tensor, "batch seq"],
        *,
        mask: Bool[Tensor, "*#scores"] | None = None,
        segment_ids: Int[Tensor, "batch seq"] | None = None,
    ) -> Float[Tensor, "batch seq d_model"]:
        """Return the tokens after the last block; `padding_mask(ids, pad_id)` is the usual mask."""
        x = self.embedding(ids, segment_ids=segment_ids)
        for block in self.blocks:
            x = block(x, mask=mask)
        return self.norm(x)


class Decoder(nn.Module):
    """Let every token see its past and all of a memory, block after block.

    x = embedding(ids),    x = block_i(x, memory),    y = norm(x)

    Args: blocks: `DecoderBlock`s, or others that are called alike. norm: as for `Encoder`.
    Shape: ids (batch, seq), memory (batch, src, d_model), masks as for `MultiHeadAttention` -> (batch, seq, d_model); a
        token takes from its past and from all of memory.
    Raises: ValueError if there is no block, norm is no module, there is not one cache for each attention, the caches of
        self-attention are not equally long, and what embedding and blocks refuse.
    Source: Vaswani et al. 2017, section 3.1; `torch.nn.TransformerDecoder`, which begins after the embedding.
    """

    def __init__(self, embedding: Embedding, blocks: Iterable[nn.Module], norm: nn.Module | None = None) -> None:
        super().__init__()
        self.embedding = embedding
        self.blocks = _listed(blocks)
        self.norm = _made(norm, nn.Identity())

    def forward(
        self,
        ids: Int[Tensor, "batch seq"],
        memory: Float[Tensor, "batch src d_model"],
        *,
        mask: Bool[Tensor, "*#scores"] | None = None,
        memory_mask: Bool[Tensor, "*#memory_scores"] | None = None,
        caches: Sequence[KVCache] | None = None,
    ) -> Float[Tensor, "batch seq d_model"]:
        """Return the tokens after the last block; with caches, ids are the new ones only."""
        x = self.embedding(ids, _remembered(caches))
        for block, own in _with_caches(self.blocks, caches, told=1):
            x = block(x, memory, mask=mask, memory_mask=memory_mask, caches=own)
        return self.norm(x)

    def new_caches(self) -> list[KVCache]:
        """Return an empty cache for every attention, in the order in which `forward` fills them."""
        return _new_caches(self.blocks)


class Transformer(nn.Module):
    """Read a sentence, then write another one.

    memory = encoder(src_ids),    logits = decoder(tgt_ids, memory) · the decoder's embeddingᵀ

    logits[:, t] are for the token after tgt_ids[:, t]: train with `shift_right`, write with
    `greedy(model.decode, start_ids, context=model.encode(src_ids), ...)`. Padding of the source is masked. That of the
    target needs no mask if it comes last: no real token sees what comes after it.

    Args: encoder, decoder: made already; one `Embedding` in both is shared. pad_id: what fills up short sources. head:
        makes logits of vectors, for example a `torch.nn.Linear(d_model, vocab_size)`; None ties them to the
        decoder's embedding.
    Shape: src_ids (batch, src), tgt_ids (batch, tgt) -> (batch, tgt, vocab); sentences never mix.
    Raises: ValueError if head takes another width than the decoder's embedding has, and what encoder and decoder
        refuse.
    Source: Vaswani et al. 2017, figure 1; `torch.nn.Transformer`, which has no embeddings and no logits.
    """

    def __init__(self, encoder: Encoder, decoder: Decoder, *, pad_id: int, head: nn.Module | None = None) -> None:
        super().__init__()
        _check_head(head, decoder.embedding)
        self.encoder, self.decoder, self.head = encoder, decoder, head
        self.pad_id = pad_id

    def forward(
        self, src_ids: Int[Tensor, "batch src"], tgt_ids: Int[Tensor, "batch tgt"]
    ) -> Float[Tensor, "batch tgt vocab"]:
        """Return the logits of what follows each token of the target, all at once."""
        return self.decode(tgt_ids, *self.encode(src_ids))

    def encode(
        self, src_ids: Int[Tensor, "batch src"]
    ) -> tuple[Float[Tensor, "batch src d_model"], Bool[Tensor, "batch 1 1 src"]]:
        """Read the source, once for all that is written of it.

        Shape: (batch, src) -> memory (batch, src, d_model) and its mask (batch, 1, 1, src).
        Raises: ValueError if the encoder refuses the ids.
        Source: Vaswani et al. 2017, section 3.1.
        """
        memory_mask = padding_mask(src_ids, self.pad_id)
        return self.encoder(src_ids, mask=memory_mask), memory_mask

    def decode(
        self,
        tgt_ids: Int[Tensor, "batch tgt"],
        memory: Float[Tensor, "batch src d_model"],
        memory_mask: Bool[Tensor, "*#memory_scores"] | None = None,
        *,
        caches: Sequence[KVCache] | None = None,
    ) -> Float[Tensor, "batch tgt vocab"]:
        """Return the logits of what follows each token; with caches, tgt_ids are the new ones only.

        Shape: (batch, tgt), (batch, src, d_model), (batch, 1, 1, src) -> (batch, tgt, vocab).
        Raises: ValueError if the decoder refuses what it gets.
        Source: Vaswani et al. 2017, sections 3.1 and 3.4.
        """
        x = self.decoder(tgt_ids, memory, memory_mask=memory_mask, caches=caches)
        return self.decoder.embedding.logits(x) if self.head is None else self.head(x)

    def new_caches(self) -> list[KVCache]:
        """Return the empty caches that `decode` takes, for one batch of sentences."""
        return self.decoder.new_caches()


class LanguageModel(nn.Module):
    """Say of every token what comes next, from what came before.

    x = embedding(ids),    x = block_i(x) under the causal mask,    logits = norm(x) · embeddingᵀ

    logits[:, t] are for the token after ids[:, t]; so the loss compares logits[:, :-1] with ids[:, 1:]. Padding needs
    no mask if it comes last.

    Args: blocks: `EncoderBlock`s, or others that are called alike, such as `ParallelBlock`s and `Stack`s. norm: as for
        `Encoder`. head: as for `Transformer`.
    Shape: ids (batch, seq), and mask as for `MultiHeadAttention` -> (batch, seq, vocab); a token takes from its past.
    Raises: ValueError if there is no block, norm is no module, head takes another width than the embedding has, there
        is not one cache for each attention, the caches are not equally long, and what embedding and blocks refuse.
    Source: Radford et al. 2019, "Language Models are Unsupervised Multitask Learners", section 2.3. PyTorch has no
        counterpart.
    """

    def __init__(
        self,
        embedding: Embedding,
        blocks: Iterable[nn.Module],
        norm: nn.Module | None = None,
        *,
        head: nn.Module | None = None,
    ) -> None:
        super().__init__()
        _check_head(head, embedding)
        self.embedding = embedding
        self.blocks = _listed(blocks)
        self.norm = _made(norm, nn.Identity())
        self.head = head

    def forward(
        self,
        ids: Int[Tensor, "batch seq"],
        *,
        mask: Bool[Tensor, "*#scores"] | None = None,
        caches: Sequence[KVCache] | None = None,
    ) -> Float[Tensor, "batch seq vocab"]:
        """Return the logits; with caches, ids are the new ones only."""
        x = self.embedding(ids, _remembered(caches))
        for block, own in _with_caches(self.blocks, caches):
            x = block(x, mask=mask, is_causal=True, caches=own)
        x = self.norm(x)
        return self.embedding.logits(x) if self.head is None else self.head(x)

    def new_caches(self) -> list[KVCache]:
        """Return an empty cache for every attention, for one batch of sentences."""
        return _new_caches(self.blocks)


def _unchanged(x: Tensor) -> Tensor:
    """Stand in for a norm or a dropout that is not there; a module would take longer to call."""
    return x


def _look_up(name: str, ids: Tensor, table: Tensor) -> Tensor:
    """Return the rows of the ids, or say which id has none."""
    whole = ids.dtype in (torch.int64, torch.int32)
    if ids.ndim != 2 or not whole or not ids.numel():
        raise ValueError(
            f"{name} are whole numbers (torch.int64 or torch.int32) of the shape (batch, seq), 1 or more of them, but "
            f"got {ids.dtype} of the shape {tuple(ids.shape)}; write {name}[None] for a single sentence"
        )
    if not (ids.is_cpu or ids.is_meta or torch.compiler.is_compiling()):
        _check_ids(name, ids, len(table))  # a GPU would not raise, but end the process
    try:
        return F.embedding(ids, table)
    except IndexError:
        _check_ids(name, ids, len(table))
        raise


def _check_ids(name: str, ids: Tensor, rows: int) -> None:
    low, high = (int(end) for end in ids.aminmax())
    if low < 0 or high >= rows:
        raise ValueError(
            f"{name} number the rows of a table, 0 to {rows - 1}, but got {name} from {low} to {high}; "
            "make the embedding with the size of the vocabulary that the ids come from"
        )


def _check_segments(ids: Tensor, segment_ids: Tensor, table: Tensor | None) -> None:
    if table is None:
        raise ValueError(
            f"segment ids need a table, but got ids of the shape {tuple(segment_ids.shape)} and n_segments=0; "
            "leave them out, or make the embedding with n_segments=2"
        )
    if segment_ids.shape != ids.shape:
        raise ValueError(
            f"there is one segment for each id, but got ids of the shape {tuple(ids.shape)} and segment ids of the "
            f"shape {tuple(segment_ids.shape)}; write segment_ids.expand_as(ids) if all sentences are alike"
        )


def _check_head(head: nn.Module | None, embedding: Embedding) -> None:
    d_model = embedding.weight.shape[1]
    if isinstance(head, nn.Linear) and head.in_features != d_model:
        raise ValueError(
            f"a head makes logits of the model's vectors, here d_model={d_model} wide, but got one for "
            f"{head.in_features} features; make it as torch.nn.Linear({d_model}, {head.out_features})"
        )


def _made(norm: nn.Module | None, none: Callable[[Tensor], Tensor]) -> Callable[[Tensor], Tensor]:
    """Return the norm, or what stands in for none; a class in place of a module would go unnoticed until forward."""
    if norm is not None and not isinstance(norm, nn.Module):
        raise ValueError(
            f"the norm is a module that is made already, but got {norm!r}; pass LayerNorm(d_model), or None for none"
        )
    return none if norm is None else norm


def _listed(blocks: Iterable[nn.Module]) -> nn.ModuleList:
    listed = nn.ModuleList(blocks)
    if not len(listed):
        raise ValueError("a stack has 1 block or more, but got 0; an iterator that was used up has none left")
    return listed


def _new_caches(blocks: nn.ModuleList) -> list[KVCache]:
    return [cache for block in blocks for cache in block.new_caches()]


def _with_caches(
    blocks: nn.ModuleList, caches: Sequence[KVCache] | None, told: int | None = None
) -> Iterator[tuple[nn.Module, Sequence[KVCache] | None]]:
    """Pair each block with the caches of its attentions, or None; `told`: how many of them hold the ids (None: all)."""
    if caches is None:
        yield from ((block, None) for block in blocks)
        return
    numbers = [len(block.new_caches()) for block in blocks]
    if not len(caches) == len(set(caches)) == sum(numbers):
        raise ValueError(
            f"each attention has a cache of its own, here {sum(numbers)} in {len(blocks)} blocks, but got "
            f"{len(caches)}, {len(set(caches))} of them different; make them with model.new_caches()"
        )
    rest = iter(caches)
    pairs = [(block, list(islice(rest, number))) for block, number in zip(blocks, numbers, strict=True)]
    if len(lengths := {cache.length for _, own in pairs for cache in own[:told]}) > 1:
        raise ValueError(
            f"all blocks are told the same ids, so the caches of self-attention are equally long, but got lengths from "
            f"{min(lengths)} to {max(lengths)}; begin again, with model.new_caches()"
        )
    yield from pairs


def _remembered(caches: Sequence[KVCache] | None) -> int:
    """Return how many tokens the caches hold; the first belongs to self-attention, which sees them all."""
    if isinstance(caches, KVCache):
        raise ValueError(
            f"caches are a sequence, one for each attention, but got a KVCache of length={caches.length} alone; make "
            "them with model.new_caches()"
        )
    return caches[0].length if caches else 0
