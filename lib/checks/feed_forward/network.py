"""Is this the feed-forward network? The exercises `feed_forward` and `find_the_bug`, whose right answer is the same."""

from __future__ import annotations

from functools import partial

import torch
import torch.nn.functional as F
from torch import Tensor

from ..verdict import Attempt, Comparison, Finding, Mistake, agree, check, draw, gradients_flow, read_tensor

relu = torch.relu
Inputs = tuple[Tensor, ...]
NAMES = ("x", "w_1", "b_1", "w_2", "b_2")
SIZES = [(1, 2, 3, 4), (2, 4, 3, 5), (3, 2, 5, 4)]  # batch, seq, d_model, d_ff: no axis can stand for another
SQUARE = (2, 3, 4, 4)  # where a transposed matrix fits, and shows what it computes
LARGE = 30.0  # an activation that is flat far from 0 shows only there


def network(x: Tensor, w_1: Tensor, b_1: Tensor, w_2: Tensor, b_2: Tensor) -> Tensor:
    """Return what PyTorch's own functions make of it, in their convention: rows of a weight are outputs.

    Shape: (batch, seq, d_model) -> the same; features mix, tokens never do.
    Source: `torch.nn.functional.linear`.
    """
    return F.linear(F.relu(F.linear(x, w_1.T, b_1)), w_2.T, b_2)


def network_inputs(batch: int, seq: int, d_model: int, d_ff: int, scale: float = 1.0) -> Inputs:
    """Draw x, w_1, b_1, w_2, b_2; no bias is zero, since a mistake with it would not show.

    The seeds are those with which signs show as well, on the first trial already: biases of both signs act there, and
    what ReLU cuts off would weigh more than what it keeps.
    """
    shapes = (batch, seq, d_model), (d_model, d_ff), (d_ff,), (d_ff, d_model), (d_model,)
    return draw(*shapes, seed=4 + batch + 9 * seq, scale=scale)


ACTIVATIONS = {
    "gelu": F.gelu,
    "gelu_tanh": partial(F.gelu, approximate="tanh"),
    "silu": F.silu,
    "sigmoid": torch.sigmoid,
    "tanh": torch.tanh,
    "leaky_relu": F.leaky_relu,
    "elu": F.elu,
    "softplus": F.softplus,
    "relu6": F.relu6,
    "abs": torch.abs,
    "square": torch.square,
}

