"""Explorables in a real browser: every control, by keyboard and by pointer, moves picture, numbers and spoken words.

The same checks run on a page made here, with every kind of control, on that page broken on purpose, which they must
catch, and on every page of the built book that has an explorable.
"""

from __future__ import annotations

import json
import re
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cached_property, partial
from http.server import ThreadingHTTPServer
from pathlib import Path

import matplotlib
import pytest
import torch
from conftest import ROOT, Handler, Visit, page_paths, visiting
from playwright.sync_api import Browser, Locator, Page, TimeoutError

matplotlib.use("agg")
from matplotlib import pyplot as plt

from lib.explore import explore
from lib.explore.frames import unpack_svg

pytestmark = [pytest.mark.browser, pytest.mark.slow]

WIDE, PHONE = {"width": 1280}, {"width": 360, "height": 740}
THUMB = 22  # pixels, as in page.css
SMALLEST_TARGET = 44  # pixels, for a finger
STATE = """root => {
  const picture = root.querySelector(".xpl-picture > svg, .xpl-picture > img");
  return {
    sticksOut: root.scrollWidth > root.clientWidth,
    picture: picture.src ?? picture.innerHTML,
    alt: picture.alt ?? picture.getAttribute("aria-label"),
    words: root.querySelector(".xpl-state > span").textContent,
    heard: root.querySelector("[role=status]").textContent,
    names: [...root.querySelectorAll(".xpl-read th")].map(cell => cell.textContent),
    numbers: [...root.querySelectorAll(".xpl-read td")].map(cell => cell.textContent),
    chosen: [...root.querySelectorAll(".xpl-control")].map(control => {
      const one = control.querySelector("input[type=range], select, :checked");
      return one?.getAttribute("aria-valuetext") ?? one?.selectedOptions?.[0].text ?? one?.parentElement.textContent;
    }),
  };
}"""
SOURCE = """root => [...document.scripts].map(script => script.textContent)
  .find(text => text.includes(`"${root.dataset.key}"`))"""
AS_PARSED = """pictures => pictures.map(picture => {
  const box = document.createElement("div");
  box.innerHTML = picture;
  return box.firstElementChild.innerHTML;
})"""
# The lowest contrast of any text in the explorable with what is painted behind it.
CONTRAST = """root => {
  const canvas = new OffscreenCanvas(1, 1).getContext("2d", {willReadFrequently: true});
  const pixel = colour => {
    canvas.clearRect(0, 0, 1, 1);
    canvas.fillStyle = colour;
    canvas.fillRect(0, 0, 1, 1);
    return [...canvas.getImageData(0, 0, 1, 1).data];
  };
  const light = ([r, g, b]) => [r, g, b].map(c => c / 255)
    .map(c => c <= .04045 ? c / 12.92 : ((c + .055) / 1.055) ** 2.4)
    .reduce((sum, c, k) => sum + c * [.2126, .7152, .0722][k], 0);
  const behind = element => {
    for (let one = element; one; one = one.parentElement) {
      const painted = pixel(getComputedStyle(one).backgroundColor);
      if (painted[3] === 255) return painted;
    }
    return [255, 255, 255];
  };
  const written = [...root.querySelectorAll("svg, *")].filter(element => element.checkVisibility() && (
    element.matches("svg") || [...element.childNodes].some(node => node.nodeType === 3 && node.data.trim())) &&
    !element.matches("style, .xpl-heard, svg *"));
  return Math.min(...written.map(element => {
    const [a, b] = [light(pixel(getComputedStyle(element).color)), light(behind(element))];
    return (Math.max(a, b) + .05) / (Math.min(a, b) + .05);
  }));
}"""


# ---- Driving one explorable ------------------------------------------------------------------------------------------


