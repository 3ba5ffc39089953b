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
from collections.abc import Sequence
from typing import NamedTuple, SupportsFloat

import torch
from jaxtyping import Float, Int
from torch import Tensor

from .writing import Cache, Predict, Writing, whole

__all__ = ["Beams", "Cache", "Predict", "beam", "greedy", "keep_top_k", "keep_top_p", "sample"]


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
        has no possible next symbol (its logits are NaN, or all minus infinity), a cache is not empty, the caches are
        not those that predict remembers with, or something is of another kind than said here.
    Source: `generate` of `transformers` with do_sample=False, where prompts are filled up on the left.
    """
    writing = Writing(predict, prompt_ids, eos_id, max_len, pad_id, context, caches)
    for logits in writing:
        writing.write(logits.argmax(dim=-1))
    return writing.ids


def keep_top_k(logits: Float[Tensor, "*batch vocab"], k: int) -> Float[Tensor, "*batch vocab"]:
    """Forbid all symbols but the k likeliest: their logits become minus infinity, so that a softmax gives them 0.

    Shape: (..., vocab) -> (..., vocab); each row is treated alone.
    Raises: ValueError if k is no whole number within 1 to vocab, or logits are no tensor of floating-point numbers.
    Source: Fan et al. 2018, "Hierarchical Neural Story Generation".
    """
    _check_logits(logits)
    k = whole("k", k)
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
    Raises: ValueError if p is not above 0 and at most 1, or logits are no tensor of floating-point numbers.
    Source: Holtzman et al. 2020, "The Curious Case of Neural Text Degeneration".
    """
    _check_logits(logits)
    if not isinstance(p, SupportsFloat) or not 0 < p <= 1:
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
    Raises: ValueError as `greedy`, `keep_top_k` and `keep_top_p`, or if the temperature is not above 0, or infinite, or
        the generator is none.
    Source: `generate` of `transformers` with do_sample=True, which restricts in the same order.
    """
    if not isinstance(temperature, SupportsFloat) or not 0 < temperature < math.inf:
        raise ValueError(
            f"logits are divided by a finite temperature above 0, but got {temperature}; for 0, use greedy"
        )
    if not isinstance(generator, torch.Generator):
        raise ValueError(
            f"symbols are drawn with a generator, so that they can be drawn again, but got {generator!r}; make one "
            "from a seed: torch.Generator().manual_seed(0)"
        )
    temperature = max(float(temperature), torch.finfo(torch.float64).tiny)  # a GPU multiplies by 1 / this
    writing = Writing(predict, prompt_ids, eos_id, max_len, pad_id, context, caches)
    for logits in writing:
        logits = logits.double()
        logits = (logits - logits.amax(dim=-1, keepdim=True)) / temperature  # 0 and below, never inf
        logits = logits if top_k is None else keep_top_k(logits, top_k)
        logits = logits if top_p is None else keep_top_p(logits, top_p)
        writing.write(_draw(logits, generator))
    return writing.ids


def _check_logits(logits: object) -> None:
    if not isinstance(logits, Tensor) or not logits.ndim or not logits.is_floating_point():
        arrived = f"{logits.dtype} of the shape {tuple(logits.shape)}" if isinstance(logits, Tensor) else repr(logits)
        raise ValueError(
            f"logits are a tensor of floating-point numbers, (..., vocab), of which some become minus infinity, but "
            f"got {arrived}; pass what a model returns"
        )


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
    Raises: ValueError as `greedy`, or if width is below 1 or more than the memory holds, or length_penalty not finite.
    Source: Graves 2012, "Sequence Transduction with Recurrent Neural Networks"; the length penalty is that of
        `transformers`, where Wu et al. 2016 have ((5 + n) / 6) ** length_penalty.
    """
    width = whole("width", width)
    if width < 1:
        raise ValueError(f"a beam keeps 1 or more drafts, but got width={width}; 4 or 5 are usual, 1 is greedy")
    if not isinstance(length_penalty, SupportsFloat) or not math.isfinite(length_penalty):
        raise ValueError(
            f"lengths are raised to the power of a finite length_penalty, but got {length_penalty}; 0 is none, and 1 "
            "compares means"
        )
    writing = Writing(predict, prompt_ids, eos_id, max_len, pad_id, context, caches, drafts=width)
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
