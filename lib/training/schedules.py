"""How large is a step? Factors of the learning rate, as functions of the step, for `train(..., schedule=...)`."""

from __future__ import annotations

import math
from collections.abc import Callable

Schedule = Callable[[int], float]


def warmup_schedule(n_warmup: int) -> Schedule:
    """Rise in equal parts to the full learning rate, and stay there.

    factor(step) = min(1, (step + 1) / n_warmup)

    The first steps are the ones that Adam knows least about, and a small rate keeps them short. Step 0 already moves.

    Raises: ValueError if n_warmup is below 1.
    Source: Goyal et al. 2017, "Accurate, Large Minibatch SGD", section 2.2.
    """
    _check_warmup(n_warmup)
    return lambda step: min(1.0, (step + 1) / n_warmup)


def cosine_schedule(n_steps: int, *, n_warmup: int = 0, floor: float = 0.0) -> Schedule:
    """Rise in equal parts to the full learning rate, then fall along half a cosine to the floor.

    factor(step) = (step + 1) / n_warmup                                     while step < n_warmup
                   floor + (1 - floor) (1 + cos(pi * done)) / 2              then
    done = (step - n_warmup) / (n_steps - n_warmup), at most 1, so that the floor itself comes only after n_steps.

    Raises: ValueError if n_warmup is not within 0 to n_steps - 1, or floor not within 0 to 1.
    Source: Loshchilov and Hutter 2017, "SGDR", equation 5, without restarts.
    """
    if not 0 <= n_warmup < n_steps:
        raise ValueError(
            f"warm-up takes 0 or more steps and leaves at least 1 to fall, but got n_warmup={n_warmup} of "
            f"n_steps={n_steps}; 5 to 10 % of the steps are usual"
        )
    if not 0 <= floor <= 1:
        raise ValueError(
            f"floor is a share of the full learning rate from 0 to 1, but got {floor}; divide a rate by lr to get one"
        )

    def factor(step: int) -> float:
        if step < n_warmup:
            return (step + 1) / n_warmup
        done = min(1.0, (step - n_warmup) / (n_steps - n_warmup))
        return floor + (1 - floor) * (1 + math.cos(math.pi * done)) / 2

    return factor


def inverse_sqrt_schedule(n_warmup: int) -> Schedule:
    """Rise in equal parts to the full learning rate, then fall with the square root of the step.

    factor(step) = min((step + 1) / n_warmup, sqrt(n_warmup / (step + 1)))

    It needs no number of steps in advance.

    Raises: ValueError if n_warmup is below 1.
    Source: Vaswani et al. 2017, section 5.3, equation 3, divided by its largest value: the paper's learning rates are
        lr = d_model ** -0.5 * n_warmup ** -0.5 with n_warmup = 4000.
    """
    _check_warmup(n_warmup)
    return lambda step: min((step + 1) / n_warmup, math.sqrt(n_warmup / (step + 1)))


def _check_warmup(n_warmup: int) -> None:
    if n_warmup < 1:
        raise ValueError(f"warm-up takes 1 or more steps, but got n_warmup={n_warmup}; 1 is no warm-up at all")
