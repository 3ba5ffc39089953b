"""Is it as fast as it could be? The library, a floor and its peers, side by side in one process, as ratios.

A machine's speed drifts, so nothing is timed in one go: in every round each function runs once, in an order that
rotates, and a ratio compares two times of the same round. The control is the floor against itself: what it differs
from 1 is noise, and no ratio means more than that. benchmarks/README.md says why this is not pytest-benchmark or asv.
"""

from __future__ import annotations

import argparse
import ctypes
import platform
import statistics
import sys
import timeit
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import torch
from torch.utils import benchmark

from lib.device import pick_device, seeded

ROOT = Path(__file__).resolve().parent.parent
DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16}
AT_THE_FLOOR = 1.02  # up to this ratio
HOW_TO_READ = (
    "Times are medians over interleaved rounds in one process, ratios are medians of the ratios within a round; "
    "`control` is the floor against itself and shows the noise. Read ratios, not milliseconds."
)
Run = Callable[[], object]


@dataclass(frozen=True)
class Peer:
    """What somebody else's code does in the same setting, and how many times longer than ours it must take.

    Where PyTorch's own module is at the floor, nothing is left to be faster by: `or_at_the_floor` then sets no bar.
    """

    run: Run
    times: float = 1.0
    or_at_the_floor: bool = False


@dataclass(frozen=True)
class Case:
    """One thing measured in one setting: ours, the floor it is held against, the largest ratio, and the peers.

    A budget of None sets no bar: the floor is then there to be read. Rounds of None are as many as the command asks.
    """

    labels: tuple[str, ...]
    ours: Run
    floor: Run
    budget: float | None = None
    threads: int = 1
    peers: Mapping[str, Peer] = field(default_factory=dict)
    rounds: int | None = None


@dataclass(frozen=True)
class Row:
    """What was measured of a case: medians in milliseconds, and medians of ratios, with quartiles of the first."""

    case: Case
    floor_ms: float
    ours_ms: float
    ratios: tuple[float, float, float]  # lib / floor
    control: float  # floor / floor
    peers: Mapping[str, tuple[float, float]]  # name / floor, name / lib

    @property
    def within(self) -> bool:
        """Whether the median ratio keeps the budget, at the two decimals that are printed."""
        return self.case.budget is None or round(self.ratios[1], 2) <= self.case.budget

    def ahead_of(self, peer: str) -> bool | None:
        """Whether ours is faster than a peer by what is asked; None if the peer sets no bar."""
        over_floor, over_ours = self.peers[peer]
        asked = self.case.peers[peer]
        if asked.or_at_the_floor and round(over_floor, 2) <= AT_THE_FLOOR:
            return None
        return over_ours > asked.times

    @property
    def bars(self) -> int:
        """How many bars there are."""
        return (self.case.budget is not None) + sum(self.ahead_of(peer) is not None for peer in self.peers)

    @property
    def missed(self) -> int:
        """How many of them are missed."""
        return (not self.within) + sum(self.ahead_of(peer) is False for peer in self.peers)


def agree(ours: torch.Tensor, floor: torch.Tensor) -> None:
    """Refuse to compare what does not compute the same."""
    atol = 1e-4 if ours.dtype == torch.float32 else 0.1
    torch.testing.assert_close(ours, floor, atol=atol, rtol=0.02 if atol == 0.1 else 1e-5)


