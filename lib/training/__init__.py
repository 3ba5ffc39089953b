"""How does a network learn? One loop for every training run of the book, and what it takes to teach sequences.

Names, in reading order: `shift_right`, `sequence_loss`; `warmup_schedule`, `cosine_schedule`, `inverse_sqrt_schedule`;
`train`. The rest of the package: `checkpoints` (the file), `runs` (stopping and going on), `processes` (torchrun).
"""

from __future__ import annotations

import math
import os
import sys
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path

import torch
from torch import Tensor, nn

from .checkpoints import device_of
from .processes import form_team
from .runs import KeptRun
from .schedules import cosine_schedule, inverse_sqrt_schedule, warmup_schedule
from .sequences import sequence_loss, shift_right

__all__ = [
    "cosine_schedule",
    "inverse_sqrt_schedule",
    "sequence_loss",
    "shift_right",
    "train",
    "warmup_schedule",
]

_FUSED_ADAMW = partial(torch.optim.AdamW, fused=True)  # AdamW in one call for all parameters


def train(
    model: nn.Module,
    loss_fn: Callable[..., Tensor],
    batches: Iterable[tuple],
    *,
    lr: float,
    optimizer: Callable[..., torch.optim.Optimizer] = _FUSED_ADAMW,
    schedule: Callable[[int], float] | None = None,
    clip: float | None = None,
    progress: bool = True,
    checkpoint: str | os.PathLike[str] | None = None,
    checkpoint_every: int = 500,
) -> list[float]:
    """Take one optimiser step for each batch, and return the loss of every step, measured before the step.

    The model is in training mode meanwhile, and each of its submodules is back in its own mode afterwards.

    With a checkpoint file, a run that stopped goes on where the file says, and ends with the same model and the same
    losses, bit for bit, as if it had never stopped. Call it again as before, with all batches of the run, made anew
    from the same seed: those that were trained on already are passed over, and the last of them is compared. A run that
    is complete only loads its result.

    A script that calls this runs unchanged under torchrun: each process takes its share of the rows of every batch,
    and with DistributedDataParallel the losses and steps are those of one process, up to rounding, for a loss that
    is a mean over rows, or one `sequence_loss`. (Three or more add their gradients up in another order in the first
    step after a start, so that a run that stopped goes on as it would have up to rounding only.) Then loss_fn must
    use the model by calling it, every trainable parameter must have a part in the loss, every process must make the
    same batches, and see the same checkpoint file. What mixes rows does so within one process only: BatchNorm's
    statistics are those of its own share, and the checkpoint keeps the first process's; dropout draws its own
    numbers in each. A model that is in DistributedDataParallel already gets from every process its own batches,
    undivided.

    Args: loss_fn: called as loss_fn(model, *batch), returns one number. batches: tuples, already on the model's device;
        a generator will do. optimizer: called as optimizer(parameters, lr=lr); AdamW in one call for all parameters if
        it is left out. schedule: the factor of the learning rate at step 0, 1, 2 and so on. clip: the largest norm
        that the gradient of all parameters together may have;
        with it a gradient that is not finite is refused (math.inf does only that), without it such a gradient makes the
        weights NaN, which the next loss shows.
        progress: show a bar where somebody watches; stored notebooks and log files stay free of it. checkpoint: a file
        to keep the run in. checkpoint_every: after so many steps it is written, and after the last.
    Raises: ValueError if clip is not above 0, there is no batch, a loss is not one number, or not finite, or with clip
        a gradient is not; the model then is as the last good step left it. Also if the checkpoint is damaged or belongs
        to another model, optimiser or batches; then the file stays as it is. Under torchrun, if a trainable parameter
        has no part in the loss.
    Source: the loop of PyTorch's own tutorials: zero_grad, backward, `clip_grad_norm_`, step; the schedule as in
        `torch.optim.lr_scheduler.LambdaLR`.
    """
    if clip is not None and not clip > 0:
        raise ValueError(
            f"a gradient is made no longer than clip, which is above 0, but got clip={clip}; 1.0 is usual, and None "
            "leaves gradients as they are"
        )
    device = device_of(model)
    team = form_team(model, device)
    steps = optimizer(team.plain.parameters(), lr=float(lr))
    rates = [float(group["lr"]) for group in steps.param_groups]  # float: a checkpoint keeps no numbers of NumPy's
    losses: list[float] = []
    batches = _shown(batches, progress and team.rank == 0)
    if checkpoint is not None:
        batches = KeptRun(Path(checkpoint), checkpoint_every, team, steps, losses, device).remaining(batches)
    done = len(losses)
    with _training_mode(team.model):
        for batch in batches:
            for group, rate in zip(steps.param_groups, rates, strict=True):
                group["lr"] = rate * float(schedule(len(losses)) if schedule else 1)
            loss, number = team.loss(loss_fn, batch, len(losses))
            losses.append(_finite(number, losses))
            steps.zero_grad()
            loss.backward()
            if len(losses) == done + 1:  # at the first step that is taken here
                team.check_gradients()
            if clip is not None:
                _finite_norm(nn.utils.clip_grad_norm_(team.plain.parameters(), clip).item(), losses)
            steps.step()
    if not losses:
        raise ValueError("training takes 1 batch or more, but got 0; a generator that was used up has none left")
    return losses


def _finite(number: float, losses: list[float]) -> float:
    """Return the loss, or say at which step it is not finite."""
    if not math.isfinite(number):
        before = f"after {losses[-1]:.4g} at the step before" if losses else "at the very first step"
        raise ValueError(
            f"a loss must be finite to learn from, but at step {len(losses)} it is {number}, {before}; "
            "lower lr, set clip=1.0, or look for a logarithm of 0 or a division by 0 in loss_fn"
        )
    return number


def _finite_norm(norm: float, losses: list[float]) -> None:
    if not math.isfinite(norm):
        raise ValueError(
            f"a gradient must be finite to step along it, but at step {len(losses) - 1}, where the loss is "
            f"{losses[-1]:.4g}, its norm is {norm}; look in the model and in loss_fn for the root, the norm or the "
            "logarithm of 0, or for a torch.where that hides such a number"
        )


@contextmanager
def _training_mode(model: nn.Module) -> Iterator[None]:
    modes = {module: module.training for module in model.modules()}
    model.train()
    try:
        yield
    finally:
        for module, mode in modes.items():
            module.training = mode


def _shown(batches: Iterable[tuple], progress: bool) -> Iterator[tuple]:
    """Show a bar to whoever watches a terminal, or a notebook that is not being executed to be stored."""
    watched = os.environ.get("EXPLORE_MODE") != "static" and (sys.stderr.isatty() or "ipykernel" in sys.modules)
    if progress and watched:
        from tqdm.auto import tqdm  # here, since in a notebook it loads ipywidgets

        batches = tqdm(batches, unit="step")
    yield from batches