NETWORK_MISTAKES = [
    Mistake(
        "second_relu",
        lambda *inputs: relu(network(*inputs)),
        "A second ReLU acts on the output, so it is never negative: the residual stream it is added to can only grow.",
        "The ReLU stands between the two matrices, and nothing after the second one.",
    ),
    Mistake(
        "relu_on_output_only",
        lambda x, w_1, b_1, w_2, b_2: relu((x @ w_1 + b_1) @ w_2 + b_2),
        "The ReLU acts on the output: before it there is one linear map, and after it no number is negative.",
        "Move it between the two matrices.",
    ),
    Mistake(
        "no_activation",
        lambda x, w_1, b_1, w_2, b_2: (x @ w_1 + b_1) @ w_2 + b_2,
        "There is no activation: two linear maps in a row are one matrix, whatever d_ff is.",
        "Put the ReLU around the hidden layer, x @ w_1 + b_1.",
    ),
    Mistake(
        "no_b_1",
        lambda x, w_1, b_1, w_2, b_2: relu(x @ w_1) @ w_2 + b_2,
        "The bias b_1 is missing.",
        "Add it to x @ w_1, before the ReLU: it decides where each hidden unit bends.",
    ),
    Mistake(
        "no_b_2",
        lambda x, w_1, b_1, w_2, b_2: relu(x @ w_1 + b_1) @ w_2,
        "The bias b_2 is missing: with a hidden layer of zeros the output should be b_2.",
        "Add it at the end, after w_2.",
    ),
    Mistake(
        "no_biases",
        lambda x, w_1, b_1, w_2, b_2: relu(x @ w_1) @ w_2,
        "Both biases are missing: you return 0 for x = 0.",
        "Each matrix product is followed by its bias.",
    ),
    Mistake(
        "relu_before_b_1",
        lambda x, w_1, b_1, w_2, b_2: (relu(x @ w_1) + b_1) @ w_2 + b_2,
        "The bias b_1 is added after the ReLU, where it cannot move the bend.",
        "Add b_1 first: the ReLU acts on x @ w_1 + b_1.",
    ),
    Mistake(
        "relu_on_input",
        lambda x, w_1, b_1, w_2, b_2: (relu(x) @ w_1 + b_1) @ w_2 + b_2,
        "The ReLU acts on x: every negative feature is lost before the network sees it.",
        "Multiply by w_1 first; the ReLU acts on the hidden layer.",
    ),
    Mistake(
        "residual_inside",
        lambda x, *weights: x + network(x, *weights),
        "You add x: with a hidden layer of zeros you return x + b_2, and it should be b_2.",
        "The residual sum belongs to the block around the network; leave it out here.",
    ),
    Mistake(
        "norm_inside",
        lambda x, *weights: F.layer_norm(x + network(x, *weights), x.shape[-1:]),
        "You add x and normalise: that is the whole sub-layer, Add & Norm included.",
        "Return the network alone; the block adds and normalises.",
    ),
    Mistake(
        "normed_output",
        lambda x, *weights: F.layer_norm(network(x, *weights), x.shape[-1:]),
        "You normalise the output.",
        "Return the sum after b_2 as it is; the block normalises.",
    ),
    Mistake(
        "softmax_over_tokens",
        lambda x, w_1, b_1, w_2, b_2: (x @ w_1 + b_1).softmax(dim=1) @ w_2 + b_2,
        "A softmax over the tokens stands where the ReLU should, so that each token's result depends on the others.",
        "Use ReLU, number by number: mixing tokens is what attention is for.",
    ),
    Mistake(
        "softmax_over_features",
        lambda x, w_1, b_1, w_2, b_2: (x @ w_1 + b_1).softmax(dim=-1) @ w_2 + b_2,
        "A softmax over the hidden units stands where the ReLU should.",
        "Use ReLU, number by number: no unit needs to know the others.",
    ),
    Mistake(
        "wrong_side",
        lambda x, w_1, b_1, w_2, b_2: (x @ w_1 + b_1).clamp(max=0) @ w_2 + b_2,
        "You keep the negative numbers and drop the positive ones.",
        "ReLU is max(0, z): .clamp(min=0), or torch.relu.",
    ),
    Mistake(
        "stopped_at_hidden",
        lambda x, w_1, b_1, w_2, b_2: relu(x @ w_1 + b_1),
        "You return the hidden layer, which is d_ff wide.",
        "Bring it back to d_model: multiply by w_2 and add b_2.",
    ),
    Mistake(
        "transposed_weights",
        lambda x, w_1, b_1, w_2, b_2: relu(x @ w_1.T + b_1) @ w_2.T + b_2,
        "You transpose the matrices, as for torch.nn.Linear, which stores them the other way round.",
        "Tokens are rows here and w_1 is (d_model, d_ff): x @ w_1, without .T.",
    ),
    Mistake(
        "transposed_w_1",
        lambda x, w_1, b_1, w_2, b_2: relu(x @ w_1.T + b_1) @ w_2 + b_2,
        "You transpose w_1, as for torch.nn.Linear, which stores its matrix the other way round.",
        "w_1 is (d_model, d_ff) already: x @ w_1.",
    ),
    Mistake(
        "transposed_w_2",
        lambda x, w_1, b_1, w_2, b_2: relu(x @ w_1 + b_1) @ w_2.T + b_2,
        "You transpose w_2, as for torch.nn.Linear, which stores its matrix the other way round.",
        "w_2 is (d_ff, d_model) already: multiply by it as it is.",
    ),
    Mistake(
        "biases_swapped",
        lambda x, w_1, b_1, w_2, b_2: network(x, w_1, b_2, w_2, b_1),
        "You swapped b_1 and b_2.",
        "b_1 has one number for each hidden unit, b_2 one for each feature.",
    ),
    Mistake(
        "weights_swapped",
        lambda x, w_1, b_1, w_2, b_2: network(x, w_2, b_1, w_1, b_2),
        "You swapped w_1 and w_2.",
        "x meets w_1 first, which widens it.",
    ),
    *(
        Mistake(
            name,
            lambda x, w_1, b_1, w_2, b_2, bend=bend: bend(x @ w_1 + b_1) @ w_2 + b_2,
            f"The hidden layer bends by {name}, and not by ReLU.",
            "This network is the one of the paper: torch.relu.",
        )
        for name, bend in ACTIVATIONS.items()
    ),
]


