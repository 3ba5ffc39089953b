"""Stamp the book with the GitHub repository that it lives in: Colab fetches the library from there.

A fork runs `python tools/set_repository.py OWNER/REPO` once. It rewrites the constant in every notebook, and addresses
of the earlier repository in the files around the book; all else keeps its bytes, and no output becomes stale.
"""

from __future__ import annotations

import argparse
import os
import re
import sys
from pathlib import Path

from notebook_file import PLACEHOLDER, REPOSITORY, REPOSITORY_NAME, ROOT, NotebookError, find, is_code, read, write

# The constant as it stands in a notebook's file: JSON puts a backslash before each quotation mark.
STORED = re.compile(r'(?<=")REPOSITORY = \\"([^"\\]*)\\"')
AROUND = ("CITATION.cff", "README.md", "CONTRIBUTING.md")


def stamps(notebooks: list[Path]) -> dict[Path, set[str]]:
    """Return the repositories that each notebook names."""
    found = {
        path: {name for cell in read(path).cells if is_code(cell) for name in REPOSITORY.findall(cell.source)}
        for path in notebooks
    }
    if bare := [path.name for path, names in found.items() if not names]:
        raise NotebookError(f"no repository stands in {', '.join(bare)}: the first code cell must be the one for Colab")
    return found


def stamped(text: str, name: str) -> str:
    """Return a notebook's file with this repository in it."""
    return STORED.sub(lambda match: f'REPOSITORY = \\"{name}\\"', text)


def moved(text: str, old: set[str], name: str) -> str:
    """Return a text with the addresses of earlier repositories turned to this one."""
    for earlier in old:
        text = re.sub(rf"(?<=github\.com/){re.escape(earlier)}(?=[/\"'\s)>#?]|\.git\b|$)", lambda _: name, text)
    return text


def set_repository(name: str, root: Path) -> list[str]:
    """Write the name wherever it stands; return the files that changed."""
    if name != PLACEHOLDER and not REPOSITORY_NAME.fullmatch(name):
        raise NotebookError(f"'{name}' is no GitHub repository: write OWNER/REPO, such as ada/transformer-book")
    found = stamps(find([], root / "book"))
    texts = {path: stamped(path.read_text(encoding="utf-8"), name) for path in found}
    old = set().union(*found.values()) - {name}
    around = [root / file for file in AROUND if (root / file).is_file()]
    texts |= {path: moved(path.read_text(encoding="utf-8"), old, name) for path in around}
    changed = [path for path, text in texts.items() if text != path.read_text(encoding="utf-8")]
    for path in changed:
        write(path, texts[path])
    return [path.relative_to(root).as_posix() for path in changed]


def difference(root: Path) -> str:
    """Say how the notebooks' repository differs from the one that CI runs in, or nothing."""
    here = os.environ.get("GITHUB_REPOSITORY", "")
    if not here:
        raise NotebookError("GITHUB_REPOSITORY is not set, so there is nothing to compare with: set it to OWNER/REPO")
    named = sorted(set().union(*stamps(find([], root / "book")).values()))
    if named == [here]:
        return ""
    return f"on Colab the notebooks fetch the library from {', '.join(named)}, not from {here}: " + (
        f"python tools/set_repository.py {here}"
    )


def main() -> int:
    """Stamp or check; return the exit status."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("name", nargs="?", metavar="OWNER/REPO", help="the repository on GitHub")
    parser.add_argument("--check", action="store_true", help="compare with GITHUB_REPOSITORY; 1 if they differ")
    parser.add_argument("--root", type=Path, default=ROOT, help="the repository's folder (default: this one)")
    options = parser.parse_args()
    if options.check == bool(options.name):
        parser.error("give either OWNER/REPO or --check")
    try:
        if options.check:
            differs = difference(options.root)
            print(differs or "the notebooks name this repository", file=sys.stderr if differs else sys.stdout)
            return 1 if differs else 0
        changed = set_repository(options.name, options.root)
        print("\n".join(f"{path}: now {options.name}" for path in changed) or f"all name {options.name} already")
    except NotebookError as error:
        print(error, file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main())
