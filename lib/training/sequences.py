"""What goes into a model that writes, and how wrong is what comes out?"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from numbers import Integral

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor

_listener: ContextVar[list[Tensor] | None] = ContextVar("token counts that train listens to", default=None)


def shift_right(tgt_ids: Int[Tensor, "batch seq"], bos_id: int) -> Int[Tensor, "batch seq"]:
    """Return what the decoder reads while it is asked for tgt_ids: bos_id, then all of them but the last.

    input_1 = bos,    input_t = target_(t-1)

    This is teacher forcing: at every position the model continues the right answer, not its own. Without the shift it
    would read at position t what it is asked for at position t, and learn to copy.

    Shape: (batch, seq) -> (batch, seq); every token moves one position, and sequences never mix.
    Raises: ValueError if there are no sequences or empty ones, there are not two axes, or the ids are no whole numbers.
    Source: Vaswani et al. 2017, section 3.1, "output embeddings are offset by one position"; teacher forcing is
        Williams and Zipser 1989, "A Learning Algorithm for Continually Running Fully Recurrent Neural Networks".
    """
    if tgt_ids.ndim != 2 or not tgt_ids.numel():
        raise ValueError(
            "targets are (batch, seq) of 1 sequence or more with 1 symbol or more, eos_id at least, but got the shape "
            f"{tuple(tgt_ids.shape)}; end every target with eos_id, and pass a single one as tgt_ids[None]"
        )
    _check_whole(tgt_ids)
    if not isinstance(bos_id, Integral):
        raise ValueError(f"bos_id is the id of one symbol, a whole number, but got {bos_id!r}; pass the vocabulary's")
    return torch.cat([torch.full_like(tgt_ids[:, :1], bos_id), tgt_ids[:, :-1]], dim=1)


def sequence_loss(
    logits: Float[Tensor, "batch seq vocab"],
    tgt_ids: Int[Tensor, "batch seq"],
    pad_id: int,
    *,
    label_smoothing: float = 0.0,
) -> Float[Tensor, ""]:
    """Return the mean surprise, in nats, at the real tokens of all sequences together; padding has no say.

    loss = - sum over real tokens of log softmax(logits)[target] / number of real tokens

    Every token weighs the same. The mean of the sequences' own means would weigh the tokens of short sequences more,
    and dividing by batch * seq would make the loss smaller by mere padding. A model that knows nothing has ln(vocab).
    With label smoothing e, the target is (1 - e) for the right symbol plus e / vocab for every one, itself included.

    Half-precision logits are computed with in float32. Where `train` runs in several processes, it learns from here
    how many tokens this mean is over, so that their losses add up to the one of the whole batch. The logits of padding
    must be finite: NaN there leaves the loss as it is, but is a gradient of NaN there. Leaving them out would copy all
    the others, and the loss of a batch with padding would take 1.4 times as long (measured on a CPU).

    Shape: (batch, seq, vocab), (batch, seq) -> (); all tokens mix into one number.
    Raises: ValueError if logits and targets differ in shape or are no sequences, targets are no whole numbers, there is
        no real token, an id is outside the vocabulary, or label_smoothing is not within 0 to 1.
    Source: Vaswani et al. 2017, section 5.4, for label smoothing, which is Szegedy et al. 2016, section 7.
        `torch.nn.functional.cross_entropy` with ignore_index, whose errors on a GPU end the process.
    """
    _check_sequences(logits, tgt_ids)
    if not 0 <= label_smoothing <= 1:
        raise ValueError(f"label_smoothing is a share from 0 to 1, but got {label_smoothing}; 0.1 is usual")
    tgt_ids = tgt_ids.long()  # cross_entropy takes no shorter ones
    real, counts = tgt_ids != pad_id, _listener.get()
    targets = tgt_ids[real]
    _check_ids(targets, logits.shape[-1])
    if counts is not None:
        counts.append(real.sum())
    elif not targets.numel():
        raise ValueError(
            f"a loss needs 1 real token or more, but all {tgt_ids.numel()} targets are padding; leave this batch out"
        )
    if not targets.numel():
        return 0 * logits.sum()  # a process's share, which counts 0 of the whole batch
    logits = logits.float() if logits.dtype.itemsize < 4 else logits
    return F.cross_entropy(
        logits.flatten(0, 1), tgt_ids.flatten(), ignore_index=pad_id, label_smoothing=label_smoothing
    )


def _check_sequences(logits: Tensor, tgt_ids: Tensor) -> None:
    if logits.ndim != 3 or logits.shape[:2] != tgt_ids.shape:
        raise ValueError(
            f"there is one row of logits for each target, (batch, seq, vocab) and (batch, seq), but got logits "
            f"{tuple(logits.shape)} and targets {tuple(tgt_ids.shape)}; feed the model shift_right(tgt_ids, bos_id), "
            "and give tokens without sequences a batch of 1: logits[None], tgt_ids[None]"
        )
    _check_whole(tgt_ids)


def _check_whole(tgt_ids: Tensor) -> None:
    if tgt_ids.is_floating_point() or tgt_ids.dtype == torch.bool:
        raise ValueError(
            f"targets are the ids of the right symbols, whole numbers, but got {tgt_ids.dtype}; pass the ids "
            "themselves, and label_smoothing for softer targets"
        )


def _check_ids(targets: Tensor, vocab_size: int) -> None:
    low, high = (int(extreme) for extreme in targets.aminmax()) if targets.numel() else (0, 0)
    if low < 0 or high >= vocab_size:
        raise ValueError(
            f"targets are ids from 0 to {vocab_size - 1}, as many as there are logits, but got "
            f"{low if low < 0 else high}; make the model's vocabulary larger, or pass the pad_id that the targets have"
        )


@contextmanager
def counted_tokens() -> Iterator[list[Tensor]]:
    """Collect over how many tokens each sequence_loss inside the block takes its mean.

    Shape: a list of numbers, ().
    Source: none; DistributedDataParallel takes the mean over processes, whatever their tokens.
    """
    counts: list[Tensor] = []
    before = _listener.set(counts)
    try:
        yield counts
    finally:
        _listener.reset(before)
