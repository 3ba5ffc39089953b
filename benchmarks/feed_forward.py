"""Does a feed-forward network cost more than its arithmetic? Against the barest composition of `F.linear`.

    python -m benchmarks.feed_forward [--rounds 31] [--device cuda] [--dtype bfloat16]

Exits with 1 if a ratio is over its bar: 1.05, and 1.10 where d_model is 64 and Python's own time shows.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator

import torch.nn.functional as F

from benchmarks import floors
from benchmarks.compare import report, settings
from benchmarks.parts import Part, Shape, cases, of
from lib.feed_forward import FeedForward, GatedFeedForward


def networks(shape: Shape) -> Iterator[Part]:
    """Return each network with its floor, which uses the very same weights; PyTorch has no module of its own."""
    sizes = shape.d_model, 4 * shape.d_model
    for name, activation in (("relu", F.relu), ("gelu", F.gelu)):
        plain = FeedForward(*sizes, activation=activation)
        yield Part(f"FeedForward {name}", of(plain), of(plain, floors.feed_forward(plain)), None, (shape.tokens(),))
    gated = GatedFeedForward(*sizes)
    floor = of(gated, floors.gated_feed_forward(gated))
    yield Part("GatedFeedForward silu", of(gated), floor, None, (shape.tokens(),))


def main() -> int:
    """Measure, print and write the report."""
    asked = settings("feed_forward", __doc__, rounds=31)
    title = "Feed-forward networks against the barest composition of `F.linear`"
    headings = ["network", "way", "batch × sequence × d_model"]
    return 0 if report(title, asked, headings, cases(asked, [networks])) else 1


if __name__ == "__main__":
    sys.exit(main())
