"""What does this error mean? Python's and PyTorch's own errors, in the words of somebody who learns."""

from __future__ import annotations

import re

# Pattern in the error's text, name of the mistake, what happened, the way out. {0}, {1} ... are the pattern's groups.
ERRORS = [
    (
        r"mat1 and mat2 shapes cannot be multiplied \((\d+)x(\d+) and (\d+)x(\d+)\)",
        "matmul_shapes",
        "A matrix product met the shapes ({0}, {1}) and ({2}, {3}): the inner numbers, {1} and {2}, must be equal.",
        "Rows are tokens here, so x stands on the left, and a matrix has its inputs first: (d_in, d_out).",
    ),
    (
        r"(?:size mismatch, got input \(\d+\), mat|inconsistent tensor size|size mismatch|batch1|batch2|vec must)",
        "matmul_shapes",
        "A matrix product met two shapes that do not fit.",
        "The last axis of the left one must be as long as the last axis but one of the right one.",
    ),
    (
        r"(?:must be a matrix|[123]D tensors? expected|expected .*[123]D|must be a [123]D|must be [123]D)",
        "axes",
        "An operation met a tensor with too many or too few axes: {error}",
        "x has three axes: batch, seq, d_model. The sign @ multiplies the last two and keeps the others.",
    ),
    (
        r"unsupported operand type\(s\) for .*: '([\w.]+)' and '([\w.]+)'",
        "kinds_meet",
        "An operation met one object of the class {0} and one of the class {1}.",
        "A module is made first and then called, nn.ReLU()(z); max along an axis gives two things.",
    ),
    (
        r"size of tensor a \((\d+)\) must match the size of tensor b \((\d+)\) at non-singleton dimension (\d+)",
        "sizes_differ",
        "Two tensors that meet number by number have {0} and {1} entries on axis {2}.",
        "Sum, product and comparison need equal sizes, or a 1; a matrix product is written @.",
    ),
    (
        r"(?:shape '.*' is invalid for input of size|The expanded size|einsum\(\)|view size is not compatible)",
        "shape",
        "A tensor was asked for a shape that it cannot have: {error}",
        "Print the shape in the line before.",
    ),
    (
        r"(?:same dtype|expected scalar type|[Dd]type|Long|Double but|Float but|result type .* can't be cast)",
        "dtypes_meet",
        "Numbers of different kinds met: {error}",
        "Make new tensors of the kind of x: torch.zeros(..., dtype=x.dtype), or torch.zeros_like(x).",
    ),
    (
        r"(?:same device|meta|device type|CUDA tensor|cuda tensor|Cannot copy out)",
        "devices_meet",
        "Tensors on different devices met: {error}",
        "Make new tensors where x is: torch.zeros(..., device=x.device), or torch.zeros_like(x).",
    ),
    (
        r"(?:requires grad|requires_grad)",
        "cuts_the_gradient",
        "This step is not allowed on a tensor that is being learned: {error}",
        "Stay with PyTorch's operations, without .numpy(), .data and in-place changes.",
    ),
    (
        r"(?:not enough memory|can't allocate|out of memory)",
        "memory",
        "The result would not fit into memory.",
        "Look at the sizes that you multiply or repeat.",
    ),
]

# What these say counts more than their class: PyTorch asserts that it was built with CUDA.
NO_GPU = r"not compiled with \w+ enabled|No \w+ GPUs|no NVIDIA driver|not linked with support for"

KINDS: list[tuple[type[BaseException], str, str, str]] = [
    (RecursionError, "recursion", "Your function calls itself without end.", "Call a function of PyTorch instead."),
    (SystemExit, "exits", "Your function ends Python itself, by exit() or sys.exit().", "Leave it with return."),
    (MemoryError, "memory", "The result would not fit into memory.", "Look at the sizes that you multiply or repeat."),
    (
        UnboundLocalError,
        "unbound",
        "A name is used before it has a value: {error}",
        "Give it a value first, on every way through the function.",
    ),
    (
        NameError,
        "unknown_name",
        "Python does not know a name: {error}",
        "Is it spelled like the argument? Is the import in your cell or in Setup?",
    ),
    (ImportError, "import", "An import failed: {error}", "PyTorch is all that is needed."),
    (ZeroDivisionError, "division", "You divide by 0.", "Which of the sizes can be 0?"),
    (IndexError, "index", "An index lies outside: {error}", "Axes count from 0, or from -1 at the end."),
    (AssertionError, "assertion", "An assert of yours does not hold. {error}", "The sizes are not always the same."),
]


def in_words(error: BaseException) -> tuple[str, str, str]:
    """Return the name of the mistake, what happened, and the way out."""
    text = _first_line(error)
    if isinstance(error, AssertionError | RuntimeError) and re.search(NO_GPU, text):
        return "no_gpu", f"There is no GPU here: {text}", "Make new tensors where x is: device=x.device."
    for kind, mistake, message, hint in KINDS:
        if isinstance(error, kind):
            return mistake, message.format(error=text).strip(), hint
    if isinstance(error, RuntimeError | ValueError | TypeError):
        for pattern, mistake, message, hint in ERRORS:
            if found := re.search(pattern, str(error)):
                return mistake, message.format(*found.groups(), error=text), hint
    return "raises", f"Your code raised {type(error).__name__}{': ' if text else '.'}{text}", "Look at the line below."


def takes_other_arguments(error: BaseException) -> bool:
    """Say whether this is the error of a call with too many or too few arguments, or with ones of other kinds."""
    pattern = r"takes .*argument|missing \d+ required|invalid combination of arguments|unexpected keyword"
    return isinstance(error, TypeError) and bool(re.search(pattern, _first_line(error)))


def _first_line(error: BaseException) -> str:
    """Cut an error's text to one line that fits; an error whose text cannot be had counts as silent."""
    try:
        lines = str(error).strip().splitlines()
    except Exception:
        return ""
    text = lines[0] if lines else ""
    text = text if len(text) <= 160 else text[:157] + "..."
    return text if not text or text.endswith((".", "!", "?", ")")) else text + "."