@contextmanager
def using_threads(n: int) -> Iterator[None]:
    """Compute on n CPU threads inside the block."""
    before = torch.get_num_threads()
    torch.set_num_threads(n)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def measure(case: Case, rounds: int, shortest: float = 0.01, enough: float = 1.5) -> Row:
    """Time a case in interleaved rounds, repeating each function until one timing lasts `shortest` seconds.

    What is quickly done is measured in more rounds, until `enough` seconds are over: a bar is then a few microseconds,
    and takes a finer look.
    """
    names = [*case.peers]
    functions = [case.floor, case.ours, case.floor, *(case.peers[name].run for name in names)]
    timers = [timeit.Timer(function, timer=benchmark.timer) for function in functions]  # waits for a GPU
    times: list[list[float]] = [[] for _ in timers]
    _keep_memory()
    with using_threads(case.threads):
        for timer in timers:
            timer.timeit(1)
        repeats = max(1, round(3 * shortest / timers[0].timeit(3)))
        started = timeit.default_timer()
        while (turn := len(times[0])) < rounds or timeit.default_timer() - started < enough:
            for place in range(len(timers)):
                which = (turn + place) % len(timers)
                times[which].append(timers[which].timeit(repeats) / repeats)
    floor, ours, control, *others = times
    return Row(
        case=case,
        floor_ms=1000 * statistics.median(floor),
        ours_ms=1000 * statistics.median(ours),
        ratios=_quartiles(ours, floor),
        control=_quartiles(control, floor)[1],
        peers={
            name: (_quartiles(other, floor)[1], _quartiles(other, ours)[1])
            for name, other in zip(names, others, strict=True)
        },
    )


@dataclass(frozen=True)
class Settings:
    """What the command line asked for, and the names that follow from it."""

    name: str
    rounds: int | None
    device: torch.device
    dtype: torch.dtype

    @property
    def path(self) -> Path:
        """The report: benchmarks/NAME.md for float32 on the CPU, else with device and type in its name."""
        device = "" if self.device.type == "cpu" else f"_{self.device.type}"
        dtype = "" if self.dtype == torch.float32 else f"_{_short(self.dtype)}"
        return ROOT / "benchmarks" / f"{self.name}{device}{dtype}.md"

    @property
    def command(self) -> str:
        """The command that makes the report."""
        rounds = "" if self.rounds is None else f" --rounds {self.rounds}"
        return f"python -m benchmarks.{self.name}{rounds} --device {self.device.type} --dtype {_short(self.dtype)}"

    @contextmanager
    def defaults(self) -> Iterator[None]:
        """Make tensors and modules on this device and of this type inside the block, from seed 0.

        Measure outside: inside, every call of PyTorch asks Python first where to put what it makes.
        """
        before = torch.get_default_dtype()
        torch.set_default_dtype(self.dtype)
        try:
            with self.device, seeded(0):
                yield
        finally:
            torch.set_default_dtype(before)

    @property
    def threads(self) -> tuple[int, ...]:
        """The numbers of CPU threads to measure with; a GPU is fed by one."""
        return (1, 2) if self.device.type == "cpu" else (1,)


def settings(name: str, purpose: str | None, *, rounds: int | None = None, on_device: bool = True) -> Settings:
    """Read the options of a benchmark, and end with one clear line if they are no good.

    `rounds` is how many there are if nobody says; None is for a benchmark that measures no time.
    """
    first = (purpose or "").partition("\n")[0]
    parser = argparse.ArgumentParser(f"python -m benchmarks.{name}", usage=argparse.SUPPRESS, description=first)
    if rounds is not None:
        parser.add_argument("--rounds", type=int, default=rounds, help=f"of each case, at least (default: {rounds})")
    if on_device:
        parser.add_argument("--device", default="cpu", help="cpu (default) or cuda")
        parser.add_argument("--dtype", default="float32", choices=DTYPES, help="float32 (default) or bfloat16")
    parser.set_defaults(rounds=rounds, device="cpu", dtype="float32")
    chosen = parser.parse_args()
    if chosen.rounds is not None and chosen.rounds < 2:
        parser.error(f"quartiles need 2 rounds or more, but got --rounds {chosen.rounds}")
    try:
        return Settings(name, chosen.rounds, pick_device(chosen.device), DTYPES[chosen.dtype])
    except ValueError as error:
        parser.error(str(error))


