"""Rules for what is stored: the file, its metadata and the outputs."""

from __future__ import annotations

import os
import re
import tempfile
from collections.abc import Iterator
from pathlib import Path

from nbformat import NotebookNode
from notebook_file import ROOT, code_hash, library_hash, tags
from notebook_form import CELL_METADATA, written_alt
from notebook_rule import STORE, Chapter, Finding, rule

MAX_BYTES = 1_500_000
EXPLORES = re.compile(r"(?<!def )(?<![\w.])explore\(")
ADDRESS = re.compile(r"\b0x[0-9a-fA-F]{6,}")
ENCODED = re.compile(r"[A-Za-z0-9+/=]{200,}")  # pictures and frames: anything may seem to stand in them
FILE_NAME = re.compile(r"\S+\.(?:png|svg|jpe?g|gif|webp)", re.IGNORECASE)
MACHINE_PATH = re.compile(
    r"(?<![\w.:/*-])/(?:home|Users|root|tmp|work|opt|usr|var|private|content|mnt|srv)/\w|\b[A-Za-z]:\\\w|site-packages"
)


@rule("make notebooks writes format 4.5")
def the_format_is_4_5(chapter: Chapter) -> Iterator[Finding]:
    """Cells have ids only from format 4.5 on."""
    version = (chapter.notebook.nbformat, chapter.notebook.nbformat_minor)
    if version != (4, 5):
        yield 0, f"it is format {version[0]}.{version[1]}"


@rule(STORE)
def the_kernel_is_python3(chapter: Chapter) -> Iterator[Finding]:
    """Every home has a kernel of this name."""
    name = chapter.notebook.metadata.get("kernelspec", {}).get("name")
    if name != "python3":
        yield 0, f"the kernel is {name}"


@rule("draw smaller pictures or fewer frames")
def the_file_is_small(chapter: Chapter) -> Iterator[Finding]:
    """A large notebook is slow to open in every home."""
    size = chapter.path.stat().st_size
    if size > MAX_BYTES:
        yield 0, f"{size:,} bytes, at most {MAX_BYTES:,}"


@rule(STORE)
def nothing_of_a_front_end_is_stored(chapter: Chapter) -> Iterator[Finding]:
    """Times and widget state differ on every run; widget state saved by Colab breaks GitHub's preview."""
    if left := sorted(set(chapter.notebook.metadata) - {"kernelspec", "language_info", "book"}):
        yield 0, f"metadata: {', '.join(left)}"
    for number, cell in chapter.cells:
        if left := sorted(set(cell.metadata) - set(CELL_METADATA)):
            yield number, f"metadata: {', '.join(left)}"


@rule(STORE)
def code_cells_are_counted_from_one(chapter: Chapter) -> Iterator[Finding]:
    """A cell without a count was not run, and nbval would not compare its outputs."""
    for due, (number, cell) in enumerate(chapter.code, 1):
        if cell.execution_count != due:
            yield number, f"its count is {cell.execution_count} where {due} is due"
            return


@rule(STORE)
def outputs_come_from_this_code(chapter: Chapter) -> Iterator[Finding]:
    """An output of older code is a lie."""
    if chapter.notebook.metadata.get("book", {}).get("source") != code_hash(chapter.notebook):
        yield 0, "the code cells changed since they were executed"


@rule(STORE)
def outputs_come_from_this_library(chapter: Chapter) -> Iterator[Finding]:
    """An output of an older library is one too, and nbval cannot tell where it is a picture."""
    made_from = chapter.notebook.metadata.get("book", {})
    if made_from and made_from.get("library") != library_hash(chapter.notebook, chapter.root):
        yield 0, "files of lib or book/data that it uses changed since it was executed"


@rule("mend the cell, or tag it raises-exception")
def errors_are_meant(chapter: Chapter) -> Iterator[Finding]:
    """An error is stored only where the chapter shows one."""
    for number, cell, output in chapter.outputs:
        if output.output_type == "error" and "raises-exception" not in tags(cell):
            yield number, f"{output.ename}: {output.evalue}".splitlines()[0]


