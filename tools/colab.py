"""Rehearse Colab: in an environment with Colab's versions, run every notebook as a reader there would.

The set-up cell is played as it stands, with a stand-in for `google.colab` and with this working tree behind the GitHub
address, so that pip fetches, builds and installs the library. Then every cell runs, explorables live, in an empty
folder; every control is moved; and no package that Colab has may have changed its version.
"""

from __future__ import annotations

import argparse
import copy
import hashlib
import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from nbformat import NotebookNode
from nbformat.v4 import new_code_cell
from notebook_execution import SETTINGS, ExecutionError, execute
from notebook_file import BOOK, PLACEHOLDER, REPOSITORY, ROOT, NotebookError, find, is_code, read, shown
from output_rules import EXPLORES

REQUIREMENTS = ROOT / "requirements-colab.txt"
ENVIRONMENT = ROOT / ".venv-colab"
STAND_IN = "rehearsal/book"  # for a repository that is not stamped yet

COLAB = 'import sys, types; sys.modules["google.colab"] = types.ModuleType("google.colab")\n'
# In a function, so that it takes no name of the chapter's.
MOVE_EVERY_CONTROL = """\
def move_every_control():
    from ipywidgets import HTML, Dropdown, SelectionSlider, ToggleButtons, Widget

    everything = list(Widget.widgets.values())
    controls = [one for one in everything if isinstance(one, (SelectionSlider, ToggleButtons, Dropdown))]
    assert controls, "no explorable of this notebook is live"
    for control in controls:
        shown, start = set(), control.index
        for position in range(len(control.options)):
            control.index = position
            shown.add(tuple(one.value for one in everything if isinstance(one, HTML)))
        control.index = start
        assert len(shown) == len(control.options), f"moving {control.description} changes nothing"
    print(len(controls), "controls moved")


move_every_control()
"""


def run(*command: object, **variables: str) -> str:
    """Run a command and return what it printed; an error holds the last of it."""
    given = [str(part) for part in command]
    try:
        process = subprocess.run(given, env={**os.environ, **variables}, capture_output=True, text=True, check=False)
    except OSError as error:
        reason = "it is not on the PATH" if isinstance(error, FileNotFoundError) else error.strerror
        raise NotebookError(f"`{given[0]}` does not start, {reason}: the rehearsal needs it, so install it") from None
    if process.returncode:
        said = (process.stderr.strip() or process.stdout.strip())[-1500:]
        raise NotebookError(f"`{' '.join(given[-4:])}` failed:\n{said}")
    return process.stdout


# ---- The environment -------------------------------------------------------------------------------------------------


def packages(python: Path) -> dict[str, str]:
    """Return the version of every package of an environment."""
    listed = json.loads(run(python, "-m", "pip", "list", "--format=json", "--disable-pip-version-check"))
    return {one["name"].lower().replace("_", "-"): one["version"] for one in listed}


def prepare(environment: Path, requirements: Path) -> tuple[Path, dict[str, str]]:
    """Return the Python of an environment with exactly the required packages, and their versions; make it if needed."""
    python, stamp = environment / "bin" / "python", environment / ".ready"
    wanted = hashlib.sha256(requirements.read_bytes() + sys.version.encode()).hexdigest()
    if stamp.is_file() and (made := json.loads(stamp.read_text()))["wanted"] == wanted:
        before, now = made["packages"], packages(python)
        if added := sorted(now.keys() - before.keys()):  # by the last rehearsal
            run(python, "-m", "pip", "uninstall", "--quiet", "--yes", *added)
        if not changes(before, now):
            return python, before
    print(f"Making the environment with Colab's versions in {shown(environment)}, once.", flush=True)
    shutil.rmtree(environment, ignore_errors=True)
    run(sys.executable, "-m", "venv", environment)
    run(python, "-m", "pip", "install", "--quiet", "--disable-pip-version-check", "-r", requirements)
    before = packages(python)
    stamp.write_text(json.dumps({"wanted": wanted, "packages": before}))
    return python, before


