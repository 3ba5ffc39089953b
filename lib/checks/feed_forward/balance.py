"""Where do two costs balance? The exercises `crossover` and `matched_width`.

Where they do is found by counting FLOPs as PyTorch's counter does, and weights by `numel`, and never by solving for it.
"""

from __future__ import annotations

import math
from functools import cache

from torch import Tensor, nn

from ..verdict import Attempt, Finding, agree, check, known, read_number, read_whole_number
from .counts import counted, flops, load_the_counter

# ---- Crossover -------------------------------------------------------------------------------------------------------


def attention_flops(seq_len: int, d_model: int) -> int:
    """Count the FLOPs of attention: four projections, the scores, and the weighted sum.

    Source: `torch.utils.flop_counter.mm_flop`.
    """
    tokens, projection = (seq_len, d_model), (d_model, d_model)
    mixing = (tokens, (d_model, seq_len)), ((seq_len, seq_len), tokens)
    return counted(*[(tokens, projection)] * 4, *mixing)


@cache
def crossover(d_model: int, d_ff: int) -> int:
    """Search for the first length at which the counted FLOPs of attention reach the network's.

    It is 0 where attention costs more at a length of 1 already. Where the two cost the same there, it is 1.

    Source: `torch.utils.flop_counter.mm_flop`.
    """
    if attention_flops(1, d_model) > flops(1, d_model, d_ff):
        return 0
    low, high = 0, d_ff  # at the length d_ff, the scores and the sum alone cost what the network does
    while high - low > 1:
        middle = (low + high) // 2
        if attention_flops(middle, d_model) >= flops(middle, d_model, d_ff):
            high = middle
        else:
            low = middle
    return high


