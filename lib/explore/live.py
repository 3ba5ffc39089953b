"""What does a reader with a kernel move? Core widgets that call the drawing function anew for every state.

Written to ipywidgets 7.7, which Colab has, with one HTML widget and without `Output` and `interact`, which can hang a
notebook that is executed by a program.

Names: `LiveExplorable`.
"""

from __future__ import annotations

from collections.abc import Callable
from html import escape
from itertools import count
from typing import Any

from .axes import Axis, Grid
from .frames import draw_frame, prefix_ids
from .page import dots, style, table, view

serial = count()  # of the live explorables of this kernel: their pictures' ids differ


class LiveExplorable:
    """An explorable for readers with a kernel: moving a control draws the new state.

    `controls` has a widget for each axis, by its name; `shown` is the HTML widget with picture and numbers; `panel` is
    all of it.
    """

    def __init__(self, draw: Callable[..., object], grid: Grid, *, alt: str, kind: str) -> None:
        import ipywidgets

        self._draw, self._grid, self._alt, self._kind = draw, grid, alt, kind
        self._prefix, self._readouts, self._resetting = f"xpl{next(serial)}-", None, False
        self.controls = {
            axis.name: _control(axis, position) for axis, position in zip(grid.axes, grid.start, strict=True)
        }
        self.shown = ipywidgets.HTML()
        self.reset = ipywidgets.Button(description="Reset")
        self.reset.on_click(self._to_start)
        self._show()
        for control in self.controls.values():
            control.observe(self._show, names="index")
        self.panel = ipywidgets.VBox([*self.controls.values(), self.reset, self.shown])

    def _show(self, _: object = None) -> None:
        if self._resetting:
            return
        at = tuple(control.index for control in self.controls.values())
        said = self._grid.text(at)
        try:
            frame = draw_frame(self._draw, self._grid.arguments(at), self._kind)
        except Exception as error:  # the widget stays: another state may draw, and the front end hides the traceback
            self.shown.value = f'<p role="alert">Nothing to show for {escape(said)}: {escape(str(error))}</p>'
            raise
        alt = f"{self._alt}: {said}"
        picture = dots(frame.picture, frame.size, alt) if self._kind == "png" else self._lines(frame.picture, alt)
        numbers = table(frame.readouts, self._readouts or frame.readouts)
        self.shown.value = (
            f'{style()}<div class="xpl" role="group" aria-label="{escape(self._alt)}">'
            f"{view(picture, frame.size, said, numbers)}</div>"
        )
        self._readouts = frame.readouts

    def _lines(self, svg: str, alt: str) -> str:
        return prefix_ids(svg, self._prefix).replace("<svg ", f'<svg role="img" aria-label="{escape(alt)}" ', 1)

    def _to_start(self, _: object) -> None:
        """Move all controls, then draw once."""
        self._resetting = True
        try:
            for control, position in zip(self.controls.values(), self._grid.start, strict=True):
                control.index = position
        finally:
            self._resetting = False
        self._show()

    def _ipython_display_(self) -> None:
        from IPython.display import display

        display(self.panel)


def _control(axis: Axis, position: int) -> Any:
    import ipywidgets

    words = {"options": axis.texts, "index": position, "description": axis.label}
    style, wide = {"description_width": "initial"}, {"width": "auto", "max_width": "32rem"}
    if axis.control == "slider":
        return ipywidgets.SelectionSlider(**words, continuous_update=False, style=style, layout=wide)
    if axis.control == "radio":
        return ipywidgets.ToggleButtons(**words, style=style | {"button_width": "auto"}, layout=wide)
    return ipywidgets.Dropdown(**words, style=style, layout=wide)
