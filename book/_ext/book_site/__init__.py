"""What this book's site does beyond the theme: links that follow the repository, mathematics, icons, lighter pages.

| module        | what it does                                                                     |
|---------------|----------------------------------------------------------------------------------|
| `repository`  | Colab, source, edit and issue links of the repository the book is built from     |
| `mathematics` | typesets TeX with the KaTeX that lies in `book/_vendor`, on pages that have some |
| `icons`       | replaces the theme's 1.5 MB icon script by the outlines that the pages use       |
| `pages`       | lazy images with a size, tables that stack on a phone, no scripts without a use  |

Nothing here fetches anything, at build time or at view time.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from sphinx.application import Sphinx
from sphinx.config import Config
from sphinx.environment import BuildEnvironment

from book_site import icons, mathematics, pages, repository

HERE = Path(__file__).resolve().parent
BOOK = HERE.parents[1]
VENDOR = BOOK / "_vendor"
LOOK = (HERE, VENDOR, BOOK / "_static")


def add_folders(app: Sphinx, config: Config) -> None:
    """Publish the vendored files and this extension's own, and let its templates refine the theme's.

    Not in `_config.yml`: Jupyter Book loads every script and style sheet of a folder named there on every page.
    """
    config.html_static_path += [str(VENDOR), str(HERE / "static")]
    config.templates_path.insert(0, str(HERE / "templates"))


def outdated_by_look(
    app: Sphinx, env: BuildEnvironment, added: set[str], changed: set[str], removed: set[str]
) -> list[str]:
    """Build every page again when a style sheet, a script or this extension changed; Sphinx looks at texts only."""
    last_build = Path(app.doctreedir) / "environment.pickle"
    if not last_build.exists():
        return []
    files = (path for folder in LOOK for path in folder.rglob("*") if path.suffix != ".pyc" and path.is_file())
    newest = max(path.stat().st_mtime for path in files)
    return sorted(env.found_docs) if newest > last_build.stat().st_mtime else []


def setup(app: Sphinx) -> dict[str, Any]:
    """Register everything with Sphinx."""
    app.connect("config-inited", add_folders, priority=100)
    app.connect("env-get-outdated", outdated_by_look)
    for part in (repository, mathematics, icons, pages):
        part.setup(app)
    return {"version": "1", "parallel_read_safe": True, "parallel_write_safe": True}
