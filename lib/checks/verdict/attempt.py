"""What does a reader's function do? It runs on copies, for a limited time, and nothing that it does lasts."""

from __future__ import annotations

import functools
import inspect
import io
import linecache
import random
import time
import traceback
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, redirect_stderr, redirect_stdout
from types import CodeType
from typing import Any

import torch
from torch import Tensor, nn

from .deadline import OutOfTime, call_within
from .outcome import Finding, Line, call_as_text
from .words import in_words, takes_other_arguments

SECONDS = 1.0  # for one call
ALL_SECONDS = 3.0  # for all calls of one check


class NotAttempted(Exception):  # noqa: N818  it is no error: the stub is still there
    """The reader's function raises NotImplementedError."""


class Attempt:
    """A reader's function that is safe to call, as `attempt(x, w)`.

    It gets fresh copies of the inputs, float64 as the default dtype, and random numbers that nobody else sees; what it
    prints is kept in `printed`. It must not change the copies: they stand for the caller's tensors.
    """

    def __init__(self, exercise: str, function: object, parameters: Sequence[str]) -> None:
        self.exercise = exercise
        self.function: Any = function
        self.parameters = tuple(parameters)
        self.printed = FirstLines()
        name = getattr(function, "__name__", "")
        self._name = name if isinstance(name, str) and name.isidentifier() else exercise  # as the reader calls it
        self._code = _code(function)
        self._calls = 0
        self._seconds = ALL_SECONDS

    def look(self) -> None:
        """Check before any call that this is a function, and that it takes the arguments.

        Raises: Finding if it is not.
        """
        call = f"check_{self.exercise}({self.exercise})"
        if inspect.isclass(self.function):
            raise Finding("a_class", "You passed a class; this check takes a function.", f"Pass it: {call}.")
        if not callable(self.function):
            what = f"{_article(type(self.function).__name__)}, which cannot be called"
            raise Finding(
                "not_a_function", f"You passed {what}.", f"Pass the function itself, without calling it: {call}."
            )
        if any(kind(self.function) for kind in (inspect.iscoroutinefunction, inspect.isasyncgenfunction)):
            raise Finding(
                "async", "Your function is an async one: calling it computes nothing yet.", "Use a plain def."
            )
        if inspect.isgeneratorfunction(self.function):
            raise Finding("generator", "Your function yields, so calling it computes nothing yet.", "Use return.")
        self._take_arguments()

    def __call__(self, *inputs: object) -> Any:
        """Run the function on copies of the inputs.

        Raises: Finding if it raises, takes too long or changes an input; NotAttempted if it is still the stub.
        """
        copies = tuple(_copy(value) for value in inputs)
        result = self.run(copies)
        self._unchanged(inputs, copies)
        return result

    def run(self, inputs: tuple[object, ...]) -> Any:
        """Run the function on these very inputs: for gradients, which need the tensors themselves.

        Raises: Finding if it raises or takes too long; NotAttempted if it is still the stub.
        """
        self._calls += 1
        with _sealed(self.printed, seed=self._calls):
            started = time.perf_counter()
            try:
                return _plain(call_within(min(SECONDS, self._seconds), self.function, *inputs))
            except KeyboardInterrupt:
                raise  # by the person at the keyboard
            except NotImplementedError as error:
                raise self._not_implemented(error, inputs) from None
            except BaseException as error:  # whatever it is, it is the reader's
                raise self._failed(error, inputs) from None
            finally:
                self._seconds = max(0.05, self._seconds - (time.perf_counter() - started))

    def call(self, inputs: Sequence[object]) -> str:
        """Write the call with these inputs as the reader would."""
        return call_as_text(self._name, self.parameters, inputs)

    def mentions(self, word: str) -> bool:
        """Say whether a name with this word in it occurs in the reader's function."""
        return self._code is not None and any(word in name.lower() for name in self._code.co_names)

    def _take_arguments(self) -> None:
        try:
            signature = inspect.signature(self.function)
        except (TypeError, ValueError):
            return  # a built-in one keeps its arguments to itself
        try:
            signature.bind(*self.parameters)
        except TypeError:
            raise self._other_arguments("Your function", f"Begin it with: def {self._name}") from None

    def _other_arguments(self, what: str, way_out: str) -> Finding:
        wanted = ", ".join(self.parameters)
        message = f"{what} takes other arguments than the {len(self.parameters)} of the task: {wanted}."
        return Finding("arguments", message, f"{way_out}({wanted}):")

    def _failed(self, error: BaseException, inputs: Sequence[object]) -> Finding:
        line = self._line(error)
        if isinstance(error, OutOfTime):
            return Finding(
                "too_slow",
                f"Your function was stopped: it ran for more than {SECONDS:g} second on an input of a few numbers.",
                "Look for a loop that never ends, or for one that waits.",
                line=line,
            )
        if line is None and takes_other_arguments(error):
            way_out = f"Write a function that calls it, and pass that: def {self.exercise}"
            return self._other_arguments("What you passed", way_out)
        mistake, message, hint = in_words(error)
        if line is None and mistake == "raises":
            hint = f"No line of your cell is in it. Pass a function of your own: def {self.exercise}(...):"
        return Finding(mistake, f"{message} It happened in {self.call(inputs)}.", hint, line=line)

    def _not_implemented(self, error: NotImplementedError, inputs: Sequence[object]) -> Exception:
        """Tell a stub's own exception from one of PyTorch, which has a text."""
        line = self._line(error)
        by_hand = not str(error) or (line is not None and line.text.startswith("raise"))
        return NotAttempted() if by_hand else self._failed(error, inputs)

    def _line(self, error: BaseException) -> Line | None:
        """Find the innermost line in the cell that holds the reader's function."""
        if self._code is None:
            return None
        for frame, number in reversed(list(traceback.walk_tb(error.__traceback__))):
            if frame.f_code.co_filename == self._code.co_filename:
                return Line(number, linecache.getline(frame.f_code.co_filename, number, frame.f_globals).strip())
        return None

    def _unchanged(self, inputs: Sequence[object], copies: Sequence[object]) -> None:
        for name, before, after in zip(self.parameters, inputs, copies, strict=True):
            if isinstance(before, Tensor) and not _equal(before, after):
                raise Finding(
                    "changes_its_input",
                    f"You changed the caller's tensor {name} in place; whoever uses it next gets your numbers.",
                    "Make a new tensor: h = h + b instead of h += b, relu instead of relu_, or clone() it first.",
                )