@rule("mend what warns")
def nothing_goes_to_stderr(chapter: Chapter) -> Iterator[Finding]:
    """Warnings name temporary files, and readers stumble over them."""
    for number, _, output in chapter.outputs:
        if output.output_type == "stream" and output.name == "stderr":
            yield number, repr(output.text[:60])


@rule("print the file's name only")
def outputs_name_no_path_of_a_machine(chapter: Chapter) -> Iterator[Finding]:
    """A path exists on one machine, and may hold somebody's name."""
    own = {str(ROOT), str(Path.home()), tempfile.gettempdir(), os.path.realpath(tempfile.gettempdir())} - {"/"}
    for number, _, output in chapter.outputs:
        text = ENCODED.sub("", text_in(output))
        if match := MACHINE_PATH.search(text):
            yield number, repr(text[max(0, match.start() - 5) : match.end() + 25])
        elif named := next((path for path in own if f"{path}/" in text), None):
            yield number, repr(named)


@rule("end the cell in `_ = ...` or print what matters")
def outputs_hold_no_address(chapter: Chapter) -> Iterator[Finding]:
    """Where an object lies in memory differs on every run."""
    for number, _, output in chapter.outputs:
        if match := ADDRESS.search(ENCODED.sub("", text_in(output))):
            yield number, match[0]


@rule("execute with EXPLORE_MODE=static: make notebooks")
def no_output_is_a_live_widget(chapter: Chapter) -> Iterator[Finding]:
    """A stored widget is dead without its kernel."""
    for number, _, output in chapter.outputs:
        if "application/vnd.jupyter.widget-view+json" in output.get("data", {}):
            yield number, "a widget view"


@rule('say what the picture shows: # %% mystnb={"image": {"alt": "..."}}, then make notebooks')
def every_picture_has_alt_text(chapter: Chapter) -> Iterator[Finding]:
    """Who cannot see the picture reads its alt text; the site takes it from the cell, GitHub from the output."""
    for number, cell in chapter.code:
        pictures = [(output, kind) for output in cell.outputs for kind in output.get("data", {}) if "image/" in kind]
        for output, kind in pictures:
            alt = str(output.metadata.get(kind, {}).get("alt", "")).strip()
            from_cell = written_alt(cell).strip()
            if not alt or (not from_cell and "text/html" not in output.data):
                yield number, "a picture without alt text"
            elif FILE_NAME.fullmatch(alt):
                yield number, f"its alt text is a file name, {alt}"
            elif from_cell and alt != from_cell:
                yield number, "the alt text of the cell is not yet that of its picture"


@rule("draw them in one figure, or split the cell")
def a_cell_draws_one_picture(chapter: Chapter) -> Iterator[Finding]:
    """A cell has one alt text, which cannot describe two pictures."""
    for number, cell in chapter.code:
        pictures = sum(any("image/" in kind for kind in output.get("data", {})) for output in cell.outputs)
        if pictures > 1:
            yield number, f"{pictures} pictures"


@rule(STORE)
def every_explorable_is_stored(chapter: Chapter) -> Iterator[Finding]:
    """Its HTML is what the site shows, its picture what paper and previews show."""
    for number, cell in chapter.code:
        if EXPLORES.search(cell.source):
            data = [output.get("data", {}) for output in cell.outputs]
            if not any('class="xpl' in str(one.get("text/html", "")) and "image/png" in one for one in data):
                yield number, "no output has both an explorable and its picture"


def text_in(output: NotebookNode) -> str:
    """Return all text of an output that a reader could see."""
    if output.output_type == "stream":
        return output.text
    if output.output_type == "error":
        return "\n".join([output.ename, output.evalue, *output.traceback])
    return "\n".join(str(value) for kind, value in output.data.items() if not kind.startswith("image/"))
