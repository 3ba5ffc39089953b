"""Draw the theme's icons from a font subset of a few kilobytes instead of its icon script of 1.5 MB.

The theme writes `<i class="fa-solid fa-bars">` and loads a script that holds all of Font Awesome, although its style
sheet already says which character of which font each class stands for. So: collect the characters that the built
pages, the scripts and the style sheets use, cut them out of the theme's own fonts, and inline the result into one
style sheet, `book-icons.css`. An icon that were missing would still show, by the theme's full font.
"""

from __future__ import annotations

import base64
import io
import re
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import pydata_sphinx_theme
from docutils import nodes
from fontTools import subset
from fontTools.ttLib import TTFont
from sphinx.application import Sphinx

STYLE = "book-icons.css"
SCRIPT = re.compile(r"<script[^>]*/fontawesome\.js[^>]*></script>")
LEFT_OVER = ("fontawesome.js", "fontawesome.js.map", "fontawesome.js.LICENSE.txt")

THEME = Path(pydata_sphinx_theme.__file__).parent / "theme/pydata_sphinx_theme/static"
FONTS = THEME / "vendor/fontawesome/webfonts"
FACES = (
    ("fa-solid-900.ttf", "Font Awesome 6 Free", 900),
    ("fa-regular-400.ttf", "Font Awesome 6 Free", 400),
    ("fa-brands-400.ttf", "Font Awesome 6 Brands", 400),
)
NOTICE = "/* From Font Awesome Free by @fontawesome, https://fontawesome.com/license/free (fonts: SIL OFL 1.1) */"
# The theme styles the drawings that its script makes; the same for letters.
LAYOUT = """\
.bd-search .fa-solid.fa-magnifying-glass { position: static; }
#pst-search-dialog[open] form.bd-search i { font-size: var(--pst-font-size-icon); }
.search-button-field > i { display: inline-block; }
.bd-header-article .btn .fa-lg { font-size: 1em; }"""

ICON_CLASS = re.compile(r"\bfa-[a-z0-9-]+")
ICON_RULE = re.compile(r'((?:\.fa-[\w-]+:{1,2}before,?)+)\{content:"\\([0-9a-f]+)\s?"\}')
ESCAPE = re.compile(r"\\([ef][0-9a-f]{3})\b")
PRIVATE_USE = re.compile("[\ue000-\uf8ff]")


def characters(theme_css: str) -> dict[str, int]:
    """Return the character that each icon class of the theme's style sheet stands for."""
    return {
        name: int(code, 16) for classes, code in ICON_RULE.findall(theme_css) for name in ICON_CLASS.findall(classes)
    }


def drawn_by_style(css: str) -> set[int]:
    """Return the icon characters that a style sheet draws by itself, outside the list of icon classes."""
    rest = ICON_RULE.sub("", css)
    return {int(code, 16) for code in ESCAPE.findall(rest)} | {ord(found) for found in PRIVATE_USE.findall(rest)}


def used_classes(texts: Iterable[str]) -> set[str]:
    """Return every word that may be an icon class in pages or scripts."""
    return {name for text in texts for name in ICON_CLASS.findall(text)}


def read(folder: Path, pattern: str) -> Iterator[str]:
    """Yield the text of a folder's files, in a fixed order."""
    for path in sorted(folder.rglob(pattern)):
        yield path.read_text(encoding="utf-8")


def characters_of_site(site: Path) -> set[int]:
    """Return every icon character that the pages, scripts and style sheets of a built site use."""
    theme_css = (site / "_static/styles/pydata-sphinx-theme.css").read_text(encoding="utf-8")
    known = characters(theme_css)
    scripts = (text for text in read(site / "_static", "*.js"))
    used = used_classes(read(site, "*.html")) | used_classes(scripts)
    drawn = set().union(*(drawn_by_style(css) for css in read(site / "_static", "*.css")))
    return {known[name] for name in used & known.keys()} | drawn


def cut(font_file: Path, wanted: set[int]) -> tuple[bytes, list[int]]:
    """Return a WOFF file with the wanted characters that the font has, and which these are."""
    font = TTFont(font_file, recalcTimestamp=False)
    present = sorted(wanted & font.getBestCmap().keys())
    options = subset.Options(layout_features=[], name_IDs=[0, 13, 14], hinting=False, notdef_outline=True)
    cutter = subset.Subsetter(options)
    cutter.populate(unicodes=present)
    cutter.subset(font)
    font.flavor = "woff"
    with io.BytesIO() as file:
        font.save(file)
        return file.getvalue(), present


def style_sheet(wanted: set[int]) -> str:
    """Return the style sheet that makes the theme draw the wanted characters from the fonts inside it."""
    rules = [NOTICE]
    for file, family, weight in FACES:
        font, present = cut(FONTS / file, wanted)
        if not present:
            continue
        data = base64.b64encode(font).decode()
        codes = ",".join(f"U+{code:x}" for code in present)
        rules.append(
            f'@font-face{{font-family:"{family}";font-weight:{weight};font-display:block;'
            f'src:url("data:font/woff;base64,{data}") format("woff");unicode-range:{codes}}}'
        )
    return "\n".join([*rules, LAYOUT]) + "\n"


def write_icons(app: Sphinx, failure: Exception | None) -> None:
    """When the pages stand, write the style sheet that they link, and drop the script that they do not."""
    if failure is not None or app.builder.format != "html":
        return
    site = Path(app.outdir)
    for name in LEFT_OVER:
        (site / "_static/scripts" / name).unlink(missing_ok=True)
    (site / "_static" / STYLE).write_text(style_sheet(characters_of_site(site)), encoding="utf-8")


def help_template(app: Sphinx, page: str, template: str, context: dict[str, Any], doctree: nodes.document) -> None:
    """Give the page template the two things it needs to leave the icon script out."""
    context["icon_style"] = STYLE
    context["without_icon_script"] = lambda head: SCRIPT.sub("", head)


def setup(app: Sphinx) -> None:
    """Connect the template and the end of the build."""
    app.connect("html-page-context", help_template)
    app.connect("build-finished", write_icons)
