"""What is wrong with my answer? What the checks of all chapters share, from running a reader's function to the verdict.

    @check("x", "w")                                   # the arguments of the reader's function
    def check_linear(attempt):
        inputs = draw((2, 3), (3, 4))
        mistakes = [Mistake("turned", lambda x, w: (x @ w).mT, "Rows and columns are swapped.", "Multiply: x @ w.")]
        agree(attempt, [inputs], torch.matmul, mistakes, read=read_tensor)
        return "Your function equals torch's."         # what a right answer has shown

A check raises a `Finding` as soon as something is wrong, and never for an error of its own. Names, in reading order:
`check`; `Attempt`, which runs the function; `draw`, which makes inputs; `agree` with `Mistake` and `known`;
`read_tensor` and its relatives, which say what came back; `gradients_flow`; `Finding`, `Verdict`. The rest of the
package: `deadline` stops endless loops, `words` puts Python's errors into words, `page` draws.
"""

from __future__ import annotations

import functools
from collections.abc import Callable

from .agreement import Mistake, agree, draw, gradients_flow, known
from .attempt import Attempt, NotAttempted
from .outcome import Comparison, Finding, Line, Verdict
from .results import read_number, read_pair, read_tensor, read_whole_number

__all__ = [
    "Attempt",
    "Comparison",
    "Finding",
    "Line",
    "Mistake",
    "Verdict",
    "agree",
    "check",
    "draw",
    "gradients_flow",
    "known",
    "read_number",
    "read_pair",
    "read_tensor",
    "read_whole_number",
]

TO_DO = "not attempted yet. Replace the line that raises NotImplementedError, then run both cells."


def check(*parameters: str) -> Callable[[Callable[[Attempt], str]], Callable[[object], Verdict]]:
    """Turn an examination, `check_<exercise>(attempt)`, into a check: a reader's function in, a verdict out.

    The examination raises a `Finding`, or returns what a right answer has shown, as a sentence.

    Args: parameters: the names of the arguments that the reader's function takes, in order.
    """

    def make(examine: Callable[[Attempt], str]) -> Callable[[object], Verdict]:
        exercise = examine.__name__.removeprefix("check_")

        def checked(function: object) -> Verdict:
            attempt = Attempt(exercise, function, parameters)
            try:
                attempt.look()
                message = examine(attempt)
            except NotAttempted:
                return Verdict(exercise, "not attempted", TO_DO)
            except Finding as finding:
                return finding.verdict(exercise, attempt.printed.text)
            return Verdict(exercise, "passed", message, printed=attempt.printed.text)

        functools.update_wrapper(checked, examine, assigned=("__module__", "__name__", "__qualname__", "__doc__"))
        del checked.__wrapped__  # its signature is another one
        return checked

    return make
