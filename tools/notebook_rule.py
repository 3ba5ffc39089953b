"""What a rule of the notebooks' policy is, and what it is shown: a chapter, with its cells and outputs at hand."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

from nbformat import NotebookNode
from notebook_file import is_code, shown, tags

STORE = "make notebooks"  # the remedy where only the stored form is wrong


@dataclass(frozen=True)
class Chapter:
    """One notebook and the file it was read from."""

    path: Path
    notebook: NotebookNode

    @property
    def root(self) -> Path:
        """The repository, whose folder `book` it lies in."""
        return self.path.resolve().parent.parent

    @property
    def cells(self) -> list[tuple[int, NotebookNode]]:
        """All cells, each with its number, from 1."""
        return list(enumerate(self.notebook.cells, 1))

    @property
    def code(self) -> list[tuple[int, NotebookNode]]:
        """The code cells, with their numbers among all cells."""
        return [(number, cell) for number, cell in self.cells if is_code(cell)]

    @property
    def prose(self) -> list[tuple[int, NotebookNode]]:
        """The Markdown cells, numbered alike."""
        return [(number, cell) for number, cell in self.cells if cell.cell_type == "markdown"]

    @property
    def outputs(self) -> list[tuple[int, NotebookNode, NotebookNode]]:
        """The outputs, each with the number of its cell, and the cell."""
        return [(number, cell, output) for number, cell in self.code for output in cell.outputs]

    def role(self, role: str) -> list[tuple[int, str, NotebookNode]]:
        """Return the cells tagged `role:<id>`, as number, id and cell."""
        tagged = [(number, *tag.partition(":"), cell) for number, cell in self.cells for tag in tags(cell)]
        return [(number, name, cell) for number, kind, _, name, cell in tagged if kind == role]


# What a rule finds: the number of the cell, or 0 for the notebook as a whole, and what is there.
Finding = tuple[int, str]
Rule = Callable[[Chapter], Iterator[Finding]]
RULES: dict[Rule, str] = {}  # each rule with its remedy


def rule(remedy: str) -> Callable[[Rule], Rule]:
    """Make a function a rule of the policy: its name is the rule, this is the remedy."""

    def register(function: Rule) -> Rule:
        RULES[function] = remedy
        return function

    return register


@dataclass(frozen=True)
class Breach:
    """One breach of one rule; its text is one line."""

    path: Path
    cell: int
    rule: str
    found: str
    remedy: str

    def __str__(self) -> str:
        """Return file, cell, rule, what was found, and the remedy."""
        cell = f" cell {self.cell}:" if self.cell else ""
        found = " ".join(self.found.split())[:200]
        return f"{shown(self.path)}:{cell} {self.rule.replace('_', ' ')}: {found} (remedy: {self.remedy})"
