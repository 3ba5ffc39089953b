"""How do several processes train one model? Each on its share of every batch, in the steps that one process takes."""

from __future__ import annotations

import atexit
import os
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, distributed, nn
from torch.nn.parallel import DistributedDataParallel

from .sequences import counted_tokens


@dataclass(frozen=True)
class Team:
    """The processes that train together, as one of them sees it; who trains alone is a team of one.

    model is what loss_fn gets; plain is the model without DistributedDataParallel around it, whose parameters the
    optimiser moves and a checkpoint keeps. A team that divides is given whole batches, the same in every process.
    """

    model: nn.Module
    plain: nn.Module
    rank: int = 0
    size: int = 1
    group: Any = None
    divides: bool = False

    def loss(self, loss_fn: Callable[..., Any], batch: tuple, step: int) -> tuple[Tensor, float]:
        """Return the loss to take the gradient of, and the number that the whole batch's loss is.

        DistributedDataParallel takes the mean of the processes' gradients. This is the gradient of the whole batch's
        mean only if each process's loss counts by how many tokens, or else rows, it is the mean of.

        Shape: () and a number.
        Raises: ValueError if the loss is not one number, or the batch cannot be divided.
        """
        if self.size == 1:
            loss = _one_number(loss_fn(self.model, *batch), step)
            return loss, loss.item()
        share, rows = self._share(batch)
        with counted_tokens() as counts:
            loss = _one_number(loss_fn(self.model, *share), step)
        exact = torch.promote_types(loss.dtype, torch.float32)  # bfloat16 cannot even count to 300
        weight = torch.tensor(sum(map(int, counts)) if counts and rows else rows, dtype=exact, device=loss.device)
        sums = torch.stack([loss.detach().reshape(()) * weight, weight])
        distributed.all_reduce(sums, group=self.group)
        return loss * (weight * self.size / sums[1]), (sums[0] / sums[1]).item()

    def check_gradients(self) -> None:
        """Refuse parameters that got no gradient, for which DistributedDataParallel would wait at the next step.

        Raises: ValueError if this team divides batches, and a trainable parameter had no part in the loss.
        """
        if not self.divides:
            return
        trained = [(name, one) for name, one in self.plain.named_parameters() if one.requires_grad]
        idle = [name for name, one in trained if one.grad is None]
        if idle:
            raise ValueError(
                f"{self.size} processes share the gradient of every trainable parameter, but {len(idle)} of "
                f"{len(trained)}, such as {idle[0]!r}, had no part in the loss; call requires_grad_(False) on them, or "
                "train in one process"
            )

    def _share(self, batch: tuple) -> tuple[tuple, int]:
        """Return every size-th row of all tensors, and how many they are; where there is none, a row that counts 0."""
        lengths = sorted({len(item) if item.ndim else 0 for item in batch if isinstance(item, Tensor)})
        if not self.divides:
            return batch, lengths[0] if lengths else 1
        if len(lengths) != 1 or not lengths[0]:
            raise ValueError(
                f"{self.size} processes divide a batch by the rows of its tensors, so all must have equally many, 1 or "
                f"more, but got {lengths}; or wrap the model in DistributedDataParallel, and give each process its own "
                "batches"
            )
        rows = slice(self.rank, None, self.size) if self.rank < lengths[0] else slice(1)
        share = tuple([item[rows] if isinstance(item, Tensor) else item for item in batch])
        return share, len(range(self.rank, lengths[0], self.size))

    def gather(self, mine: Any) -> list[Any]:
        """Return what every process has, in the order of their ranks."""
        everybody: list[Any] = [mine] * self.size
        if self.size > 1:
            distributed.all_gather_object(everybody, mine, group=self.group)
        return everybody

    def wait(self) -> None:
        """Go on when everybody is here."""
        if self.size > 1:
            distributed.barrier(group=self.group)


def form_team(model: nn.Module, device: torch.device) -> Team:
    """Join the processes that torchrun started, if it did, and wrap the model so that their gradients are one.

    A model that comes in DistributedDataParallel is left as it is: then each process brings its own batches.
    """
    if isinstance(model, DistributedDataParallel):
        group = model.process_group
        return Team(model, model.module, distributed.get_rank(group), distributed.get_world_size(group), group)
    if not distributed.is_available():
        return Team(model, model)
    started = distributed.is_torchelastic_launched() and int(os.environ.get("WORLD_SIZE", "1")) > 1
    if started and not distributed.is_initialized():
        if device.type == "cuda":
            torch.cuda.set_device(device)  # where this process's messages pass
        distributed.init_process_group(distributed.get_default_backend_for_device(device))
        atexit.register(_leave)
    if not distributed.is_initialized() or distributed.get_world_size() == 1:
        return Team(model, model)
    wrapped = DistributedDataParallel(model)
    return Team(wrapped, model, distributed.get_rank(), distributed.get_world_size(), divides=True)


def _leave() -> None:
    """Take the group apart, unless the script has done so itself."""
    if distributed.is_initialized():
        distributed.destroy_process_group()


def _one_number(loss: object, step: int) -> Tensor:
    """Return the loss, or say at which step it is no single number."""
    if not isinstance(loss, Tensor) or loss.numel() != 1:
        arrived = f"the shape {tuple(loss.shape)}" if isinstance(loss, Tensor) else repr(loss)
        raise ValueError(
            f"loss_fn must return a tensor with 1 number, but at step {step} it returned {arrived}; "
            "end it with a mean, or with the functions of torch.nn.functional, which take one"
        )
    return loss