# Among them d_ff = 2 d_model, where the answer is the last 0, and d_ff = 2 d_model + 1, where it is 1.
EDGES = [(6, 12), (5, 11)]
CROSSOVER_SIZES = [(2, 8), (2, 20), (3, 16), (5, 14), (4, 6), (7, 12), (3, 8), *EDGES, (9, 5), (64, 256), (512, 2048)]
HALF = "Set 8 n d_model² + 4 n² d_model equal to 4 n d_model d_ff, and divide by 4 n d_model."
CROSSOVER_MISTAKES = known(
    ("mixing_alone", lambda d, f: f,
     "That is where the n² term alone reaches the network; attention has its four projections besides.",
     HALF),
    ("twice_d_model", lambda d, f: 2 * d,
     "That is right for d_ff = 4 d_model only: the answer must depend on d_ff.",
     HALF),
    ("four_times_d_model", lambda d, f: 4 * d,
     "That is where the n² term alone reaches a network with d_ff = 4 d_model.",
     HALF),
    ("negative", lambda d, f: f - 2 * d,
     "No sequence has a negative length: for d_ff below 2 d_model, attention always costs more.",
     "Return 0 there: max(0, ...)."),
    ("at_least_one", lambda d, f: max(1, f - 2 * d),
     "Where attention costs more even at a length of 1, the task wants 0.",
     "The other number in max is 0."),
    ("always_none", lambda d, f: 0,
     "You always return 0; a search that starts at 0 ends there, since both cost nothing at that length.",
     HALF),
    ("more_than_as_much", lambda d, f: max(1, f - 2 * d + 1),
     "You look for where attention costs more, and the task for where it costs at least as much.",
     "Use >= instead of >, and return 0 where d_ff is at most 2 d_model."),
    ("one_is_none", lambda d, f: 0 if f - 2 * d <= 1 else f - 2 * d,
     "You return 0 where the answer is 1: for d_ff = 2 d_model + 1, the two cost the same at a length of 1.",
     "Return 0 only where d_ff - 2 d_model is 0 or less."),
    ("absolute", lambda d, f: abs(f - 2 * d),
     "You drop the sign: for d_ff below 2 d_model, attention always costs more.",
     "Return 0 there: max(0, ...)."),
    ("two_projections", lambda d, f: max(0, f - d),
     "You count two projections, or half of their FLOPs: 4 n d_model² instead of 8.",
     HALF),
    ("three_projections", lambda d, f: max(0, f - 1.5 * d),
     "You count three projections; attention has a fourth, for its output.",
     HALF),
    ("eight_kept", lambda d, f: max(0, f - 8 * d),
     "You divide one side by 4 only: 8 d_model² becomes 2 d_model, and not 8 d_model.",
     HALF),
    ("four_instead_of_two", lambda d, f: max(0, f - 4 * d),
     "You subtract 4 d_model: 8 divided by 4 is 2.",
     HALF),
    ("scores_only", lambda d, f: max(0, 2 * f - 4 * d),
     "That is twice the length: you count the scores, but not the weighted sum of the values.",
     "Both take 2 n² d_model FLOPs, 4 n² d_model together."),
    ("macs_of_the_network", lambda d, f: max(0, f / 2 - 2 * d),
     "You take half the FLOPs of the network: multiply-adds on one side, FLOPs on the other.",
     HALF),
    ("twice_the_network", lambda d, f: max(0, 2 * f - 2 * d),
     "You take twice the FLOPs of the network.",
     HALF),
    ("sign", lambda d, f: f + 2 * d,
     "The projections make attention dearer, so it overtakes earlier: subtract them.",
     HALF),
    ("one_too_many", lambda d, f: max(0, f - 2 * d + 1),
     "That is one token too many: the task asks from where on attention costs at least as much.",
     "At n = d_ff - 2 d_model the two are equal."),
    ("one_too_few", lambda d, f: max(0, f - 2 * d - 1),
     "That is one token too few: there the network still costs more.",
     HALF),
    ("ratio", lambda d, f: f / d,
     "That is the ratio of the two widths, and no length.",
     HALF),
    *(("half", half,
       "That is half the length.",
       "The n² term is 4 n² d_model: scores and weighted sum, two FLOPs for each multiply-add.")
      for half in (lambda d, f: max(0, (f - 2 * d) / 2), lambda d, f: max(0, (f - 2 * d) // 2))),
)  # fmt: skip


@check("d_model", "d_ff")
def check_crossover(attempt: Attempt) -> str:
    """Check the length from which attention costs at least as much: max(0, d_ff - 2 d_model).

    Source: `torch.utils.flop_counter.mm_flop`, by search.
    """
    load_the_counter(attempt)
    agree(attempt, CROSSOVER_SIZES, crossover, CROSSOVER_MISTAKES, read=read_length, families=[counts_narrow_ones])
    return "right. It is the length that counting and searching find, and 0 where attention always costs more."


def read_length(result: object, expected: float) -> float:
    """Take a number; where there is no such length, 0 is asked for, and nothing else that could say so.

    Raises: Finding if it is something else.
    """
    try:
        return read_number(result, expected)
    except Finding as finding:
        what = result.item() if isinstance(result, Tensor) and result.numel() == 1 and not result.is_meta else result
        if expected == 0 and (what is None or (isinstance(what, float) and not math.isfinite(what))):
            finding.mistake = "no_length"
            finding.message = f"You return {what} where attention always costs more; the task wants 0 there."
            finding.hint = "Where attention always costs more, return 0."
        raise


def counts_narrow_ones(attempt: Attempt, sizes: tuple[int, ...]) -> Finding | None:
    """Try a wide network, and one so narrow that attention always costs more.

    Raises: Finding if the function fails.
    """
    wide, narrow = (read_number(attempt(*sizes), 0) for sizes in ((3, 16), (9, 5)))
    if wide != crossover(3, 16) or narrow == 0:
        return None
    return Finding(
        "narrow_ones",
        f"For d_ff below 2 d_model attention always costs more, so the answer is 0, and yours is {narrow:g}.",
        "Return 0 there: max(0, ...).",
    )


# ---- Matched width ---------------------------------------------------------------------------------------------------


def _weights(*matrices: tuple[int, int]) -> int:
    return sum(nn.Linear(*matrix, bias=False, device="meta").weight.numel() for matrix in matrices)


def matched_width(d_model: int, d_ff: int) -> int:
    """Ask how many hidden units of a gated network have the weights of a plain one, to the nearest whole number.

    Two thirds of a whole number never lie halfway between two, so there is always one nearest.

    Source: the `numel` of `torch.nn.Linear`.
    """
    plain = _weights((d_model, d_ff), (d_ff, d_model))
    return round(plain / _weights((d_model, 1), (d_model, 1), (1, d_model)))


MULTIPLES = (2, 4, 8, 16, 32, 64, 128, 256)
# Two thirds of d_ff are whole, or just above a whole number, or just below one: rounding up and down both show.
WIDTH_SIZES = [(5, 12), (4, 20), (3, 52), (64, 256), (512, 2048)]
THREE = "Solve 3 d_model width = 2 d_model d_ff."
NEAREST = "Round to the nearest whole number: round(...)."
WIDTH_MISTAKES = known(
    ("rounded_up", lambda d, f: -(-2 * f // 3),
     "You rounded up: with a third of a unit left over, the whole number below is nearer.",
     NEAREST),
    ("rounded_down", lambda d, f: 2 * f // 3,
     "You rounded down: with two thirds of a unit left over, the whole number above is nearer.",
     NEAREST),
    ("unchanged", lambda d, f: f,
     "Three matrices of the same width have 1.5 times the weights, so the comparison is unfair.",
     THREE),
    ("half", lambda d, f: f / 2,
     "Half the width is too narrow: there are three matrices instead of two, and not four.",
     THREE),
    ("three_quarters", lambda d, f: 3 * f / 4,
     "Three quarters is too wide.",
     THREE),
    ("one_third", lambda d, f: f / 3,
     "A third is the share of one matrix of three; two thirds is wanted, since the plain network has two.",
     THREE),
    ("upside_down", lambda d, f: 3 * f / 2,
     "You have the ratio upside down: with a matrix more, each must be narrower.",
     THREE),
    ("d_model_kept", lambda d, f: 2 * d * f / 3,
     "d_model stands on both sides and cancels; you kept it on one.",
     THREE),
    ("d_model_divided", lambda d, f: 2 * f / (3 * d),
     "d_model stands on both sides and cancels; you divide by it.",
     THREE),
    ("total", lambda d, f: 2 * d * f,
     "That is the number of weights of the plain network.",
     "Divide it by the weights that each gated hidden unit has: 3 d_model."),
    ("of_d_model", lambda d, f: 2 * d / 3,
     "You take two thirds of d_model; the width to match is d_ff.",
     THREE),
    ("for_four_times", lambda d, f: 8 * d / 3,
     "8/3 d_model is right for d_ff = 4 d_model only; d_ff must appear.",
     THREE),
    ("widths_subtracted", lambda d, f: f - d,
     "You subtract the widths, but weights are products of them.",
     THREE),
    ("biases_counted", lambda d, f: (2 * d * f + f + d) / (3 * d),
     "You count the biases of the plain network; here neither has any.",
     THREE),
    *((f"multiple_of_{m}", lambda d, f, m=m: -(-2 * f // (3 * m)) * m,
       f"You round up to a multiple of {m}. Hardware likes that, but here the weights should match.",
       NEAREST) for m in MULTIPLES),
    *((f"multiple_below_{m}", lambda d, f, m=m: 2 * f // (3 * m) * m,
       f"You round down to a multiple of {m}. Hardware likes that, but here the weights should match.",
       NEAREST) for m in MULTIPLES),
    *((f"nearest_multiple_of_{m}", lambda d, f, m=m: round(2 * f / (3 * m)) * m,
       f"You round to the nearest multiple of {m}. Hardware likes that, but here the weights should match.",
       NEAREST) for m in MULTIPLES),
)  # fmt: skip


@check("d_model", "d_ff")
def check_matched_width(attempt: Attempt) -> str:
    """Check the gated width that has the weights of a plain network, to the nearest whole number.

    Source: the `numel` of `torch.nn.Linear`.
    """
    agree(attempt, WIDTH_SIZES, matched_width, WIDTH_MISTAKES, read=read_whole_number, accept=_rounded_alike)
    return "right. The gated network and the plain one differ by less than one hidden unit."


def _rounded_alike(width: object, received: object) -> bool:
    """Compare with a width: a whole one exactly, one that a mistake leaves unrounded with what rounding makes of it."""
    if not (isinstance(width, int | float) and isinstance(received, int | float)):
        return False
    return width == received if isinstance(width, int) else abs(received - width) < 1
