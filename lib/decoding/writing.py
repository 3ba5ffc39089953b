"""How does a text grow? By one symbol at a time in every row, until each has ended or there is no more room."""

from __future__ import annotations

import math
import operator
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from typing import Protocol, runtime_checkable

import torch
from jaxtyping import Bool, Float, Int
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


class Writing:
    """Sequences that grow by one symbol at a time; iterating gives the logits of what comes next until all have ended.

    Prompts of different lengths begin together, at the end of the shortest. A row is settled where its next symbol is
    on the page already: a symbol of its prompt, or, once it has ended, the filling. With several drafts, there are so
    many rows for each prompt, next to each other, and so many of the context.

    Shape: prompt_ids (batch, prompt); ids (batch * drafts, seq).
    Raises: ValueError as `greedy`, or if the drafts do not fit into the memory.
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
        drafts: int = 1,
    ) -> None:
        _check_ids(prompt_ids)
        _check_context(len(prompt_ids), context)
        _check_caches(predict, caches)
        eos_id, max_len = whole("eos_id", eos_id), whole("max_len", max_len)
        pad_id = None if pad_id is None else whole("pad_id", pad_id)
        prompt_ids, *context = (_repeat(tensor, drafts) for tensor in (prompt_ids, *context))
        rows, longest = prompt_ids.shape
        real = torch.ones_like(prompt_ids) if pad_id is None else (prompt_ids != pad_id).long()
        self.lengths = (real * torch.arange(1, longest + 1, device=real.device)).amax(dim=1) if real.numel() else real
        self.predict, self.context, self.caches = predict, context, caches
        self.eos_id, self.filling = eos_id, eos_id if pad_id is None else pad_id
        _check_prompts(real, self.lengths, max_len)
        self.page = prompt_ids.new_full((rows, max_len), self.filling)
        self.page[:, :longest] = prompt_ids
        self.length = int(self.lengths.min())
        self.ended = torch.zeros(rows, dtype=torch.bool, device=prompt_ids.device)

    @property
    def ids(self) -> Int[Tensor, "row seq"]:
        """What has been written, the prompts included.

        Shape: (row, seq).
        """
        return self.page[:, : self.length]

    @property
    def settled(self) -> Bool[Tensor, " row"]:
        """Whose next symbol is on the page already.

        Shape: (row).
        """
        return self.ended | (self.lengths > self.length)

    def __iter__(self) -> Iterator[Tensor]:
        """Ask predict for the logits of the next symbols, (row, vocab), until nothing is left to be written."""
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

    def write(self, chosen: Int[Tensor, " row"]) -> None:
        """Add one symbol to each row: the chosen one, where nothing is settled.

        Shape: (row).
        """
        settled = self.settled
        self.page[:, self.length] = torch.where(settled, self.page[:, self.length], chosen)
        self.ended |= ~settled & (chosen == self.eos_id)
        self.length += 1

    def with_what_must_follow(self, log_probabilities: Float[Tensor, "row vocab"]) -> Float[Tensor, "row vocab"]:
        """Give the next symbol of settled rows probability 1, and all others 0.

        Shape: (row, vocab) -> (row, vocab).
        """
        certain = torch.full_like(log_probabilities, -torch.inf).scatter(1, self.page[:, self.length, None], 0.0)
        return torch.where(self.settled[:, None], certain, log_probabilities)

    def reorder(self, rows: Int[Tensor, " row"]) -> None:
        """Let row i continue what row rows[i] has; both belong to the same sequence, so that the context stays.

        Shape: (row).
        """
        self.page, self.ended = self.page[rows], self.ended[rows]
        for cache in self.caches:
            cache.reorder(rows)

    def _remembered(self) -> int:
        """Return how many symbols need not be told again, and check that the model has them."""
        if self.caches and self.caches[0].length != self.length:
            raise ValueError(
                f"predict remembers in the caches given here, but after {self.length} symbols the first one has "
                f"length={self.caches[0].length}; give predict and decoding the same caches, as in "
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

    def _check_logits(self, logits: object) -> None:
        if not isinstance(logits, Tensor) or logits.dtype == torch.bool or logits.is_complex():
            arrived = logits.dtype if isinstance(logits, Tensor) else type(logits).__name__
            raise ValueError(
                f"predict must return logits, one tensor of numbers (batch, seq, vocab), but returned {arrived}; "
                "take the logits out of what the model returns"
            )
        if logits.ndim != 3 or len(logits) != len(self.page) or not logits.shape[1]:
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


def whole(name: str, number: object) -> int:
    """Return a number that counts or names something, as a plain int.

    Raises: ValueError if it is no whole number.
    """
    try:
        return operator.index(number)
    except TypeError as error:
        raise ValueError(f"{name} is a whole number, but got {number!r}; pass an int") from error


def _repeat(tensor: Tensor, drafts: int) -> Tensor:
    try:
        return tensor.repeat_interleave(drafts, dim=0)
    except RuntimeError as error:  # which is also what a GPU's OutOfMemoryError is
        raise ValueError(
            f"every draft has a row of its own, but {drafts} drafts of {len(tensor)} sequences are more than the "
            "memory holds; a width of 4 or 5 is usual"
        ) from error


def _check_ids(prompt_ids: object) -> None:
    if not isinstance(prompt_ids, Tensor) or prompt_ids.dtype not in (torch.int64, torch.int32):
        arrived = prompt_ids.dtype if isinstance(prompt_ids, Tensor) else type(prompt_ids).__name__
        raise ValueError(
            f"prompts are a tensor of ids, of torch.int64 or torch.int32 as embeddings read them, but got {arrived}; "
            "for a single prompt of one symbol pass torch.tensor([[bos_id]])"
        )
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


def _check_context(rows: int, context: object) -> None:
    if not isinstance(context, Sequence):  # a tensor is none, and would be taken apart into its rows
        raise ValueError(
            f"the context is a sequence of tensors, but got one {type(context).__name__}; pass (memory,) for one "
            "tensor, and () for none"
        )
    for tensor in context:
        if not isinstance(tensor, Tensor) or not tensor.ndim:
            arrived = "one without axes" if isinstance(tensor, Tensor) else type(tensor).__name__
            raise ValueError(
                f"the context is tensors with a row for each of the {rows} sequences, but got {arrived} among its "
                f"{len(context)}; bind what is the same for all of them with functools.partial"
            )
        if len(tensor) != rows:
            raise ValueError(
                f"the context has a row for each sequence, but got {len(tensor)} rows for {rows} sequences; "
                "encode as many sources as there are prompts"
            )


def _check_caches(predict: object, caches: object) -> None:
    if not callable(predict):
        raise ValueError(
            f"predict is called with ids and returns logits, but got {type(predict).__name__}; pass the model itself"
        )
    strangers = [one for one in caches if not isinstance(one, Cache)] if isinstance(caches, Sequence) else [caches]
    if strangers:
        raise ValueError(
            f"caches are a sequence of objects with length and reorder, but got {type(strangers[0]).__name__}; pass "
            "model.new_caches(), or () for none"
        )
    held = (predict.keywords.get("caches") if isinstance(predict, partial) else None) or ()
    unnamed = sum(all(one is not cache for cache in caches) for one in held)
    if unnamed:
        raise ValueError(
            f"what predict remembers with must be named, but it holds {len(held)} caches and {unnamed} of them are not "
            "among the caches given here; give predict and decoding the same caches, as in "
            "greedy(partial(model, caches=caches), ids, caches=caches)"
        )
    for cache in caches:
        if cache.length:
            raise ValueError(
                f"caches begin empty, with length=0, but one has length={cache.length}; make new ones for each call"
            )
