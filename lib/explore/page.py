"""How does an explorable look in HTML? The markup that pages without and with a kernel share, and the page's script.

Names: `view`, `table`, `dots`, `style`, `static_page`.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from html import escape
from importlib.resources import files

MARKED = ' class="xpl-new"'


def view(picture: str, size: tuple[int, int], said: str, table: str) -> str:
    """Write the picture, what it shows in words, and its numbers."""
    width, height = size
    return (
        f'<div class="xpl-body">'
        f'<div class="xpl-picture" style="--xpl-width:{width};--xpl-height:{height}">{picture}</div>'
        f'<div class="xpl-facts"><p class="xpl-state"><span>{escape(said)}</span></p>'
        f"{table}</div></div>"
    )


def table(readouts: Mapping[str, str], before: Mapping[str, str]) -> str:
    """Write the numbers as a table, and mark those that differ from the ones before."""
    rows = "".join(
        f'<tr><th scope="row">{escape(name)}</th>'
        f"<td><span{'' if before.get(name) == value else MARKED}>{escape(value)}</span></td></tr>"
        for name, value in readouts.items()
    )
    return f'<table class="xpl-read"><tbody>{rows}</tbody></table>' if rows else ""


def dots(png: str, size: tuple[int, int], alt: str) -> str:
    """Write a picture that stays when everything else of a page is taken away."""
    width, height = size
    return f'<img alt="{escape(alt)}" width="{width}" height="{height}" src="data:image/png;base64,{png}">'


def style() -> str:
    """Return the style sheet."""
    return f"<style>\n{_resource('page.css')}</style>"


def static_page(meta: Mapping[str, object], payload: str, body: str) -> str:
    """Write the whole output: the first state, readable by itself, and the script that makes it move.

    The key that joins the two leaves the pictures out, since they differ in the last digit between kinds of processor.
    """
    words = _for_script(meta)
    key = hashlib.sha256(words.encode()).hexdigest()[:12]
    return (
        f'<div class="xpl" data-key="{key}" role="group" aria-label="{escape(str(meta["alt"]))}">\n{style()}\n'
        f'<div class="xpl-controls" hidden></div>\n{body}\n</div>\n'
        f'<script>{_resource("page.js").rstrip()}("{key}", {words}, /*xpl-frames*/{payload}/*end*/);</script>'
    )


def _for_script(value: object) -> str:
    """Write JSON that cannot end the script it stands in."""
    return json.dumps(value, separators=(",", ":")).replace("<", "\\u003c")


def _resource(name: str) -> str:
    return files(__package__).joinpath(name).read_text(encoding="utf-8")
