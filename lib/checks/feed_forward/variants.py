"""Is this the network in another form? The exercises `collapse`, without an activation, and `swiglu`, with a gate."""

from __future__ import annotations

from functools import partial

import torch
import torch.nn.functional as F
from torch import Tensor

from ..verdict import Attempt, Finding, Mistake, agree, check, draw, gradients_flow, read_pair, read_tensor
from .network import leaks_between_samples, leaks_between_tokens

Inputs = tuple[Tensor, ...]


# ---- Collapse: without an activation, one matrix ---------------------------------------------------------------------


def one_map(w_1: Tensor, b_1: Tensor, w_2: Tensor, b_2: Tensor) -> tuple[Tensor, Tensor]:
    """Read w and b off PyTorch's two linear maps: b is where 0 goes, and w is where the unit vectors go from there.

    Shape: (d_model, d_ff), (d_ff,), (d_ff, d_model), (d_model,) -> (d_model, d_model), (d_model,).
    Source: `torch.nn.functional.linear`.
    """

    def both(x: Tensor) -> Tensor:
        return F.linear(F.linear(x, w_1.T, b_1), w_2.T, b_2)

    units = torch.eye(w_1.shape[0], dtype=w_1.dtype, device=w_1.device)
    b = both(torch.zeros_like(units[0]))
    return both(units) - b, b


def map_inputs(d_model: int, d_ff: int) -> Inputs:
    """Draw w_1, b_1, w_2, b_2."""
    return draw((d_model, d_ff), (d_ff,), (d_ff, d_model), (d_model,), seed=d_model)


COLLAPSE_MISTAKES = [
    Mistake(
        "biases_added",
        lambda w_1, b_1, w_2, b_2: (w_1 @ w_2, b_1 + b_2),
        "You add the biases as they are, but b_1 goes through w_2 first.",
        "Multiply out (x @ w_1 + b_1) @ w_2 + b_2, and collect what has no x.",
    ),
    Mistake(
        "order_swapped",
        lambda w_1, b_1, w_2, b_2: (w_2 @ w_1, b_1 @ w_2 + b_2),
        "You multiply in the other order: w_2 @ w_1 is d_ff wide.",
        "Rows go through w_1 first, so it stands on the left.",
    ),
    Mistake(
        "b_1_lost",
        lambda w_1, b_1, w_2, b_2: (w_1 @ w_2, b_2),
        "You lost b_1: it is still there after w_2.",
        "Multiply out (x @ w_1 + b_1) @ w_2 + b_2, and collect what has no x.",
    ),
    Mistake(
        "b_2_lost",
        lambda w_1, b_1, w_2, b_2: (w_1 @ w_2, b_1 @ w_2),
        "You lost b_2, which is added at the end.",
        "Add it to b_1 @ w_2.",
    ),
    Mistake(
        "b_1_through_w_1",
        lambda w_1, b_1, w_2, b_2: (w_1 @ w_2, b_1 @ w_1 + b_2),
        "You send b_1 through w_1, but it is added after w_1.",
        "What b_1 still has to pass is w_2.",
    ),
    Mistake(
        "b_1_through_w_1_turned",
        lambda w_1, b_1, w_2, b_2: (w_1 @ w_2, b_1 @ w_1.T + b_2),
        "You send b_1 backwards through w_1, but it is added after w_1.",
        "What b_1 still has to pass is w_2.",
    ),
    Mistake(
        "b_2_through_w_2",
        lambda w_1, b_1, w_2, b_2: (w_1 @ w_2, (b_1 + b_2) @ w_2),
        "You send b_2 through w_2 as well, but it is added after w_2.",
        "Only b_1 passes w_2.",
    ),
    Mistake(
        "biases_exchanged",
        lambda w_1, b_1, w_2, b_2: (w_1 @ w_2, b_2 @ w_2 + b_1),
        "You exchanged b_1 and b_2.",
        "b_1 comes first, and so it passes w_2.",
    ),
    Mistake(
        "transposed",
        lambda w_1, b_1, w_2, b_2: ((w_1 @ w_2).T, b_1 @ w_2 + b_2),
        "Your w is the transpose of the right one, as torch.nn.Linear stores it.",
        "Rows are tokens here: x @ w, with the inputs of w first.",
    ),
    Mistake(
        "number_by_number",
        lambda w_1, b_1, w_2, b_2: (w_1 * w_2.T, b_1 @ w_2 + b_2),
        "You multiply the matrices number by number.",
        "One map after the other is the matrix product: w_1 @ w_2.",
    ),
    Mistake(
        "matrices_added",
        lambda w_1, b_1, w_2, b_2: (w_1 + w_2.T, b_1 @ w_2 + b_2),
        "You add the matrices.",
        "One map after the other is the matrix product: w_1 @ w_2.",
    ),
    Mistake(
        "relu_kept",
        lambda w_1, b_1, w_2, b_2: (torch.relu(w_1) @ w_2, torch.relu(b_1) @ w_2 + b_2),
        "There is a ReLU in it, but it is the network without an activation that collapses.",
        "Use matrix products and sums only.",
    ),
]


