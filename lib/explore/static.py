"""What does a page show without a kernel? One output that holds every state, and a script that moves between them.

Without the script (a preview, paper, an untrusted notebook) there is the first state's picture with its numbers, and
no control that does nothing.

Names: `StaticExplorable`, `draw_static`.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Hashable
from dataclasses import dataclass

from .axes import Axis, arguments, state_text, states
from .frames import Frame, draw_frame, pack_svg
from .page import dots, static_page, table, view

HEAVY = 10_000  # bytes per state from which dots may be smaller than lines


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


def draw_static(
    draw: Callable[..., object],
    axes: tuple[Axis, ...],
    start: tuple[int, ...],
    alt: str,
    fmt: str,
    limits: tuple[int, int],
) -> StaticExplorable:
    """Draw every state and pack all of them into one output; `limits` are the most states and the most bytes.

    Raises: ValueError if there are too many states or bytes, if states differ in the size of their picture or in the
        names of their readouts, or if an axis changes nothing that its reader can see.
    """
    most_states, most_bytes = limits
    every = states(axes, most_states)
    drawn, kind, payload = _smallest(draw, [arguments(axes, positions) for positions in every], fmt)
    _check_alike(axes, every, drawn)
    _check_moving(axes, every, start, drawn)
    if len(payload) > most_bytes:
        raise ValueError(
            f"the pictures of an explorable may take {most_bytes:,} bytes, but these {len(every)} {kind.upper()} frames "
            f"take {len(payload):,}; drop states, draw fewer points, or try fmt={'svg' if kind == 'png' else 'png'!r}"
        )
    shown = draw_frame(draw, arguments(axes, start), "png")
    said, longest = state_text(axes, start), max((state_text(axes, positions) for positions in every), key=len)
    body = view(
        dots(shown.picture, shown.size, f"{alt}: {said}"),
        shown.size,
        said,
        longest,
        table(shown.readouts, shown.readouts),
    )
    numbers = "".join(f"\n{name}: {value}" for name, value in shown.readouts.items())
    return StaticExplorable(
        static_page(_meta(axes, start, alt, drawn), payload, body), shown.picture, f"{alt}: {said}{numbers}"
    )


def _smallest(draw: Callable[..., object], every: list[dict[str, Hashable]], fmt: str) -> tuple[list[Frame], str, str]:
    """Return the frames, what they are made of and the packed pictures: lines, unless dots are asked for or smaller."""
    tried = []
    for kind in ("svg", "png") if fmt == "auto" else (fmt,):
        drawn = [draw_frame(draw, state, kind) for state in every]
        pictures = [frame.picture for frame in drawn]
        payload = json.dumps({kind: pack_svg(pictures) if kind == "svg" else pictures}, separators=(",", ":"))
        tried.append((drawn, kind, payload))
        if len(payload) <= HEAVY * len(every):
            break
    return min(tried, key=lambda attempt: len(attempt[2]))


def _check_alike(axes: tuple[Axis, ...], every: list[tuple[int, ...]], drawn: list[Frame]) -> None:
    """Refuse states between which the page would jump."""
    first = drawn[0]
    for positions, frame in zip(every, drawn, strict=True):
        if list(frame.readouts) != list(first.readouts):
            raise ValueError(
                f"every state has the same readouts: {state_text(axes, every[0])} has {list(first.readouts)}, but "
                f"{state_text(axes, positions)} has {list(frame.readouts)}; return a text such as '–' where there is none"
            )
        if frame.size != first.size:
            raise ValueError(
                f"every state has a picture of the same size: {state_text(axes, every[0])} has {first.size} pixels, but "
                f"{state_text(axes, positions)} has {frame.size}; use one figsize"
            )


def _check_moving(
    axes: tuple[Axis, ...], every: list[tuple[int, ...]], start: tuple[int, ...], drawn: list[Frame]
) -> None:
    """Refuse a control that leaves the picture as it is, as a forgotten argument of the drawing function does."""
    picture = dict(zip(every, drawn, strict=True))
    for place, axis in enumerate(axes):
        seen: dict[object, str] = {}
        for position, text in enumerate(axis.texts):
            frame = picture[*start[:place], position, *start[place + 1 :]]
            looks = tuple(frame.readouts.values()) if axis.numbers_only else frame.picture
            if looks in seen:
                raise ValueError(
                    f"moving a control must change the {'numbers' if axis.numbers_only else 'picture'}, but from the start "
                    f"{axis.name} = {seen[looks]} and {axis.name} = {text} give the same; use {axis.name} in the drawing "
                    f'function, or declare labels={{"{axis.name}": {{"numbers_only": True}}}}'
                )
            seen[looks] = text


def _meta(axes: tuple[Axis, ...], start: tuple[int, ...], alt: str, drawn: list[Frame]) -> dict[str, object]:
    """Say everything about the states but their pictures; nbval compares all of it."""
    return {
        "alt": alt,
        "axes": [
            {"name": axis.name, "label": axis.label, "control": axis.control, "values": axis.texts}
            | ({"numbersOnly": True} if axis.numbers_only else {})
            for axis in axes
        ],
        "start": start,
        "size": drawn[0].size,
        "names": list(drawn[0].readouts),
        "readouts": [list(frame.readouts.values()) for frame in drawn],
    }
