"""What came back? Each reader turns a result into what was asked for, or says what it is instead."""

from __future__ import annotations

import math
from collections.abc import Sequence
from numbers import Real

import torch
from torch import Tensor

from .outcome import Finding


def read_tensor(result: object, expected: Tensor, name: str = "result") -> Tensor:
    """Take a tensor of the expected shape, dtype and device.

    Shape: anything -> that of `expected`.
    Raises: Finding if it is something else.
    """
    tensor = _some_tensor(result)
    if tensor.device != expected.device:
        raise Finding(
            "wrong_device",
            f"Your {name} is on the device {tensor.device}, the inputs are on {expected.device}.",
            "Make new tensors where x is: device=x.device, or torch.zeros_like(x).",
        )
    if tensor.layout is not torch.strided:
        raise Finding("sparse", f"Your {name} is a sparse tensor.", "Return a plain one: .to_dense().")
    if tensor.shape != expected.shape:
        raise Finding(
            "wrong_shape",
            f"Your {name} has the shape {tuple(tensor.shape)}; wanted is {tuple(expected.shape)}.",
            "These are the right axes in another order: look at transpose, permute, and the dim of stack."
            if sorted(tensor.shape) == sorted(expected.shape)
            else "Write the shape beside each step, and see where they part.",
        )
    if tensor.dtype != expected.dtype:
        raise Finding(
            "wrong_dtype",
            f"Your {name} is {_short(tensor.dtype)}, the inputs are {_short(expected.dtype)}.",
            "Return the kind of number that came in: make new tensors with dtype=x.dtype, or end with .to(x.dtype).",
        )
    return tensor.detach()


def read_pair(result: object, expected: Sequence[Tensor]) -> tuple[Tensor, ...]:
    """Take two tensors of the expected shapes; a bias may also be one row.

    Shape: anything -> those of `expected`, a weight and a bias.
    Raises: Finding if it is something else.
    """
    if not isinstance(result, tuple | list) or len(result) != len(expected):
        what = f"{len(result)} things" if isinstance(result, tuple | list) else described(result)
        raise Finding("not_a_pair", f"You return {what}; wanted are two tensors.", "End with: return w, b")
    w, b = (_some_tensor(part) for part in result)
    wanted_w, wanted_b = expected
    if w.shape == wanted_b.shape and b.shape == wanted_w.shape:
        raise Finding("swapped", "You return b before w.", "End with: return w, b")
    if b.shape == (1, *wanted_b.shape):
        b = b[0]
    return read_tensor(w, wanted_w, "w"), read_tensor(b, wanted_b, "b")


def read_number(result: object, expected: float) -> float:
    """Take a number: int, float, NumPy's, or a tensor with one.

    Raises: Finding if it is something else.
    """
    if isinstance(result, Tensor):
        if result.numel() != 1 or result.is_meta:
            raise Finding(
                "not_a_number", f"You return {described(result)}; wanted is one number.", "Return one number."
            )
        result = result.item()
    if isinstance(result, int) and result.bit_length() > 1000:
        raise Finding("not_a_number", "You return a whole number of hundreds of digits.", "Look for a power.")
    if isinstance(result, bool) or not isinstance(result, Real):
        hint = "Is there a return?" if result is None else "Return one number."
        raise Finding("not_a_number", f"You return {described(result)}; wanted is one number.", hint)
    number = result if isinstance(result, int) else float(result)
    if not math.isfinite(number):
        raise Finding("not_a_number", f"You return {number}; wanted is a finite number.", "Where do you divide by 0?")
    return int(number) if number == int(number) else number


def read_whole_number(result: object, expected: float) -> float:
    """Take an int, since sizes of layers are.

    Raises: Finding if it is something else, 5.0 included.
    """
    number = read_number(result, expected)
    if isinstance(result, float) or not isinstance(number, int):
        raise Finding(
            "not_whole",
            f"You return {result!r}, and a layer cannot be that wide: torch.nn.Linear wants an int.",
            "Round to the nearest whole number: round(...) gives an int, / gives a float, // rounds down.",
        )
    return number


def described(result: object) -> str:
    """Say what this is, in a few words."""
    if result is None:
        return "None"
    if isinstance(result, int) and result.bit_length() > 1000:
        return "an int of hundreds of digits"
    if isinstance(result, Tensor):
        return f"a tensor of shape {tuple(result.shape)}"
    if isinstance(result, tuple | list) and len(result) > 1 and all(isinstance(part, Tensor) for part in result):
        return f"{len(result)} tensors of shapes {', '.join(str(tuple(part.shape)) for part in result)}"
    name = type(result).__name__
    if name in ("ndarray", "list", "tuple", "str", "dict", "function", "generator", "coroutine"):
        return {"ndarray": "a NumPy array", "str": "a text"}.get(name, f"a {name}")
    return f"{name}: {result!r}" if isinstance(result, Real) else f"an object of the class {name}"


def _some_tensor(result: object) -> Tensor:
    if isinstance(result, Tensor):
        return result
    hints = {
        "NoneType": "A function without return gives None. Is the last line a return?",
        "ndarray": "Stay in PyTorch from input to output, or no gradient can flow.",
        "tuple": "Is there a comma at the end, or a second value?",
        "generator": "Use return instead of yield, and a list in [...] instead of (... for ...).",
    }
    name = type(result).__name__
    kind = {"NoneType": "returns_none", "ndarray": "returns_numpy"}.get(name, f"returns_{name.lower()}")
    raise Finding(kind, f"You return {described(result)}; wanted is a tensor.", hints.get(name, "Return a tensor."))


def _short(dtype: torch.dtype) -> str:
    return str(dtype).removeprefix("torch.")
