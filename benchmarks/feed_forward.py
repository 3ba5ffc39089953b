"""Does a feed-forward network cost more than its arithmetic? Against the barest composition of `F.linear`.

    python -m benchmarks.feed_forward [--rounds 31] [--device cuda]

Exits with 1 if a ratio is over its budget: 1.05, and 1.10 where d_model is 64 and Python's own time shows.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable, Iterator

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from benchmarks.compare import ROOT, Case, report
from lib.device import generator, pick_device, seeded
from lib.feed_forward import FeedForward, GatedFeedForward

SHAPES = ((8, 128, 256), (1, 1024, 512), (32, 32, 64))  # batch, sequence, d_model; d_ff is four times d_model
Run = Callable[[Tensor], Tensor]


def networks(d_model: int, device: torch.device) -> Iterator[tuple[str, nn.Module, Run]]:
    """Return each network with its floor, which uses the very same weights."""
    for name, activation in (("relu", F.relu), ("gelu", F.gelu)):
        plain = FeedForward(d_model, 4 * d_model, activation=activation).to(device)
        yield f"FeedForward {name}", plain, barest(*plain.parameters(), activation)
    gated = GatedFeedForward(d_model, 4 * d_model).to(device)
    yield "GatedFeedForward silu", gated, barest_gated(*gated.parameters())


def barest(w_1: Tensor, b_1: Tensor, w_2: Tensor, b_2: Tensor, activation: Run) -> Run:
    """Return the plain network as two calls around an activation."""
    return lambda x: F.linear(activation(F.linear(x, w_1, b_1)), w_2, b_2)


def barest_gated(w_gate: Tensor, w_1: Tensor, w_2: Tensor) -> Run:
    """Return the gated network as three calls around an activation and a product."""
    return lambda x: F.linear(F.silu(F.linear(x, w_gate)) * F.linear(x, w_1), w_2)


def forward(run: Run, x: Tensor) -> Callable[[], object]:
    """Return a call that computes the output and remembers nothing for a gradient."""

    def call() -> Tensor:
        with torch.no_grad():
            return run(x)

    return call


def forward_and_backward(run: Run, x: Tensor, parameters: list[Tensor]) -> Callable[[], object]:
    """Return a call that computes the output and the gradients of the input and of every parameter."""
    x, slope = x.clone().requires_grad_(), torch.ones_like(x)
    return lambda: torch.autograd.grad(run(x), [x, *parameters], slope)


def cases(device: torch.device) -> Iterator[Case]:
    """Return every network in every shape, forward and both ways, on one thread and on two."""
    for shape in SHAPES:
        budget = 1.10 if shape[-1] == 64 else 1.05
        x = torch.randn(shape, generator=generator(0)).to(device)
        for name, module, floor in networks(shape[-1], device):
            torch.testing.assert_close(module(x), floor(x))
            pair, parameters = (module, floor), list(module.parameters())
            ways = {
                "forward": [forward(run, x) for run in pair],
                "forward and backward": [forward_and_backward(run, x, parameters) for run in pair],
            }
            for way, (ours, bare) in ways.items():
                for threads in (1, 2) if device.type == "cpu" else (1,):
                    yield Case((name, way, " × ".join(map(str, shape))), ours, bare, budget, threads)


def main() -> int:
    """Measure, print and write benchmarks/feed_forward.md (for the CPU) or feed_forward_cuda.md."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.feed_forward", description=__doc__.partition("\n")[0])
    parser.add_argument("--rounds", type=int, default=31, help="interleaved rounds of each case (default: 31)")
    parser.add_argument("--device", default="cpu", help="cpu (default) or cuda")
    chosen = parser.parse_args()
    if chosen.rounds < 2:
        parser.error(f"quartiles need 2 rounds or more, but got --rounds {chosen.rounds}")
    try:
        device = pick_device(chosen.device)
    except ValueError as error:
        parser.error(str(error))
    with seeded(0):
        every = list(cases(device))
    command = f"python -m benchmarks.feed_forward --rounds {chosen.rounds} --device {chosen.device}"
    path = ROOT / "benchmarks" / ("feed_forward.md" if device.type == "cpu" else f"feed_forward_{device.type}.md")
    title = "Feed-forward networks against the barest composition of `F.linear`"
    good = report(title, command, ["network", "way", "batch × sequence × d_model"], every, chosen.rounds, path)
    return 0 if good else 1


if __name__ == "__main__":
    sys.exit(main())
