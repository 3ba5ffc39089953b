"""A chapter run by a reader who has solved everything: checks pass, sliders and figures show what is stored."""

import base64
import copy
import io
import json
import re
import sys
from collections.abc import Callable
from functools import cache
from importlib.metadata import version
from pathlib import Path

import pytest
from nbformat import NotebookNode
from PIL import Image, ImageChops, ImageStat

from lib.explore.frames import unpack_svg
from lib.plots import COLOURS

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "tools"))

from exercise_rules import TO_MEND, solutions
from notebook_execution import NOTEBOOK_SECONDS, execute
from notebook_file import BOOK, ROOT, read
from notebook_form import light_png, notebook_of
from notebook_rule import Chapter

CHAPTERS = sorted(BOOK.glob("*.ipynb"))
SAMPLE = (Path(__file__).parent / "notebooks" / "chapter.txt").read_text(encoding="utf-8")
PASSED, FAILED, NOT_ATTEMPTED = "✅", "❌", "⬜"


def solved(path: Path, notebook: NotebookNode) -> NotebookNode:
    """The notebook as a reader leaves it who has written every solution into its stub."""
    chapter = Chapter(path, copy.deepcopy(notebook))
    answers = solutions(chapter)
    for _, name, cell in chapter.role("exercise"):
        cell.source = answers[name]
    return chapter.notebook


@cache
def run_solved(path: Path) -> NotebookNode:
    """The solved chapter, executed once for all tests that look at it."""
    return execute(solved(path, read(path)), path.parent)


def verdicts(path: Path, notebook: NotebookNode) -> dict[str, str]:
    """What each check cell shows, as text."""
    return {name: "".join(map(text, cell.outputs)) for _, name, cell in Chapter(path, notebook).role("check")}


def text(output: NotebookNode) -> str:
    return output.text if output.output_type == "stream" else output.data["text/plain"]


@pytest.mark.slow
@pytest.mark.timeout(NOTEBOOK_SECONDS)
@pytest.mark.parametrize("path", CHAPTERS, ids=lambda path: path.stem)
def test_every_solution_passes_its_check(path):
    found = verdicts(path, run_solved(path))
    assert found
    assert not {name: verdict for name, verdict in found.items() if not verdict.startswith(PASSED)}


@pytest.mark.parametrize("path", CHAPTERS, ids=lambda path: path.stem)
def test_every_stub_is_not_attempted_yet_and_every_bug_is_found(path):
    found = verdicts(path, read(path))  # the stored outputs, which nbval holds against a fresh run
    assert found
    wanted = {name: FAILED if name.startswith(TO_MEND) else NOT_ATTEMPTED for name in found}
    assert {name: verdict[:1] for name, verdict in found.items()} == wanted


def test_a_wrong_solution_would_be_found(tmp_path):
    path = tmp_path / "chapter.ipynb"
    right = notebook_of(SAMPLE, None)
    wrong = notebook_of(SAMPLE.replace("return x * x", "return x + x"), None)
    signs = [{name: verdict[:1] for name, verdict in verdicts(path, run).items()} for run in runs(path, right, wrong)]
    assert signs == [
        {"double": NOT_ATTEMPTED, "square": NOT_ATTEMPTED, "find_the_bug": FAILED},
        {"double": PASSED, "square": PASSED, "find_the_bug": PASSED},
        {"double": PASSED, "square": FAILED, "find_the_bug": PASSED},
    ]


def runs(path: Path, right: NotebookNode, wrong: NotebookNode) -> list[NotebookNode]:
    """A fresh notebook, one with right and one with wrong solutions, executed."""
    return [execute(notebook, path.parent) for notebook in (right, solved(path, right), solved(path, wrong))]


# ---- The frames of explorables ---------------------------------------------------------------------------------------

