"""The policy of the notebooks: the book keeps it, and a notebook that breaks a rule is found, for that rule alone."""

import copy
import sys
from pathlib import Path

import nbformat
import pytest
from nbformat import NotebookNode
from nbformat.v4 import new_code_cell, new_markdown_cell, new_output

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "tools"))

from notebook_execution import execute
from notebook_file import BOOK, ROOT, code_hash, find, is_code, tags
from notebook_form import canonical, notebook_of, provenance
from notebook_policy import breaches
from notebook_rule import RULES

SAMPLE = Path(__file__).parent / "notebooks" / "chapter.txt"


@pytest.fixture(scope="module")
def sample(tmp_path_factory) -> NotebookNode:
    """A chapter that keeps every rule, executed and in its stored form."""
    folder = tmp_path_factory.mktemp("sample")
    bare = notebook_of(SAMPLE.read_text(encoding="utf-8"), None)
    return canonical(execute(bare, folder), provenance(bare, folder))


def stored(notebook: NotebookNode, folder: Path, name: str = "chapter") -> Path:
    """Write a notebook as it is, right or wrong."""
    path = folder / f"{name}.ipynb"
    path.write_text(nbformat.v4.writes(notebook), encoding="utf-8")
    return path


# ---- Ways of breaking a notebook -------------------------------------------------------------------------------------


def the_cell(notebook: NotebookNode, text: str) -> NotebookNode:
    """The one cell that has this text in its source, or this tag."""
    [cell] = [cell for cell in notebook.cells if text in cell.source or text in tags(cell)]
    return cell


def replace(notebook: NotebookNode, old: str, new: str, at: str | None = None) -> None:
    cell = the_cell(notebook, at or old)
    assert old in cell.source
    cell.source = cell.source.replace(old, new)


def insert(notebook: NotebookNode, cell: NotebookNode, before: str) -> None:
    notebook.cells.insert(notebook.cells.index(the_cell(notebook, before)), cell)


def tag(notebook: NotebookNode, text: str, *names: str) -> None:
    the_cell(notebook, text).metadata["tags"] = list(names)


def drop(notebook: NotebookNode, *names: str) -> None:
    notebook.cells = [cell for cell in notebook.cells if not set(names) & set(tags(cell))]


def stream(notebook: NotebookNode, text: str, name: str = "stdout") -> None:
    the_cell(notebook, "2 * 21").outputs = [new_output("stream", name=name, text=text)]


def output(notebook: NotebookNode, text: str) -> NotebookNode:
    """The only output of the cell that has this text."""
    [one] = the_cell(notebook, text).outputs
    return one


def alt(notebook: NotebookNode, text: str) -> None:
    """Give the figure this alt text, in its cell and in its output."""
    the_cell(notebook, "ax.plot").metadata["mystnb"] = {"image": {"alt": text}}
    output(notebook, "ax.plot").metadata = {"image/png": {"alt": text}}


def lengthen(notebook: NotebookNode) -> None:
    """Make most code cells longer than the median may be, and none longer than a cell may be."""
    for cell in notebook.cells:
        if is_code(cell) and "colab" not in tags(cell) and len(cell.source.splitlines()) < 10:
            cell.source += "\n_ = 1" * 9


def older_format(notebook: NotebookNode) -> None:
    notebook.nbformat_minor = 4
    for cell in notebook.cells:
        del cell["id"]


WIDGET = {"application/vnd.jupyter.widget-view+json": {"model_id": "a"}}
ADDRESS = {"text/plain": "<Line2D at 0x7f1076430>"}

