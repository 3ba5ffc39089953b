"""Does the memory of attention grow with the length of a sentence, or with its square?

    python -m benchmarks.memory [--device cuda] [--dtype bfloat16]

Peak bytes per token, forward and backward, from 128 to 4096 tokens, and the exponent of the growth, fitted. On the CPU
PyTorch's profiler reports every allocation, so the numbers are exact and the same on a busy machine; on a GPU its
allocator keeps the peak. Exits with 1 if an exponent with a bar is above 1.1.
"""

from __future__ import annotations

import json
import statistics
import sys
import tempfile
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from math import log
from pathlib import Path
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.profiler import ProfilerActivity, profile

from benchmarks.compare import Run, line, settings, write
from lib.attention import MultiHeadAttention, scaled_dot_product_attention
from lib.positions import Rotary

LENGTHS = (128, 256, 512, 1024, 2048, 4096)
D_MODEL, N_HEADS = 256, 4
BAR = 1.1


class Form(NamedTuple):
    """A form of attention, and the largest exponent; None where PyTorch's kernel itself needs the square."""

    name: str
    call: Callable[[Tensor], Tensor]
    parameters: list[Tensor]
    bar: float | None = BAR


def forms() -> Iterator[Form]:
    """Return what is measured, what has a bar first."""
    module = MultiHeadAttention(D_MODEL, N_HEADS)
    own = list(module.parameters())
    yield Form("self-attention", module, own)
    yield Form("causal", partial(module, is_causal=True), own)
    yield Form("padding mask", lambda x: module(x, mask=_nobody_padded(x)), own)
    yield Form("cross-attention", lambda x: module(x, 2 * x), own)
    grouped = MultiHeadAttention(D_MODEL, N_HEADS, n_kv_heads=1)
    yield Form("multi-query", grouped, list(grouped.parameters()))
    turned = MultiHeadAttention(D_MODEL, N_HEADS, rotary=Rotary(D_MODEL // N_HEADS))
    yield Form("Rotary", turned, list(turned.parameters()))
    yield Form("causal and padding mask", lambda x: module(x, mask=_nobody_padded(x), is_causal=True), own, None)
    dropping = MultiHeadAttention(D_MODEL, N_HEADS, dropout=0.1)
    yield Form("dropout of weights", dropping, list(dropping.parameters()), None)
    yield Form("explicit formula", partial(by_formula, module), own, None)
    theirs = nn.MultiheadAttention(D_MODEL, N_HEADS, batch_first=True)
    yield Form("nn", lambda x: theirs(x, x, x, need_weights=False)[0], list(theirs.parameters()), None)


def _nobody_padded(x: Tensor) -> Tensor:
    return torch.ones(len(x), 1, 1, x.shape[1], dtype=torch.bool, device=x.device)


def by_formula(module: MultiHeadAttention, x: Tensor) -> Tensor:
    """Compute attention as its equation says, through all its weights."""
    heads = (w(x).unflatten(-1, (N_HEADS, -1)).transpose(1, 2) for w in (module.w_q, module.w_k, module.w_v))
    return module.w_o(scaled_dot_product_attention(*heads).transpose(1, 2).flatten(2))


def both_ways(form: Form, x: Tensor) -> None:
    """Compute the output and all gradients."""
    x = x.requires_grad_()
    torch.autograd.grad(form.call(x).sum(), [x, *form.parameters])


def peak_bytes(run: Run, device: torch.device) -> int:
    """Return how much more memory was in use at the worst moment of a call than before it."""
    if device.type == "cuda":
        before = torch.cuda.memory_allocated(device)
        torch.cuda.reset_peak_memory_stats(device)
        run()
        return torch.cuda.max_memory_allocated(device) - before
    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as profiler:
        run()
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "trace.json"
        profiler.export_chrome_trace(str(path))
        events = json.loads(path.read_text(encoding="utf-8"))["traceEvents"]
    changes = sorted((event for event in events if event["name"] == "[memory]"), key=lambda event: event["ts"])
    totals = [event["args"]["Total Allocated"] for event in changes]
    return max(totals) - (totals[0] - changes[0]["args"]["Bytes"])


def exponent(peaks: list[int]) -> float:
    """Fit bytes = c · length ** exponent, by least squares in logarithms."""
    return statistics.linear_regression([log(n) for n in LENGTHS], [log(peak) for peak in peaks]).slope


def measured(form: Form, inputs: Sequence[Tensor]) -> tuple[str, bool]:
    """Return a line of the table, and whether its bar is missed."""
    peaks = [peak_bytes(partial(both_ways, form, x), x.device) for x in inputs]
    slope = exponent(peaks)
    missed = form.bar is not None and round(slope, 2) > form.bar
    cells = [f"{peak / length:,.0f}" for peak, length in zip(peaks, LENGTHS, strict=True)]
    bar = "" if form.bar is None else f"{form.bar:.2f}"
    return line([form.name, *cells, f"{slope:.2f}" + " (missed)" * missed, bar]), missed


def main() -> int:
    """Measure, print and write the report."""
    asked = settings("memory", __doc__)
    with asked.defaults():
        every, inputs = list(forms()), [torch.randn(1, length, D_MODEL) for length in LENGTHS]
    lines = [line(["attention", *map(str, LENGTHS), "exponent", "bar"]), line(["---"] + ["--:"] * (len(LENGTHS) + 2))]
    print(*lines, sep="\n", flush=True)
    misses = 0
    for form in every:
        written, missed = measured(form, inputs)
        misses += missed
        lines.append(written)
        print(written, flush=True)
    about = f"Peak bytes per token, forward and backward, of one sentence; d_model={D_MODEL}, n_heads={N_HEADS}."
    verdict = f"{misses} exponents are above their bar." if misses else "Every exponent with a bar keeps it."
    write("Memory of attention", asked, [about, verdict], lines)
    return 1 if misses else 0


if __name__ == "__main__":
    sys.exit(main())
