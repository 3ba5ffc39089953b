"""How long does a reader wait for the library? Importing it, against importing PyTorch alone, in fresh processes.

    python -m benchmarks.imports [--rounds 7]

Exits with 1 if the library takes 0.3 s more than PyTorch alone, or a fifth of its time more.
"""

from __future__ import annotations

import pkgutil
import subprocess
import sys
from collections.abc import Callable, Sequence

from benchmarks.compare import ROOT, Case, Row, report, settings

MOST_MS = 300
MODULES = [module.name for module in pkgutil.iter_modules([str(ROOT / "lib")])]


def importing(*modules: str) -> Callable[[], object]:
    """Return a call that starts a Python process which imports these modules and ends."""
    command = [sys.executable, "-c", f"import {', '.join(modules)}"]
    return lambda: subprocess.run(command, check=True, cwd=ROOT)


def extra_ms(rows: Sequence[Row]) -> list[float]:
    """Return what each import takes on top of PyTorch's, in milliseconds."""
    return [row.ours_ms - row.floor_ms for row in rows]


def main() -> int:
    """Measure, print and write benchmarks/imports.md."""
    within = []

    def say(rows: Sequence[Row]) -> list[str]:
        within.extend(extra <= MOST_MS for extra in extra_ms(rows))
        names = [row.case.labels[0] for row in rows]
        return [
            f"- {name}: {ms:.0f} of {MOST_MS} ms more than PyTorch alone."
            for name, ms in zip(names, extra_ms(rows), strict=True)
        ]

    asked = settings("imports", __doc__, rounds=7, on_device=False)
    everything = [f"lib.{module}" for module in MODULES if module != "plots"]  # which is matplotlib
    floor = importing("torch")
    cases = [
        Case(("lib.feed_forward",), importing("torch", "lib.feed_forward"), floor, 1.2),
        Case(("all of lib but plots",), importing("torch", *everything), floor, 1.2),
    ]
    good = report("Importing the library", asked, ["imported"], cases, after=say)
    return 0 if good and all(within) else 1


if __name__ == "__main__":
    sys.exit(main())
