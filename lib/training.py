"""How does a network learn? One loop for every training run of the book.

Name: `train`.
"""

from __future__ import annotations

import math
import os
import sys
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager

import torch
from torch import Tensor, nn


def train(
    model: nn.Module,
    loss_fn: Callable[..., Tensor],
    batches: Iterable[tuple],
    *,
    lr: float,
    optimizer: Callable[..., torch.optim.Optimizer] = torch.optim.AdamW,
    schedule: Callable[[int], float] | None = None,
    clip: float | None = None,
    progress: bool = True,
) -> list[float]:
    """Take one optimiser step for each batch, and return the loss of every step, measured before the step.

    The model is in training mode meanwhile, and each of its submodules is back in its own mode afterwards.

    Args: loss_fn: called as loss_fn(model, *batch), returns one number. batches: tuples, already on the model's device;
        a generator will do. optimizer: called as optimizer(parameters, lr=lr). schedule: the factor of the learning
        rate at step 0, 1, 2 and so on. clip: the largest norm that the gradient of all parameters together may have.
        progress: show a bar where somebody watches; stored notebooks and log files stay free of it.
    Raises: ValueError if there is no batch, or a loss is not one number, or not finite; the model then is as the last
        good step left it.
    """
    steps = optimizer(model.parameters(), lr=lr)
    rates = [group["lr"] for group in steps.param_groups]
    losses: list[float] = []
    with _training_mode(model):
        for batch in _shown(batches, progress):
            for group, rate in zip(steps.param_groups, rates, strict=True):
                group["lr"] = rate * (schedule(len(losses)) if schedule else 1)
            loss = loss_fn(model, *batch)
            losses.append(_number(loss, losses))
            steps.zero_grad()
            loss.backward()
            if clip is not None:
                nn.utils.clip_grad_norm_(model.parameters(), clip)
            steps.step()
    if not losses:
        raise ValueError("training takes 1 batch or more, but got 0; a generator that was used up has none left")
    return losses


def _number(loss: object, losses: list[float]) -> float:
    """Return the loss as a number, or say at which step it is none."""
    if not isinstance(loss, Tensor) or loss.numel() != 1:
        arrived = f"the shape {tuple(loss.shape)}" if isinstance(loss, Tensor) else repr(loss)
        raise ValueError(
            f"loss_fn must return a tensor with 1 number, but at step {len(losses)} it returned {arrived}; "
            "end it with a mean, or with the functions of torch.nn.functional, which take one"
        )
    number = loss.item()
    if not math.isfinite(number):
        before = f"after {losses[-1]:.4g} at the step before" if losses else "at the very first step"
        raise ValueError(
            f"a loss must be finite to learn from, but at step {len(losses)} it is {number}, {before}; "
            "lower lr, set clip=1.0, or look for a logarithm of 0 or a division by 0 in loss_fn"
        )
    return number


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
