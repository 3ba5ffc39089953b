"""How does a model write? One symbol after the other: greedily, by chance, or with several drafts at once.

Names, in reading order: `Predict`, `Cache`; `greedy`; `keep_top_k`, `keep_top_p`, `sample`; `Beams`, `beam`.

A model comes as a function: predict(ids, *context) returns the logits of what follows each position, as a model's own
forward does, and only the last position is used. Put the model in evaluation mode first, or dropout chooses too.

    greedy(model, prompt_ids, ...)                                              a language model
    greedy(model.decode, bos_column, context=(memory, memory_mask), ...)        a decoder that reads an encoder's memory

With caches, predict is called with the new ids only and must itself remember, in these caches, what came before:

    greedy(partial(model, caches=caches), prompt_ids, caches=caches, ...)

Both need them: a model alone would remember what it is told again, decoding alone would tell it new ids only.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from typing import NamedTuple, Protocol, runtime_checkable

import torch
from jaxtyping import Float, Int
from torch import Tensor

Predict = Callable[..., Tensor]


@runtime_checkable
class Cache(Protocol):
    """What predict remembers of earlier positions, a row for each sequence; `attention.KVCache` is one.

    length says how many positions it remembers; that of a model's first cache counts all that it has been told.
    """

    length: int

    def reorder(self, rows: Int[Tensor, " row"]) -> None:
        """Let row i continue what row rows[i] has remembered.

        Shape: (row).
        """


@torch.no_grad()
def greedy(
    predict: Predict,
    prompt_ids: Int[Tensor, "batch prompt"],
    *,
    eos_id: int,
    max_len: int,
    pad_id: int | None = None,
    context: Sequence[Tensor] = (),
    caches: Sequence[Cache] = (),
) -> Int[Tensor, "batch seq"]:
    """Continue each prompt with the symbol that the model finds most likely, again and again.

    y_t = argmax p(y | y_1 ... y_(t-1)), until eos_id or max_len

    The likeliest next symbol each time is not the likeliest sequence: see `beam`. Among equal logits the smallest id
    wins.

    Args: eos_id: a sequence ends with it, and the batch when all have. pad_id: fills up what has ended; a prompt that
        is shorter than the others is filled up with it on the right, and continued from its own end. Without it,
        prompts are equally long, and eos_id fills up. max_len: how long a sequence may get, prompt included. context:
        tensors with a row for each sequence, which predict gets after the ids. caches: what predict remembers with, the
        very same objects; empty ones, made for this call. Caches that predict holds and that are not named here go
        unnoticed, unless predict is a `functools.partial`, which shows what it holds.
    Shape: (batch, prompt) -> (batch, seq), with the prompts, seq <= max_len; sequences never mix.
    Raises: ValueError if a prompt is empty, has padding before a symbol or leaves no room within max_len, eos_id or
        pad_id are no ids of the model, predict's logits or the context do not have a row for each sequence, a sequence
        has no possible next symbol (its logits are NaN, or all minus infinity), a cache is not empty, or the caches are
        not those that predict remembers with.
    Source: `generate` of `transformers` with do_sample=False, where prompts are filled up on the left.
    """
    writing = _Writing(predict, prompt_ids, eos_id, max_len, pad_id, context, caches)
    for logits in writing:
        writing.write(logits.argmax(dim=-1))
    return writing.ids


def keep_top_k(logits: Float[Tensor, "*batch vocab"], k: int) -> Float[Tensor, "*batch vocab"]:
    """Forbid all symbols but the k likeliest: their logits become minus infinity, so that a softmax gives them 0.

    Shape: (..., vocab) -> (..., vocab); each row is treated alone.
    Raises: ValueError if k is not within 1 to vocab.
    Source: Fan et al. 2018, "Hierarchical Neural Story Generation", section 5.2.
    """
    if not 1 <= k <= logits.shape[-1]:
        raise ValueError(
            f"between 1 and all symbols can be kept, but got k={k} of {logits.shape[-1]} symbols; "
            f"choose k from 1 to {logits.shape[-1]}"
        )
    kept, ids = logits.topk(k, dim=-1)
    return torch.full_like(logits, -torch.inf).scatter(-1, ids, kept)


def keep_top_p(logits: Float[Tensor, "*batch vocab"], p: float) -> Float[Tensor, "*batch vocab"]:
    """Forbid all symbols but the smallest set that has at least probability p, the nucleus.

    Where the model is sure, few symbols are left, and many where it is not; k of keep_top_k cannot do both.

    Shape: (..., vocab) -> (..., vocab); each row is treated alone.
    Raises: ValueError if p is not above 0 and at most 1.
    Source: Holtzman et al. 2020, "The Curious Case of Neural Text Degeneration", section 3.1, equation 2.
    """
    if not 0 < p <= 1:
        raise ValueError(
            f"the kept symbols have a probability above 0 and at most 1, but got p={p}; 0.9 is usual, and 1 keeps all"
        )
    if p == 1:
        return logits  # all of them, also those that rounding leaves nothing for
    ordered, ids = logits.sort(dim=-1, descending=True, stable=True)
    probabilities = ordered.double().softmax(dim=-1)
    likelier = probabilities.cumsum(dim=-1) - probabilities  # what the symbols before this one already have
    return logits.scatter(-1, ids, ordered.masked_fill(likelier >= p, -torch.inf))


@torch.no_grad()
def sample(
    predict: Predict,
    prompt_ids: Int[Tensor, "batch prompt"],
    *,
    eos_id: int,
    max_len: int,
    generator: torch.Generator,
    temperature: float = 1.0,
    top_k: int | None = None,
    top_p: float | None = None,
    pad_id: int | None = None,
    context: Sequence[Tensor] = (),
    caches: Sequence[Cache] = (),
) -> Int[Tensor, "batch seq"]:
    """Continue each prompt with symbols drawn at random, as likely as the model finds them.

    y_t ~ softmax(logits / temperature), restricted to the top_k likeliest of these, and then to their nucleus of top_p

    A temperature below 1 favours what is likely already, above 1 what is not. The order matters: the nucleus is that of
    the distribution which temperature and top_k leave. The generator decides everything; one number is drawn from it
    for each sequence and step, so that with a CPU generator every device draws the same.

    Args: the rest as `greedy`.
    Shape: (batch, prompt) -> (batch, seq), with the prompts, seq <= max_len; sequences never mix.
    Raises: ValueError as `greedy`, `keep_top_k` and `keep_top_p`, or if the temperature is not above 0, or infinite.
    Source: `generate` of `transformers` with do_sample=True, which restricts in the same order.
    """
    if not 0 < temperature < math.inf:
        raise ValueError(
            f"logits are divided by a finite temperature above 0, but got {temperature}; for 0, use greedy"
        )
    writing = _Writing(predict, prompt_ids, eos_id, max_len, pad_id, context, caches)
    for logits in writing:
        logits = logits.double() / temperature
        logits = logits if top_k is None else keep_top_k(logits, top_k)
        logits = logits if top_p is None else keep_top_p(logits, top_p)
        writing.write(_draw(logits, generator))
    return writing.ids


def _draw(logits: Tensor, generator: torch.Generator) -> Tensor:
    """Draw one id for each row: the first whose share, added to all before it, exceeds a uniform number.

    The number is below 1, so that in float64 its product with the total is below the total, and an id with probability
    0 is never the first.
    """
    uniform = torch.rand(len(logits), 1, generator=generator, dtype=torch.float64, device=generator.device)
    added = logits.softmax(dim=-1).cumsum(dim=-1)
    return torch.searchsorted(added, uniform.to(logits.device) * added[:, -1:], right=True).squeeze(-1)


class Beams(NamedTuple):
    """The sequences that a beam search ended with, best first, and the log-probability of each.

    A log-probability of minus infinity says that there was no further sequence.
    """

    ids: Int[Tensor, "batch width seq"]
    log_probabilities: Float[Tensor, "batch width"]


@torch.no_grad()
def beam(
    predict: Predict,
    prompt_ids: Int[Tensor, "batch prompt"],
    *,
    width: int,
    eos_id: int,
    max_len: int,
    length_penalty: float = 0.0,
    pad_id: int | None = None,
    context: Sequence[Tensor] = (),
    caches: Sequence[Cache] = (),
) -> Beams:
    """Write several drafts of each sequence at once, and keep the likeliest of all their continuations.

    score = log p(y_1 ... y_n) / n ** length_penalty, where n counts the symbols after the prompt, eos_id included

    A draft that has ended stays among the others with its score, and a batch is done when all its drafts have ended or
    are max_len long. Width 1 is greedy decoding. A larger width usually finds likelier sequences, but no width except
    that of all sequences is sure to. Without a length penalty short sequences win too often, because every further
    symbol lowers the log-probability; 1.0 compares the mean per symbol.

    Args: width: how many drafts of each sequence are kept; predict gets batch * width rows, those of one sequence next
        to each other, and the context's rows repeated likewise. caches: as in `greedy`, for batch * width rows; their
        reorder is called before every further symbol. The rest as `greedy`.
    Shape: (batch, prompt) -> ids (batch, width, seq), log_probabilities (batch, width); sequences never mix.
    Raises: ValueError as `greedy`, or if width is below 1.
    Source: Graves 2012, "Sequence Transduction with Recurrent Neural Networks"; the length penalty is that of
        `transformers`, where Wu et al. 2016 have ((5 + n) / 6) ** length_penalty.
    """
    if width < 1:
        raise ValueError(f"a beam keeps 1 or more drafts, but got width={width}; 4 or 5 are usual, 1 is greedy")
    drafts = [tensor.repeat_interleave(width, dim=0) for tensor in (prompt_ids, *context)]
    writing = _Writing(predict, drafts[0], eos_id, max_len, pad_id, drafts[1:], caches)
    batch = len(prompt_ids)
    scores = torch.full((batch, width), -torch.inf, dtype=torch.float64, device=prompt_ids.device)
    scores[:, 0] = 0  # the drafts of a sequence are the same now: only the first may be continued
    lengths = torch.zeros_like(writing.lengths)
    for logits in writing:
        added = scores.view(-1, 1) + writing.with_what_must_follow(logits.double().log_softmax(dim=-1))
        lengths = lengths + ~writing.settled
        ranks = (added / lengths.clamp_min(1)[:, None] ** length_penalty).view(batch, -1)
        best, picked = _largest(ranks, width)
        scores = added.view(batch, -1).gather(1, picked).masked_fill(best == -torch.inf, -torch.inf)
        parents = torch.arange(batch, device=picked.device)[:, None] * width + picked // logits.shape[-1]
        writing.reorder(parents.flatten())
        lengths = lengths[parents.flatten()]
        writing.write((picked % logits.shape[-1]).flatten())
        writing.ended |= scores.flatten() == -torch.inf
    return Beams(writing.ids.view(batch, width, -1), scores)


def _largest(ranks: Tensor, n: int) -> tuple[Tensor, Tensor]:
    """Return the n largest of each row and their places, the first place first among equals (topk promises none)."""
    ranks = ranks.clone()
    values, places = [], []
    for _ in range(n):
        places.append(ranks.argmax(dim=-1, keepdim=True))
        values.append(ranks.gather(1, places[-1]))
        ranks.scatter_(1, places[-1], -torch.inf)
    return torch.cat(values, dim=1), torch.cat(places, dim=1)


class _Writing:
    """Sequences that grow by one symbol at a time; iterating gives the logits of what comes next until all have ended.

    Prompts of different lengths begin together, at the end of the shortest. A row is settled where its next symbol is
    on the page already: a symbol of its prompt, or, once it has ended, the filling.
    """

    def __init__(
        self,
        predict: Predict,
        prompt_ids: Tensor,
        eos_id: int,
        max_len: int,
        pad_id: int | None,
        context: Sequence[Tensor],
        caches: Sequence[Cache],
    ) -> None:
        _check_axes(prompt_ids)
        rows, longest = prompt_ids.shape
        real = torch.ones_like(prompt_ids) if pad_id is None else (prompt_ids != pad_id).long()
        self.lengths = (real * torch.arange(1, longest + 1, device=real.device)).amax(dim=1) if real.numel() else real
        self.predict, self.context, self.caches = predict, context, caches
        self.eos_id, self.filling = eos_id, eos_id if pad_id is None else pad_id
        _check_prompts(real, self.lengths, max_len)
        _check_context(rows, context)
        _check_caches(predict, caches)
        self.page = prompt_ids.new_full((rows, max_len), self.filling)
        self.page[:, :longest] = prompt_ids
        self.length = int(self.lengths.min())
        self.ended = torch.zeros(rows, dtype=torch.bool, device=prompt_ids.device)

    @property
    def ids(self) -> Tensor:
        return self.page[:, : self.length]

    @property
    def settled(self) -> Tensor:
        return self.ended | (self.lengths > self.length)

    def __iter__(self) -> Iterator[Tensor]:
        remembered = 0
        while self.length < self.page.shape[1] and not self.ended.all():
            ids = self.page[:, remembered : self.length]
            logits = self.predict(ids, *self.context)
            self._check_logits(logits)
            remembered = self._remembered()
            last = logits[:, -1]
            if not math.isfinite(last.amax(dim=-1).sum()):  # one number, since it is read at every step
                self._check_possible(last)
            yield last

    def write(self, chosen: Tensor) -> None:
        """Add one symbol to each row: the chosen one, where nothing is settled."""
        settled = self.settled
        self.page[:, self.length] = torch.where(settled, self.page[:, self.length], chosen)
        self.ended |= ~settled & (chosen == self.eos_id)
        self.length += 1

    def with_what_must_follow(self, log_probabilities: Tensor) -> Tensor:
        """Give the next symbol of settled rows probability 1, and all others 0."""
        certain = torch.full_like(log_probabilities, -torch.inf).scatter(1, self.page[:, self.length, None], 0.0)
        return torch.where(self.settled[:, None], certain, log_probabilities)

    def reorder(self, rows: Tensor) -> None:
        """Let row i continue what row rows[i] has; both belong to the same sequence, so that the context stays."""
        self.page, self.ended = self.page[rows], self.ended[rows]
        for cache in self.caches:
            cache.reorder(rows)

    def _remembered(self) -> int:
        """Return how many symbols need not be told again, and check that the model has them."""
        if self.caches and self.caches[0].length != self.length:
            raise ValueError(
                f"predict remembers in the caches, but after {self.length} symbols the first one has "
                f"length={self.caches[0].length}; name the same caches twice, as in "
                "greedy(partial(model, caches=caches), ids, caches=caches)"
            )
        return self.length if self.caches else 0

    def _check_possible(self, logits: Tensor) -> None:
        largest = logits.amax(dim=-1)
        stuck = (~largest.isfinite() & ~self.settled).nonzero().flatten().tolist()
        if stuck:
            raise ValueError(
                f"some symbol must be possible, so the largest logit of a row is finite, but at position {self.length} "
                f"that of row {stuck[0]} is {largest[stuck[0]].item()}, as in {len(stuck)} of {len(logits)} rows; look "
                "with lib.record in which module the first such number appears, or forbid fewer symbols"
            )

    def _check_logits(self, logits: Tensor) -> None:
        if logits.ndim != 3 or len(logits) != len(self.page):
            raise ValueError(
                f"predict must return logits (batch, seq, vocab) for {len(self.page)} sequences, but returned the "
                f"shape {tuple(logits.shape)}; pass what differs between sequences as context, not inside predict"
            )
        for name, special in (("eos_id", self.eos_id), ("pad_id", self.filling)):
            if not 0 <= special < logits.shape[-1]:
                raise ValueError(
                    f"{name} must be one of the model's ids, 0 to {logits.shape[-1] - 1}, but is {special}; "
                    "take both from the vocabulary that the model was made for"
                )


def _check_axes(prompt_ids: Tensor) -> None:
    if prompt_ids.ndim != 2:
        raise ValueError(
            f"prompts have two axes, (batch, prompt), but got the shape {tuple(prompt_ids.shape)}; "
            "for a single prompt pass prompt_ids[None], and take [0] of what comes back"
        )


def _check_prompts(real: Tensor, lengths: Tensor, max_len: int) -> None:
    if not lengths.numel() or lengths.min() < 1:
        raise ValueError(
            f"there must be 1 or more prompts of 1 or more symbols, but got {len(lengths)} prompts, the shortest of "
            f"length {int(lengths.min()) if lengths.numel() else 0}; begin each with bos_id"
        )
    gaps = (real.sum(dim=1) != lengths).nonzero().flatten().tolist()
    if gaps:
        raise ValueError(
            f"prompts are filled up on the right, but of {len(lengths)} prompts {len(gaps)}, such as number {gaps[0]}, "
            "have pad_id before a symbol; move it behind, or leave pad_id out where it is a symbol like others"
        )
    if real.shape[1] >= max_len:
        raise ValueError(
            f"max_len counts the prompt too and must leave room for 1 symbol or more, but got max_len={max_len} and "
            f"prompts of length {real.shape[1]}; pass a larger max_len or shorter prompts"
        )


def _check_context(rows: int, context: Sequence[Tensor]) -> None:
    for tensor in context:
        if len(tensor) != rows:
            raise ValueError(
                f"the context has a row for each sequence, but got {len(tensor)} rows for {rows} sequences; "
                "encode as many sources as there are prompts"
            )


def _check_caches(predict: Predict, caches: Sequence[Cache]) -> None:
    held = (predict.keywords.get("caches") if isinstance(predict, partial) else None) or ()
    unnamed = sum(all(one is not cache for cache in caches) for one in held)
    if unnamed:
        raise ValueError(
            f"what predict remembers with must be named, but it holds {len(held)} caches and {unnamed} of them are not "
            "among the caches given here; name them twice, as in "
            "greedy(partial(model, caches=caches), ids, caches=caches)"
        )
    for cache in caches:
        if cache.length:
            raise ValueError(
                f"caches begin empty, with length=0, but one has length={cache.length}; make new ones for each call"
            )
