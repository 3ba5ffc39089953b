"""How long does a training step take? Of a language model and of an encoder-decoder, beside those of others.

    python -m benchmarks.training [--rounds 15] [--device cuda] [--dtype bfloat16]

A step is the forward pass, the cross-entropy, the backward pass and PyTorch's fused AdamW, the same for all; with a
learning rate of 0 every step does the same work. After the table: tokens per second of our language model, and
what part of the machine's own rate of matrix products that is.

Exits with 1 unless ours is faster than each peer, and within 1.05 of the floor (1.10 at d_model 64).
"""

from __future__ import annotations

import copy
import sys
import timeit
from collections.abc import Callable, Iterator, Sequence

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.utils import benchmark

from benchmarks import floors, peers
from benchmarks.compare import Case, Peer, Row, Run, Settings, agree, line, report, settings, using_threads
from benchmarks.peers import Model, Size
from lib.blocks import stack_flops

SIZES = (Size(8, 128, 256, 8, 2), Size(1, 1024, 512, 8, 2), Size(32, 32, 64, 4, 2))
LARGE = Size(16, 1024, 768, 12, 12, 50257)  # GPT-2 small: what a GPU is for
KINDS = ("language model", "encoder-decoder")
Models = dict[str, Model]


def step(model: Model, inputs: Sequence[Tensor], targets: Tensor) -> Run:
    """Return a call that takes one optimiser step."""
    parameters = list(model.module.parameters())
    optimizer = torch.optim.AdamW(parameters, lr=0.0, fused=True)

    def call() -> None:
        loss = F.cross_entropy(model.logits(*inputs).flatten(0, 1), targets.flatten())
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()

    return call


def floor_of(kind: str, ours: Model) -> Model:
    """Return the barest composition that computes the same, with weights of its own."""
    twin = copy.deepcopy(ours.module)
    return Model(twin, floors.language_model(twin) if kind == KINDS[0] else floors.transformer(twin))


def models(kind: str, size: Size) -> Models:
    """Return what is compared, ours first."""
    return peers.language_models(size) if kind == KINDS[0] else peers.encoder_decoders(size)


def cases(asked: Settings, sizes: Sequence[Size]) -> Iterator[Case]:
    """Return both models in every size, on one thread and on two."""
    for size in sizes:
        for kind in KINDS:
            with asked.defaults():
                every = models(kind, size)
                ids, targets = peers.random_ids(size), peers.random_ids(size)
                inputs = (ids,) if kind == KINDS[0] else (peers.random_ids(size, padded=True), ids)
            every = peers.running(every, *inputs)
            every["floor"] = floor_of(kind, every["lib"])
            agree(every["lib"].logits(*inputs), every["floor"].logits(*inputs))
            steps = {name: step(model, inputs, targets) for name, model in every.items()}
            ours, floor = steps.pop("lib"), steps.pop("floor")
            others = {name: Peer(run) for name, run in steps.items()}
            budget = 1.10 if size.d_model == 64 else 1.05
            for threads in asked.threads:
                yield Case((kind, str(size)), ours, floor, budget, threads, others)


def parameters(sizes: Sequence[Size]) -> list[str]:
    """Say how large the models are."""
    with torch.device("meta"):
        return [
            f"{kind.capitalize()}, {size}: {peers.about_parameters(size, models(kind, size))} parameters."
            for size in sizes
            for kind in KINDS
        ]


def matrix_rate(asked: Settings) -> float:
    """Return the FLOPs per second of a large matrix product, the best of five."""
    n = 2048 if asked.device.type == "cpu" else 8192
    a, b = (torch.randn(n, n, dtype=asked.dtype, device=asked.device) for _ in "ab")
    timer = timeit.Timer(lambda: a @ b, timer=benchmark.timer)
    return 2 * n**3 / min(timer.repeat(5, 1))


def utilisation(asked: Settings, sizes: dict[str, Size]) -> Callable[[Sequence[Row]], list[str]]:
    """Return what makes the table of tokens per second: FLOPs by formula, attention counted without the mask."""
    head = ["language model", "threads", "tokens / s", "FLOPs / s", "of a matrix product", "share"]

    def table(rows: Sequence[Row]) -> list[str]:
        lines = [line(head), line(["---"] + ["--:"] * (len(head) - 1))]
        for row in rows:
            kind, label = row.case.labels
            if kind == KINDS[0]:
                size, seconds = sizes[label], row.ours_ms / 1000
                sentence = stack_flops("AF" * size.n_layers, size.seq_len, size.d_model, 4 * size.d_model)
                sentence += 2 * size.seq_len * size.d_model * size.vocab_size
                with using_threads(row.case.threads):
                    best = matrix_rate(asked)
                rate = 3 * size.batch * sentence / seconds  # the backward pass does twice the forward pass
                cells = [
                    f"{size.batch * size.seq_len / seconds:,.0f}",
                    f"{rate:.2e}",
                    f"{best:.2e}",
                    f"{rate / best:.2f}",
                ]
                lines.append(line([label, str(row.case.threads), *cells]))
        print(*lines, sep="\n")
        return lines

    return table


def main() -> int:
    """Measure, print and write the report."""
    asked = settings("training", __doc__, rounds=15)
    sizes = SIZES if asked.device.type == "cpu" else (*SIZES, LARGE)
    by_name = {str(size): size for size in sizes}
    headings = ["model", "batch × sequence × d_model"]
    names = ["nn", "x-transformers", "transformers"]
    about = [*peers.about_packages(), *parameters(sizes)]
    print(*about, sep="\n")
    every, after = cases(asked, sizes), utilisation(asked, by_name)
    good = report("Training steps", asked, headings, every, peers=names, about=about, after=after)
    return 0 if good else 1


if __name__ == "__main__":
    sys.exit(main())