class Driven:
    """One explorable on an open page, what it was declared to be, and hands to move it."""

    def __init__(self, root: Locator, *, keyboard: bool, patience: int = 10_000) -> None:
        self.root, self.page, self.keyboard, self.patience = root, root.page, keyboard, patience  # in milliseconds
        self.root.scroll_into_view_if_needed()
        self.controls = root.locator(".xpl-control")

    @cached_property
    def meta(self) -> dict:
        """What the cell declared, as the page's script exposes it."""
        return self.root.evaluate("root => root.explorable.meta")

    @cached_property
    def pictures(self) -> list[str]:
        """Unpack the pictures from the source of the page, without its script."""
        source = self.root.evaluate(SOURCE)
        frames = json.loads(re.search(r"/\*xpl-frames\*/(.*?)/\*end\*/", source, re.DOTALL)[1])
        if "png" in frames:
            return [f"data:image/png;base64,{png}" for png in frames["png"]]
        return self.page.evaluate(AS_PARSED, unpack_svg(frames["svg"]))

    def state(self, index: int) -> dict:
        """Wait until the explorable says that it shows this state, and return all that it shows."""
        try:
            self.page.wait_for_function(
                "([root, index]) => root.dataset.shown === index && root.dataset.said === index",
                arg=[self.root.element_handle(), str(index)],
                timeout=self.patience,
            )
        except TimeoutError:
            raise AssertionError(f"state {index} is not reached, but {self.root.evaluate(STATE)}") from None
        return self.root.evaluate(STATE)

    def reset(self) -> None:
        """Press Reset."""
        button = self.root.get_by_role("button", name="Reset")
        button.press("Enter") if self.keyboard else button.click()

    def move(self, place: int, position: int) -> None:
        """Give one axis a value."""
        axis, control = self.meta["axes"][place], self.controls.nth(place)
        by_hand = self._keys if self.keyboard else self._point
        by_hand(axis["control"], control, position, len(axis["values"]))

    def _keys(self, kind: str, control: Locator, position: int, count: int) -> None:
        if kind == "radio":
            checked = control.locator(":checked")
            steps = (position - int(checked.get_attribute("value"))) % count
            checked.focus()
        else:
            steps = position
            control.locator("input, select").press("Home")
        for _ in range(steps):
            self.page.keyboard.press("ArrowDown" if kind == "select" else "ArrowRight")

    def _point(self, kind: str, control: Locator, position: int, count: int) -> None:
        if kind == "radio":
            control.locator("label").nth(position).click()
        elif kind == "select":
            control.locator("select").select_option(index=position)
        else:
            slider = control.locator("input")
            box = slider.bounding_box()
            x = THUMB / 2 + (box["width"] - THUMB) * position / (count - 1)
            slider.click(position={"x": x, "y": box["height"] / 2})

    def expect(self, positions: list[int]) -> dict:
        """Compare everything that is shown with what was declared, and return it."""
        axes = self.meta["axes"]
        index = 0
        for axis, position in zip(axes, positions, strict=True):
            index = index * len(axis["values"]) + position
        shown = self.state(index)
        texts = [axis["values"][position] for axis, position in zip(axes, positions, strict=True)]
        words = ", ".join(f"{axis['label']} = {text}" for axis, text in zip(axes, texts, strict=True))
        picture = re.sub(r"\bxpl[0-9a-z]+-", "", shown["picture"])
        assert picture == self.pictures[index], f"at {words} the picture is another one"
        assert not shown["sticksOut"]
        assert shown["names"] == self.meta["names"]
        assert shown["numbers"] == self.meta["readouts"][index]
        assert shown["chosen"] == texts
        assert shown["words"] == words
        assert shown["alt"] == f"{self.meta['alt']}: {words}"
        return shown

    def check(self) -> None:
        """Reset, then go through all values of an axis; and so for every axis."""
        start = self.meta["start"]
        self.expect(start)
        size = self.root.bounding_box()
        for place, axis in enumerate(self.meta["axes"]):
            seen = {}
            for position in [*range(start[place] + 1, len(axis["values"])), *range(start[place] + 1)]:
                self.move(place, position)
                shown = self.expect([*start[:place], position, *start[place + 1 :]])
                assert shown["heard"].startswith(shown["words"]), "the status region does not say the new state"
                seen[position] = tuple(shown["numbers"]) if axis.get("numbersOnly") else shown["picture"]
                assert self.root.bounding_box()["height"] == size["height"], "the page jumps"
            assert len(set(seen.values())) == len(axis["values"]), f"{axis['name']} does not change what it should"
            self.move(place, (start[place] + 1) % len(axis["values"]))
            self.reset()
            self.expect(start)


