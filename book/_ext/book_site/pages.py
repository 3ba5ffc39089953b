"""Lighter, steadier, described pages: pictures that wait and keep their place, true names for folds, tables that stack.

The description is ours, not sphinxext-opengraph's, which puts raw TeX into it and writes addresses without a host.
"""

from __future__ import annotations

import re
from html import escape
from pathlib import Path, PurePosixPath
from typing import Any
from urllib.parse import unquote

from bs4 import BeautifulSoup
from docutils import nodes
from PIL import Image, UnidentifiedImageError
from sphinx.application import Sphinx
from sphinx.config import Config

MISNAMED_FOLD = '<summary aria-label="Toggle hidden content">'  # says less than the words inside it
IMAGE = re.compile(r'<img\b(?P<attributes>[^>]*?\bsrc="(?P<source>[^"]+)"[^>]*?)\s*/?>')
SIZED = re.compile(r'\b(?:width|height)=|style="[^"]*\b(?:width|height):')
TABLE = re.compile(r'<table class="table\b.*?</table>', re.DOTALL)
MANY_COLUMNS = 4  # so many do not fit a phone: there each row becomes a card
ROLES = {"table": "table", "thead": "rowgroup", "tbody": "rowgroup", "tr": "row", "th": "columnheader", "td": "cell"}
# Live code is off. Its settings, which are written twice, would raise an error on every page.
IDLE = ("sphinx-thebe.js", "sphinx-thebe.css", "THEBE_JS_URL")
DESCRIPTION_LENGTH = 200


def size_of(file: Path) -> tuple[int, int] | None:
    """Return width and height of a picture in pixels, or None where it has none (an SVG, say)."""
    try:
        with Image.open(file) as image:
            return image.size
    except (OSError, UnidentifiedImageError):
        return None


def steady(match: re.Match[str], files: dict[str, Path]) -> str:
    """Return an image's tag with the size and the way of loading that it lacks."""
    attributes = match["attributes"].rstrip()
    source = match["source"]
    file = files.get(PurePosixPath(unquote(source)).name)
    if file and not SIZED.search(attributes) and (size := size_of(file)):
        attributes += f' width="{size[0]}" height="{size[1]}"'
    if not source.startswith("data:") and "loading=" not in attributes:
        attributes += ' loading="lazy" decoding="async"'
    return f"<img{attributes} />"


def stackable(match: re.Match[str]) -> str:
    """Return a table of many columns whose cells know their column's name, for book.css to show under one another.

    The roles say what the tags say: some browsers forget it where a style sheet lays out tables as blocks.
    """
    table = BeautifulSoup(match[0], "html.parser").table
    names = [re.sub(r"\\[()]", "", " ".join(head.get_text().split())) for head in table.select("thead th")]
    if len(names) < MANY_COLUMNS:
        return match[0]
    table["class"] = [*table["class"], "stacks"]
    for tag in (table, *table(list(ROLES))):
        tag["role"] = ROLES[tag.name]
    for row in table.select("tbody tr"):
        for cell, name in zip(row("td"), names, strict=True):
            cell["data-label"] = name
    return str(table)


def mend_body(app: Sphinx, page: str, template: str, context: dict[str, Any], doctree: nodes.document) -> None:
    """Give each picture its size, so that text does not jump, and let it wait; let folds speak and tables stack."""
    if app.builder.format == "html" and "body" in context:
        files = {name: Path(app.srcdir) / source for source, name in app.builder.images.items()}
        body = context["body"].replace(MISNAMED_FOLD, "<summary>")
        context["body"] = IMAGE.sub(lambda match: steady(match, files), TABLE.sub(stackable, body))


def drop_idle_files(app: Sphinx, page: str, template: str, context: dict[str, Any], doctree: nodes.document) -> None:
    """Leave out the scripts and style sheets that nothing on the page uses."""
    for kind in ("script_files", "css_files"):
        context[kind] = [
            file
            for file in context.get(kind, [])
            if not any(mark in f"{file.filename} {file.attributes.get('body', '')}" for mark in IDLE)
        ]


def summary(doctree: nodes.document) -> str:
    """Return the page's first paragraph of plain running text, cut at a word."""
    for paragraph in doctree.findall(nodes.paragraph):
        running = isinstance(paragraph.parent, nodes.section) and not next(paragraph.findall(nodes.math), None)
        if running and (text := " ".join(paragraph.astext().split())):
            if len(text) <= DESCRIPTION_LENGTH:
                return text
            return text[:DESCRIPTION_LENGTH].rsplit(" ", 1)[0] + " …"
    return ""


def describe(app: Sphinx, page: str, template: str, context: dict[str, Any], doctree: nodes.document) -> None:
    """Describe the page to search engines and to whoever shares its address."""
    if app.builder.format != "html":
        return
    title = re.sub("<[^>]+>", "", context.get("title") or page.capitalize())
    tags = {
        'name="description"': (summary(doctree) if doctree else "") or f"{app.config.html_title}: {title}",
        'property="og:title"': title,
        'property="og:type"': "article",
        'property="og:site_name"': app.config.html_title,
    }
    if app.config.html_baseurl:
        tags['property="og:url"'] = app.config.html_baseurl + app.builder.get_target_uri(page)
    lines = [f'<meta {key} content="{escape(value)}" />' for key, value in tags.items()]
    context["metatags"] = "\n".join([context.get("metatags", ""), *lines])


def add_front_door(app: Sphinx, config: Config) -> None:
    """Make `index.html` lead to the first page; Jupyter Book's own has neither title nor language."""
    config.html_additional_pages |= {"index": "redirect.html"}


def setup(app: Sphinx) -> None:
    """Run after the other extensions have had their say about a page."""
    app.connect("config-inited", add_front_door)
    for mend in (mend_body, drop_idle_files, describe):
        app.connect("html-page-context", mend, priority=900)
