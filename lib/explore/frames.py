"""What does one state look like, and how do many of them become small? Drawn the same every time, then packed.

A state is the same whether it is drawn first or last, in a notebook or in CI, because every call of the drawing
function starts from the same seeds and the same style. The pictures of all states share most of their lines (axes,
ticks, labels), so that a table of distinct lines holds forty states in the space of two.

Names, in reading order: `Frame`, `draw_frame`, `minify`, `prefix_ids`, `pack_svg`, `unpack_svg`.
"""

from __future__ import annotations

import base64
import gzip
import io
import json
import random
import re
from collections.abc import Callable, Hashable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from numbers import Integral, Real
from typing import TYPE_CHECKING

import numpy as np
import torch

if TYPE_CHECKING:
    from matplotlib.figure import Figure

DOTS_PER_INCH = 150  # of pictures made of dots: sharp on paper and on a phone
COLOURS = 64  # enough for line art and a colour map; a third of the bytes of full colour
PIXELS_PER_INCH = 96  # of a style sheet
MOST_LETTERS = 24  # of a readout


@dataclass(frozen=True)
class Frame:
    """One drawn state: a picture (SVG, or PNG in base64), its natural size in pixels, the numbers to read as text."""

    picture: str
    size: tuple[int, int]
    readouts: dict[str, str]


def draw_frame(draw: Callable[..., object], state: Mapping[str, Hashable], kind: str) -> Frame:
    """Call the drawing function once, save its figure as "svg" or "png" and close it.

    The global random generators of Python, NumPy and PyTorch start from fixed seeds inside and go on undisturbed after.

    Raises: ValueError if the function returns neither a figure nor a figure and its readouts; RuntimeError, which names
        the state, from whatever the function itself raises.
    """
    with _fixed_style(), _fixed_seeds(), _figures_closed():
        try:
            drawn = draw(**state)
        except Exception as error:
            where = ", ".join(f"{name}={value!r}" for name, value in state.items())
            raise RuntimeError(f"draw({where}) raised {type(error).__name__}: {error}") from error
        figure, readouts = _read_drawing(drawn)
        width, height = figure.get_size_inches()
        picture = _save_svg(figure) if kind == "svg" else _save_png(figure)
    size = round(width * PIXELS_PER_INCH), round(height * PIXELS_PER_INCH)
    return Frame(picture, size, {name: _readable(name, value) for name, value in readouts.items()})


@contextmanager
def _fixed_seeds() -> Iterator[None]:
    python, numpy = random.getstate(), np.random.get_state()
    random.seed(0)
    np.random.seed(0)
    try:
        with torch.random.fork_rng(devices=range(torch.cuda.device_count())):
            torch.manual_seed(0)
            yield
    finally:
        random.setstate(python)
        np.random.set_state(numpy)


@contextmanager
def _fixed_style() -> Iterator[None]:
    """Draw in the book's style, whatever the notebook has changed."""
    import matplotlib

    from lib.plots import STYLE

    with matplotlib.rc_context():
        matplotlib.rcdefaults()
        matplotlib.rcParams.update(STYLE)
        matplotlib.rcParams["svg.hashsalt"] = "explore"  # otherwise ids are random
        yield


@contextmanager
def _figures_closed() -> Iterator[None]:
    """Close what was opened inside; a notebook would show every open figure once more."""
    import matplotlib.pyplot as plt

    before = set(plt.get_fignums())
    try:
        yield
    finally:
        for number in set(plt.get_fignums()) - before:
            plt.close(number)


def _read_drawing(drawn: object) -> tuple[Figure, Mapping[str, object]]:
    from matplotlib.figure import Figure

    figure, readouts = drawn if isinstance(drawn, tuple) and len(drawn) == 2 else (drawn, {})
    if not isinstance(figure, Figure) or not isinstance(readouts, Mapping):
        raise ValueError(
            'a drawing function returns a Figure, or a Figure and {"name": number or text}, '
            f"but returned {drawn!r}; return the figure, not its axes"
        )
    return figure, readouts


def _readable(name: str, value: object) -> str:
    """Write a number as a person would: 4,096 and 0.0312; a text stays as it is."""
    if getattr(value, "ndim", None) == 0:
        value = value.item()  # of NumPy or PyTorch
    if isinstance(value, str | bool):
        return _short(name, {True: "yes", False: "no"}.get(value, value))
    if isinstance(value, Integral):
        return f"{value:,}".replace("-", "−")
    if not isinstance(value, Real):
        raise ValueError(f"a readout is a number or a text, but {name!r} is {value!r}; reduce it to one of these")
    rounded = float(f"{value:.3g}")  # three digits say what a picture can show
    shown = f"{rounded:,.0f}" if 1000 <= abs(rounded) < 1e9 else f"{rounded:#.3g}".removesuffix(".")
    return shown.replace("-", "−")


