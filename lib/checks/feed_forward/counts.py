"""What does the network cost? The exercises `parameters` and `flops`.

What the numbers should be is counted: parameters by `numel`, FLOPs as PyTorch's counter counts each matrix product.
"""

from __future__ import annotations

import torch
from torch import nn
from torch.utils.flop_counter import FlopCounterMode, mm_flop

from ..verdict import Attempt, Finding, agree, check, known, read_number

# ---- Parameters ------------------------------------------------------------------------------------------------------


def parameters(d_model: int, d_ff: int, seq_len: int) -> int:
    """Count the numbers in PyTorch's two linear layers; they cannot know how long a sequence will be.

    Source: `torch.nn.Linear`.
    """
    layers = nn.Linear(d_model, d_ff, device="meta"), nn.Linear(d_ff, d_model, device="meta")
    return sum(parameter.numel() for layer in layers for parameter in layer.parameters())


PARAMETER_SIZES = [(2, 3, 4), (3, 5, 7), (8, 32, 6), (512, 2048, 8), (512, 2048, 500)]
EVERY = "The same weights work on every token"
PARAMETER_MISTAKES = known(
    ("times_seq_len", lambda d, f, n: n * (2 * d * f + f + d),
     f"You multiply by seq_len. {EVERY}, so their number does not depend on how many there are.",
     "Leave seq_len out."),
    ("weights_times_seq_len", lambda d, f, n: 2 * n * d * f + f + d,
     f"You multiply the matrices by seq_len. {EVERY}: they are there once.",
     "Leave seq_len out."),
    ("no_biases", lambda d, f, n: 2 * d * f,
     "You forgot the biases: your count is short by d_ff + d_model.",
     "Each matrix has a bias as wide as its output."),
    ("one_matrix", lambda d, f, n: d * f,
     "That is one of the two matrices, without its bias.",
     "w_1 is (d_model, d_ff), w_2 is (d_ff, d_model), and each has a bias."),
    ("first_layer_only", lambda d, f, n: d * f + f,
     "That is the first layer, w_1 and b_1.",
     "Add the second: w_2 and b_2."),
    ("second_layer_only", lambda d, f, n: d * f + d,
     "That is the second layer, w_2 and b_2.",
     "Add the first: w_1 and b_1."),
    ("one_matrix_both_biases", lambda d, f, n: d * f + f + d,
     "You count both biases, but only one of the two matrices.",
     "w_1 and w_2 are separate, and of the same size."),
    ("no_b_2", lambda d, f, n: 2 * d * f + f,
     "You forgot b_2: your count is short by d_model.",
     "The second bias is as wide as the output."),
    ("no_b_1", lambda d, f, n: 2 * d * f + d,
     "You forgot b_1: your count is short by d_ff.",
     "The first bias has one number for each hidden unit."),
    ("two_wide_biases", lambda d, f, n: 2 * d * f + 2 * f,
     "You give both layers a bias of width d_ff.",
     "b_2 is added to the output, which is d_model wide."),
    ("two_narrow_biases", lambda d, f, n: 2 * d * f + 2 * d,
     "You give both layers a bias of width d_model.",
     "b_1 is added to the hidden layer, which is d_ff wide."),
    ("three_matrices", lambda d, f, n: 3 * d * f,
     "You count three matrices: that is the gated network.",
     "This one has two, and two biases."),
    ("activations_counted", lambda d, f, n: 2 * d * f + f + d + n * f,
     "You count the hidden activations among the parameters.",
     "Parameters are what is learned; activations are computed anew for every input."),
    ("seq_len_added", lambda d, f, n: 2 * d * f + f + d + n,
     f"You add seq_len. {EVERY}; a position has none of its own here.",
     "Leave seq_len out."),
    ("square_matrices", lambda d, f, n: 2 * d * d + 2 * d,
     "You count two square matrices; d_ff is missing.",
     "w_1 is (d_model, d_ff), w_2 is (d_ff, d_model)."),
    ("biases_doubled", lambda d, f, n: 2 * d * f + 2 * (f + d),
     "You count each bias twice.",
     "b_1 has d_ff numbers, b_2 has d_model."),
    ("biases_alone", lambda d, f, n: f + d,
     "Those are the biases alone.",
     "Add the two matrices."),
    ("doubled", lambda d, f, n: 2 * (2 * d * f + f + d),
     "That is twice the right number.",
     "There are two matrices of d_model * d_ff numbers: count each once."),
)  # fmt: skip


@check("d_model", "d_ff", "seq_len")
def check_parameters(attempt: Attempt) -> str:
    """Check the number of parameters: 2 d_model d_ff + d_ff + d_model, whatever seq_len is.

    Source: the `numel` of `torch.nn.Linear`.
    """
    families = [depends_on_length]
    agree(attempt, PARAMETER_SIZES, parameters, PARAMETER_MISTAKES, read=read_number, families=families)
    return "right. It is as many as PyTorch's two layers have, for 8 tokens and for 500."


def depends_on_length(attempt: Attempt, sizes: tuple[int, ...]) -> Finding | None:
    """Lengthen the sequence: no parameter may come of it.

    Raises: Finding if the function fails.
    """
    d_model, d_ff, seq_len = sizes
    short, long = (read_number(attempt(d_model, d_ff, length), 0) for length in (seq_len, 2 * seq_len))
    if short == long:
        return None
    return Finding(
        "depends_on_length",
        f"Your count is {short} for {seq_len} tokens and {long} for {2 * seq_len}. {EVERY}, so it must not change.",
        "Leave seq_len out.",
    )


# ---- FLOPs -----------------------------------------------------------------------------------------------------------


