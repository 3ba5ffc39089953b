"""The policy of the notebooks: what must hold of every chapter and can be seen without running it.

Each rule is one small function in one of three modules; here they are put to the notebooks.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import exercise_rules
import nbformat
import output_rules
import prose_rules
from notebook_file import REPOSITORY, ROOT, NotebookError, read
from notebook_rule import RULES, Breach, Chapter

RULE_MODULES = (output_rules, prose_rules, exercise_rules)  # importing them fills RULES, in this order
CITED = re.compile(r'^repository-code: *"?https://github\.com/([^"\s]+?)/?"?$', re.MULTILINE)


def breaches(paths: list[Path], root: Path = ROOT) -> list[Breach]:
    """Return every breach of every rule in these notebooks, in the order of the files and cells."""
    found, chapters = [], []
    for path in paths:
        try:
            notebook = read(path)
            nbformat.validate(notebook)
            chapters.append(Chapter(path, notebook))
        except (NotebookError, nbformat.ValidationError) as error:
            what = str(error).splitlines()[0]
            found.append(Breach(path, 0, "the_file_is_a_notebook", what, "make it again from its script"))
    for chapter in chapters:
        every = [(number, rule.__name__, what, fix) for rule, fix in RULES.items() for number, what in rule(chapter)]
        found += [Breach(chapter.path, number, name, what, fix) for number, name, what, fix in sorted(every)]
    return found + list(different_repositories(chapters, root))


def different_repositories(chapters: list[Chapter], root: Path) -> Iterator[Breach]:
    """Yield the chapters that fetch the library from elsewhere than most, or than the citation says."""
    stamps = [(chapter.path, name) for chapter in chapters for name in repositories(chapter)]
    citation = root / "CITATION.cff"
    cited = CITED.search(citation.read_text(encoding="utf-8")) if citation.is_file() else None
    due = cited[1] if cited else "".join(name for name, _ in Counter(name for _, name in stamps).most_common(1))
    for path, name in stamps:
        if name != due:
            what = f"'{name}' here, '{due}' {'in CITATION.cff' if cited else 'elsewhere'}"
            yield Breach(path, 0, "all_chapters_name_one_repository", what, "python tools/set_repository.py OWNER/REPO")


def repositories(chapter: Chapter) -> list[str]:
    """Return the repositories from which a chapter fetches the library: one, where all is well."""
    return [name for _, cell in chapter.code for name in REPOSITORY.findall(cell.source)]