# The rule, what its line says, and what is done to a good notebook.
BREAKS = [
    ("the_format_is_4_5", "4.4", older_format),
    ("the_kernel_is_python3", "julia", lambda n: n.metadata.kernelspec.update(name="julia")),
    ("the_file_is_small", "bytes", lambda n: stream(n, "long " * 310_000)),
    ("nothing_of_a_front_end_is_stored", "widgets", lambda n: n.metadata.update(widgets={})),
    ("nothing_of_a_front_end_is_stored", "execution", lambda n: n.cells[1].metadata.update(execution={})),
    ("code_cells_are_counted_from_one", "None where 1", lambda n: n.cells[1].update(execution_count=None)),
    ("code_cells_are_counted_from_one", "7 where 3", lambda n: the_cell(n, "def check").update(execution_count=7)),
    ("outputs_come_from_this_code", "changed", lambda n: replace(n, "2 * 21", "2 * 22")),
    ("outputs_come_from_this_code", "changed", lambda n: n.metadata.pop("book")),
    ("outputs_come_from_this_library", "changed", lambda n: n.metadata.book.update(library="of older files")),
    ("outputs_come_from_this_library", "changed", lambda n: n.metadata.book.pop("library")),
    ("errors_are_meant", "TypeError", lambda n: the_cell(n, "2 * None").metadata.pop("tags")),
    ("nothing_goes_to_stderr", "beware", lambda n: stream(n, "beware", name="stderr")),
    ("outputs_name_no_path_of_a_machine", "ada", lambda n: stream(n, "saved in /" + "home/ada/x.pt")),
    ("outputs_name_no_path_of_a_machine", "ada", lambda n: stream(n, r"saved in C:\ada\x.pt")),
    ("outputs_name_no_path_of_a_machine", "site-packages", lambda n: stream(n, "lib/site-packages/torch")),
    ("outputs_name_no_path_of_a_machine", str(ROOT), lambda n: stream(n, f"saved as {ROOT}/x.pt")),
    ("outputs_hold_no_address", "0x7f10", lambda n: stream(n, "<Generator object at 0x7f1076a3>")),
    ("outputs_hold_no_address", "0x7f10", lambda n: output(n, "2 * 3").data.update(ADDRESS)),
    ("no_output_is_a_live_widget", "widget", lambda n: output(n, "2 * 3").data.update(WIDGET)),
    ("every_picture_has_alt_text", "without", lambda n: the_cell(n, "ax.plot").metadata.pop("mystnb")),
    ("every_picture_has_alt_text", "without", lambda n: output(n, "ax.plot").metadata.clear()),
    ("every_picture_has_alt_text", "without", lambda n: output(n, "explore(lambda").metadata.clear()),
    ("every_picture_has_alt_text", "without", lambda n: alt(n, "  ")),
    ("every_picture_has_alt_text", "file name", lambda n: alt(n, "figures/line.png")),
    ("every_picture_has_alt_text", "not yet", lambda n: the_cell(n, "ax.plot").metadata.mystnb.image.update(alt="New")),
    ("a_cell_draws_one_picture", "2 pictures", lambda n: the_cell(n, "ax.plot").outputs.append(output(n, "ax.plot"))),
    ("every_explorable_is_stored", "no output", lambda n: the_cell(n, "explore(lambda").outputs.clear()),
    ("every_explorable_is_stored", "no output", lambda n: output(n, "explore(lambda").data.pop("image/png")),
    ("the_question_is_the_only_title", "2 titles", lambda n: replace(n, "Is it larger?", "\n# Larger")),
    ("the_question_is_the_only_title", "0 titles", lambda n: replace(n, "# What does", "What does")),
    ("the_question_is_the_only_title", "first line", lambda n: replace(n, "# What does", "Look!\n\n# What does")),
    ("the_headings_stand_in_order", "'Explore' stands where 'The ex", lambda n: replace(n, "## The experiment", "")),
    ("the_headings_stand_in_order", "'Takeaways' is missing", lambda n: replace(n, "## Takeaways", "### Takeaways")),
    ("the_headings_stand_in_order", "'By heart' stands", lambda n: replace(n, "## By hand", "## By heart")),
    ("the_headings_stand_in_order", "one too many", lambda n: replace(n, "It is larger where", "## More\n\nIt is")),
    (
        "a_chapter_has_at_most_60_cells",
        "61",
        lambda n: [insert(n, new_markdown_cell(), "## Explore") for _ in range(38)],
    ),
    ("a_code_cell_has_at_most_20_lines", "21 lines", lambda n: replace(n, "2 * 3", "2 * 3\n" * 21)),
    ("half_the_code_cells_have_at_most_8_lines", "median", lengthen),
    ("no_code_cell_is_empty", "nothing", lambda n: insert(n, new_code_cell(), "## Explore")),
    ("no_code_cell_ends_in_a_semicolon", "6;", lambda n: replace(n, "2 * 3", "6;")),
    ("no_code_cell_ends_in_a_semicolon", "six", lambda n: replace(n, "2 * 3", "6;  # six")),
    ("prose_holds_no_directive_or_role", "note", lambda n: replace(n, "Is it larger?", "\n```{note}\nYes.\n```\n")),
    ("prose_holds_no_directive_or_role", "tip", lambda n: replace(n, "Is it larger?", "\n:::{tip}\nYes.\n:::\n")),
    ("prose_holds_no_directive_or_role", "ref", lambda n: replace(n, "Is it larger?", "See {ref}`that`.")),
    ("prose_holds_no_directive_or_role", "(here)=", lambda n: replace(n, "## The puzzle", "(here)=\n## The puzzle")),
    ("no_image_link_is_relative", "a.png", lambda n: replace(n, "https://example.org/picture.png", "a.png")),
    ("no_image_link_is_relative", "b.svg", lambda n: replace(n, "Is it larger?", '<img alt="b" src="img/b.svg">')),
    ("tags_are_known", "hide-inputs", lambda n: tag(n, "import io", "hide-inputs")),
    ("tags_are_known", "hint:double", lambda n: tag(n, "import io", "hint:double")),
    ("the_first_code_cell_fetches_the_library_on_colab", "another", lambda n: replace(n, "install -q", "install")),
    ("the_first_code_cell_fetches_the_library_on_colab", "tags are colab", lambda n: tag(n, "colab", "colab")),
    ("the_first_code_cell_fetches_the_library_on_colab", "second", lambda n: tag(n, "2 * 3", "colab")),
    ("the_repository_is_stamped_or_left_open", "ada", lambda n: replace(n, "<owner>/<repository>", "ada l/book")),
    ("a_chapter_has_three_exercises", "2", lambda n: drop(n, "exercise:square", "check:square", "solution:square")),
    (
        "every_exercise_has_its_check_and_its_solution",
        "exercise:double is not followed by its check",
        lambda n: insert(n, new_markdown_cell("Now run it."), "check:double"),
    ),
    (
        "every_exercise_has_its_check_and_its_solution",
        "exercise:double has 0 solutions",
        lambda n: the_cell(n, "solution:double").metadata.pop("tags"),
    ),
    (
        "every_exercise_has_its_check_and_its_solution",
        "check:other has no exercise",
        lambda n: tag(n, "2 * 3", "check:other"),
    ),
    (
        "every_exercise_has_its_check_and_its_solution",
        "exercise:double is there 2 times",
        lambda n: n.cells.extend(copy.deepcopy([the_cell(n, "exercise:double"), the_cell(n, "check:double")])),
    ),
    (
        "a_stub_is_left_for_the_reader",
        "double does not raise",
        lambda n: replace(n, "raise NotImplementedError", "return 0", at="exercise:double"),
    ),
    (
        "a_stub_is_left_for_the_reader",
        "double defines no function",
        lambda n: the_cell(n, "exercise:double").update(source="double = NotImplementedError"),
    ),
    (
        "a_stub_is_left_for_the_reader",
        "find_the_bug raises",
        lambda n: replace(n, "return 2 * x", "raise NotImplementedError", at="exercise:find_the_bug"),
    ),
    ("a_solution_folds", "plain sight", lambda n: replace(n, "details>", "div>", at="solution:square")),
    ("a_solution_folds", "0 blocks", lambda n: replace(n, "```python", "```", at="solution:square")),
    ("a_solution_folds", "not define square", lambda n: replace(n, "square(", "area(", at="solution:square")),
]