# What standardising does to the hidden units, and over which axis.
def _centred(hidden: Tensor, dim: int) -> Tensor:
    return hidden - hidden.mean(dim=dim, keepdim=True)


def _standardised(hidden: Tensor, dim: int) -> Tensor:
    return _centred(hidden, dim) / (hidden.std(dim=dim, keepdim=True, correction=0) + 1e-5)


BUG_MISTAKES = [
    Mistake(
        "bug_still_there",
        lambda x, w_1, b_1, w_2, b_2: relu(_standardised(x @ w_1 + b_1, 1)) @ w_2 + b_2,
        "The bug is still there.",
        "Axis 1 is the tokens. Which line takes a mean over it?",
    ),
    Mistake(
        "bug_scale_left",
        lambda x, w_1, b_1, w_2, b_2: (
            relu((x @ w_1 + b_1) / ((x @ w_1 + b_1).std(dim=1, keepdim=True, correction=0) + 1e-5)) @ w_2 + b_2
        ),
        "Half of the bug is left: you removed the mean over the tokens, but still divide by their spread.",
        "The spread is taken over the tokens as well: remove it too.",
    ),
    Mistake(
        "bug_mean_left",
        lambda x, w_1, b_1, w_2, b_2: relu(_centred(x @ w_1 + b_1, 1)) @ w_2 + b_2,
        "Half of the bug is left: you removed the spread over the tokens, but still subtract their mean.",
        "Remove the mean as well.",
    ),
    Mistake(
        "bug_over_batch",
        lambda x, w_1, b_1, w_2, b_2: relu(_standardised(x @ w_1 + b_1, 0)) @ w_2 + b_2,
        "You moved the bug to axis 0: now the sentences of a batch look at each other.",
        "No axis is the right one, since the network has no such step: remove it.",
    ),
    Mistake(
        "bug_over_features",
        lambda x, w_1, b_1, w_2, b_2: relu(_standardised(x @ w_1 + b_1, -1)) @ w_2 + b_2,
        "The leak is gone, but you standardise over the hidden units now, and that is another network.",
        "A norm has its own place in the block; the formula here has none: remove the step.",
    ),
    Mistake(
        "bug_centres_features",
        lambda x, w_1, b_1, w_2, b_2: relu(_centred(x @ w_1 + b_1, -1)) @ w_2 + b_2,
        "The leak is gone, but you subtract the mean over the hidden units now, and that is another network.",
        "The formula has no such step: remove it.",
    ),
    Mistake(
        "bug_on_output",
        lambda *inputs: _standardised(network(*inputs), 1),
        "You moved the bug to the output: it still looks across the tokens.",
        "Remove the step instead of moving it.",
    ),
    Mistake(
        "bug_on_input",
        lambda x, *weights: network(_standardised(x, 1), *weights),
        "You moved the bug to the input: it still looks across the tokens.",
        "Remove the step instead of moving it.",
    ),
    Mistake(
        "bug_after_relu",
        lambda x, w_1, b_1, w_2, b_2: _standardised(relu(x @ w_1 + b_1), 1) @ w_2 + b_2,
        "You moved the bug behind the ReLU: it still looks across the tokens.",
        "Remove the step instead of moving it.",
    ),
    Mistake(
        "bug_without_relu",
        lambda x, w_1, b_1, w_2, b_2: _standardised(x @ w_1 + b_1, 1) @ w_2 + b_2,
        "You removed the ReLU, and the bug is still there.",
        "Put the ReLU back; the leak is in the step before it.",
    ),
]


@check(*NAMES)
def check_feed_forward(attempt: Attempt) -> str:
    """Check the network of the paper: relu(x w_1 + b_1) w_2 + b_2.

    Source: `torch.nn.functional.linear`, and that changing a token changes no other.
    """
    return _examine(attempt, NETWORK_MISTAKES)


@check(*NAMES)
def check_find_the_bug(attempt: Attempt) -> str:
    """Check a mended network, in which a step used to look across the tokens.

    Source: `torch.nn.functional.linear`, and that changing a token changes no other.
    """
    try:
        return _examine(attempt, [*BUG_MISTAKES, *NETWORK_MISTAKES])
    except Finding as finding:
        if finding.mistake.startswith("bug_") and (leak := leaks_between_tokens(attempt, network_inputs(*SIZES[1]))):
            finding.message += f" {leak.message}"
            finding.comparison = leak.comparison
        raise


