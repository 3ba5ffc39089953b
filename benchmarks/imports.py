"""How long does a reader wait for the library? Importing it, against importing PyTorch alone, in fresh processes.

    python -m benchmarks.imports [--rounds 7]

Exits with 1 if a ratio is over its budget: 1.2, which is 0.3 s where PyTorch takes 1.5 s.
"""

from __future__ import annotations

import argparse
import pkgutil
import subprocess
import sys
from collections.abc import Callable

from benchmarks.compare import ROOT, Case, report

MODULES = [module.name for module in pkgutil.iter_modules([str(ROOT / "lib")])]


def importing(*modules: str) -> Callable[[], object]:
    """Return a call that starts a Python process which imports these modules and ends."""
    command = [sys.executable, "-c", f"import {', '.join(modules)}"]
    return lambda: subprocess.run(command, check=True, cwd=ROOT)


def main() -> int:
    """Measure, print and write benchmarks/imports.md."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.imports", description=__doc__.partition("\n")[0])
    parser.add_argument("--rounds", type=int, default=7, help="interleaved rounds of each case (default: 7)")
    chosen = parser.parse_args()
    if chosen.rounds < 2:
        parser.error(f"quartiles need 2 rounds or more, but got --rounds {chosen.rounds}")
    everything = [f"lib.{module}" for module in MODULES if module != "plots"]  # which is matplotlib
    floor = importing("torch")
    cases = [
        Case(("lib.feed_forward",), importing("torch", "lib.feed_forward"), floor, 1.2),
        Case(("all of lib but plots",), importing("torch", *everything), floor, 1.2),
    ]
    command = f"python -m benchmarks.imports --rounds {chosen.rounds}"
    good = report("Importing the library", command, ["imported"], cases, chosen.rounds, ROOT / "benchmarks/imports.md")
    return 0 if good else 1


if __name__ == "__main__":
    sys.exit(main())
