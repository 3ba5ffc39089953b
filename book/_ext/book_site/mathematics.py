r"""Typeset mathematics with the KaTeX in `book/_vendor`, on the pages that have some.

Sphinx's own renderer loads MathJax from another host; self-hosted, MathJax costs 262 kB on the wire and KaTeX about
150 kB. The TeX stays in the page between `\(...\)` or `\[...\]`, so it can be read where scripts do not run, and KaTeX
leaves MathML beside its drawing for screen readers.
"""

from __future__ import annotations

from typing import Any

from docutils import nodes
from sphinx.application import Sphinx
from sphinx.locale import _
from sphinx.util.math import get_node_equation_number
from sphinx.writers.html5 import HTML5Translator

RENDERER = "katex"
CLASSES = "math notranslate nohighlight"
STYLE = "katex/katex.min.css"
SCRIPTS = ("katex/katex.min.js", "mathematics.js")


def visit_inline(self: HTML5Translator, node: nodes.math) -> None:
    r"""Write an inline formula as `\(TeX\)`."""
    self.body.append(self.starttag(node, "span", "", CLASS=CLASSES))
    self.body.append(rf"\({self.encode(node.astext())}\)</span>")
    raise nodes.SkipNode


def visit_display(self: HTML5Translator, node: nodes.math_block) -> None:
    r"""Write a displayed formula as `\[TeX\]`, with its number where it has one."""
    self.body.append(self.starttag(node, "div", CLASS=CLASSES))
    if node["number"] and not node["nowrap"]:  # an environment such as align numbers its own lines
        self.body.append(f'<span class="eqno">({get_node_equation_number(self, node)})')
        self.add_permalink_ref(node, _("Link to this equation"))
        self.body.append("</span>")
    self.body.append(f'<span class="tex">\\[{self.encode(node.astext().strip())}\\]</span></div>\n')
    raise nodes.SkipNode


def load_katex(app: Sphinx, page: str, template: str, context: dict[str, Any], doctree: nodes.document) -> None:
    """Load KaTeX on a page that has mathematics, in its text or in its table of contents, and on no other."""
    if app.builder.format != "html" or f'class="{CLASSES}"' not in context.get("body", "") + context.get("toc", ""):
        return
    app.add_css_file(STYLE)
    for script in SCRIPTS:
        app.add_js_file(script, loading_method="defer")


def setup(app: Sphinx) -> None:
    """Register the renderer; `_config.yml` chooses it with `html_math_renderer: katex`."""
    app.add_html_math_renderer(RENDERER, (visit_inline, None), (visit_display, None))
    app.connect("html-page-context", load_katex)