class FirstLines(io.TextIOBase):
    """Keep the beginning of what is printed, however much it is."""

    def __init__(self, characters: int = 400) -> None:
        super().__init__()
        self.text = ""
        self._left = characters

    def write(self, text: str) -> int:
        """Keep this text as far as there is room."""
        self.text += text[: self._left]
        self._left = max(0, self._left - len(text))
        return len(text)


@contextmanager
def _sealed(printed: FirstLines, seed: int) -> Iterator[None]:
    """Keep to itself what code inside prints, warns, seeds and sets."""
    dtype, device, state = torch.get_default_dtype(), torch.get_default_device(), random.getstate()
    devices = range(torch.cuda.device_count()) if torch.cuda.is_initialized() else ()
    with (
        redirect_stdout(printed),
        redirect_stderr(printed),
        warnings.catch_warnings(),
        torch.random.fork_rng(devices=devices),
        torch.enable_grad(),
    ):
        try:
            warnings.simplefilter("ignore")
            random.seed(seed)
            torch.default_generator.manual_seed(seed)
            if devices:
                torch.cuda.manual_seed_all(seed)
            torch.set_default_dtype(working_dtype())
            yield
        finally:
            torch.set_default_dtype(dtype)
            random.setstate(state)
            if torch.get_default_device() != device:
                torch.set_default_device(None if device.type == "cpu" else device)


def working_dtype() -> torch.dtype:
    """Return the dtype of all inputs: the one in which rounding hides no mistake, where the device has it."""
    return torch.float32 if torch.get_default_device().type == "mps" else torch.float64


def _plain(result: Any) -> Any:
    """Take tensors as plain ones, without what a class of the reader's own does with them."""
    if isinstance(result, tuple | list):
        return [_plain(part) for part in result] if isinstance(result, list) else tuple(map(_plain, result))
    if isinstance(result, Tensor) and type(result) is not Tensor:
        return result.as_subclass(Tensor)
    if inspect.iscoroutine(result):
        result.close()  # or Python warns that nobody awaited it
    return result


def _copy(value: object) -> object:
    return value.detach().clone().requires_grad_(value.requires_grad) if isinstance(value, Tensor) else value


def _equal(before: Tensor, after: Tensor) -> bool:
    """Compare what the caller would see: shape, kind and numbers."""
    alike = before.shape == after.shape and before.dtype == after.dtype and before.device == after.device
    return alike and before.requires_grad == after.requires_grad and torch.equal(before, after)


def _code(function: object) -> CodeType | None:
    """Find the code that the reader wrote, below decorators, partial functions and objects that can be called."""
    while isinstance(function, functools.partial):
        function = function.func
    function = inspect.unwrap(function) if callable(function) else function
    if isinstance(function, nn.Module):
        function = type(function).forward
    elif not inspect.isroutine(function):
        function = getattr(type(function), "__call__", None)  # noqa: B004  its code is wanted
    return getattr(function, "__code__", None)


def _article(noun: str) -> str:
    return f"an {noun}" if noun[0].lower() in "aeiou" else f"a {noun}"
