"""What did a check find? The verdict, and what is shown beside it."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

Status = Literal["passed", "failed", "not attempted"]
SIGNS = {"passed": "✅", "failed": "❌", "not attempted": "⬜"}
ROWS, COLUMNS = 6, 8  # of a tensor are shown
CLOSE = 1e-5  # of the largest number: wide enough for a right answer in float32, far below any mistake


@dataclass(frozen=True)
class Line:
    """A line of the reader's own code, and its number in their cell."""

    number: int
    text: str


@dataclass(frozen=True, eq=False)
class Comparison:
    """What was tried, and what was expected beside what was received; tensors are drawn, anything else is written."""

    tried: str
    expected: object
    received: object
    rows: str = "row"  # what the rows of the tensors are: tokens, features


@dataclass(frozen=True, eq=False)
class Verdict:
    """The answer of a check: it shows itself in a notebook, in a terminal and in a test.

    mistake: the name of the mistake where it was recognised, the same for all who make it.
    """

    exercise: str
    status: Status
    message: str
    mistake: str | None = None
    hint: str = ""
    comparison: Comparison | None = None
    line: Line | None = None
    printed: str = ""

    def __repr__(self) -> str:
        from .page import as_text

        return as_text(self)

    def _repr_html_(self) -> str:
        from .page import as_html

        return as_html(self)


class Finding(Exception):  # noqa: N818  it is no error: finding mistakes is what a check is for
    """Something is wrong with an answer: which mistake, in one sentence, and the way out."""

    def __init__(
        self,
        mistake: str,
        message: str,
        hint: str,
        *,
        comparison: Comparison | None = None,
        line: Line | None = None,
    ) -> None:
        super().__init__(message)
        self.mistake, self.message, self.hint = mistake, message, hint
        self.comparison, self.line = comparison, line

    def __str__(self) -> str:
        return self.message

    def verdict(self, exercise: str, printed: str) -> Verdict:
        """Turn it into the verdict on an exercise."""
        return Verdict(exercise, "failed", self.message, self.mistake, self.hint, self.comparison, self.line, printed)


def differs(expected: Tensor, received: Tensor) -> Tensor:
    """Mark the numbers of two tensors of one shape that are not equal up to rounding; NaN equals nothing.

    Shape: any, twice the same -> the same, of truth values.
    """
    largest = expected.abs().max().item() if expected.numel() else 0.0
    return ~((expected - received).abs() <= CLOSE * max(1.0, largest))


def same(a: object, b: object) -> bool:
    """Say whether two results are equal up to rounding: tensors, numbers, or tuples and lists of them."""
    if isinstance(a, Tensor) and isinstance(b, Tensor):
        if a.shape != b.shape or a.device != b.device or not (_is_real(a) and _is_real(b)):
            return False
        return not differs(a.double(), b.double()).any().item()
    if isinstance(a, tuple | list) and isinstance(b, tuple | list):
        return len(a) == len(b) and all(map(same, a, b))
    if isinstance(a, int | float) and isinstance(b, int | float):
        return math.isclose(a, b, rel_tol=1e-9)
    return False


def call_as_text(name: str, parameters: Sequence[str], inputs: Sequence[object]) -> str:
    """Write a call as the reader would, with shapes in the place of tensors."""
    arguments = (
        f"{parameter}: {tuple(value.shape)}" if isinstance(value, Tensor) else f"{parameter}={value}"
        for parameter, value in zip(parameters, inputs, strict=True)
    )
    return f"{name}({', '.join(arguments)})"


def _is_real(tensor: Tensor) -> bool:
    return tensor.layout is torch.strided and not tensor.is_meta and not tensor.is_complex()
