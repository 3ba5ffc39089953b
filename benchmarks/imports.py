"""How long does a reader wait for the library? Importing it, against importing PyTorch alone, in fresh processes.

    python -m benchmarks.imports [--rounds 7]

Exits with 1 if a ratio is over its budget: 1.2, which is 0.3 s where PyTorch takes 1.5 s.
"""

from __future__ import annotations

import pkgutil
import subprocess
import sys
from collections.abc import Callable

from benchmarks.compare import ROOT, Case, report, settings

MODULES = [module.name for module in pkgutil.iter_modules([str(ROOT / "lib")])]


def importing(*modules: str) -> Callable[[], object]:
    """Return a call that starts a Python process which imports these modules and ends."""
    command = [sys.executable, "-c", f"import {', '.join(modules)}"]
    return lambda: subprocess.run(command, check=True, cwd=ROOT)


def main() -> int:
    """Measure, print and write benchmarks/imports.md."""
    asked = settings("imports", __doc__, rounds=7, on_device=False)
    everything = [f"lib.{module}" for module in MODULES if module != "plots"]  # which is matplotlib
    floor = importing("torch")
    cases = [
        Case(("lib.feed_forward",), importing("torch", "lib.feed_forward"), floor, 1.2),
        Case(("all of lib but plots",), importing("torch", *everything), floor, 1.2),
    ]
    return 0 if report("Importing the library", asked, ["imported"], cases) else 1


if __name__ == "__main__":
    sys.exit(main())