def changes(before: dict[str, str], now: dict[str, str]) -> list[str]:
    """Say which of the packages that were there are gone or have another version."""
    return [
        f"{name} {version} became {now.get(name, 'nothing')}"
        for name, version in sorted(before.items())
        if now.get(name) != version
    ]


# ---- The rehearsal ---------------------------------------------------------------------------------------------------


def published(root: Path, folder: Path) -> Path:
    """Return a git repository with one commit on main: the working tree as it would be pushed now."""
    names = run("git", "-C", root, "ls-files", "-co", "--exclude-standard", "-z").split("\0")
    for name in names:
        if name and (root / name).is_file():
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(root / name, folder / name)
    git = ["git", "-C", folder, "-c", "user.name=rehearsal", "-c", "user.email=rehearsal@localhost"]
    run(*git, "init", "--quiet", "--initial-branch=main")
    run(*git, "add", "--all", "--force")
    run(*git, "commit", "--quiet", "--no-verify", "--no-gpg-sign", "--message=as it would be pushed")
    return folder


def on_colab(notebook: NotebookNode) -> tuple[NotebookNode, str]:
    """Return the notebook as Colab would run it, and the repository from which it fetches the library."""
    played = copy.deepcopy(notebook)
    first = next(cell for cell in played.cells if is_code(cell))
    [name] = REPOSITORY.findall(first.source) or [PLACEHOLDER]
    first.source = COLAB + first.source.replace(PLACEHOLDER, STAND_IN)
    if any(EXPLORES.search(cell.source) for cell in played.cells if is_code(cell)):
        played.cells.append(new_code_cell(MOVE_EVERY_CONTROL))
    return played, STAND_IN if name == PLACEHOLDER else name


def rehearse(path: Path, python: Path, source: Path) -> str:
    """Run one notebook from the set-up cell to the last control; return what there is to say."""
    played, name = on_colab(read(path))
    settings = SETTINGS | {"EXPLORE_MODE": "auto"}  # which finds Colab's module, and so is live
    settings |= {"GIT_CONFIG_COUNT": "1", "GIT_CONFIG_VALUE_0": f"https://github.com/{name}"}
    settings |= {"GIT_CONFIG_KEY_0": f"url.{source.as_uri()}.insteadOf", "PIP_DISABLE_PIP_VERSION_CHECK": "1"}
    start = time.monotonic()
    with tempfile.TemporaryDirectory() as content:  # Colab has the notebook only, and nothing beside it
        done = execute(played, Path(content), python=str(python), settings=settings)
    moved = "".join(output.get("text", "") for output in done.cells[-1].get("outputs", [])).strip()
    return f"ran in {time.monotonic() - start:.0f} s" + (f", {moved}" if moved.endswith("controls moved") else "")


def main() -> int:
    """Rehearse all notebooks, or those named; return the exit status."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("names", nargs="*", metavar="NAME", help="notebooks (default: all)")
    options = parser.parse_args()
    try:
        paths = find(options.names, BOOK)
        run("git", "--version")  # asked first, before the environment takes its minutes
        python, before = prepare(ENVIRONMENT, REQUIREMENTS)
        with tempfile.TemporaryDirectory() as folder:
            source = published(ROOT, Path(folder))
            for path in paths:
                print(f"{shown(path)}: {rehearse(path, python, source)}", flush=True)
        now = packages(python)
    except NotebookError as error:
        print(error, file=sys.stderr)
        return 2
    except ExecutionError as error:
        print(f"{shown(path)}: on Colab's versions, {error}", file=sys.stderr)
        return 1
    if changed := changes(before, now):
        print(f"the set-up cell changed what Colab has: {', '.join(changed)}", file=sys.stderr)
        return 1
    print(f"the set-up cell added {', '.join(sorted(now.keys() - before.keys()))} and changed nothing")
    return 0


if __name__ == "__main__":
    sys.exit(main())