@check("w_1", "b_1", "w_2", "b_2")
def check_collapse(attempt: Attempt) -> str:
    """Check the one map that two linear ones make: w = w_1 w_2 and b = b_1 w_2 + b_2.

    Source: `torch.nn.functional.linear`, at 0 and at the unit vectors.
    """
    trials = [map_inputs(2, 3), map_inputs(4, 3), map_inputs(3, 7)]
    agree(attempt, trials, one_map, COLLAPSE_MISTAKES, read=read_pair, square=map_inputs(4, 4))
    return "right. For every x, x @ w + b is what the two linear maps give."


# ---- SwiGLU: with a gate ---------------------------------------------------------------------------------------------


def gated(x: Tensor, w_gate: Tensor, w_1: Tensor, w_2: Tensor) -> Tensor:
    """Return what PyTorch's own functions make of it.

    Shape: (batch, seq, d_model) -> the same; features mix, tokens never do.
    Source: `torch.nn.functional.linear` and `torch.nn.functional.silu`.
    """
    return F.linear(F.silu(F.linear(x, w_gate.T)) * F.linear(x, w_1.T), w_2.T)


def gated_inputs(batch: int, seq: int, d_model: int, d_ff: int, scale: float = 1.0) -> Inputs:
    """Draw x, w_gate, w_1, w_2."""
    shapes = (batch, seq, d_model), (d_model, d_ff), (d_model, d_ff), (d_ff, d_model)
    return draw(*shapes, seed=batch + 10 * seq, scale=scale)


GATES = {
    "glu": (torch.sigmoid, "The gate is a bare sigmoid: that is GLU.", "SiLU keeps the factor: z * sigmoid(z)."),
    "reglu": (torch.relu, "The gate is a ReLU: that is ReGLU.", "SiLU is smooth: F.silu(z)."),
    "geglu": (F.gelu, "The gate is a GELU: that is GEGLU.", "It looks alike, but SiLU is F.silu(z)."),
    "geglu_tanh": (
        partial(F.gelu, approximate="tanh"),
        "The gate is GELU's approximation by tanh: that is GEGLU.",
        "It looks alike, but SiLU is F.silu(z).",
    ),
    "tanh_gate": (torch.tanh, "The gate is a tanh.", "Use SiLU: F.silu(z)."),
    "softmax_gate": (partial(F.softmax, dim=-1), "The gate is a softmax.", "Use SiLU, number by number: F.silu(z)."),
    "bilinear": (
        lambda z: z,
        "The gate has no activation: that is the bilinear layer.",
        "Put SiLU around x @ w_gate.",
    ),
}