def check_page(visit: Visit, *, keyboard: bool, patience: int = 10_000) -> None:
    """Move every control of every explorable on a page; nothing may fail, and nothing be asked of another machine."""
    visit.page.wait_for_load_state("networkidle")
    explorables = visit.page.locator(".xpl")
    assert explorables.count(), "the page has no explorable"
    for number in range(explorables.count()):
        Driven(explorables.nth(number), keyboard=keyboard, patience=patience).check()
    assert visit.trouble == []


def check_fit(page: Page) -> None:
    """On a phone: no sideways scroll, targets for fingers, and no picture larger than it was drawn."""
    width, window = page.evaluate("[document.scrollingElement.scrollWidth, innerWidth]")
    assert width <= window
    for root in page.locator(".xpl").all():
        root.locator("button").wait_for()
        boxes = [target.bounding_box() for target in root.locator("input, select, button").all()]
        assert min(min(box["height"], box["width"]) for box in boxes) >= SMALLEST_TARGET
        right = max(box["x"] + box["width"] for box in [*boxes, root.locator(".xpl-facts").bounding_box()])
        assert right <= window
        picture, natural = root.locator(".xpl-picture"), "picture => +picture.style.getPropertyValue('--xpl-width')"
        assert 0.6 * window < picture.bounding_box()["width"] <= picture.evaluate(natural) + 0.5


def check_without_script(page: Page) -> None:
    """Where no script runs: the picture in its own words, the numbers, and nothing to press."""
    for root in page.locator(".xpl").all():
        image = root.locator("img")
        assert image.evaluate("image => image.naturalWidth") > 0
        assert image.get_attribute("alt").startswith(root.get_attribute("aria-label"))
        assert root.locator(".xpl-read td").count() == root.locator(".xpl-read th").count()
        assert root.locator("input, select, button, svg").count() == 0


# ---- A page with everything ------------------------------------------------------------------------------------------


def draw(d_ff: int, activation: str, form: str, tokens: int) -> tuple[object, dict[str, object]]:
    """Draw something that differs in every state; `tokens` changes a number only."""
    fig, ax = plt.subplots(figsize=(5, 3))
    x = torch.linspace(0, 1, 30)
    ax.plot(x, (x * d_ff).sin() if activation == "none" else (x * d_ff).sin().relu(), "o-" if form == "gated" else "-")
    ax.set(xlim=(0, 1), ylim=(-1, 1))
    return fig, {"parameters": 64 * d_ff, "FLOPs of all tokens": 128 * d_ff * tokens, "form": form}


