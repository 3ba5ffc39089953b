"""Links to the repository that the book is built from: from the environment, else from git, else none at all.

A fork that builds the book gets its own Colab, source, edit and issue links without changing a file; a book built
from an unpublished folder gets none, rather than dead ones.

    BOOK_REPOSITORY_URL     https://github.com/owner/name; wins over everything
    BOOK_REPOSITORY_BRANCH  the branch that links point to
    BOOK_BASE_URL           where the site is published; turns on canonical links and the sitemap
    GITHUB_...              as GitHub's workflows set them
"""

from __future__ import annotations

import re
import subprocess
from collections.abc import Mapping
from os import environ
from pathlib import Path
from urllib.parse import urlsplit

from sphinx.application import Sphinx
from sphinx.config import Config
from sphinx.util import logging

LOG = logging.getLogger(__name__)
# The forms git writes. A URL that holds a password does not match, so that none can reach a page.
REMOTE = re.compile(r"(?:https://|ssh://git@|git@)([\w.-]+)[/:]([\w.-]+/[\w.-]+?)(?:\.git)?/?")
BUTTONS = ("use_repository_button", "use_source_button", "use_edit_page_button", "use_issues_button")
DEFAULT_BRANCH = "main"


def web_address(remote: str) -> str | None:
    """Return the https address of a git remote, or None where it has none that may be shown."""
    found = REMOTE.fullmatch(remote.strip())
    return f"https://{found[1]}/{found[2]}" if found else None


def origin(folder: Path) -> str | None:
    """Return the address of the folder's git remote `origin`, or None."""
    command = ["git", "-C", str(folder), "remote", "get-url", "origin"]
    try:
        remote = subprocess.run(command, capture_output=True, text=True, check=True, timeout=10).stdout
    except (OSError, subprocess.SubprocessError):
        return None
    return web_address(remote)


def repository_url(folder: Path, env: Mapping[str, str]) -> str | None:
    """Return the address of the repository that the links shall point to, or None to leave them out."""
    if chosen := env.get("BOOK_REPOSITORY_URL"):
        if address := web_address(chosen):
            return address
        LOG.warning("BOOK_REPOSITORY_URL is no repository address (https://host/owner/name): links are left out")
        return None
    if env.get("GITHUB_REPOSITORY"):
        return web_address(f"{env.get('GITHUB_SERVER_URL', 'https://github.com')}/{env['GITHUB_REPOSITORY']}")
    return origin(folder)


def branch(env: Mapping[str, str]) -> str:
    """Return the branch that links point to; a pull request's own reference ("12/merge") is none."""
    if chosen := env.get("BOOK_REPOSITORY_BRANCH"):
        return chosen
    if env.get("GITHUB_EVENT_NAME") == "push" and env.get("GITHUB_REF_TYPE") == "branch":
        return env.get("GITHUB_REF_NAME") or DEFAULT_BRANCH
    return DEFAULT_BRANCH


def follow_repository(app: Sphinx, config: Config) -> None:
    """Point the theme's buttons at the repository, or take them away."""
    options = config.html_theme_options
    if url := repository_url(Path(app.confdir), environ):
        options |= {"repository_url": url, "repository_branch": branch(environ)}
        options |= dict.fromkeys(BUTTONS, True)
        LOG.info("links go to %s, branch %s", url, options["repository_branch"])
    else:
        options |= {"repository_url": "", "launch_buttons": {}}
        options |= dict.fromkeys(BUTTONS, False)
        LOG.info("repository unknown: links to it are left out")


def follow_site(app: Sphinx, config: Config) -> None:
    """Name the site's own address in canonical links, the sitemap and the 404 page, where it is known."""
    base = environ.get("BOOK_BASE_URL", "").rstrip("/") + "/"
    config.notfound_urls_prefix = urlsplit(base).path
    if base != "/":
        config.html_baseurl = base
        config.sitemap_url_scheme = "{link}"
        config.sitemap_locales = [None]  # else it invents translations
        config.sitemap_excludes = ["index.html", "search.html", "404.html"]


def setup(app: Sphinx) -> None:
    """Run before the theme and the other extensions read what is set here."""
    if environ.get("BOOK_BASE_URL"):
        app.setup_extension("sphinx_sitemap")  # without an address there is no sitemap, only a warning
    app.connect("config-inited", follow_repository, priority=100)
    app.connect("config-inited", follow_site, priority=100)