def report(
    title: str,
    asked: Settings,
    headings: Sequence[str],
    cases: Iterable[Case],
    *,
    peers: Sequence[str] = (),
    about: Sequence[str] = (),
    after: Callable[[Sequence[Row]], Sequence[str]] = lambda rows: (),
) -> bool:
    """Measure all cases, print the table as it grows, write it as Markdown, and tell whether all bars are kept.

    `peers` name the columns; `about` are paragraphs before the table, and `after` makes the lines that follow it.
    """
    head = [*headings, "threads", "floor ms", "lib ms", "lib / floor", "quartiles", "control", "bar"]
    head += [f"{peer} / {other}" for peer in peers for other in ("floor", "lib")]
    lines = [line(head), line(["---"] * len(headings) + ["--:"] * (len(head) - len(headings)))]
    print(*lines, sep="\n", flush=True)
    rows: list[Row] = []
    for case in cases:
        rows.append(measure(case, case.rounds or asked.rounds))
        lines.append(line(_cells(rows[-1], peers)))
        print(lines[-1], flush=True)
    bars, missed = sum(row.bars for row in rows), sum(row.missed for row in rows)
    noise = statistics.quantiles([abs(row.control - 1) for row in rows], n=20)[-1] if len(rows) > 1 else 0.0
    verdict = f"{bars - missed} of {bars} bars are kept; 95 % of the controls are within {noise:.2f} of 1."
    write(title, asked, [HOW_TO_READ, *about, verdict], [*lines, "", *after(rows), "", *_shortfalls(rows)])
    return not missed


def write(title: str, asked: Settings, about: Sequence[str], lines: Sequence[str]) -> None:
    """Write a report as Markdown: how it was made, paragraphs on what it says, the last of them in short, the table."""
    where = platform.machine() if asked.device.type == "cpu" else torch.cuda.get_device_name(asked.device)
    made = f"Made by `{asked.command}`: torch {torch.__version__}, Python {platform.python_version()}, {where}."
    paragraphs = "\n\n".join([f"# {title}", made, *about])
    asked.path.write_text(paragraphs + "\n\n" + "\n".join(lines).strip() + "\n", encoding="utf-8")
    print(f"\n{about[-1]} Written to {asked.path.relative_to(ROOT)}.")


def line(cells: Sequence[str]) -> str:
    """Return a row of a Markdown table."""
    return f"| {' | '.join(cells)} |"


def _shortfalls(rows: Sequence[Row]) -> list[str]:
    """Say what is missed, and by how much: a few microseconds are what calling modules costs."""
    lines = []
    for row in rows:
        what = ", ".join([*row.case.labels, f"{row.case.threads} thread{'s' * (row.case.threads > 1)}"])
        if not row.within:
            over = 1000 * (row.ours_ms - row.floor_ms)
            lines.append(f"- {what}: {row.ratios[1]:.2f} times the floor, {over:.0f} µs over it.")
        lines += [
            f"- {what}: {peer} takes {row.peers[peer][1]:.2f} times as long."
            for peer in row.peers
            if row.ahead_of(peer) is False
        ]
    return ["Missed:", "", *lines] if lines else []


def _keep_memory() -> None:
    """Have the C library keep what is freed: whether it gives memory back is chance, and getting it again is slow."""
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None) if sys.platform == "linux" else None
    if mallopt is not None:
        trim_threshold, mmap_threshold, most = -1, -3, 2**30  # the numbers of glibc's malloc.h
        mallopt(trim_threshold, most)
        mallopt(mmap_threshold, most)


def _cells(row: Row, peers: Sequence[str]) -> list[str]:
    low, middle, high = row.ratios
    bar = "" if row.case.budget is None else f"{row.case.budget:.2f}"
    cells = [*row.case.labels, str(row.case.threads), f"{row.floor_ms:.2f}", f"{row.ours_ms:.2f}"]
    cells += [f"{middle:.2f}{_mark(row.within)}", f"{low:.2f} to {high:.2f}", f"{row.control:.2f}", bar]
    for peer in peers:
        over_floor, over_ours = row.peers.get(peer, (None, None))
        cells += [_two(over_floor), _two(over_ours) + ("" if over_ours is None else _mark(row.ahead_of(peer)))]
    return cells


def _mark(kept: bool | None) -> str:
    return " (missed)" if kept is False else ""


def _two(ratio: float | None) -> str:
    return "–" if ratio is None else f"{ratio:.2f}"


def _quartiles(times: Sequence[float], others: Sequence[float]) -> tuple[float, float, float]:
    low, middle, high = statistics.quantiles([a / b for a, b in zip(times, others, strict=True)], n=4)
    return low, middle, high


def _short(dtype: torch.dtype) -> str:
    return str(dtype).removeprefix("torch.")