SWIGLU_MISTAKES = [
    *(
        Mistake(
            name,
            lambda x, w_gate, w_1, w_2, bend=bend: (bend(x @ w_gate) * (x @ w_1)) @ w_2,
            message,
            hint,
        )
        for name, (bend, message, hint) in GATES.items()
    ),
    Mistake(
        "sum_of_branches",
        lambda x, w_gate, w_1, w_2: (F.silu(x @ w_gate) + x @ w_1) @ w_2,
        "You add the branches: with w_1 = 0 the output should be 0, and yours is not.",
        "A gate multiplies: silu(...) * (x @ w_1).",
    ),
    Mistake(
        "branches_swapped",
        lambda x, w_gate, w_1, w_2: gated(x, w_1, w_gate, w_2),
        "You activate the branch of w_1; the values differ only in which branch bends.",
        "SiLU acts on x @ w_gate.",
    ),
    Mistake(
        "both_activated",
        lambda x, w_gate, w_1, w_2: (F.silu(x @ w_gate) * F.silu(x @ w_1)) @ w_2,
        "You activate both branches.",
        "Only the gate bends; x @ w_1 stays as it is.",
    ),
    Mistake(
        "activated_after",
        lambda x, w_gate, w_1, w_2: F.silu((x @ w_gate) * (x @ w_1)) @ w_2,
        "You activate the product of the branches.",
        "SiLU acts on x @ w_gate, before the product.",
    ),
    Mistake(
        "no_gate",
        lambda x, w_gate, w_1, w_2: F.silu(x @ w_1) @ w_2,
        "Nothing is gated: w_gate is not used.",
        "Multiply silu(x @ w_gate) by x @ w_1, number by number.",
    ),
    Mistake(
        "no_w_1",
        lambda x, w_gate, w_1, w_2: F.silu(x @ w_gate) @ w_2,
        "There is nothing to gate: w_1 is not used.",
        "Multiply silu(x @ w_gate) by x @ w_1, number by number.",
    ),
    Mistake(
        "transposed_weights",
        lambda x, w_gate, w_1, w_2: gated(x, w_gate.T, w_1.T, w_2.T),
        "You transpose the matrices, as for torch.nn.Linear, which stores them the other way round.",
        "Tokens are rows here and w_1 is (d_model, d_ff): x @ w_1, without .T.",
    ),
    Mistake(
        "silu_on_input",
        lambda x, w_gate, w_1, w_2: ((F.silu(x) @ w_gate) * (x @ w_1)) @ w_2,
        "You activate x, before w_gate.",
        "SiLU acts on x @ w_gate.",
    ),
    Mistake(
        "silu_on_output",
        lambda *inputs: F.silu(gated(*inputs)),
        "You activate the output as well.",
        "Nothing follows w_2.",
    ),
    Mistake(
        "stopped_at_hidden",
        lambda x, w_gate, w_1, w_2: F.silu(x @ w_gate) * (x @ w_1),
        "You return the gated hidden layer, which is d_ff wide.",
        "Bring it back to d_model: multiply by w_2.",
    ),
    Mistake(
        "gate_on_output",
        lambda x, w_gate, w_1, w_2: (F.silu(x @ w_gate) @ w_2) * ((x @ w_1) @ w_2),
        "You multiply the branches after w_2.",
        "They meet in the hidden layer, d_ff wide, and w_2 comes last.",
    ),
    Mistake(
        "residual_inside",
        lambda x, *weights: x + gated(x, *weights),
        "You add x: with all weights 0 the output should be 0.",
        "The residual sum belongs to the block around the network; leave it out here.",
    ),
]


@check("x", "w_gate", "w_1", "w_2")
def check_swiglu(attempt: Attempt) -> str:
    """Check the gated network: (silu(x w_gate) * (x w_1)) w_2.

    Source: `torch.nn.functional.silu`, and that closing either branch closes the network.
    """
    trials = [gated_inputs(1, 2, 3, 4), gated_inputs(2, 4, 3, 5), gated_inputs(3, 2, 5, 4)]
    agree(
        attempt,
        [*trials, gated_inputs(1, 2, 3, 4, scale=10.0)],
        gated,
        SWIGLU_MISTAKES,
        read=read_tensor,
        families=[leaks_between_tokens, leaks_between_samples, stays_open],
        square=gated_inputs(2, 3, 4, 4),
        rows="token",
    )
    gradients_flow(attempt, trials[0], gated)
    return "right. It equals PyTorch's, and gradients reach all three matrices."


def stays_open(attempt: Attempt, inputs: Inputs) -> Finding | None:
    """Set one branch to 0: the product of the branches is 0, and so must the output be.

    Raises: Finding if the function fails on these inputs.
    """
    x, w_gate, w_1, w_2 = inputs
    nothing = torch.zeros_like(w_1)
    for name, closed in (("w_gate", (x, nothing, w_1, w_2)), ("w_1", (x, w_gate, nothing, w_2))):
        if read_tensor(attempt(*closed), x).any():
            return Finding(
                "stays_open",
                f"With {name} = 0 the output should be 0, and yours is not: the branches do not multiply.",
                "A gate multiplies: silu(x @ w_gate) * (x @ w_1), and w_2 comes last.",
            )
    return None