def whole_page(*explorables: str) -> str:
    """Put explorables onto a page that follows the system's taste."""
    head = '<meta charset="utf-8"><meta name="viewport" content="width=device-width"><link rel="icon" href="data:,">'
    style = "<style>:root { color-scheme: light dark } body { background: Canvas; color: CanvasText }</style>"
    body = "".join(explorables)
    return f"<!doctype html><html lang=en><head><title>t</title>{head}{style}</head><body>{body}</body></html>"


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Write pages: one explorable with every kind of control, it three times, and one of dots, without numbers."""
    folder = tmp_path_factory.mktemp("explorables")
    with pytest.MonkeyPatch.context() as patch:
        patch.delenv("EXPLORE_MODE", raising=False)
        lines = explore(
            draw,
            alt="A curve",
            mode="static",
            start={"d_ff": 8, "form": "gated"},
            labels={"d_ff": "hidden width d_ff", "tokens": {"label": "tokens", "numbers_only": True}},
            controls={"form": "select", "tokens": "radio"},
            d_ff=[4, 8, 16, 32, 64],
            activation=["none", "ReLU"],
            form=["plain", "gated"],
            tokens=[1, 1000],
        ).html
        dots = explore(
            lambda **state: draw(**state, form="plain", tokens=1)[0],
            alt="Dots",
            mode="static",
            fmt="png",
            d_ff=[4, 8, 16],
            activation=["none", "ReLU"],
        ).html
    (folder / "index.html").write_text(whole_page(lines), encoding="utf-8")
    (folder / "dots.html").write_text(whole_page(dots), encoding="utf-8")
    element, script = re.fullmatch(r"(.*</div>)\n(<script>.*</script>)", lines, re.DOTALL).groups()
    (folder / "early.html").write_text(whole_page(script, script, element, lines, element), encoding="utf-8")
    return folder


@contextmanager
def serving(folder: Path) -> Iterator[str]:
    """Serve a folder on this machine."""
    with ThreadingHTTPServer(("127.0.0.1", 0), partial(Handler, directory=str(folder))) as httpd:
        thread = threading.Thread(target=httpd.serve_forever, daemon=True)
        thread.start()
        yield f"http://127.0.0.1:{httpd.server_port}"
        httpd.shutdown()
        thread.join()


@pytest.fixture(scope="module")
def address(folder: Path) -> Iterator[str]:
    """Serve the pages."""
    with serving(folder) as address:
        yield address


@pytest.mark.parametrize("name", ["index.html", "dots.html"])
@pytest.mark.parametrize(("keyboard", "reader"), [(True, WIDE), (False, PHONE)], ids=["keyboard-wide", "pointer-phone"])
def test_every_control_moves_picture_numbers_and_words(
    browser: Browser, address: str, name: str, keyboard: bool, reader: dict
):
    with visiting(browser, f"{address}/{name}", **reader) as visit:
        check_page(visit, keyboard=keyboard)


def test_equal_explorables_and_early_scripts_find_their_elements_and_share_no_id(browser: Browser, address: str):
    with visiting(browser, f"{address}/early.html") as visit:
        check_page(visit, keyboard=True)
        assert visit.page.locator(".xpl").count() == 3
        visit.page.locator("input[type=range]").first.press("End")
        first, *others = visit.page.locator(".xpl").evaluate_all("all => all.map(root => root.dataset.shown)")
        assert first not in others
        ids = visit.page.evaluate("[...document.querySelectorAll('[id]')].map(element => element.id)")
        assert len(ids) == len(set(ids)) > 30
        broken = """[...document.querySelectorAll(".xpl svg use")].filter(use =>
          !use.closest(".xpl").querySelector(use.getAttribute("href")))"""
        assert visit.page.evaluate(broken) == []


@pytest.mark.parametrize("name", ["index.html", "dots.html"])
def test_it_fits_a_phone_and_a_finger(browser: Browser, address: str, name: str):
    with visiting(browser, f"{address}/{name}", **PHONE) as visit:
        check_fit(visit.page)


@pytest.mark.parametrize("dark", [False, True], ids=["light", "dark"])
def test_every_word_has_contrast(browser: Browser, address: str, dark: bool):
    with visiting(browser, f"{address}/index.html", dark=dark) as visit:
        visit.page.locator("button").wait_for()
        assert visit.page.locator(".xpl").evaluate(CONTRAST) >= 4.5


@pytest.mark.parametrize("dark", [False, True], ids=["light", "dark"])
def test_axe_finds_nothing(browser: Browser, address: str, dark: bool):
    with visiting(browser, f"{address}/index.html", dark=dark) as visit:
        visit.page.locator("button").wait_for()
        visit.page.evaluate((ROOT / "tests/vendor/axe.min.js").read_text(encoding="utf-8"))
        found = visit.page.evaluate(
            "async () => (await axe.run('.xpl')).violations.map(one => `${one.id}: ${one.help}`)"
        )
        assert found == []


def test_without_scripts_the_picture_and_its_numbers_stay(browser: Browser, address: str):
    with visiting(browser, f"{address}/index.html", script=False) as visit:
        check_without_script(visit.page)


def test_a_browser_that_cannot_unpack_keeps_the_first_picture(browser: Browser, address: str):
    with visiting(browser, f"{address}/dots.html") as visit:
        visit.page.add_init_script("delete window.DecompressionStream")
        visit.page.goto(f"{address}/index.html")
        visit.page.locator(".xpl[data-ready]").wait_for()
        visit.page.wait_for_load_state("networkidle")
        check_without_script(visit.page)
        assert visit.page.locator(".xpl-controls").is_hidden()
        assert visit.trouble == []


def test_paper_shows_the_state_and_no_control(browser: Browser, address: str):
    with visiting(browser, f"{address}/index.html") as visit:
        visit.page.locator("button").wait_for()
        visit.page.emulate_media(media="print")
        assert visit.page.locator(".xpl-controls").is_hidden()
        assert visit.page.locator(".xpl svg").is_visible()
        assert visit.page.locator(".xpl-state").is_visible()


def test_numbers_that_changed_light_up_unless_the_reader_wants_less_motion(browser: Browser, address: str):
    lit = "all => all.filter(cell => getComputedStyle(cell).animationName !== 'none').map(cell => cell.textContent)"
    with visiting(browser, f"{address}/index.html") as visit:
        cells = visit.page.locator(".xpl-read td > span")
        visit.page.locator("button").wait_for()
        for motion, expected in (("reduce", []), ("no-preference", ["1,024", "2,048"])):
            visit.page.emulate_media(reduced_motion=motion)
            visit.page.get_by_role("button", name="Reset").click()
            visit.page.locator("input[type=range]").press("ArrowRight")
            assert cells.evaluate_all(lit) == expected


def test_plain_keys_stay_inside_and_commands_go_through(browser: Browser, address: str):
    with visiting(browser, f"{address}/index.html") as visit:
        slider = visit.page.locator("input[type=range]")
        slider.wait_for()
        visit.page.evaluate("window.keys = []; document.addEventListener('keydown', event => keys.push(event.key))")
        for key in ("ArrowRight", "Home", "End", "PageUp", "Space", "Enter", "a", "Control+ArrowRight"):
            slider.press(key)
        assert visit.page.evaluate("keys") == ["a", "Control", "ArrowRight"]
        suppressed = "all => all.every(one => one.dataset.lmSuppressShortcuts === 'true')"
        assert visit.page.locator("input, select, button").evaluate_all(suppressed)


def test_the_address_and_the_history_stay_as_they_are(browser: Browser, address: str):
    with visiting(browser, f"{address}/index.html") as visit:
        before = visit.page.evaluate("[location.href, history.length]")
        visit.page.locator("input[type=range]").press("End")
        visit.page.locator(".xpl[data-shown='39'], .xpl[data-shown='34']").wait_for()
        assert visit.page.evaluate("[location.href, history.length]") == before


def test_a_quiet_status_waits_until_the_reader_rests(browser: Browser, address: str):
    with visiting(browser, f"{address}/index.html") as visit:
        driven = Driven(visit.page.locator(".xpl"), keyboard=True)
        driven.expect(driven.meta["start"])
        visit.page.evaluate("""() => {
          window.heard = [];
          const status = document.querySelector("[role=status]");
          new MutationObserver(() => heard.push(status.textContent)).observe(status, {childList: true});
          const slider = document.querySelector("input[type=range]");
          for (const value of [2, 3, 4]) { slider.value = value; slider.dispatchEvent(new Event("input")); }
        }""")
        driven.expect([4, *driven.meta["start"][1:]])
        [heard] = visit.page.evaluate("heard")
        assert heard.startswith("hidden width d_ff = 64, ")
        assert heard.endswith("parameters 4,096; FLOPs of all tokens 8,192")


# ---- The checks themselves -------------------------------------------------------------------------------------------

BREAKS = {
    "the picture is frozen": ("paint(index, `", "if (first) paint(index, `"),
    "the picture is late by one": ("pictures[index].replace", "pictures[Math.max(index - 1, 0)].replace"),
    "the spoken picture is frozen": ('"aria-label", alt)', '"aria-label", META.alt)'),
    "the numbers are frozen": ("(cell.textContent = numbers[row])", "cell"),
    "the numbers are another state's": ("META.readouts[index]", "META.readouts[0]"),
    "the words are frozen": ("state.textContent = words", "state.textContent += ''"),
    "the status is silent": ("if (!first) heard", "if (false) heard"),
    "the slider says its position": ('"aria-valuetext", axis.values[position]', '"aria-valuetext", position'),
    "Reset is dead": ("at.splice(0, at.length, ...META.start);", ""),
    "Reset leaves the controls": ("follow.forEach((set, place) => set(at[place]));", ""),
    "the radio buttons are dead": (
        'addEventListener("change", () => choose(position))',
        'addEventListener("x", () => 0)',
    ),
    "the menu is dead": ("choose(menu.selectedIndex)", "0"),
    "the slider is dead": ("choose(+input.value)", "0"),
    "a script comes from another machine": ("</head>", '<script src="https://cdn.example.org/x.js"></script></head>'),
    "the script raises": ("root.explorable =", "setTimeout(() => nobody.knows); root.explorable ="),
}


@pytest.mark.parametrize("name", BREAKS)
def test_a_page_that_is_broken_on_purpose_is_caught(browser: Browser, folder: Path, tmp_path: Path, name: str):
    good, (whole, broken) = (folder / "index.html").read_text(encoding="utf-8"), BREAKS[name]
    assert good.count(whole) == 1, "the page no longer has what this test breaks"
    (tmp_path / "index.html").write_text(good.replace(whole, broken), encoding="utf-8")
    with (
        serving(tmp_path) as address,
        visiting(browser, f"{address}/index.html") as visit,
        pytest.raises(AssertionError),
    ):
        check_page(visit, keyboard=True, patience=1000)


# ---- The book --------------------------------------------------------------------------------------------------------


def pages_with_explorables(config: pytest.Config) -> list[str]:
    """Return the paths of the built pages that have one."""
    folder = config.getoption("--site")
    paths = [path for path in page_paths(config) if (folder / path).is_file()]
    return [path for path in paths if 'class="xpl"' in (folder / path).read_text(encoding="utf-8")]


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    """Ask for each page of the book that has an explorable."""
    if "page_path" in metafunc.fixturenames:
        metafunc.parametrize("page_path", pages_with_explorables(metafunc.config))


def test_the_book_has_explorables(site: Path, request: pytest.FixtureRequest):
    assert pages_with_explorables(request.config)


@pytest.mark.parametrize(("keyboard", "reader"), [(True, WIDE), (False, PHONE)], ids=["keyboard-wide", "pointer-phone"])
def test_every_control_of_the_book_moves_picture_numbers_and_words(
    browser: Browser, server: str, page_path: str, keyboard: bool, reader: dict
):
    with visiting(browser, f"{server}/{page_path}", **reader) as visit:
        check_page(visit, keyboard=keyboard)


def test_the_book_s_explorables_fit_a_phone(browser: Browser, server: str, page_path: str):
    with visiting(browser, f"{server}/{page_path}", **PHONE) as visit:
        check_fit(visit.page)


@pytest.mark.parametrize("dark", [False, True], ids=["light", "dark"])
def test_the_book_s_explorables_can_be_read_in_both_modes(browser: Browser, server: str, page_path: str, dark: bool):
    with visiting(browser, f"{server}/{page_path}", dark=dark) as visit:
        for root in visit.page.locator(".xpl").all():
            root.locator("button").wait_for()
            assert root.evaluate(CONTRAST) >= 4.5


def test_the_book_s_explorables_read_without_scripts(browser: Browser, server: str, page_path: str):
    with visiting(browser, f"{server}/{page_path}", script=False) as visit:
        check_without_script(visit.page)