def counted(*shapes: tuple[tuple[int, ...], tuple[int, ...]]) -> int:
    """Add up the FLOPs of matrix products, each as PyTorch's counter counts it.

    The counter itself would watch real products, and loads 800 modules for it: the first check would take seconds. That
    it finds the same is tested.
    """
    return sum(mm_flop(left, right) for left, right in shapes)


def load_the_counter(attempt: Attempt) -> None:
    """Let PyTorch's counter load its modules before the time runs, where the reader counts with it too."""
    if attempt.mentions("flop"):
        with FlopCounterMode(display=False):
            torch.ones(1, 1) @ torch.ones(1, 1)


def flops(seq_len: int, d_model: int, d_ff: int) -> int:
    """Count the FLOPs of the two matrix products.

    Source: `torch.utils.flop_counter.mm_flop`.
    """
    return counted(((seq_len, d_model), (d_model, d_ff)), ((seq_len, d_ff), (d_ff, d_model)))


FLOP_SIZES = [(2, 3, 5), (7, 2, 3), (5, 8, 32), (100, 512, 2048)]
FLOP_MISTAKES = known(
    ("macs", lambda n, d, f: 2 * n * d * f,
     "That is half: one of the two matrix products, or multiply-adds counted as one operation instead of two.",
     "An (n, a) times (a, b) product takes n*a*b products and as many sums."),
    ("one_matmul_macs", lambda n, d, f: n * d * f,
     "That is a quarter: the multiply-adds of one matrix product.",
     "There are two products, and each multiply-add is two FLOPs."),
    ("square", lambda n, d, f: 8 * n * d * d,
     "d_ff is missing: 8 n d_model² is right for d_ff = 2 d_model only.",
     "Both products have d_ff on one side."),
    ("four_times_width", lambda n, d, f: 16 * n * d * d,
     "d_ff is missing: 16 n d_model² is right for d_ff = 4 d_model only.",
     "Both products have d_ff on one side."),
    ("attention_mixing", lambda n, d, f: 4 * n * n * d,
     "That grows with the square of the length: it is what attention spends on scores and their weighted sum.",
     "Here each token works alone, so the cost is proportional to seq_len."),
    ("attention", lambda n, d, f: 8 * n * d * d + 4 * n * n * d,
     "That is attention: its four projections, the scores and the weighted sum.",
     "The feed-forward network has two products, with w_1 and with w_2."),
    ("squared_length", lambda n, d, f: 4 * n * n * d * f,
     "You count seq_len twice; only attention has such a term.",
     "Each token passes the two matrices once."),
    ("biases_counted", lambda n, d, f: 4 * n * d * f + n * f + n * d,
     "You count the sums with the biases; here only matrix products count, as in PyTorch's counter.",
     "Leave out n*d_ff + n*d_model."),
    ("relu_counted", lambda n, d, f: 4 * n * d * f + n * f,
     "You count one operation for each hidden activation; here only matrix products count.",
     "Leave out n*d_ff."),
    ("everything_counted", lambda n, d, f: 4 * n * d * f + 2 * n * f + n * d,
     "You count biases and ReLU as well; here only matrix products count.",
     "Leave out what is proportional to one width only."),
    ("one_token", lambda n, d, f: 4 * d * f,
     "That is one token.",
     "Multiply by seq_len: every token passes both matrices."),
    ("parameters_counted", lambda n, d, f: 2 * d * f + f + d,
     "That is the number of parameters.",
     "Each weight makes one multiply-add for each token."),
    ("two_per_parameter", lambda n, d, f: 2 * n * (2 * d * f + f + d),
     "You count two FLOPs for each parameter and token, biases included; a bias has no product.",
     "Count the two matrices only."),
    ("one_sum_less", lambda n, d, f: n * f * (2 * d - 1) + n * d * (2 * f - 1),
     "You count one sum less than products in each entry, which is exact; the convention counts as many.",
     "Two FLOPs for each multiply-add, as PyTorch's counter does."),
    ("training", lambda n, d, f: 12 * n * d * f,
     "That is a training step: the backward pass costs twice the forward one.",
     "Count the forward pass alone."),
    ("gated", lambda n, d, f: 6 * n * d * f,
     "You count three matrix products: that is the gated network, or the forward pass once and a half.",
     "This network has two."),
    ("doubled", lambda n, d, f: 8 * n * d * f,
     "That is twice the right number.",
     "Two products, two FLOPs for each multiply-add: 2 * 2."),
)  # fmt: skip


@check("seq_len", "d_model", "d_ff")
def check_flops(attempt: Attempt) -> str:
    """Check the FLOPs of the two matrix products: 4 seq_len d_model d_ff.

    Source: `torch.utils.flop_counter.mm_flop`.
    """
    load_the_counter(attempt)
    agree(attempt, FLOP_SIZES, flops, FLOP_MISTAKES, read=read_number, families=[is_not_proportional])
    return "right. It is what PyTorch's counter finds, and twice as many for twice the tokens."


def is_not_proportional(attempt: Attempt, sizes: tuple[int, ...]) -> Finding | None:
    """Double one size after the other: the FLOPs must double each time.

    Raises: Finding if the function fails.
    """
    once = read_number(attempt(*sizes), 0)
    for index, name in enumerate(attempt.parameters):
        twice = read_number(attempt(*(size * (1 + (at == index)) for at, size in enumerate(sizes))), 0)
        if twice != 2 * once:
            return Finding(
                f"not_proportional_to_{name}",
                f"With twice the {name}, your count goes from {once} to {twice}; it should double.",
                "Each of the three sizes is a factor of both products, once.",
            )
    return None
