"""Rules for the parts with which readers work: the set-up cell for Colab, and the exercises."""

from __future__ import annotations

import ast
import re
from collections import Counter
from collections.abc import Iterator

from notebook_file import COLAB_CELL, PLACEHOLDER, REPOSITORY, REPOSITORY_NAME, parsed, tags, unstamped
from notebook_rule import Chapter, Finding, rule

MIN_EXERCISES = 3
DETAILS = re.compile(r"<details\b[^>]*>(.*?)</details>", re.DOTALL)
PYTHON_BLOCK = re.compile(r"^```python\n(.*?)^```[ \t]*$", re.MULTILINE | re.DOTALL)
TO_MEND = "find_the_bug"  # exercises of this name hand out code with a mistake in it, and no empty stub


@rule("copy the first code cell of another chapter, tags colab and remove-cell included")
def the_first_code_cell_fetches_the_library_on_colab(chapter: Chapter) -> Iterator[Finding]:
    """It is the same in every chapter, up to the name of the repository."""
    if not chapter.code:
        yield 0, "there is no code cell"
        return
    number, cell = chapter.code[0]
    if unstamped(cell.source) != COLAB_CELL:
        yield number, "it is another cell"
    elif sorted(tags(cell)) != ["colab", "remove-cell"]:
        yield number, f"its tags are {', '.join(tags(cell)) or 'missing'}"
    for number, cell in chapter.code[1:]:
        if "colab" in tags(cell):
            yield number, "a second cell for Colab"


@rule("python tools/set_repository.py OWNER/REPO")
def the_repository_is_stamped_or_left_open(chapter: Chapter) -> Iterator[Finding]:
    """Colab fetches the library from there."""
    for number, cell in chapter.code:
        for name in REPOSITORY.findall(cell.source):
            if name != PLACEHOLDER and not REPOSITORY_NAME.fullmatch(name):
                yield number, f"'{name}' is no repository"


@rule("warm-up, core and stretch: at least one of each")
def a_chapter_has_three_exercises(chapter: Chapter) -> Iterator[Finding]:
    """One learns by doing."""
    if (number := len(chapter.role("exercise"))) < MIN_EXERCISES:
        yield 0, f"{number} exercises"


@rule("tag the code cell after exercise:<id> as check:<id>, and one Markdown cell as solution:<id>")
def every_exercise_has_its_check_and_its_solution(chapter: Chapter) -> Iterator[Finding]:
    """The check follows at once; the solution folds, so it may stand with the task or come later."""
    exercises = chapter.role("exercise")
    checks = {number: name for number, name, _ in chapter.role("check")}
    solutions = [name for _, name, cell in chapter.role("solution") if cell.cell_type == "markdown"]
    for number, name, cell in exercises:
        if cell.cell_type != "code":
            yield number, f"exercise:{name} is no code cell"
        if checks.get(number + 1) != name:
            yield number, f"exercise:{name} is not followed by its check"
        if solutions.count(name) != 1:
            yield number, f"exercise:{name} has {solutions.count(name)} solutions"
    names = Counter(name for _, name, _ in exercises)
    yield from ((0, f"exercise:{name} is there {times} times") for name, times in names.items() if times > 1)
    for role in ("check", "solution"):
        yield from (
            (number, f"{role}:{name} has no exercise") for number, name, _ in chapter.role(role) if not names[name]
        )


@rule(f"the stub is a function that raises NotImplementedError; only {TO_MEND} hands out code, and that must not")
def a_stub_is_left_for_the_reader(chapter: Chapter) -> Iterator[Finding]:
    """Its check then says 'not attempted yet'."""
    for number, name, cell in chapter.role("exercise"):
        body = parsed(cell.source).body
        raises = any(isinstance(node, ast.Raise) and "NotImplementedError" in ast.dump(node) for node in walk(body))
        if not any(isinstance(node, ast.FunctionDef) for node in body):
            yield number, f"exercise:{name} defines no function"
        elif raises == name.startswith(TO_MEND):
            yield number, f"exercise:{name} {'raises' if raises else 'does not raise'} NotImplementedError"


@rule("put one ```python block, which defines what the stub defines, into <details>")
def a_solution_folds(chapter: Chapter) -> Iterator[Finding]:
    """It is hidden until asked for, and a test puts it into the stub."""
    stubs = {name: functions(cell.source) for _, name, cell in chapter.role("exercise")}
    for number, name, cell in chapter.role("solution"):
        blocks = PYTHON_BLOCK.findall(cell.source)
        folded = [block for part in DETAILS.findall(cell.source) for block in PYTHON_BLOCK.findall(part)]
        if len(blocks) != 1:
            yield number, f"solution:{name} has {len(blocks)} blocks of Python"
        elif folded != blocks:
            yield number, f"solution:{name} is in plain sight"
        elif not stubs.get(name, set()) <= functions(blocks[0]):
            yield number, f"solution:{name} does not define {', '.join(sorted(stubs[name] - functions(blocks[0])))}"


def solutions(chapter: Chapter) -> dict[str, str]:
    """Return the code of each solution by its id."""
    return {name: PYTHON_BLOCK.findall(cell.source)[0] for _, name, cell in chapter.role("solution")}


def walk(body: list[ast.stmt]) -> Iterator[ast.AST]:
    """Yield every node of some statements."""
    return (node for statement in body for node in ast.walk(statement))


def functions(source: str) -> set[str]:
    """Return the names of the functions that a cell defines."""
    return {node.name for node in parsed(source).body if isinstance(node, ast.FunctionDef)}
