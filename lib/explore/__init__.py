"""What happens if this number changes? Explorables: pictures that a reader moves, on a page with or without a kernel.

Names: `explore`. The rest of the package, in reading order: `axes` (what can be chosen), `frames` (one state drawn,
many packed), `page` (as HTML), `static` (for a page without a kernel), `live` (for a notebook with one).
"""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Hashable, Mapping, Sequence
from typing import Any

from .axes import read_grid
from .live import LiveExplorable
from .static import StaticExplorable, draw_static

__all__ = ["explore"]

FORMATS = ("auto", "svg", "png")
MODES = ("auto", "static", "live")


def explore(
    draw: Callable[..., Any],
    *,
    alt: str,
    start: Mapping[str, Hashable] | None = None,
    labels: Mapping[str, str | Mapping[str, object]] | None = None,
    controls: Mapping[str, str] | None = None,
    fmt: str = "auto",
    mode: str = "auto",
    max_states: int = 100,
    max_bytes: int = 300_000,
    **axes: Sequence[object],
) -> StaticExplorable | LiveExplorable:
    """Let a reader move the arguments of a drawing function, and see its picture and numbers change.

        def draw(d_ff, activation):
            fig, (ax,) = plots.figure(5, 3, margins=(0.12, 0.15, 0.97, 0.95))
            ...
            return fig, {"parameters": 2 * 32 * d_ff}

        explore(draw, alt="...", d_ff=[16, 64, 256], activation=["none", "ReLU"])

    One declaration, three lives. Without a live front end all states are drawn now and packed into one output, which a
    page moves through by itself; with one, widgets call `draw` for every state; on paper and in previews the first
    state stands with its numbers. The frames equal fresh calls because every call starts from the same seeds and style.

    draw: a function of the axes that returns a figure, or a figure and {"name": number or short text}. All states have
        one figure size and the same names. Give the figure's axes fixed limits, or the reader sees them move instead of
        the data; fixed margins draw five times faster. Black follows the page's text colour into the dark.
    alt: what the picture shows, for those who do not see it.
    start: the first state, {"d_ff": 64}; an axis that is left out begins at its first value.
    labels: {"d_ff": "hidden width"}, or with texts for values {"norm": {"label": "norm", "values": {None: "no norm"}}};
        "numbers_only": True there allows an axis to leave the picture as it is.
    controls: {"norm": "slider", "radio" or "select"}; numbers slide, up to six texts are radio buttons, more a menu.
    fmt: "svg", "png", or "auto" for lines unless dots are smaller.
    mode: "static", "live" or "auto"; the environment variable EXPLORE_MODE wins.
    axes: the values of each argument, hashable, in the order of its control.

    Raises: ValueError if the declaration contradicts itself or its output is too large; RuntimeError, which names the
        state, if `draw` raises.
    """
    options = {"alt": alt, "start": start, "labels": labels, "controls": controls, "fmt": fmt, "mode": mode}
    for name, given in (options | {"max_states": max_states, "max_bytes": max_bytes}).items():
        if isinstance(given, list | tuple | range):
            raise ValueError(f"an axis may not have the name of an option of explore, but {name} has; give it another")
    for name, given, allowed in (("fmt", fmt, FORMATS), ("mode", mode, MODES)):
        if given not in allowed:
            raise ValueError(f"{name} is one of {', '.join(allowed)}, but is {given!r}; choose one of these")
    if not alt.strip():
        raise ValueError(f"alt says what the picture shows to those who do not see it, but is {alt!r}; describe it")
    grid = read_grid(axes, start or {}, labels or {}, controls or {}, max_states)
    if _is_live(mode):
        return LiveExplorable(draw, grid, alt=alt, kind="png" if fmt == "png" else "svg")
    return draw_static(draw, grid, alt=alt, fmt=fmt, max_bytes=max_bytes)


def _is_live(mode: str) -> bool:
    """Tell whether a front end will show widgets; a wrong no costs nothing, since the static output works there too."""
    ordered = os.environ.get("EXPLORE_MODE", "auto")
    if ordered not in MODES:
        raise ValueError(f"EXPLORE_MODE is one of {', '.join(MODES)}, but is {ordered!r}; correct or unset it")
    if ordered != "auto" or mode != "auto":
        return (mode if ordered == "auto" else ordered) == "live"
    if "google.colab" in sys.modules or "JPY_SESSION_NAME" in os.environ:  # Colab; a Jupyter server's own kernels
        return True
    get_ipython = getattr(sys.modules.get("IPython"), "get_ipython", lambda: None)
    return "__vsc_ipynb_file__" in getattr(get_ipython(), "user_ns", {})  # VS Code
