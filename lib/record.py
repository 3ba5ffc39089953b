"""What happened inside? The outputs of named submodules during a real forward pass.

Name: `record`.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from difflib import get_close_matches
from fnmatch import fnmatchcase
from typing import Any

from torch import nn


@contextmanager
def record(model: nn.Module, *patterns: str) -> Iterator[dict[str, Any]]:
    """Keep what the named submodules return while the block runs, under their names, in the order in which they run.

    with record(model, "w_1", "blocks.*.hidden") as seen: model(x)
    seen["w_1"] is the tensor that w_1 returned; a submodule that ran several times has a list, one that did not run has
    no entry.

    The tensors are those of the pass itself, neither copied nor detached, so that gradients can be asked of them. Call
    the model under `torch.no_grad()` to keep no graph. A pattern's `*` also crosses dots; the model itself is "".

    Raises: ValueError if no pattern is given, or one matches no submodule; it names the nearest ones.
    Source: `torch.nn.Module.register_forward_hook`. The hooks are removed at the end of the block, also by an error.
    """
    names = dict(model.named_modules(remove_duplicate=False))  # a shared submodule answers to each of its names
    chosen = dict.fromkeys(name for pattern in patterns for name in _matches(pattern, list(names)))
    if not chosen:
        raise ValueError(f"record needs 1 or more names, but got 0; choose from {', '.join(filter(None, names))}")
    seen: dict[str, Any] = {}
    runs = dict.fromkeys(chosen, 0)

    def keep(name: str, output: Any) -> None:
        runs[name] += 1
        if runs[name] == 1:
            seen[name] = output
        elif runs[name] == 2:
            seen[name] = [seen[name], output]
        else:
            seen[name].append(output)

    hooks = [
        names[name].register_forward_hook(lambda module, inputs, output, name=name: keep(name, output))
        for name in chosen
    ]
    try:
        yield seen
    finally:
        for hook in hooks:
            hook.remove()


def _matches(pattern: str, names: list[str]) -> list[str]:
    found = [name for name in names if fnmatchcase(name, pattern)]
    if not found:
        near = ", ".join(map(repr, (get_close_matches(pattern, names, n=3, cutoff=0.4) or names[1:] or names)[:3]))
        raise ValueError(f"no submodule matches {pattern!r}; the nearest of the model's {len(names)} names: {near}")
    return found