FRAMES = re.compile(r"/\*xpl-frames\*/(.*?)/\*end\*/", re.DOTALL)
ID = re.compile(r'(?<= id=")[^"]+|(?<=href="#)[^"]+|(?<=url\(#)[^)]+')
NUMBER = re.compile(r"-?\d+(?:\.\d+)?")
HALF_A_PIXEL = 0.5  # what another processor's rounding may move


def frames(notebook: NotebookNode) -> list[list[str]]:
    """The pictures of each explorable of a notebook, one for every state."""
    pages = [output.data["text/html"] for output in outputs(notebook) if "text/html" in output.get("data", {})]
    packed = [json.loads(found[1]) for page in pages if (found := FRAMES.search(page))]
    return [frames.get("png") or unpack_svg(frames["svg"]) for frames in packed]


def outputs(notebook: NotebookNode) -> list[NotebookNode]:
    return [output for cell in notebook.cells for output in cell.get("outputs", [])]


def drawn_alike(one: str, other: str) -> bool:
    """Whether two pictures are made of the same lines, up to half a pixel; names of ids count by their order only."""
    texts, numbers = zip(*map(read_svg, (one, other)), strict=True)
    return texts[0] == texts[1] and all(abs(a - b) <= HALF_A_PIXEL for a, b in zip(numbers[0], numbers[1], strict=True))


def read_svg(svg: str) -> tuple[str, list[float]]:
    names: dict[str, str] = {}
    svg = ID.sub(lambda name: names.setdefault(name[0], f"id{chr(ord('A') + len(names))}"), svg)
    return NUMBER.sub("0", svg), [float(number) for number in NUMBER.findall(svg)]


@pytest.mark.slow
@pytest.mark.timeout(NOTEBOOK_SECONDS)
@pytest.mark.parametrize("path", CHAPTERS, ids=lambda path: path.stem)
def test_every_stored_frame_is_what_the_chapter_s_function_draws(path):
    stored, fresh = frames(read(path)), frames(run_solved(path))
    assert [len(explorable) for explorable in stored] == [len(explorable) for explorable in fresh] != []
    differing = [
        f"explorable {number}, state {state}"
        for number, (old, new) in enumerate(zip(stored, fresh, strict=True))
        for state, pair in enumerate(zip(old, new, strict=True))
        if not drawn_alike(*pair)
    ]
    assert differing == [], "run: make notebooks"


def test_a_frame_with_one_point_a_pixel_away_or_one_line_more_would_be_found():
    frame = frames(read(CHAPTERS[0]))[0][0]
    assert drawn_alike(frame, frame)
    curve = re.search(r"(?<=\nL )\d+\.\d+", frame)  # a point of the first line that is drawn
    assert not drawn_alike(frame, f"{frame[: curve.start()]}{float(curve[0]) + 1:.2f}{frame[curve.end() :]}")
    assert not drawn_alike(frame, frame.replace("</svg>", '<path d="M 0 0"/></svg>'))


# ---- The figures -----------------------------------------------------------------------------------------------------

# Of 255, on average over all pixels and channels. On the machine that drew the figures it is 0. With PyTorch's code for
# a processor without vector instructions, which rounds otherwise, it was 0.0001 at most. A line drawn in another colour
# of the book makes 0.19 or more, and in another shade of its own 0.05. The bound lies well between.
FAR = 0.01
DRAWN_WITH = ("matplotlib", "numpy", "pillow", "torch")


def pictures(notebook: NotebookNode) -> list[tuple[int, Image.Image]]:
    """Each picture of a notebook in its stored form, after the number of its cell."""
    data = [
        (number, one.get("data", {}))
        for number, cell in enumerate(notebook.cells, 1)
        for one in cell.get("outputs", [])
    ]
    return [(number, decoded(light_png(one["image/png"]))) for number, one in data if "image/png" in one]


def decoded(png: str) -> Image.Image:
    return Image.open(io.BytesIO(base64.b64decode(png))).convert("RGB")


