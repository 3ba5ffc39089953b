"""A notebook as a file: where it is, how it is read and written, and what its outputs were made from."""

from __future__ import annotations

import ast
import hashlib
import os
import re
import tempfile
from collections.abc import Iterator
from pathlib import Path

import nbformat
from nbformat import NotebookNode

ROOT = Path(__file__).resolve().parent.parent
BOOK = ROOT / "book"

# Until somebody stamps the book: characters no GitHub name can have, so nobody can register it.
PLACEHOLDER = "<owner>/<repository>"
COLAB_CELL = f"""\
# Colab only: fetch this book's library (elsewhere this cell does nothing).
import sys

REPOSITORY = "{PLACEHOLDER}"  # written by tools/set_repository.py
if "google.colab" in sys.modules:
    %pip install -q "git+https://github.com/{{REPOSITORY}}@main\""""
REPOSITORY = re.compile(r'^REPOSITORY = "([^"\n]*)"', re.MULTILINE)
REPOSITORY_NAME = re.compile(r"[A-Za-z0-9](?:-?[A-Za-z0-9]){0,38}/(?!\.{1,2}$)[A-Za-z0-9._-]{1,100}")
MAGIC = re.compile(r"^(\s*)[%!].*", re.MULTILINE)


class NotebookError(Exception):
    """What the caller asked cannot be done; the message is one clear line."""


def is_code(cell: NotebookNode) -> bool:
    """Tell whether a cell is code."""
    return cell.cell_type == "code"


def tags(cell: NotebookNode) -> list[str]:
    """Return the tags of a cell."""
    return list(cell.metadata.get("tags", []))


def find(names: list[str], book: Path) -> list[Path]:
    """Return the notebooks of these names, or all of them where no name is given."""
    there = {path.stem: path for path in sorted(book.glob("*.ipynb"))}
    if not there:
        raise NotebookError(f"{shown(book)} holds no notebook")
    wanted = [Path(name).stem if name.endswith(".ipynb") else name for name in names]
    if unknown := [name for name in wanted if name not in there]:
        raise NotebookError(f"no notebook {', '.join(unknown)} in {shown(book)}: there is {', '.join(there)}")
    return [there[name] for name in dict.fromkeys(wanted or there)]


def shown(path: Path) -> str:
    """Return a path as messages show it: from the root of the repository where it lies there."""
    return path.relative_to(ROOT).as_posix() if path.is_relative_to(ROOT) else str(path)


def read(path: Path) -> NotebookNode:
    """Read a notebook as it stands in its file."""
    try:
        notebook = nbformat.reads(path.read_text(encoding="utf-8"), as_version=nbformat.NO_CONVERT)
    except (OSError, ValueError, TypeError, AttributeError, KeyError, nbformat.reader.NotJSONError) as error:
        raise NotebookError(
            f"{shown(path)} cannot be read as a notebook: {' '.join(str(error).split())[:100]}"
        ) from None
    if notebook.nbformat != 4:
        raise NotebookError(f"{shown(path)} is a notebook of format {notebook.nbformat}, but must be 4.5")
    return notebook


def text_of(notebook: NotebookNode) -> str:
    """Return a notebook as its file holds it."""
    return nbformat.writes(notebook) + "\n"


def write(path: Path, text: str) -> None:
    """Replace a file at once or not at all, so that an interrupted run leaves no half of one."""
    path.parent.mkdir(parents=True, exist_ok=True)
    mode = path.stat().st_mode & 0o777 if path.exists() else 0o644
    handle, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
    try:
        with os.fdopen(handle, "w", encoding="utf-8", newline="\n") as file:
            file.write(text)
        os.chmod(name, mode)
        os.replace(name, path)
    except BaseException:
        Path(name).unlink(missing_ok=True)
        raise


# ---- What the outputs were made from ---------------------------------------------------------------------------------


def unstamped(source: str) -> str:
    """Return a cell's source with the placeholder for the repository, so that a stamp makes no output stale."""
    return REPOSITORY.sub(f'REPOSITORY = "{PLACEHOLDER}"', source)


def code_hash(notebook: NotebookNode) -> str:
    """Return the hash of all that is executed: the sources of the code cells, in order."""
    return digest(unstamped(cell.source) for cell in notebook.cells if is_code(cell))


def library_hash(notebook: NotebookNode, root: Path) -> str:
    """Return the hash of the files of `lib` and `book/data` that a notebook uses, directly or through `lib`."""
    files = library_files(notebook, root)
    code = "\n".join(cell.source for cell in notebook.cells if is_code(cell))
    files |= {path for path in (root / "book" / "data").glob("*") if path.is_file() and path.name in code}
    return digest(part for path in sorted(files) for part in (path.relative_to(root).as_posix(), path.read_bytes()))


def digest(parts: Iterator[str | bytes]) -> str:
    """Return one sha256 of several texts; it changes if text moves from one to the next."""
    total = hashlib.sha256()
    for part in parts:
        total.update(hashlib.sha256(part if isinstance(part, bytes) else part.encode()).digest())
    return total.hexdigest()


def library_files(notebook: NotebookNode, root: Path) -> set[Path]:
    """Return the files of `lib` that a notebook's imports reach."""
    lib = root / "lib"
    files = {path for path in [lib / "__init__.py"] if path.is_file()}
    todo = {name for cell in notebook.cells if is_code(cell) for name in imported(parsed(cell.source), ())}
    done: set[str] = set()
    while todo - done:
        name = (todo - done).pop()
        done.add(name)
        found = [lib / f"{name}.py", *(lib / name).rglob("*")]
        for path in (path for path in found if path.is_file() and "__pycache__" not in path.parts):
            files.add(path)
            if path.suffix == ".py":
                todo |= set(imported(parsed(path.read_text(encoding="utf-8")), path.relative_to(root).parent.parts))
    return files


def parsed(source: str) -> ast.Module:
    """Return the syntax tree of a cell or module, magics left out; an empty one where it is no Python."""
    try:
        return ast.parse(MAGIC.sub(r"\1pass", source))
    except SyntaxError:
        return ast.Module([], [])


def imported(tree: ast.Module, package: tuple[str, ...]) -> Iterator[str]:
    """Yield the first name below `lib` of everything that a module of this package imports."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            paths = [tuple(alias.name.split(".")) for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            base = package[: len(package) + 1 - node.level] if node.level else ()
            base += tuple(node.module.split(".")) if node.module else ()
            paths = [(*base, alias.name) for alias in node.names]
        else:
            continue
        yield from (path[1] for path in paths if path[0] == "lib" and len(path) > 1)
