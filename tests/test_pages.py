"""The built book in a real browser: wide, on a phone, in the dark, without scripts, and always without a network."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from statistics import median
from typing import TYPE_CHECKING

import pytest
from conftest import ROOT, OpenPage, Visit, page_paths, visiting

if TYPE_CHECKING:
    from playwright.sync_api import Page

pytestmark = [pytest.mark.browser, pytest.mark.slow]

AXE = ROOT / "tests/vendor/axe.min.js"
MODES = {"wide": {"width": 1280}, "phone": {"width": 360, "height": 740}, "dark": {"width": 1280, "dark": True}}
FIRST_VIEW = 700_000  # bytes on the wire, with everything that the browser fetches before the reader scrolls

READ_TO_THE_END = """async () => {
  for (let y = 0; y < document.body.scrollHeight; y += innerHeight / 2) {
    scrollTo(0, y);
    await new Promise(requestAnimationFrame);
  }
  const seen = [...document.images].filter(image => image.checkVisibility());
  await Promise.all(seen.map(image => image.decode().catch(() => {})));
  await document.fonts.ready;
  scrollTo(0, 0);
}"""
UNSEEN_IMAGES = "() => [...document.images].filter(i => i.checkVisibility() && !i.naturalWidth).map(i => i.src)"
UNSET_FORMULAS = r"""() => [...document.querySelectorAll(".math")].filter(formula => {
  const drawn = formula.querySelector(".katex-html");
  return !drawn || !formula.querySelector("math") || formula.querySelector(".katex-error") ||
    (formula.checkVisibility() && drawn.getBoundingClientRect().width < 1);
}).map(formula => formula.textContent.slice(0, 80))"""
# What sticks out to the right, unless a box that scrolls, or that is meant to hide it, holds it.
STICKING_OUT = """() => [...document.querySelectorAll("main *, header *, footer *")].filter(element => {
  const box = element.getBoundingClientRect();
  if (!element.checkVisibility() || box.width <= 1 || box.height <= 1 || box.right <= innerWidth + 1) return false;
  for (let outer = element.parentElement; outer && outer !== document.body; outer = outer.parentElement)
    if (["auto", "scroll"].includes(getComputedStyle(outer).overflowX)) return false;
  return !element.closest(".katex-mathml, .bd-toc, dialog");
}).map(element => `<${element.localName} class="${element.getAttribute("class") ?? ""}"> `
  + element.textContent.trim().slice(0, 40))"""
ICONS = """() => [...document.querySelectorAll("[class*='fa-']")].filter(e => e.checkVisibility()).map(element => {
  const box = element.getBoundingClientRect();
  const {content, fontFamily, fontWeight} = getComputedStyle(element, "::before");
  return {name: element.className, width: box.width, height: box.height, content, fontFamily, fontWeight};
})"""
LOADED_FACES = """() => [...document.fonts].filter(face => face.status === "loaded").map(
  face => [face.family.replaceAll('"', ""), face.weight, face.unicodeRange])"""
SERIOUS = """async () => (await axe.run()).violations
  .filter(found => ["serious", "critical"].includes(found.impact))
  .map(({id, help, nodes}) => `${id}: ${help}; ${nodes.slice(0, 3).map(node => node.target.join(" ")).join(", ")}`)"""
TRANSFERRED = """() => Object.fromEntries([...performance.getEntriesByType("navigation"),
  ...performance.getEntriesByType("resource")].filter(entry => entry.name.startsWith("http"))
  .map(entry => [new URL(entry.name).pathname, entry.transferSize]))"""
# The boxes of code cells: pixels that one must scroll sideways to see, size of the letters, first line.
CODE = """() => [...document.querySelectorAll(".cell_input pre")].filter(box => box.checkVisibility()).map(box => ({
  out_of_sight: Math.max(...[box, box.parentElement].map(element => element.scrollWidth - element.clientWidth)),
  letters: parseFloat(getComputedStyle(box).fontSize),
  line: box.textContent.split("\\n")[0],
}))"""
# How many characters each full line of running text holds.
FULL_LINES = """() => [...document.querySelectorAll(".bd-article > section p")].filter(
  paragraph => paragraph.checkVisibility() && !paragraph.querySelector(".math") && !paragraph.closest("table, .cell")
).flatMap(paragraph => {
  const texts = document.createTreeWalker(paragraph, NodeFilter.SHOW_TEXT), range = document.createRange();
  const lines = [0];
  for (let text, left = -Infinity; (text = texts.nextNode());) for (let i = 0; i < text.length; i++) {
    range.setStart(text, i);
    range.setEnd(text, i + 1);
    const box = range.getBoundingClientRect();
    if (box.left < left - 100) lines.push(0);
    left = box.left;
    lines[lines.length - 1]++;
  }
  return lines.slice(0, -1);
})"""
# What keeps a reader from a table: that it scrolls sideways, and cells out of sight or without their column's name,
# which stands above them or, where rows are stacked, beside them.
TABLE_FAULTS = """() => [...document.querySelectorAll(".bd-article table")].flatMap(table => {
  const faults = [], columns = [...table.querySelectorAll("thead th")];
  const head = table.tHead?.getBoundingClientRect();
  for (let box = table; box.localName !== "article"; box = box.parentElement)
    if (["auto", "scroll"].includes(getComputedStyle(box).overflowX) && box.scrollWidth > box.clientWidth + 1)
      faults.push(`${box.className} scrolls by ${box.scrollWidth - box.clientWidth} px`);
  for (const row of table.tBodies[0].rows) [...row.cells].forEach((cell, index) => {
    const {left, right, width, height} = cell.getBoundingClientRect(), text = cell.textContent.trim();
    if (!text) return;
    if (!cell.checkVisibility() || Math.min(width, height) <= 1 || left < 0 || right > innerWidth)
      faults.push(`out of sight: ${text}`);
    const column = columns[index], name = JSON.stringify(column?.textContent.trim());
    const above = column && head.height > 1 && Math.abs(column.getBoundingClientRect().left - left) < 2;
    if (column && !above && getComputedStyle(cell, "::before").content !== name)
      faults.push(`not called ${name}: ${text}`);
  });
  return faults;
})"""
# Pieces of text that lie on one another. A piece is what one line holds of one text node, cut to the boxes that clip
# it, so that what is there for screen readers only has no size left; a formula is a piece for each part that does not
# break. The boxes of letters are higher than letters: neighbouring lines may share up to a quarter of them.
OVERLAPS = """() => {
  const whole = {left: -Infinity, top: -Infinity, right: Infinity, bottom: Infinity}, clips = new Map(), pieces = [];
  const cut = (a, b) => ({
    left: Math.max(a.left, b.left), top: Math.max(a.top, b.top),
    right: Math.min(a.right, b.right), bottom: Math.min(a.bottom, b.bottom),
  });
  const clip = element => {
    if (!element) return whole;
    if (!clips.has(element)) {
      const {overflowX, clipPath} = getComputedStyle(element), cuts = overflowX !== "visible" || clipPath !== "none";
      const outer = clip(element === document.body ? null : element.parentElement);
      clips.set(element, cuts ? cut(outer, element.getBoundingClientRect()) : outer);
    }
    return clips.get(element);
  };
  const add = (element, text, boxes) => {
    if (!element.checkVisibility({opacityProperty: true, visibilityProperty: true})) return;
    for (const box of [...boxes].map(box => cut(box, clip(element))))
      if (box.right - box.left > 2 && box.bottom - box.top > 2) pieces.push({...box, text: text.trim().slice(0, 40)});
  };
  const nodes = document.createTreeWalker(document.body, NodeFilter.SHOW_TEXT), range = document.createRange();
  for (let node; (node = nodes.nextNode());) {
    if (!node.data.trim() || node.parentElement.closest(".katex")) continue;
    range.selectNodeContents(node);
    add(node.parentElement, node.data, range.getClientRects());
  }
  for (const part of document.querySelectorAll(".katex-html > .base"))
    add(part, part.textContent, part.getClientRects());
  pieces.sort((a, b) => a.top - b.top);
  return pieces.flatMap((a, at) => {
    const found = [];
    for (let next = at + 1; next < pieces.length && pieces[next].top < a.bottom; next++) {
      const b = pieces[next], {left, top, right, bottom} = cut(a, b);
      const least = Math.min(a.bottom - a.top, b.bottom - b.top) / 4;
      if (right - left > 2 && bottom - top > least) found.push(`"${a.text}" and "${b.text}"`);
    }
    return found;
  });
}"""
# The sign at the head of each verdict: what it is called, and how large it is drawn.
SIGNS = """() => [...document.querySelectorAll(".verdict")].map(verdict => {
  const sign = verdict.querySelector("p:first-child > svg[role=img]"), box = sign?.getBoundingClientRect();
  return [sign?.querySelector("title").textContent, box ? Math.min(box.width, box.height) : 0];
})"""
OPEN_FOLDS = "folds => document.querySelectorAll(folds).forEach(fold => { fold.open = true; })"
LAPTOP = 1280 - 15  # less a scroll bar, which a browser without a window does not draw
FOLDS = ".bd-article details:not([class])"


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    """Ask for each page, for each page in each mode where a test looks at `visit`, or for each page with code."""
    paths = page_paths(metafunc.config)
    if "visit" in metafunc.fixturenames:
        cases = [(path, mode) for path in paths for mode in MODES]
        metafunc.parametrize("visit", cases, indirect=True, ids=[f"{path}-{mode}" for path, mode in cases])
    if "chapter" in metafunc.fixturenames:
        folder = metafunc.config.getoption("--site")
        built = [path for path in paths if (folder / path).is_file()]
        chapters = [path for path in built if "cell_input" in (folder / path).read_text(encoding="utf-8")]
        metafunc.parametrize("chapter", chapters or paths[:1])
    if "path" in metafunc.fixturenames:
        metafunc.parametrize("path", paths)


@pytest.fixture(scope="module")
def visit(request: pytest.FixtureRequest, browser: object, server: str) -> Iterator[Visit]:
    """Open one page in one mode and read it to its end, so that what waits for the reader is there too."""
    path, mode = request.param
    with visiting(browser, f"{server}/{path}", **MODES[mode]) as visit:
        visit.page.wait_for_load_state("networkidle")
        visit.page.evaluate(READ_TO_THE_END)
        visit.page.wait_for_load_state("networkidle")
        if folder := request.config.getoption("--screenshots"):
            picture = Path(folder) / f"{path.removesuffix('.html').replace('/', '-')}-{mode}.png"
            visit.page.screenshot(path=picture, full_page=True)
        yield visit


def test_nothing_fails_and_nothing_is_asked_of_another_machine(visit: Visit) -> None:
    assert len(visit.requests) > 1
    assert visit.trouble == []


def test_every_picture_is_there(visit: Visit) -> None:
    assert visit.page.evaluate(UNSEEN_IMAGES) == []


def test_the_page_never_scrolls_sideways(visit: Visit) -> None:
    width, window = visit.page.evaluate("[document.scrollingElement.scrollWidth, innerWidth]")
    assert width <= window, visit.page.evaluate(STICKING_OUT)
    assert visit.page.evaluate(STICKING_OUT) == []


def test_every_formula_is_typeset_and_speaks_mathml(visit: Visit) -> None:
    assert visit.page.evaluate(UNSET_FORMULAS) == []


def test_every_icon_is_drawn_from_the_small_font(visit: Visit) -> None:
    faces = visit.page.evaluate(LOADED_FACES)
    for icon in visit.page.evaluate(ICONS):
        assert min(icon["width"], icon["height"]) > 0, icon
        character = ord(icon["content"].strip('"'))
        family = icon["fontFamily"].split(",")[0].strip('"')
        ranges = [part for name, weight, part in faces if (name, weight) == (family, icon["fontWeight"])]
        assert any(f"U+{character:X}" in part.upper().split(", ") for part in ranges), icon
    assert not [url for url in visit.requests if "fontawesome" in url]


def test_axe_finds_nothing_serious(visit: Visit) -> None:
    visit.page.evaluate(AXE.read_text(encoding="utf-8"))
    assert visit.page.evaluate(SERIOUS) == []


def test_the_system_s_taste_decides_between_light_and_dark(open_page: OpenPage) -> None:
    def brightness(dark: bool) -> float:
        page = open_page("search.html", dark=dark).page
        background = page.evaluate("getComputedStyle(document.body).backgroundColor")
        return sum(map(float, re.findall(r"[\d.]+", background)[:3]))

    assert brightness(dark=True) < 150 < 600 < brightness(dark=False)


def test_the_first_view_weighs_less_than_its_budget(open_page: OpenPage, path: str) -> None:
    visit = open_page(path)
    visit.page.wait_for_load_state("networkidle")
    sizes = visit.page.evaluate(TRANSFERRED)
    largest = sorted(sizes.items(), key=lambda item: -item[1])
    print(f"{path}: {sum(sizes.values()):,} bytes in {len(sizes)} files", *largest[:5], sep="\n  ")
    assert len(sizes) > 1
    assert sum(sizes.values()) < FIRST_VIEW, largest[:10]


@pytest.mark.parametrize("dark", [False, True], ids=["light", "dark"])
def test_every_code_cell_shows_its_lines_whole_on_a_laptop(open_page: OpenPage, chapter: str, dark: bool) -> None:
    page = open_page(chapter, width=LAPTOP, dark=dark).page
    assert [box for box in page.evaluate(CODE) if box["out_of_sight"] > 0] == []
    assert min(box["letters"] for box in page.evaluate(CODE)) >= 13, "and not by letters too small to read"
    page.set_viewport_size({"width": 360, "height": 740})
    assert max(box["out_of_sight"] for box in page.evaluate(CODE)) > 0, "on a phone code scrolls, and this test sees it"


def test_every_verdict_is_drawn_with_its_sign(open_page: OpenPage, chapter: str) -> None:
    signs = open_page(chapter, width=360).page.evaluate(SIGNS)
    assert {name for name, _ in signs} == {"not attempted", "failed"}, "stubs, and a bug to find"
    assert min(size for _, size in signs) >= 12


def test_a_line_of_prose_holds_65_to_85_characters(open_page: OpenPage, chapter: str) -> None:
    lines = open_page(chapter, width=1440).page.evaluate(FULL_LINES)
    assert 65 <= median(lines) <= 85, sorted(lines)


def opened(open_page: OpenPage, path: str, mode: str) -> Page:
    """The page with all its folds open."""
    page = open_page(path, **MODES[mode]).page
    page.wait_for_load_state("networkidle")  # the front door leads on
    page.evaluate(OPEN_FOLDS, FOLDS)
    page.evaluate(READ_TO_THE_END)
    return page


@pytest.mark.parametrize("mode", ["wide", "phone"])
def test_no_text_lies_on_another(open_page: OpenPage, path: str, mode: str) -> None:
    assert opened(open_page, path, mode).evaluate(OVERLAPS) == []


@pytest.mark.parametrize(
    ("spoilt", "overlap"),
    [
        ("h2 { margin-bottom: -3rem !important }", r'^"The puzzle" and "'),
        (".bd-article p { line-height: .6 !important }", r'^"(.+)" and "\1"$'),
        (".xpl-ticks > span { left: 0 !important }", r'^"\d+" and "\d+"$'),
        (".katex-html { position: relative; right: 2rem }", ""),
        (".prev-next-area { margin-top: -4rem; position: relative }", r'and "(next|previous)"'),
    ],
)
def test_text_that_lies_on_another_would_be_found(open_page: OpenPage, chapter: str, spoilt: str, overlap: str) -> None:
    page = opened(open_page, chapter, "wide")
    page.add_style_tag(content=spoilt)
    assert any(re.search(overlap, found) for found in page.evaluate(OVERLAPS))


def test_on_a_phone_no_table_scrolls_and_every_cell_stands_with_its_column_s_name(
    open_page: OpenPage, path: str
) -> None:
    page = opened(open_page, path, "phone")
    assert page.evaluate(TABLE_FAULTS) == []
    columns, cells = (page.locator(f".bd-article {part}").count() for part in ("thead th", "td"))
    heard = page.get_by_role("columnheader").count(), page.get_by_role("cell").count()
    assert heard == (columns, cells), "who listens hears a table, with the names of its columns"


@pytest.mark.parametrize(
    ("spoilt", "fault"),
    [
        ("table.stacks { min-width: 40rem }", "scrolls by "),
        ("table.stacks td::before { content: none !important }", 'not called "Meaning": '),
        ("table.stacks td:nth-child(4) { display: none !important }", "out of sight: "),
        ("table.stacks td { translate: 5rem }", "out of sight: "),
    ],
)
def test_a_table_that_does_not_fit_a_phone_would_be_found(open_page: OpenPage, spoilt: str, fault: str) -> None:
    page = opened(open_page, "book/notation.html", "phone")
    page.add_style_tag(content=spoilt)
    assert any(found.startswith(fault) or f" {fault}" in found for found in page.evaluate(TABLE_FAULTS))


def test_folds_open_and_close_by_keyboard(open_page: OpenPage, path: str) -> None:
    page = open_page(path).page
    for fold in page.locator(FOLDS).all():
        body = fold.locator("> :not(summary)").first
        assert not body.is_visible()
        fold.locator("> summary").focus()
        page.keyboard.press("Enter")
        assert body.is_visible()
        page.keyboard.press("Space")
        assert not body.is_visible()


def test_the_search_finds_a_page_by_a_word_in_it(open_page: OpenPage) -> None:
    visit = open_page("search.html?q=residual")
    result = visit.page.locator("ul.search li a").first
    result.wait_for(timeout=20_000)
    assert "/book/" in result.evaluate("link => link.href")
    assert visit.trouble == []


def test_without_scripts_the_page_still_reads(open_page: OpenPage, site: Path, path: str) -> None:
    page = open_page(path, script=False).page
    page.wait_for_load_state("networkidle")  # the front door leads on
    assert page.locator("h1").is_visible()
    if "bd-article" not in (site / path).read_text(encoding="utf-8"):
        return
    ink, paper = page.locator("body").evaluate(
        "body => (({color, backgroundColor}) => [color, backgroundColor])(getComputedStyle(body))"
    )
    assert ink != paper
    for fold in page.locator(FOLDS).all():
        fold.locator("> summary").click()
        assert fold.locator("> :not(summary)").first.is_visible()