def settle(notebook: NotebookNode, rule: str) -> None:
    """Bring counts, ids and hash up to date, so that what was broken is all that is wrong."""
    if rule not in ("code_cells_are_counted_from_one", "outputs_come_from_this_code"):
        for count, cell in enumerate(filter(is_code, notebook.cells), 1):
            cell.execution_count = count
        notebook.metadata.book.source = code_hash(notebook)
    if notebook.nbformat_minor == 5:
        for number, cell in enumerate(notebook.cells):
            cell.id = f"cell-{number}"


# ---- The tests -------------------------------------------------------------------------------------------------------


def test_every_notebook_of_the_book_keeps_the_policy():
    assert not [str(breach) for breach in breaches(find([], BOOK))]


def test_the_sample_keeps_the_policy(sample, tmp_path):
    assert not [str(breach) for breach in breaches([stored(sample, tmp_path)], tmp_path)]


@pytest.mark.parametrize(("rule", "says", "spoil"), BREAKS, ids=[f"{rule}: {says}" for rule, says, _ in BREAKS])
def test_a_notebook_that_breaks_one_rule_is_found_for_that_rule_alone(sample, tmp_path, rule, says, spoil):
    notebook = copy.deepcopy(sample)
    spoil(notebook)
    settle(notebook, rule)
    found = breaches([stored(notebook, tmp_path)], tmp_path)
    assert {breach.rule for breach in found} == {rule}
    lines = [str(breach) for breach in found]
    assert any(says in line for line in lines)
    assert all("\n" not in line and "(remedy: " in line and "chapter.ipynb:" in line for line in lines)