def apart(one: Image.Image, other: Image.Image) -> float:
    """How far two pictures of one size are from each other, where whatever lies a pixel elsewhere counts as equal.

    Rounding moves a point by a pixel at most, so a colour may lie anywhere between the darkest and the lightest of the
    nine pixels that are there in the other picture.
    """
    return max(beyond(one, other), beyond(other, one))


def beyond(one: Image.Image, other: Image.Image) -> float:
    darkest, lightest = spread(other, ImageChops.darker), spread(other, ImageChops.lighter)
    off = ImageChops.add(ImageChops.subtract(one, lightest), ImageChops.subtract(darkest, one))
    return sum(ImageStat.Stat(off).mean) / 3


def spread(picture: Image.Image, choose: Callable[[Image.Image, Image.Image], Image.Image]) -> Image.Image:
    """In each place the chosen one of the nine pixels around it; edges count as neighbours, and are empty."""
    for step in ((1, 0), (0, 1)):
        before, after = (ImageChops.offset(picture, *(sign * at for at in step)) for sign in (1, -1))
        picture = choose(picture, choose(before, after))
    return picture


def other_versions() -> list[str]:
    """The packages that draw, where they are not the ones that the stored figures were drawn with."""
    pinned = re.findall(r"^([\w.-]+)==([\w.]+)", (ROOT / "requirements.txt").read_text(encoding="utf-8"), re.MULTILINE)
    here = {name: version(name).partition("+")[0] for name in DRAWN_WITH}
    return [f"{name} {here[name]} instead of {due}" for name, due in pinned if here.get(name, due) != due]


@pytest.mark.slow
@pytest.mark.timeout(NOTEBOOK_SECONDS)
@pytest.mark.skipif(bool(other_versions()), reason=f"figures were drawn with other packages: {other_versions()}")
@pytest.mark.parametrize("path", CHAPTERS, ids=lambda path: path.stem)
def test_every_stored_figure_is_what_its_cell_draws(path):
    stored, fresh = pictures(read(path)), pictures(run_solved(path))
    sizes = [[(number, picture.size) for number, picture in found] for found in (stored, fresh)]
    assert sizes[0] == sizes[1] != []
    far = {number: apart(old, new) for (number, old), (_, new) in zip(stored, fresh, strict=True)}
    print(f"{path.stem}, distances by cell:", {number: round(distance, 5) for number, distance in far.items()})
    assert [number for number, distance in far.items() if distance > FAR] == [], "cells; run: make notebooks"


def painted(picture: Image.Image, old: str, new: str) -> tuple[Image.Image, int]:
    """The picture with one colour changed into another, and how many pixels that are."""
    parts = [
        part.point(lambda value, due=due: 255 * (abs(value - due) <= 10))
        for part, due in zip(picture.split(), rgb(old), strict=True)
    ]
    close = ImageChops.darker(ImageChops.darker(parts[0], parts[1]), parts[2])
    changed = picture.copy()
    changed.paste(rgb(new), mask=close)
    return changed, close.histogram()[255]


def rgb(colour: str) -> tuple[int, int, int]:
    return tuple(int(colour[at : at + 2], 16) for at in (1, 3, 5))


@pytest.mark.parametrize("path", CHAPTERS, ids=lambda path: path.stem)
def test_a_line_in_another_colour_or_left_out_or_moved_would_be_found(path):
    tried = 0
    for number, picture in pictures(read(path)):
        assert apart(picture, picture) == 0
        assert apart(picture, ImageChops.offset(picture, 1)) <= FAR, "one pixel is what rounding may move"
        assert apart(picture, ImageChops.offset(picture, 3)) > FAR, number
        for old, other in zip(COLOURS[:-1], (*COLOURS[1:-1], COLOURS[0]), strict=True):
            for new in (other, "#ffffff"):
                changed, pixels = painted(picture, old, new)
                if pixels >= 300:  # else it is a point or two, or where other colours meet
                    tried += 1
                    assert apart(picture, changed) > FAR, (number, old, new, pixels)
    assert tried >= 2 * len(pictures(read(path)))
