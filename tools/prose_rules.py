"""Rules for what an author writes: headings, prose, the length of cells, tags."""

from __future__ import annotations

import re
import statistics
from collections.abc import Iterator

from IPython.core.displayhook import DisplayHook
from notebook_file import tags
from notebook_rule import Chapter, Finding, rule

HEADINGS = ("Setup", "The puzzle", "By hand", "In code", "The experiment", "Explore", "Exercises", "Takeaways")
ROLES = ("exercise", "check", "solution")
PLAIN_TAGS = (
    "colab",
    "hide-cell",
    "hide-input",
    "hide-output",
    "nbval-ignore-output",
    "raises-exception",
    "remove-cell",
)
MAX_CELLS, MAX_LINES, MEDIAN_LINES = 60, 20, 8

FENCED = re.compile(r"^ *(`{3,}|~{3,}).*?^ *\1[`~]* *$", re.MULTILINE | re.DOTALL)
HEADING = re.compile(r"^(#{1,6}) +(.*?) *#*$", re.MULTILINE)
DIRECTIVE = re.compile(r"^ *(?:`{3,}|~{3,}|:{3,}) *\{[^}\n]*\}|^\([\w:-]+\)= *$", re.MULTILINE)
ROLE = re.compile(r"\{[A-Za-z][\w:+.-]*\}`[^`\n]+`")
IMAGE_SOURCE = re.compile(r"!\[[^\]]*\]\(\s*<?([^)\s>]+)|<img\b[^>]*?\bsrc\s*=\s*[\"']?([^\"'\s>]+)", re.IGNORECASE)
FETCHABLE = re.compile(r"(?:https?:|data:|attachment:)", re.IGNORECASE)


@rule("one line that begins with a single #, at the top")
def the_question_is_the_only_title(chapter: Chapter) -> Iterator[Finding]:
    """The title is the question that the chapter answers; it comes first."""
    titles = [(number, text) for number, level, text in headings(chapter) if level == 1]
    if len(titles) != 1:
        yield 0, f"{len(titles)} titles"
    elif titles[0][0] != 1 or not chapter.notebook.cells[0].source.startswith("# "):
        yield titles[0][0], "the title is not the first line"


@rule(f"the second-level headings are {', '.join(HEADINGS)}; smaller ones are free")
def the_headings_stand_in_order(chapter: Chapter) -> Iterator[Finding]:
    """Readers of one chapter find their way in all."""
    found = [(number, text) for number, level, text in headings(chapter) if level == 2]
    for (number, text), due in zip(found, HEADINGS, strict=False):
        if text != due:
            yield number, f"'{text}' stands where '{due}' is due"
            return
    if len(found) < len(HEADINGS):
        yield 0, f"'{HEADINGS[len(found)]}' is missing"
    elif len(found) > len(HEADINGS):
        number, text = found[len(HEADINGS)]
        yield number, f"'{text}' is one too many"


@rule("merge Markdown cells, or move work into lib")
def a_chapter_has_at_most_60_cells(chapter: Chapter) -> Iterator[Finding]:
    """A chapter is read in one sitting."""
    if (cells := len(chapter.notebook.cells)) > MAX_CELLS:
        yield 0, f"{cells} cells"


@rule("split the cell, or move work into lib")
def a_code_cell_has_at_most_20_lines(chapter: Chapter) -> Iterator[Finding]:
    """Code is read on a phone too."""
    for number, cell in chapter.code:
        if (lines := len(cell.source.splitlines())) > MAX_LINES:
            yield number, f"{lines} lines"


@rule("split cells, or move work into lib")
def half_the_code_cells_have_at_most_8_lines(chapter: Chapter) -> Iterator[Finding]:
    """Long cells are the exception."""
    lines = [len(cell.source.splitlines()) for _, cell in chapter.code]
    if lines and (median := statistics.median(lines)) > MEDIAN_LINES:
        yield 0, f"the median is {median:g} lines"


@rule("remove the cell")
def no_code_cell_is_empty(chapter: Chapter) -> Iterator[Finding]:
    """An empty cell is never run, so it has no count."""
    for number, cell in chapter.code:
        if not cell.source.strip():
            yield number, "nothing in it"


@rule("end it in `_ = ...` instead")
def no_code_cell_ends_in_a_semicolon(chapter: Chapter) -> Iterator[Finding]:
    """IPython then hides the output, but not under nbval."""
    for number, cell in chapter.code:
        if DisplayHook.semicolon_at_end_of_expression(cell.source):
            yield number, repr(cell.source.splitlines()[-1])


@rule("use what every home renders: tables, links, maths, <details>, block quotes")
def prose_holds_no_directive_or_role(chapter: Chapter) -> Iterator[Finding]:
    """Colab and GitHub show them raw."""
    for number, cell in chapter.prose:
        if match := DIRECTIVE.search(cell.source) or ROLE.search(cell.source):
            yield number, repr(match[0].strip())


@rule("draw it in a cell, or give its full address")
def no_image_link_is_relative(chapter: Chapter) -> Iterator[Finding]:
    """Colab does not find them."""
    for number, cell in chapter.prose:
        for match in IMAGE_SOURCE.finditer(FENCED.sub("", cell.source)):
            if not FETCHABLE.match(source := match[1] or match[2]):
                yield number, source


@rule(f"tags are {', '.join(PLAIN_TAGS)}, and exercise:, check:, solution: with a name")
def tags_are_known(chapter: Chapter) -> Iterator[Finding]:
    """A misspelt tag does nothing, silently."""
    for number, cell in chapter.cells:
        for tag in tags(cell):
            role, colon, name = tag.partition(":")
            if tag not in PLAIN_TAGS and not (colon and role in ROLES and name.isidentifier()):
                yield number, tag


def headings(chapter: Chapter) -> list[tuple[int, int, str]]:
    """Return the headings as number of the cell, level and text."""
    return [
        (number, len(match[1]), match[2])
        for number, cell in chapter.prose
        for match in HEADING.finditer(FENCED.sub("", cell.source))
    ]