def _short(name: str, text: str) -> str:
    if len(text) > MOST_LETTERS:
        raise ValueError(
            f"a readout has at most {MOST_LETTERS} characters, which fit a phone beside its name, but {name!r} has "
            f"{len(text)}: {text!r}; shorten it"
        )
    return text


def _save_svg(figure: Figure) -> str:
    target = io.StringIO()
    figure.savefig(target, format="svg", transparent=True, dpi=DOTS_PER_INCH, metadata={"Date": None})
    return minify(target.getvalue())


def _save_png(figure: Figure) -> str:
    from PIL import Image

    full, small = io.BytesIO(), io.BytesIO()
    figure.savefig(full, format="png", facecolor="white", dpi=DOTS_PER_INCH, metadata={"Software": None})
    image = Image.open(full).convert("RGB").quantize(COLOURS, dither=Image.Dither.NONE)
    image.save(small, "PNG", optimize=True)
    return base64.b64encode(small.getvalue()).decode()


# The parts of an SVG file that only a file needs; matplotlib's own style rule would apply to the whole page.
FILE_ONLY = re.compile(r"<\?xml.*?\?>|<!DOCTYPE.*?>|<!--.*?-->|<metadata>.*?</metadata>|<style.*?</style>", re.DOTALL)
EMPTY = re.compile(r"<defs>\s*</defs>|<g>\s*</g>")
GROUP_ID = re.compile(r'<g id="[^"]*"')
OPENING = re.compile(r"<svg [^>]*viewBox=(\"[^\"]*\")[^>]*>")
ROUND = 'fill="currentColor" stroke-linejoin="round" stroke-linecap="butt"'
# Where numbers are coordinates. Those of scale, matrix and rotate are factors: two digits would ruin the lettering.
COORDINATES = re.compile(r'(?<= d=")[^"]*|(?<=translate\()[^)]*|(?<= [xy]=")[^"]*|(?<= points=")[^"]*')
STYLE_TEXT = re.compile(r'(?<= style=")[^"]*')
DECIMALS = re.compile(r"-?\d+\.\d+")
BLACK = re.compile(r"#000(?:000)?\b")


def minify(svg: str) -> str:
    """Reduce matplotlib's SVG to what a page needs, in the page's own text colour where it is black.

    Line breaks stay: they are where `pack_svg` cuts.
    """
    svg = GROUP_ID.sub("<g", FILE_ONLY.sub("", svg))
    svg = OPENING.sub(lambda opening: f'<svg xmlns="http://www.w3.org/2000/svg" viewBox={opening[1]} {ROUND}>', svg)
    svg = COORDINATES.sub(lambda part: DECIMALS.sub(_two_decimals, part[0]), svg)
    svg = BLACK.sub("currentColor", svg.replace("xlink:href", "href"))
    svg = STYLE_TEXT.sub(lambda part: part[0].replace(": ", ":").replace("; ", ";"), svg)
    return "\n".join(filter(None, (line.strip() for line in EMPTY.sub("", svg).splitlines())))


def _two_decimals(number: re.Match[str]) -> str:
    text = f"{float(number[0]):.2f}".rstrip("0").rstrip(".")
    return "0" if text == "-0" else text


def prefix_ids(svg: str, prefix: str) -> str:
    """Make the ids of a picture its own, since every picture of a page names its glyphs and markers alike."""
    return re.sub(r'(?<= id=")|(?<=href="#)|(?<=url\(#)', lambda _: prefix, svg)


def pack_svg(pictures: list[str]) -> str:
    """Pack pictures into one text: a table of distinct lines, and each picture as runs [first, count, ...] of it."""
    table: dict[str, int] = {}
    frames = []
    for picture in pictures:
        runs: list[int] = []
        for line in picture.split("\n"):
            place = table.setdefault(line, len(table))
            if runs and runs[-2] + runs[-1] == place:
                runs[-1] += 1
            else:
                runs += [place, 1]
        frames.append(runs)
    packed = json.dumps({"lines": list(table), "frames": frames}, separators=(",", ":"))
    return base64.b64encode(gzip.compress(packed.encode(), mtime=0)).decode()


def unpack_svg(packed: str) -> list[str]:
    """Return the pictures that `pack_svg` packed; the page's script does the same."""
    content = json.loads(gzip.decompress(base64.b64decode(packed)))
    lines = content["lines"]
    return [
        "\n".join(
            line for first, count in zip(runs[::2], runs[1::2], strict=True) for line in lines[first : first + count]
        )
        for runs in content["frames"]
    ]
