"""Is it the same function, and if not, which one is it? Answers beside PyTorch's and beside those of known mistakes."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from .attempt import Attempt, working_dtype
from .outcome import Comparison, Finding, differs, same
from .results import described

Inputs = tuple[Any, ...]
Accept = Callable[[Any, Any], bool]
SHAPES_AT_FAULT = ("matmul_shapes", "sizes_differ", "shape", "wrong_shape")


@dataclass(frozen=True)
class Mistake:
    """A known mistake: what a reader who makes it computes, one sentence that names it, and the way out."""

    name: str
    function: Callable[..., Any]
    message: str
    hint: str

    def made_by(self, results: Sequence[tuple[Inputs, Any]], accept: Accept) -> bool:
        """Say whether this mistake gives all of these results."""
        try:
            return all(accept(self.function(*inputs), result) for inputs, result in results)
        except (RuntimeError, IndexError, ArithmeticError, ValueError):
            return False  # it gives no result at all on these inputs


def known(*rows: tuple[str, Callable[..., Any], str, str]) -> list[Mistake]:
    """Make mistakes out of a table: name, function, message, hint."""
    return [Mistake(*row) for row in rows]


Family = Callable[[Attempt, Inputs], Finding | None]


def draw(*shapes: tuple[int, ...], seed: int = 0, scale: float = 1.0) -> tuple[Tensor, ...]:
    """Draw one random tensor of each shape, the same numbers on every device.

    Shape: as asked for.
    """
    source = torch.Generator("cpu").manual_seed(seed)
    dtype, device = working_dtype(), torch.get_default_device()
    return tuple(
        (scale * torch.randn(shape, generator=source, dtype=dtype, device="cpu")).to(device) for shape in shapes
    )


def agree(
    attempt: Attempt,
    trials: Sequence[Inputs],
    reference: Callable[..., Any],
    mistakes: Sequence[Mistake],
    *,
    read: Callable[[Any, Any], Any],
    accept: Accept = same,
    families: Sequence[Family] = (),
    square: Inputs | None = None,
    rows: str = "row",
) -> None:
    """Check that a reader's function and a reference give the same on all trials, smallest first.

    If not, the mistake is looked for: first among the known ones, by what they compute on the same inputs, then among
    the families, which are properties and get the second trial, or the only one. Where only the shapes are at fault,
    `square` inputs show what was meant.

    Args: read: turns a result into what is compared, or raises a Finding. accept: what counts as equal. families: each
        returns a Finding, or None if the property holds. rows: what the rows of a tensor are.
    Raises: Finding with the first trial that differs.
    """
    results: list[tuple[Inputs, Any]] = []
    first: Finding | None = None
    not_finite: Finding | None = None
    differ = False  # results that are right so far show no mistake
    for inputs in trials:
        expected = reference(*inputs)
        try:
            result = attempt(*inputs)
        except Finding as finding:
            first = first or _after_a_right_one(finding, attempt, trials, inputs)
            break
        received, finding = _compare(attempt.call(inputs), result, expected, read, accept, rows)
        if finding is not None and finding.mistake == "not_finite":
            not_finite = not_finite or finding  # NaN equals nothing, so no mistake is known by it
        else:
            results.append((inputs, received))
        first = first or _after_a_right_one(finding, attempt, trials, inputs)
        differ = first is not None
    if first is None:
        return
    if first is not_finite:
        raise first
    shown = [*([results] if differ else []), *_on_square(attempt, first, square, reference)]
    found = _recognised(shown, mistakes, accept, first)
    raise found or not_finite or _of_a_family(attempt, trials[:2][-1], families, first) or first


def gradients_flow(attempt: Attempt, inputs: Inputs, reference: Callable[..., Tensor]) -> None:
    """Check that a reader's function passes the gradient on to every input, as the reference does.

    Raises: Finding if it stops it, or changes it.
    """
    wanted = _gradients(reference, inputs)
    try:
        received = _gradients(lambda *copies: attempt.run(copies), inputs)
    except Finding as finding:
        finding.message = f"The numbers are right, but nothing can be learned through them. {finding.message}"
        raise
    for name, right, gradient in zip(attempt.parameters, wanted, received, strict=True):
        if gradient is None or differs(right, gradient).any():
            what = "reaches" if gradient is None else "that is right reaches"
            raise Finding(
                "no_gradient",
                f"The numbers are right, but no gradient {what} {name}: nothing can be learned through it.",
                "Stay with PyTorch's operations, without detach(), .data, item(), numpy() and no_grad().",
            )


def _gradients(function: Callable[..., Tensor], inputs: Inputs) -> list[Tensor | None]:
    copies = tuple(value.detach().clone().requires_grad_() for value in inputs)
    result = function(*copies)
    if not result.requires_grad:
        return [None] * len(copies)
    (weights,) = draw(tuple(result.shape), seed=9)
    return list(torch.autograd.grad((result * weights).sum(), copies, allow_unused=True))


def _compare(
    tried: str,
    result: Any,
    expected: Any,
    read: Callable[[Any, Any], Any],
    accept: Accept,
    rows: str,
) -> tuple[Any, Finding | None]:
    """Return what was received, and a finding that names no mistake yet if it is not what was expected."""
    try:
        received = read(result, expected)
    except Finding as finding:
        wanted = expected if isinstance(expected, int | float) else described(expected)
        finding.comparison = Comparison(tried, *_told_apart(wanted, described(result), expected, result))
        return _kept(result), finding
    if not isinstance(expected, tuple):
        return _kept(received), _difference("Your result", Comparison(tried, expected, received, rows), accept)
    for name, wanted, got in zip("wb", expected, received, strict=True):
        if finding := _difference(f"Your {name}", Comparison(f"{name} of {tried}", wanted, got, rows), same):
            return received, finding
    return _kept(received), None


def _difference(what: str, comparison: Comparison, accept: Accept) -> Finding | None:
    if finding := _not_finite(what, comparison):
        return finding
    if accept(comparison.expected, comparison.received):
        return None
    return Finding(
        "other",
        f"{what} differs from the right one, and not by a mistake that is known here.",
        "Compare the numbers below, term by term of the formula.",
        comparison=comparison,
    )


def _not_finite(what: str, comparison: Comparison) -> Finding | None:
    """Find NaN and infinity where numbers are wanted: what any later test says of such a result is an accident."""
    expected, received = comparison.expected, comparison.received
    if not (isinstance(expected, Tensor) and isinstance(received, Tensor) and expected.isfinite().all()):
        return None
    at = (~received.isfinite()).nonzero()[:1].flatten().tolist()
    if not at:
        return None
    place = f"{comparison.rows} {at[-2]}" if len(at) > 1 else f"number {at[0]}"
    sample = f" of sample {at[0]}" if len(at) > 2 else ""
    return Finding(
        "not_finite",
        f"{what} is not finite: the first {received[tuple(at)].item()} is at {place}{sample}.",
        "Look for the root or the logarithm of a negative number, for 0/0, and for exp of something large.",
        comparison=comparison,
    )


def _told_apart(wanted: object, got: str, expected: Any, result: Any) -> tuple[object, str]:
    """Add the kind of number and the device where these are what differs."""
    if not (isinstance(expected, Tensor) and isinstance(result, Tensor)):
        return wanted, got
    for of in ("dtype", "device", "layout"):
        wants, has = (str(getattr(tensor, of)).removeprefix("torch.") for tensor in (expected, result))
        if wants != has:
            wanted, got = f"{wanted}, {of} {wants}", f"{got}, {of} {has}"
    return wanted, got


def _after_a_right_one(
    finding: Finding | None, attempt: Attempt, trials: Sequence[Inputs], inputs: Inputs
) -> Finding | None:
    """Say so if the smallest input went well: then something depends on the size, or on how large the numbers are."""
    if finding is None or inputs is trials[0] or finding.mistake not in ("other", *SHAPES_AT_FAULT):
        return finding
    if attempt.call(inputs) == attempt.call(trials[0]):
        finding.mistake = "other_numbers"
        finding.message = f"It is right for small numbers, but not for large ones. {finding.message}"
        finding.hint = "Does something cut large numbers off?"
    else:
        finding.mistake = "other_sizes"
        finding.message = f"It is right for the smallest sizes, but not for others. {finding.message}"
        finding.hint = "Is a number written into the code that should follow from the arguments?"
    return finding


def _on_square(
    attempt: Attempt, first: Finding, square: Inputs | None, reference: Callable[..., Any]
) -> list[list[tuple[Inputs, Any]]]:
    """Try the inputs on which wrong shapes fit, where shapes are what is wrong."""
    if first.mistake not in SHAPES_AT_FAULT or square is None:
        return []
    try:
        result = _kept(attempt(*square))
    except Finding:
        return []
    return [] if same(reference(*square), result) else [[(square, result)]]


def _recognised(
    shown: Sequence[Sequence[tuple[Inputs, Any]]], mistakes: Sequence[Mistake], accept: Accept, first: Finding
) -> Finding | None:
    for mistake in mistakes:
        if any(mistake.made_by(results, accept) for results in shown):
            return Finding(mistake.name, mistake.message, mistake.hint, comparison=first.comparison, line=first.line)
    return None


def _of_a_family(attempt: Attempt, inputs: Inputs, families: Sequence[Family], first: Finding) -> Finding | None:
    if first.comparison is None:
        return None  # nothing came back
    for family in families:
        try:
            finding = family(attempt, inputs)
        except Finding:
            continue  # on these inputs it fails altogether
        if finding is not None:
            finding.comparison = finding.comparison or first.comparison
            return finding
    return None


def _kept(result: Any) -> Any:
    """Copy a result, so that no later call can change it."""
    if isinstance(result, tuple | list):
        return tuple(map(_kept, result))
    return result.detach().clone() if isinstance(result, Tensor) else result