def _examine(attempt: Attempt, mistakes: list[Mistake]) -> str:
    inputs = [network_inputs(*sizes) for sizes in SIZES]
    agree(
        attempt,
        [*inputs, network_inputs(*SIZES[0], scale=LARGE)],
        network,
        mistakes,
        read=read_tensor,
        families=[is_random, leaks_between_tokens, leaks_between_samples, is_affine, is_never_negative],
        square=network_inputs(*SQUARE),
        rows="token",
    )
    if leak := leaks_between_tokens(attempt, inputs[1]):
        raise leak
    gradients_flow(attempt, inputs[0], network)
    return "right. It equals PyTorch's, a token that changes moves no other, and gradients reach every weight."


# ---- Families of mistakes --------------------------------------------------------------------------------------------


def leaks_between_tokens(attempt: Attempt, inputs: Inputs) -> Finding | None:
    """Change one token: no other may move.

    Raises: Finding if the function fails on these inputs.
    """
    return _moves_others(attempt, inputs, axis=1, one="token", others="tokens")


def leaks_between_samples(attempt: Attempt, inputs: Inputs) -> Finding | None:
    """Change one sentence of a batch: no other may move.

    Raises: Finding if the function fails on these inputs.
    """
    return _moves_others(attempt, inputs, axis=0, one="sample", others="samples")


def _moves_others(attempt: Attempt, inputs: Inputs, *, axis: int, one: str, others: str) -> Finding | None:
    x, *weights = inputs
    before = read_tensor(attempt(*inputs), x)
    for index in range(x.shape[axis]):
        changed = x.clone()
        changed.select(axis, index).add_(1.0)
        moves = (read_tensor(attempt(changed, *weights), x) - before).abs()
        moved = (moves.transpose(0, axis).flatten(1).amax(dim=1) > 1e-9).nonzero().flatten().tolist()
        if set(moved) <= {index}:
            continue
        still = moves.clone()
        still.transpose(0, axis)[[other for other in moved if other != index]] = 0
        return Finding(
            f"leaks_between_{others}",
            f"I changed {one} {index} and nothing else, and {others} {', '.join(map(str, moved))} moved: "
            "a feed-forward network works on each token alone.",
            "Look for an operation over that axis: a mean, a sum, a softmax, a norm, a reshape.",
            comparison=Comparison(f"how far each number moves when {one} {index} changes", still, moves, "token"),
        )
    return None


def is_random(attempt: Attempt, inputs: Inputs) -> Finding | None:
    """Call twice with the same inputs: the results must be the same.

    Raises: Finding if the function fails on these inputs.
    """
    x = inputs[0]
    first, second = (read_tensor(attempt(*inputs), x) for _ in range(2))
    if torch.allclose(first, second, rtol=0, atol=0, equal_nan=True):
        return None
    return Finding(
        "random",
        "Two calls with the same inputs give different results.",
        "Leave out dropout and everything else that draws random numbers, or that remembers the last call.",
    )


def is_affine(attempt: Attempt, inputs: Inputs) -> Finding | None:
    """Walk along a straight line through the inputs: a network with a bend does not follow.

    Raises: Finding if the function fails on these inputs.
    """
    x, *weights = inputs
    low, middle, high = (read_tensor(attempt(step * x, *weights), x) for step in (-3.0, 0.0, 3.0))
    if (low + high - 2 * middle).abs().max() > 1e-9 * (1 + high.abs().max()):
        return None
    return Finding(
        "affine",
        "Your function is linear in x: nothing in it bends.",
        "Put the ReLU around the hidden layer, x @ w_1 + b_1.",
    )


def is_never_negative(attempt: Attempt, inputs: Inputs) -> Finding | None:
    """Look at many outputs: about half of them should be negative.

    Raises: Finding if the function fails on these inputs.
    """
    many = network_inputs(2, 16, 3, 5)
    if (read_tensor(attempt(*many), many[0]) < 0).any():
        return None
    return Finding(
        "never_negative",
        "Your output is never negative, so the residual stream it is added to can only grow.",
        "Nothing bends or cuts after the second matrix.",
    )
