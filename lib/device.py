"""Where does it run, on how many threads, and from which seed?

Names, in reading order: `pick_device`, `use_threads`, `generator`, `seeded`.
"""

from __future__ import annotations

import os
import textwrap
from collections.abc import Iterator
from contextlib import contextmanager

import torch


def pick_device(name: str | None = None) -> torch.device:
    """Return the named device, or without a name CUDA where there is one and else the CPU.

    Under torchrun each process gets the CUDA device of its own number. Apple's mps is never picked, only taken when
    named: it has no float64, which the book's comparisons need.

    Raises: ValueError if the name is unknown, or this machine has no such device.
    """
    if name is None:
        if not torch.cuda.is_available():
            return torch.device("cpu")
        number = os.environ.get("LOCAL_RANK")  # which torchrun sets
        return torch.device("cuda") if number is None else torch.device("cuda", int(number))
    try:
        return torch.empty(0, device=name).device  # asks the device itself, so that a missing one is found here
    except (RuntimeError, AssertionError, NotImplementedError) as error:
        reason = textwrap.shorten(str(error), 100, placeholder=" ...")
        raise ValueError(
            f"this machine cannot use the device {name!r} ({reason}); pass 'cpu', or nothing to take what there is"
        ) from error


def use_threads(n: int | None = None) -> int:
    """Let PyTorch compute on n CPU threads, and return how many it uses from now on.

    Without n nothing changes: PyTorch's own choice follows the machine and OMP_NUM_THREADS. One thread is the fastest
    for the book's small networks, and sums in the same order every time.

    Raises: ValueError if n is below 1.
    """
    if n is not None:
        if n < 1:
            raise ValueError(f"computing takes 1 thread or more, but got n={n}; pass nothing to keep PyTorch's choice")
        torch.set_num_threads(n)
    return torch.get_num_threads()


def generator(seed: int) -> torch.Generator:
    """Make a source of random numbers on the CPU that starts from this seed.

    Draw on the CPU and move the result, and the data are the same whatever device computes with them.
    """
    return torch.Generator().manual_seed(seed)


@contextmanager
def seeded(seed: int) -> Iterator[None]:
    """Start PyTorch's global random numbers from this seed inside the block, and put them back afterwards.

    For what takes no generator: the initial weights of a module, and dropout. It holds for the CPU and every CUDA
    device. Weights are the same everywhere if the module is made on the CPU and then moved.
    """
    with torch.random.fork_rng(devices=range(torch.cuda.device_count())):
        torch.manual_seed(seed)
        yield
