"""Is it as fast as it could be? Candidates against a floor, side by side in one process, as ratios.

A machine's speed drifts, so nothing is timed in one go: in every round each function runs once, in an order that
rotates, and a ratio compares two times of the same round. The control is the floor against itself: what it differs
from 1 is noise, and no ratio means more than that.
"""

from __future__ import annotations

import gc
import platform
import statistics
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import torch

ROOT = Path(__file__).resolve().parent.parent


@dataclass(frozen=True)
class Case:
    """One thing measured in one setting: the function of ours, the floor it is held against, and the largest ratio."""

    labels: tuple[str, ...]
    ours: Callable[[], object]
    floor: Callable[[], object]
    budget: float
    threads: int = 1


@dataclass(frozen=True)
class Row:
    """What was measured of a case: medians in milliseconds, and ratios with their quartiles."""

    case: Case
    floor_ms: float
    ours_ms: float
    ratios: tuple[float, float, float]
    control: float

    @property
    def within(self) -> bool:
        """Whether the median ratio keeps the budget, at the two decimals that are printed."""
        return round(self.ratios[1], 2) <= self.case.budget


def measure(case: Case, rounds: int, shortest: float = 0.01) -> Row:
    """Time a case in interleaved rounds, repeating each function until one timing lasts `shortest` seconds."""
    with _threads(case.threads):
        functions = [case.floor, case.ours, case.floor]
        repeats = _repeats(case.floor, shortest)
        for function in functions:
            _seconds(function, repeats)
        times: list[list[float]] = [[], [], []]
        for turn in range(rounds):
            for place in range(3):
                which = (turn + place) % 3
                times[which].append(_seconds(functions[which], repeats))
    floor, ours, control = times
    low, middle, high = statistics.quantiles([b / a for a, b in zip(floor, ours, strict=True)], n=4)
    return Row(
        case=case,
        floor_ms=1000 * statistics.median(floor),
        ours_ms=1000 * statistics.median(ours),
        ratios=(low, middle, high),
        control=statistics.median(b / a for a, b in zip(floor, control, strict=True)),
    )


def report(title: str, command: str, headings: Sequence[str], cases: Sequence[Case], rounds: int, path: Path) -> bool:
    """Measure all cases, print the table as it grows, write it as Markdown, and tell whether all keep their budgets."""
    head = [*headings, "threads", "floor ms", "lib ms", "lib / floor", "quartiles", "control", "budget"]
    lines = [_line(head), _line(["---"] * len(headings) + ["--:"] * (len(head) - len(headings)))]
    print(*lines, sep="\n")
    rows = []
    for case in cases:
        rows.append(measure(case, rounds))
        lines.append(_line(_cells(rows[-1])))
        print(lines[-1], flush=True)
    over = [row for row in rows if not row.within]
    verdict = f"{len(rows) - len(over)} of {len(rows)} ratios keep their budget."
    about = (
        f"Made by `{command}`: torch {torch.__version__}, Python {platform.python_version()}, {platform.machine()}, "
        f"{rounds} interleaved rounds in one process. Medians; `control` is the floor against itself and shows the "
        "noise. Read ratios, not milliseconds."
    )
    path.write_text("\n".join([f"# {title}", "", about, "", verdict, "", *lines, ""]), encoding="utf-8")
    print(f"\n{verdict} Written to {path.relative_to(ROOT)}.")
    return not over


def _cells(row: Row) -> list[str]:
    low, middle, high = row.ratios
    mark = "" if row.within else " (over)"
    times = [f"{row.floor_ms:.2f}", f"{row.ours_ms:.2f}", f"{middle:.2f}{mark}", f"{low:.2f} to {high:.2f}"]
    return [*row.case.labels, str(row.case.threads), *times, f"{row.control:.2f}", f"{row.case.budget:.2f}"]


def _line(cells: Sequence[str]) -> str:
    return f"| {' | '.join(cells)} |"


def _repeats(function: Callable[[], object], shortest: float) -> int:
    function()
    return max(1, round(shortest / max(_seconds(function, 3), 1e-9)))


def _seconds(function: Callable[[], object], repeats: int) -> float:
    """Return the seconds of one call, on average over a few, without the garbage collector in between."""
    gc.collect(0)
    gc.disable()
    try:
        _finish()
        start = time.perf_counter()
        for _ in range(repeats):
            function()
        _finish()
        return (time.perf_counter() - start) / repeats
    finally:
        gc.enable()


def _finish() -> None:
    """Wait for the GPU, if there is one: it works on after Python has gone ahead."""
    if torch.cuda.is_available():
        torch.cuda.synchronize()


@contextmanager
def _threads(n: int) -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(n)
    try:
        yield
    finally:
        torch.set_num_threads(before)
