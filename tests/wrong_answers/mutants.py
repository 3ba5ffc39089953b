"""Small changes to a right answer: each should make it wrong, or be known to leave it right."""

from __future__ import annotations

import ast
import copy
from collections.abc import Iterator

OPERATORS: dict[type[ast.operator], list[type[ast.operator]]] = {
    ast.Add: [ast.Sub, ast.Mult],
    ast.Sub: [ast.Add, ast.Mult],
    ast.Mult: [ast.Add, ast.Div, ast.MatMult],
    ast.MatMult: [ast.Mult, ast.Add],
    ast.Div: [ast.Mult, ast.FloorDiv],
    ast.FloorDiv: [ast.Div, ast.Mult],
    ast.Pow: [ast.Mult],
}
COMPARISONS: dict[type[ast.cmpop], list[type[ast.cmpop]]] = {
    ast.Gt: [ast.Lt, ast.GtE],
    ast.Lt: [ast.Gt, ast.LtE],
    ast.GtE: [ast.Gt, ast.Lt],
    ast.LtE: [ast.Lt, ast.Gt],
}
NAMES = {
    "max": ["min"],
    "min": ["max"],
    "relu": ["abs", "sigmoid", "tanh"],
    "silu": ["gelu", "relu", "sigmoid"],
    "sigmoid": ["tanh", "relu"],
    "ceil": ["floor"],
    "zeros": ["ones"],
    "zeros_like": ["ones_like"],
    "sum": ["mean"],
    "cat": ["stack"],
    "maximum": ["minimum"],
    "round": ["float"],
}


def mutants(cell: str) -> list[str]:
    """List the cells that differ from this one in one place of their functions, without repetition."""
    tree = ast.parse(cell)
    arguments = [
        argument.arg for node in ast.walk(tree) if isinstance(node, ast.FunctionDef) for argument in node.args.args
    ]
    found: dict[str, None] = {}
    for number, node in enumerate(ast.walk(tree)):
        for change in _changes(node, arguments):
            other = copy.deepcopy(tree)
            target = list(ast.walk(other))[number]
            if isinstance(change, ast.AST):
                _replace(other, target, change)
            else:
                change_field, value = change
                setattr(target, change_field, value)
            found[ast.unparse(ast.fix_missing_locations(other))] = None
    found.pop(ast.unparse(tree), None)
    return list(found)


def _changes(node: ast.AST, arguments: list[str]) -> Iterator[ast.AST | tuple[str, object]]:
    """Yield what this node may become: another node, or another value of one of its fields."""
    if isinstance(node, ast.BinOp):
        yield from (node.left, node.right)
        yield from (("op", other()) for other in OPERATORS.get(type(node.op), []))
        if not isinstance(node.op, ast.Add | ast.Mult):  # which may be swapped
            yield ast.BinOp(node.right, node.op, node.left)
    elif isinstance(node, ast.Compare):
        yield from (("ops", [other()]) for other in COMPARISONS.get(type(node.ops[0]), []))
    elif isinstance(node, ast.UnaryOp):
        yield node.operand
    elif isinstance(node, ast.IfExp):
        yield from (node.body, node.orelse, ast.IfExp(node.test, node.orelse, node.body))
    elif isinstance(node, ast.Constant) and isinstance(node.value, int | float):
        yield from (("value", node.value + step) for step in (1, -1))
        yield from [("value", 2 * node.value)] if node.value else []
    elif isinstance(node, ast.Constant) and "->" in str(node.value):
        left, right = node.value.split("->")
        yield ("value", f"{left}->{right[::-1]}")
        yield ("value", "{1},{0}->{2}".format(*left.split(","), right))
    elif isinstance(node, ast.Name) and isinstance(node.ctx, ast.Load) and node.id in arguments:
        yield from (("id", other) for other in arguments if other != node.id)
    yield from _changes_of_parts(node)


def _changes_of_parts(node: ast.AST) -> Iterator[ast.AST | tuple[str, object]]:
    if isinstance(node, ast.Name):
        yield from (("id", other) for other in NAMES.get(node.id, []))
    elif isinstance(node, ast.Attribute):
        yield from (("attr", other) for other in NAMES.get(node.attr, []))
        if node.attr in ("T", "mT"):
            yield node.value
    elif isinstance(node, ast.Call):
        yield from node.args  # the call is dropped
        if isinstance(node.func, ast.Attribute):
            yield node.func.value
        for at in range(len(node.args) - 1):
            yield ("args", [*node.args[:at], node.args[at + 1], node.args[at], *node.args[at + 2 :]])
        yield from (("keywords", node.keywords[:at] + node.keywords[at + 1 :]) for at in range(len(node.keywords)))
    elif isinstance(node, ast.Tuple | ast.List) and len(node.elts) == 2:
        yield ("elts", node.elts[::-1])
    elif isinstance(node, ast.Assign | ast.AugAssign | ast.Expr):
        yield ast.Pass()
    elif isinstance(node, ast.Return):
        yield ("value", None)


def _replace(tree: ast.AST, target: ast.AST, new: ast.AST) -> None:
    """Put a node in the place of another."""
    for parent in ast.walk(tree):
        for name, value in ast.iter_fields(parent):
            if value is target:
                setattr(parent, name, new)
            elif isinstance(value, list) and target in value:
                value[value.index(target)] = new
