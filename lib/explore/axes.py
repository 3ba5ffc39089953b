"""Which settings can a reader choose, and what are they called? A declaration is read, checked and numbered here.

Names, in reading order: `Axis`, `Grid`, `read_grid`.
"""

from __future__ import annotations

from collections.abc import Hashable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import product
from math import prod
from numbers import Real

CONTROLS = ("slider", "radio", "select")
LABEL_KEYS = {"label", "values", "numbers_only"}
MOST_RADIOS = 6


@dataclass(frozen=True)
class Axis:
    """One thing to vary: the argument's name, its values, and the words a reader sees for both."""

    name: str
    values: tuple[Hashable, ...]
    label: str
    texts: tuple[str, ...]
    control: str
    numbers_only: bool = False


@dataclass(frozen=True)
class Grid:
    """All states: the combinations of the axes' values, each named by its position on every axis."""

    axes: tuple[Axis, ...]
    start: tuple[int, ...]

    def __iter__(self) -> Iterator[tuple[int, ...]]:
        """Go through the states like the elements of a row-major array: the last axis varies fastest."""
        return product(*(range(len(axis.values)) for axis in self.axes))

    def __len__(self) -> int:
        return prod(len(axis.values) for axis in self.axes)

    def arguments(self, state: tuple[int, ...]) -> dict[str, Hashable]:
        """Return what the drawing function is called with in this state."""
        return {axis.name: axis.values[position] for axis, position in zip(self.axes, state, strict=True)}

    def text(self, state: tuple[int, ...]) -> str:
        """Say a state in words, as the page and a screen reader do: "hidden width = 64, activation = ReLU"."""
        return ", ".join(f"{axis.label} = {axis.texts[at]}" for axis, at in zip(self.axes, state, strict=True))


def read_grid(
    axes: Mapping[str, Sequence[object]],
    start: Mapping[str, Hashable],
    labels: Mapping[str, str | Mapping[str, object]],
    controls: Mapping[str, str],
    max_states: int,
) -> Grid:
    """Turn the arguments of `explore` into the grid of states.

    Raises: ValueError if there is no axis or there are too many states, if an axis cannot be moved, if its values
        cannot be told apart or read, or if a start, a label or a control belongs to no axis.
    """
    if not axes:
        raise ValueError("explore needs at least one axis to vary, but got 0; pass one, for example d_ff=[16, 64, 256]")
    for argument, given in {"start": start, "labels": labels, "controls": controls}.items():
        if unknown := sorted(set(given) - set(axes)):
            raise ValueError(
                f"{argument} may name only the axes {', '.join(axes)}, but names {', '.join(unknown)}; "
                "correct the name or pass its values"
            )
    read = tuple(_read_axis(name, given, labels.get(name, name), controls.get(name)) for name, given in axes.items())
    grid = Grid(read, tuple(_read_position(axis, start) for axis in read))
    if len(grid) > max_states:
        sizes = " × ".join(str(len(axis.values)) for axis in read)
        raise ValueError(
            f"at most {max_states} states are drawn, but the axes make {sizes} = {len(grid)}; "
            "drop values, or raise max_states and mind the time and the size"
        )
    return grid


def _read_axis(name: str, given: Sequence[object], words: object, control: str | None) -> Axis:
    values = _read_values(name, given)
    words = {"label": words} if isinstance(words, str) else words
    if not isinstance(words, Mapping) or set(words) - LABEL_KEYS:
        raise ValueError(
            f"the label of {name} is a text or a dictionary with the keys {', '.join(sorted(LABEL_KEYS))}, "
            f'but is {words!r}; for example {{"label": "width", "values": {{64: "64 units"}}}}'
        )
    texts = _read_texts(name, values, words.get("values", {}))
    if control is None:
        control = _fitting_control(values)
    elif control not in CONTROLS:
        raise ValueError(f"a control is one of {', '.join(CONTROLS)}, but {name} has {control!r}; choose one of these")
    return Axis(name, values, str(words.get("label", name)), texts, control, bool(words.get("numbers_only", False)))


def _read_values(name: str, given: Sequence[object]) -> tuple[Hashable, ...]:
    if isinstance(given, str) or not isinstance(given, Sequence):
        raise ValueError(f"the values of {name} must be a list, but are {given!r}; write {name}=[...]")
    values = tuple(given)
    if len(values) < 2:
        raise ValueError(
            f"an axis needs two values or more, but {name} has {len(values)}; "
            "add a value, or make it a constant of the drawing function"
        )
    if unhashable := [value for value in values if not isinstance(value, Hashable)]:
        raise ValueError(f"the values of {name} must be hashable, but {unhashable[0]!r} is not; use a tuple or a name")
    if len(set(values)) < len(values):
        twice = next(value for place, value in enumerate(values) if value in values[:place])
        raise ValueError(
            f"the values of {name} must differ, but {twice!r} equals an earlier one; leave one of them out"
        )
    return values


def _read_texts(name: str, values: tuple[Hashable, ...], words: object) -> tuple[str, ...]:
    if not isinstance(words, Mapping) or set(words) - set(values):
        raise ValueError(
            f"the texts for the values of {name} are a dictionary from its values {list(values)} to texts, "
            f"but are {words!r}; name only these values"
        )
    texts = tuple(str(words.get(value, getattr(value, "__name__", value))) for value in values)
    for value, text in zip(values, texts, strict=True):
        if not text.strip() or texts.count(text) > 1 or " at 0x" in text:
            raise ValueError(
                f"each value of {name} needs a text of its own that a reader understands, but {value!r} has {text!r}; "
                f'give it one: labels={{"{name}": {{"values": {{value: "text"}}}}}}'
            )
    return texts


def _fitting_control(values: tuple[Hashable, ...]) -> str:
    """Numbers lie on a line, so they slide; the rest is named, and shown at once while there is room."""
    if all(isinstance(value, Real) and not isinstance(value, bool) for value in values):
        return "slider"
    return "radio" if len(values) <= MOST_RADIOS else "select"


def _read_position(axis: Axis, start: Mapping[str, Hashable]) -> int:
    value = start.get(axis.name, axis.values[0])
    if value not in axis.values:
        raise ValueError(
            f"start must be a value of its axis: {axis.name} has {list(axis.values)}, but start has {value!r}; "
            "choose one of these or add it to the axis"
        )
    return axis.values.index(value)
