"""Execute a notebook in a process and a kernel of its own, with an end to every wait.

`execute` starts this file as that process. It needs nbclient only, so that it runs in Colab's environment too.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import nbformat
from nbformat import NotebookNode

CELL_SECONDS = 120
NOTEBOOK_SECONDS = 600
GRACE_SECONDS = 60  # for the kernel to start and to end

# Equal outputs on every run: one thread, no live widgets, no order that depends on hashes, figures as PNG.
SETTINGS = {
    "OMP_NUM_THREADS": "1",
    "MKL_NUM_THREADS": "1",
    "OPENBLAS_NUM_THREADS": "1",
    "PYTHONHASHSEED": "0",
    "EXPLORE_MODE": "static",
    "MPLBACKEND": "module://matplotlib_inline.backend_inline",
    "PYDEVD_DISABLE_FILE_VALIDATION": "1",  # or the kernel's debugger warns about frozen modules
    "JUPYTER_PLATFORM_DIRS": "1",
}
LIVE_FRONT_ENDS = ("JPY_SESSION_NAME", "COLAB_RELEASE_TAG")
COLOURS = re.compile(r"\x1b\[[0-9;]*m")


class ExecutionError(Exception):
    """A notebook did not run to its end; the message names the cell, its source and the reason."""


def environment(settings: dict[str, str]) -> dict[str, str]:
    """Return the environment variables under which notebooks are executed."""
    left_out = {*LIVE_FRONT_ENDS, "COVERAGE_PROCESS_CONFIG"}  # tracing each line would double the time
    inherited = {name: value for name, value in os.environ.items() if name not in left_out}
    return {**inherited, **settings}


def execute(
    notebook: NotebookNode,
    folder: Path,
    *,
    python: str = sys.executable,
    settings: dict[str, str] = SETTINGS,
    cell_seconds: float = CELL_SECONDS,
    notebook_seconds: float = NOTEBOOK_SECONDS,
) -> NotebookNode:
    """Return the notebook with the outputs of a fresh run, made with `folder` as its working directory."""
    with tempfile.TemporaryDirectory() as private:
        given, result = Path(private, "given.ipynb"), Path(private, "result.json")
        given.write_text(nbformat.writes(notebook), encoding="utf-8")
        command = [python, __file__, given, result, folder, str(cell_seconds), str(notebook_seconds)]
        variables = environment({**settings, "IPYTHONDIR": private})  # nobody's own start-up files
        try:
            process = subprocess.run(
                command,
                env=variables,
                stdin=subprocess.DEVNULL,
                capture_output=True,
                text=True,
                timeout=notebook_seconds + GRACE_SECONDS,
                check=False,
            )
        except subprocess.TimeoutExpired:
            raise ExecutionError(f"the notebook was stopped: {notebook_seconds:g} s at most") from None
        if not result.is_file():
            raise ExecutionError(f"the process that ran the notebook broke off:\n{process.stderr[-2000:]}")
        answer = json.loads(result.read_text(encoding="utf-8"))
    if answer["failure"]:
        raise ExecutionError(answer["failure"])
    return nbformat.from_dict(answer["notebook"])


def failure(cell: NotebookNode | None, number: int, reason: str) -> str:
    """Say which cell failed, what it holds and why."""
    if cell is None:
        return f"the notebook did not start: {reason}"
    source = "\n".join(f"    {line}" for line in cell.source.splitlines())
    return f"cell {number} failed:\n{source}\n{COLOURS.sub('', reason).strip()}"


def run(notebook: NotebookNode, folder: str, cell_seconds: float, notebook_seconds: float) -> str:
    """Execute a notebook in place; return what went wrong, or nothing."""
    from jupyter_client.kernelspec import KernelSpecManager
    from jupyter_client.manager import AsyncKernelManager
    from nbclient import NotebookClient
    from nbclient.exceptions import CellExecutionError, CellTimeoutError, DeadKernelError

    end = time.monotonic() + notebook_seconds
    at: list[tuple[NotebookNode | None, int]] = [(None, 0)]
    client = NotebookClient(
        notebook,
        # With nowhere to look for kernels, this environment's own Python is the one called python3.
        km=AsyncKernelManager(kernel_name="python3", kernel_spec_manager=KernelSpecManager(kernel_dirs=[])),
        timeout_func=lambda cell: max(0.1, min(cell_seconds, end - time.monotonic())),
        resources={"metadata": {"path": folder}},
        record_timing=False,
        on_cell_start=lambda cell, cell_index: at.append((cell, cell_index + 1)),
    )
    try:
        client.execute(cleanup_kc=True)
    except CellTimeoutError:
        limit = f"the notebook {notebook_seconds:g} s" if time.monotonic() >= end else f"a cell {cell_seconds:g} s"
        return failure(*at[-1], f"It was stopped: {limit} at most.")
    except CellExecutionError as error:
        cell, number = at[-1]
        traces = [output.traceback for output in cell.outputs if output.output_type == "error"]
        return failure(cell, number, "\n".join(traces[-1]) if traces else str(error))
    except (DeadKernelError, RuntimeError) as error:
        return failure(*at[-1], str(error))
    return ""


def main() -> None:
    """Run one notebook and leave what came of it in a file: the kernel may write to our output as it likes."""
    parser = argparse.ArgumentParser(description=__doc__)
    for name in ("given", "result", "folder"):
        parser.add_argument(name)
    for name in ("cell_seconds", "notebook_seconds"):
        parser.add_argument(name, type=float)
    options = parser.parse_args()
    notebook = nbformat.read(options.given, as_version=4)
    reason = run(notebook, options.folder, options.cell_seconds, options.notebook_seconds)
    Path(options.result).write_text(json.dumps({"failure": reason, "notebook": notebook}), encoding="utf-8")


if __name__ == "__main__":
    main()
