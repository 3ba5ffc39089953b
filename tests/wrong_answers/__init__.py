"""What readers write: right answers and wrong ones, one module per chapter.

`Answers` holds those to one exercise as the bodies of its function. The first right one is the book's solution, and the
wrong ones stand under the name of their mistake.
"""

from __future__ import annotations

import ast
import linecache
import textwrap
from collections.abc import Callable
from dataclasses import dataclass, field


@dataclass(frozen=True)
class Answers:
    """Right and wrong answers to one exercise."""

    signature: str
    right: list[str]
    wrong: dict[str, str | list[str]]
    equivalent: dict[str, str] = field(default_factory=dict)  # a mutant of a right answer, and why it is right

    def source(self, body: str) -> str:
        """Write the cell: what stands before a line `---` goes in front of the function."""
        before, _, after = body.rpartition("---\n")
        return f"{textwrap.dedent(before)}{self.signature}\n{textwrap.indent(textwrap.dedent(after).strip(), '    ')}\n"

    def wrong_ones(self) -> list[tuple[str, str]]:
        """List the mistakes with the cells that make them."""
        return [
            (mistake, self.source(body))
            for mistake, bodies in self.wrong.items()
            for body in ([bodies] if isinstance(bodies, str) else bodies)
        ]


def function_in(cell: str) -> Callable[..., object]:
    """Run a cell as a notebook does, where Setup has imported PyTorch, and return the function it defines last."""
    name = f"<cell {abs(hash(cell))}>"
    linecache.cache[name] = (len(cell), None, cell.splitlines(keepends=True), name)
    space: dict[str, object] = {}
    exec("import math\nimport torch\nimport torch.nn.functional as F\nfrom torch import nn", space)
    exec(compile(cell, name, "exec"), space)
    functions = [node.name for node in ast.parse(cell).body if isinstance(node, ast.FunctionDef)]
    return space[functions[-1]]
