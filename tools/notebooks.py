"""The notebooks' tool: execute and store, edit as a script, hold the policy against them, verify their outputs."""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import notebook_file as file
from notebook_execution import CELL_SECONDS, NOTEBOOK_SECONDS, SETTINGS, ExecutionError, environment, execute
from notebook_file import BOOK, ROOT, NotebookError, shown
from notebook_form import canonical, notebook_of, provenance, script_of
from notebook_policy import breaches

SANITIZE = Path(__file__).with_name("nbval_sanitize.cfg")


def write(options: argparse.Namespace) -> bool:
    """Execute the notebooks whose code or library changed, and store every one in its canonical form."""
    good = True
    for path in file.find(options.names, options.book):
        try:
            print(f"{shown(path)}: {refresh(path, options)}", flush=True)
        except ExecutionError as error:
            print(f"{shown(path)}: not written, {error}", file=sys.stderr, flush=True)
            good = False
    return good


def refresh(path: Path, options: argparse.Namespace) -> str:
    """Bring one notebook up to date; say what was done."""
    given = file.read(path)
    before = path.read_text(encoding="utf-8")
    bare = canonical(given, {})
    due = provenance(bare, options.book.parent)
    done = "its outputs are up to date"
    if options.all or given.metadata.get("book") != due:
        start = time.monotonic()
        given = execute(bare, path.parent, cell_seconds=options.cell_timeout, notebook_seconds=options.timeout)
        done = f"executed in {time.monotonic() - start:.0f} s"
    text = file.text_of(canonical(given, due))
    if text == before:
        return f"{done}, the file stays as it is"
    file.write(path, text)
    return f"{done}, written"


def edit(options: argparse.Namespace) -> bool:
    """Write a notebook as a percent script, to edit."""
    [path] = file.find([options.name], options.book)
    script = options.book.parent / "_build" / "edit" / f"{path.stem}.py"
    file.write(script, script_of(file.read(path)))
    print(f"{shown(script)} is written; when you are done: python tools/notebooks.py from-script {shown(script)}")
    return True


def from_script(options: argparse.Namespace) -> bool:
    """Make a notebook's cells from a percent script."""
    name = options.name or options.path.stem
    if not name.isidentifier():
        raise NotebookError(f"'{name}' is no name for a chapter: use letters, digits and underscores")
    if not options.path.is_file():
        raise NotebookError(f"there is no script {options.path}")
    path = options.book / f"{name}.ipynb"
    made = notebook_of(options.path.read_text(encoding="utf-8"), file.read(path) if path.is_file() else None)
    if not made.cells:
        raise NotebookError(f"{options.path} holds no cell: cells begin with # %%")
    file.write(path, file.text_of(made))
    kept = "with its outputs" if "book" in made.metadata else f"without outputs: make notebooks NOTEBOOK={name}"
    print(f"{shown(path)} is written, {len(made.cells)} cells, {kept}")
    return True


def check(options: argparse.Namespace) -> bool:
    """Print each breach of the policy on a line of its own."""
    paths = file.find(options.names, options.book)
    found = breaches(paths)
    for breach in found:
        print(breach, file=sys.stderr)
    print(f"notebooks checked: {len(paths)}, breaches of the policy: {len(found)}", flush=True)
    return not found


def verify(options: argparse.Namespace) -> bool:
    """Run every notebook with nbval; strict, each output must equal the stored one."""
    if not check(options):  # nbval lets a notebook without outputs pass
        return False
    command = [sys.executable, "-m", "pytest", "--nbval-lax" if options.lax else "--nbval", "--nbval-current-env"]
    command += [f"--nbval-sanitize-with={SANITIZE}", f"--nbval-cell-timeout={CELL_SECONDS}"]
    # Not the settings of the unit tests: no time limit per test, no turning of warnings into errors.
    command += ["-c", os.devnull, f"--rootdir={ROOT}", "-p", "no:cacheprovider", "-p", "no:timeout", "-q"]
    command += [str(path) for path in file.find(options.names, options.book)]
    return subprocess.run(command, env=environment(SETTINGS), check=False).returncode == 0


def parser() -> argparse.ArgumentParser:
    """Return the parser of the command line."""
    top = argparse.ArgumentParser(description=__doc__)
    top.add_argument("--book", type=Path, default=BOOK, help="the folder of the notebooks (default: book)")
    commands = top.add_subparsers(required=True, metavar="COMMAND")

    def command(action: Callable[[argparse.Namespace], bool], *, many: bool = True) -> argparse.ArgumentParser:
        name, what = action.__name__.replace("_", "-"), action.__doc__
        made = commands.add_parser(name, help=what, description=what)
        made.set_defaults(action=action)
        if many:
            made.add_argument("names", nargs="*", metavar="NAME", help="a notebook, such as norms (default: all)")
        return made

    writing = command(write)
    writing.add_argument("--all", action="store_true", help="execute also what has not changed")
    for option, seconds, what in (
        ("--cell-timeout", CELL_SECONDS, "cell"),
        ("--timeout", NOTEBOOK_SECONDS, "notebook"),
    ):
        writing.add_argument(option, type=float, default=seconds, metavar="SECONDS", help=f"for each {what}")
    command(edit, many=False).add_argument("name", metavar="NAME", help="the notebook")
    making = command(from_script, many=False)
    making.add_argument("path", type=Path, metavar="PATH", help="the script")
    making.add_argument("name", nargs="?", metavar="NAME", help="the notebook (default: the script's name)")
    command(check)
    command(verify).add_argument("--lax", action="store_true", help="run every cell, compare nothing")
    return top


def main() -> int:
    """Do what the command line says; return the exit status."""
    options = parser().parse_args()
    options.book = options.book.resolve()
    try:
        return 0 if options.action(options) else 1
    except NotebookError as error:
        print(error, file=sys.stderr)
        return 2


if __name__ == "__main__":
    sys.exit(main())
