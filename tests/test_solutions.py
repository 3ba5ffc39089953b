"""Every solution solves its exercise: put into its stub, it makes the check cell pass."""

import copy
import sys
from pathlib import Path

import pytest
from nbformat import NotebookNode

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "tools"))

from exercise_rules import TO_MEND, solutions
from notebook_execution import NOTEBOOK_SECONDS, execute
from notebook_file import BOOK, read
from notebook_form import notebook_of
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


def verdicts(path: Path, notebook: NotebookNode) -> dict[str, str]:
    """What each check cell shows, as text."""
    return {name: "".join(map(text, cell.outputs)) for _, name, cell in Chapter(path, notebook).role("check")}


def text(output: NotebookNode) -> str:
    return output.text if output.output_type == "stream" else output.data["text/plain"]


@pytest.mark.slow
@pytest.mark.timeout(NOTEBOOK_SECONDS)
@pytest.mark.parametrize("path", CHAPTERS, ids=lambda path: path.stem)
def test_every_solution_passes_its_check(path):
    found = verdicts(path, execute(solved(path, read(path)), path.parent))
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