def test_a_library_file_or_a_table_that_a_chapter_uses_makes_its_outputs_stale_and_another_does_not(sample, tmp_path):
    root, notebook = tmp_path, copy.deepcopy(sample)
    files = {"lib/plots.py": "import lib.axes", "lib/axes.py": "", "lib/norms.py": "", "book/data/runs.csv": "1"}
    for name, content in files.items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_text(content)
    insert(notebook, new_code_cell("from lib import plots\n\nruns = 'data/runs.csv'"), "## Explore")
    settle(notebook, "")
    notebook.metadata.book = provenance(notebook, root)
    path = stored(notebook, root / "book")
    assert breaches([path], root) == []
    for name in files:
        (root / name).write_text("x = 1")
        found = {breach.rule: breach.remedy for breach in breaches([path], root)}
        assert found == ({} if name == "lib/norms.py" else {"outputs_come_from_this_library": "make notebooks"}), name
        (root / name).write_text(files[name])


def test_every_rule_is_proved():
    assert {rule for rule, _, _ in BREAKS} == {rule.__name__ for rule in RULES}


@pytest.mark.parametrize(
    "text",
    ["", "no JSON", "[]", '{"cells": 1, "nbformat": 4, "nbformat_minor": 5}', '{"nbformat": 3, "worksheets": []}'],
)
def test_a_file_that_is_no_notebook_is_a_breach(tmp_path, text):
    path = tmp_path / "chapter.ipynb"
    path.write_text(text)
    assert [breach.rule for breach in breaches([path], tmp_path)] == ["the_file_is_a_notebook"]


def test_all_chapters_name_one_repository(sample, tmp_path):
    other = copy.deepcopy(sample)
    replace(other, "<owner>/<repository>", "ada/book")
    paths = [stored(sample, tmp_path, "a"), stored(sample, tmp_path, "b"), stored(other, tmp_path, "c")]
    [breach] = breaches(paths, tmp_path)
    assert (breach.path.stem, breach.rule) == ("c", "all_chapters_name_one_repository")
    assert "'ada/book' here, '<owner>/<repository>' elsewhere" in str(breach)


def test_the_repository_is_the_one_that_the_citation_names(sample, tmp_path):
    notebook = copy.deepcopy(sample)
    replace(notebook, "<owner>/<repository>", "ada/book")
    (tmp_path / "CITATION.cff").write_text('repository-code: "https://github.com/ada/book"\n')
    assert not breaches([stored(notebook, tmp_path)], tmp_path)
    (tmp_path / "CITATION.cff").write_text("repository-code: https://github.com/bob/book\n")
    [breach] = breaches([stored(notebook, tmp_path)], tmp_path)
    assert "'ada/book' here, 'bob/book' in CITATION.cff" in str(breach)


@pytest.mark.parametrize("text", ["1/home and /tm" + "p2", "https://example.org/home/ada", "a 640x480 picture", "0x7f"])
def test_what_only_looks_like_a_path_or_an_address_is_let_be(sample, tmp_path, text):
    notebook = copy.deepcopy(sample)
    stream(notebook, text)
    assert not breaches([stored(notebook, tmp_path)], tmp_path)


@pytest.mark.parametrize("text", [r"$\mathrm{FFN}(x)$ is `ffn`", "`{a}` and {b}", "![a](data:image/png;base64,AA==)"])
def test_what_only_looks_like_a_directive_or_a_relative_image_is_let_be(sample, tmp_path, text):
    notebook = copy.deepcopy(sample)
    replace(notebook, "Is it larger?", text)
    assert not breaches([stored(notebook, tmp_path)], tmp_path)
