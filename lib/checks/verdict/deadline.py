"""How long may a reader's code run? A limit that stops endless loops and leaves nothing behind.

On the main thread of Linux and macOS a timer interrupts, and so ends `time.sleep` too. Elsewhere a second thread asks
Python to raise, which waits for the next line of Python. Neither can stop one long operation inside a compiled
library: it is noticed when it ends. No trace function is used, so debuggers and coverage keep theirs.
"""

from __future__ import annotations

import ctypes
import inspect
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext, suppress
from types import FrameType
from typing import Any

AGAIN = 0.01  # seconds: a loop around a bare `except:` swallows the first interruption, and needs more
DEBUGGERS = ("bdb", "pdb", "pydevd", "_pydevd", "debugpy")


class OutOfTime(BaseException):  # as KeyboardInterrupt, so that `except Exception` lets it through
    """The code ran for longer than it may."""


def call_within(seconds: float, function: Callable[..., Any], *arguments: object) -> Any:
    """Call a function, and raise `OutOfTime` inside it once the seconds are over.

    Under a debugger there is no limit, since people think for longer than that.

    Raises: OutOfTime, and whatever the function raises.
    """
    with _limit(seconds):
        return _call(function, arguments)


def _call(function: Callable[..., Any], arguments: tuple[object, ...]) -> Any:
    """Stand on the stack as the mark above which everything is the reader's."""
    return function(*arguments)


def _runs(frame: FrameType | None) -> bool:
    """Say whether the reader's code is running at this frame, rather than ours around it."""
    while frame is not None and frame.f_code is not _MARK:
        frame = frame.f_back
    return frame is not None


_MARK = inspect.unwrap(_call).__code__  # below the type checker that tests wrap around it


def _limit(seconds: float) -> AbstractContextManager[None]:
    if _debugging():
        return nullcontext()
    on_main_thread = threading.current_thread() is threading.main_thread()
    if on_main_thread and hasattr(signal, "setitimer") and signal.getsignal(signal.SIGALRM) is not None:
        return _timer(seconds)
    return _watcher(seconds)


def _debugging() -> bool:
    trace = sys.gettrace()
    owner = getattr(trace, "__module__", None) or type(trace).__module__
    monitoring = getattr(sys, "monitoring", None)  # Python 3.12 and later
    return owner.startswith(DEBUGGERS) or (monitoring is not None and bool(monitoring.get_tool(monitoring.DEBUGGER_ID)))


@contextmanager
def _timer(seconds: float) -> Iterator[None]:
    """Interrupt by a timer of the operating system; one that was set before goes on afterwards."""
    rings = 0

    def ring(number: int, frame: FrameType | None) -> None:
        nonlocal rings
        running = _runs(frame)
        rings += running
        if running and rings > 1:
            _insist(frame, rings)
        signal.setitimer(signal.ITIMER_REAL, AGAIN)  # only now, so that it does not ring in here
        if running:
            raise OutOfTime

    outer_ring, outer_trace = signal.signal(signal.SIGALRM, ring), sys.gettrace()
    started = time.monotonic()
    outer_seconds, outer_again = signal.setitimer(signal.ITIMER_REAL, seconds)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, outer_ring)
        if rings > 1:
            sys.settrace(outer_trace)
        if outer_seconds:
            left = outer_seconds - (time.monotonic() - started)
            signal.setitimer(signal.ITIMER_REAL, max(left, 1e-3), outer_again)


def _insist(frame: FrameType | None, steps: int) -> None:
    """Raise some steps later, too: a bare `except:` swallowed the last one, but it is not around every line."""

    def trace(frame: FrameType, event: str, argument: object) -> Any:
        nonlocal steps
        steps -= 1
        if steps < 0:
            raise OutOfTime  # which also ends the tracing
        return trace

    while frame is not None and frame.f_code is not _MARK:
        frame.f_trace = trace
        frame = frame.f_back
    sys.settrace(lambda frame, event, argument: None)  # no new frame, only those that are there


@contextmanager
def _watcher(seconds: float) -> Iterator[None]:
    """Interrupt from a second thread, for Windows and for code that runs outside the main thread."""
    reader = threading.get_ident()
    over, late = threading.Event(), threading.Event()

    def watch() -> None:
        pause = seconds
        while not over.wait(pause) and _runs(sys._current_frames().get(reader)):
            late.set()
            _raise_in(reader)
            pause = AGAIN

    thread = threading.Thread(target=watch, daemon=True)
    thread.start()
    try:
        yield
    finally:
        over.set()
        thread.join()
        if late.is_set():
            _take_in(reader)


def _raise_in(thread: int) -> None:
    ctypes.pythonapi.PyThreadState_SetAsyncExc(ctypes.c_ulong(thread), ctypes.py_object(OutOfTime))


def _take_in(thread: int) -> None:
    """Let an exception arrive that may still be on its way.

    It cannot be taken back instead: Python 3.11 would then look for it for ever, and hang wherever something is traced.
    """
    with suppress(OutOfTime):
        _raise_in(thread)
        while True:
            pass
