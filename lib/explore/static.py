"""What does a page show without a kernel? One output that holds every state, and a script that moves between them.

Without the script (a preview, paper, an untrusted notebook) there is the first state's picture with its numbers, and
no control that does nothing.

Names: `StaticExplorable`, `draw_static`.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass

from .axes import Grid
from .frames import Frame, draw_frame, pack_svg
from .page import dots, static_page, table, view

HEAVY = 10_000  # bytes per state from which dots may be smaller than lines

Drawn = dict[tuple[int, ...], Frame]


@dataclass(frozen=True)
class StaticExplorable:
    """An explorable for readers without a kernel: what it shows is computed once and stored."""

    html: str
    png: str
    text: str

    @property
    def bundle(self) -> dict[str, str]:
        """The same output for every home: a page, paper and a terminal."""
        return {"text/html": self.html, "image/png": self.png, "text/plain": self.text}

    def _ipython_display_(self) -> None:
        from IPython.display import display

        display(self.bundle, raw=True)


def draw_static(draw: Callable[..., object], grid: Grid, *, alt: str, fmt: str, max_bytes: int) -> StaticExplorable:
    """Draw every state and pack all of them into one output.

    Raises: ValueError if the pictures are too large together, if states differ in the size of their picture or in the
        names of their readouts, or if moving an axis changes nothing.
    """
    drawn, kind, payload = _smallest(draw, grid, fmt)
    _check_alike(grid, drawn)
    _check_moving(grid, drawn)
    if len(payload) > max_bytes:
        raise ValueError(
            f"the pictures of an explorable may take {max_bytes:,} bytes, but these {len(grid)} {kind.upper()} frames "
            f"take {len(payload):,}; drop states, draw fewer points, or try fmt={'svg' if kind == 'png' else 'png'!r}"
        )
    first, said = draw_frame(draw, grid.arguments(grid.start), "png"), grid.text(grid.start)
    body = view(
        dots(first.picture, first.size, f"{alt}: {said}"),
        first.size,
        said,
        table(first.readouts, first.readouts),
    )
    numbers = "".join(f"\n{name}: {value}" for name, value in first.readouts.items())
    html = static_page(_meta(grid, alt, list(drawn.values())), payload, body)
    return StaticExplorable(html, first.picture, f"{alt}: {said}{numbers}")


def _smallest(draw: Callable[..., object], grid: Grid, fmt: str) -> tuple[Drawn, str, str]:
    """Return the frames, what they are made of and the packed pictures: lines, unless dots are asked for or smaller."""
    tried = []
    for kind in ("svg", "png") if fmt == "auto" else (fmt,):
        drawn = {state: draw_frame(draw, grid.arguments(state), kind) for state in grid}
        pictures = [frame.picture for frame in drawn.values()]
        payload = json.dumps({kind: pack_svg(pictures) if kind == "svg" else pictures}, separators=(",", ":"))
        tried.append((drawn, kind, payload))
        if len(payload) <= HEAVY * len(grid):
            break
    return min(tried, key=lambda attempt: len(attempt[2]))


def _check_alike(grid: Grid, drawn: Drawn) -> None:
    """Refuse states between which the page would jump."""
    first, one = grid.text(next(iter(drawn))), next(iter(drawn.values()))
    for state, frame in drawn.items():
        if list(frame.readouts) != list(one.readouts):
            raise ValueError(
                f"every state has the same readouts, but {first} has {list(one.readouts)} and {grid.text(state)} has "
                f"{list(frame.readouts)}; return a text such as '–' where there is no number"
            )
        if frame.size != one.size:
            raise ValueError(
                f"every state has a picture of the same size, but {first} has {one.size} pixels and {grid.text(state)} "
                f"has {frame.size}; use one figsize"
            )


def _check_moving(grid: Grid, drawn: Drawn) -> None:
    """Refuse a control that leaves the picture as it is, as a forgotten argument of the drawing function does."""
    for place, axis in enumerate(grid.axes):
        seen: dict[object, str] = {}
        for position, text in enumerate(axis.texts):
            frame = drawn[*grid.start[:place], position, *grid.start[place + 1 :]]
            changing = tuple(frame.readouts.values()) if axis.numbers_only else frame.picture
            if changing in seen:
                raise ValueError(
                    f"moving a control must change the {'numbers' if axis.numbers_only else 'picture'}, but from the "
                    f"start {axis.name} = {seen[changing]} and {axis.name} = {text} give the same; use {axis.name} in "
                    f'the drawing function, or declare labels={{"{axis.name}": {{"numbers_only": True}}}}'
                )
            seen[changing] = text


def _meta(grid: Grid, alt: str, frames: list[Frame]) -> dict[str, object]:
    """Say everything about the states but their pictures; nbval compares all of it."""
    axes = [
        {"name": axis.name, "label": axis.label, "control": axis.control, "values": axis.texts}
        | ({"numbersOnly": True} if axis.numbers_only else {})
        for axis in grid.axes
    ]
    return {
        "alt": alt,
        "axes": axes,
        "start": grid.start,
        "names": list(frames[0].readouts),
        "readouts": [list(frame.readouts.values()) for frame in frames],
    }
