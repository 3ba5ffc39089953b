"""Does a part of the block cost more than its arithmetic, and is it faster than PyTorch's own module?

    python -m benchmarks.parts [--rounds 15] [--device cuda] [--dtype bfloat16]

Exits with 1 if a bar is missed: at most 1.05 times the floor, 1.10 where d_model is 64 and Python's own time shows; and
faster than PyTorch's module wherever that is more than 2 % above the floor, or as fast where both call one function.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from benchmarks import floors
from benchmarks.compare import Case, Peer, Run, Settings, agree, report, settings
from lib.attention import MultiHeadAttention
from lib.blocks import DecoderBlock, EncoderBlock, ParallelBlock, Stack
from lib.feed_forward import MixtureOfExperts
from lib.masks import causal_mask
from lib.norms import BatchNorm, LayerNorm, RMSNorm
from lib.positions import Learned, Rotary, Sinusoidal
from lib.residual import NoResidual, PostNorm, PreNorm, ReZero
from lib.transformer import Embedding

WAYS = ("forward", "forward and backward")
AS_FAST = 0.97  # where ours and PyTorch's make the very same call, neither is faster, and noise decides


class Shape(NamedTuple):
    """How large the tensors are; d_ff is four times d_model."""

    batch: int
    seq_len: int
    d_model: int
    n_heads: int

    def __str__(self) -> str:
        return f"{self.batch} × {self.seq_len} × {self.d_model}"

    def tokens(self) -> Tensor:
        """Return random tokens of this shape."""
        return torch.randn(self[:3])


SHAPES = (Shape(8, 128, 256, 8), Shape(1, 1024, 512, 8), Shape(32, 32, 64, 4))


class Function(NamedTuple):
    """A function of tensors, and the parameters that it gets gradients for."""

    call: Callable[..., Tensor]
    parameters: list[Tensor]


class Part(NamedTuple):
    """A part of lib under its name, its floor, PyTorch's own, if there is one, and what they are called with."""

    name: str
    ours: Function
    floor: Function
    theirs: Function | None
    inputs: tuple[Tensor, ...]
    ways: tuple[str, ...] = WAYS
    times: float = 1.0  # how many times longer than ours PyTorch's own must take


def of(module: nn.Module, call: Callable[..., Tensor] | None = None) -> Function:
    """Return a module as a function, or another function of its parameters."""
    return Function(call or module, list(module.parameters()))


def norms(shape: Shape) -> Iterator[Part]:
    """Return the three norms; BatchNorm in training."""
    pairs = ((LayerNorm, nn.LayerNorm), (RMSNorm, nn.RMSNorm), (BatchNorm, nn.BatchNorm1d))
    for kind, their_kind in pairs:
        ours, theirs = kind(shape.d_model), their_kind(shape.d_model)
        flat = partial(_on_flat_tokens, theirs) if kind is BatchNorm else theirs
        floor = of(ours, floors.norm(ours))
        yield Part(kind.__name__, of(ours), floor, of(theirs, flat), (shape.tokens(),), times=AS_FAST)


def _on_flat_tokens(norm: nn.Module, x: Tensor) -> Tensor:
    return norm(x.view(-1, x.shape[-1])).view_as(x)


def residuals(shape: Shape) -> Iterator[Part]:
    """Return the four wrappers, each around one linear map."""
    for kind in (PreNorm, PostNorm, ReZero, NoResidual):
        wrapper, linear = kind(LayerNorm(shape.d_model)), nn.Linear(shape.d_model, shape.d_model)
        around, (w, b) = floors.residual(wrapper), linear.parameters()
        both = nn.ModuleList([wrapper, linear])
        ours = of(both, partial(_around, wrapper, linear))
        floor = of(both, partial(_around, around, lambda x, w=w, b=b: F.linear(x, w, b)))
        yield Part(f"{kind.__name__} around a linear map", ours, floor, None, (shape.tokens(),))


def _around(wrapper: Callable[..., Tensor], sublayer: Callable[[Tensor], Tensor], x: Tensor) -> Tensor:
    return wrapper(x, sublayer)


def attentions(shape: Shape) -> Iterator[Part]:
    """Return the forms of attention; self-attention against both floors, since either may be the lower one."""
    sizes, x = shape[2:], shape.tokens()
    ours, theirs = MultiHeadAttention(*sizes), nn.MultiheadAttention(*sizes, batch_first=True)
    alone = of(theirs, partial(_alone, theirs))
    yield Part("self-attention", of(ours), of(ours, floors.attention(ours)), alone, (x,))
    packed = Function(*floors.packed_attention(ours))
    yield Part("self-attention, one product for query, key and value as the floor", of(ours), packed, None, (x,))

    mask = ~causal_mask(shape.seq_len, device=x.device)
    causal = of(theirs, partial(_alone, theirs, attn_mask=mask, is_causal=True))
    floor = floors.attention(ours, is_causal=True)
    yield Part("causal self-attention", of(ours, partial(ours, is_causal=True)), of(ours, floor), causal, (x,))
    crossed = of(theirs, lambda x, memory: theirs(x, memory, memory, need_weights=False)[0])
    yield Part("cross-attention", of(ours), of(ours, floors.attention(ours)), crossed, (x, shape.tokens()))

    grouped = MultiHeadAttention(*sizes, n_kv_heads=shape.n_heads // 4)
    yield Part("grouped-query attention, 4 to 1", of(grouped), of(grouped, floors.attention(grouped)), None, (x,))
    rotary = Rotary(ours.d_head)
    turned = MultiHeadAttention(*sizes, rotary=rotary)
    floor = floors.attention(turned, rotary=floors.turning(rotary, shape.seq_len))
    yield Part("self-attention, Rotary", of(turned), of(turned, floor), None, (x,))


def _alone(attention: nn.MultiheadAttention, x: Tensor, **causal: Tensor | bool) -> Tensor:
    return attention(x, x, x, need_weights=False, **causal)[0]


def positions(shape: Shape) -> Iterator[Part]:
    """Return the three kinds of positions, and the embedding that adds them to tokens."""
    batch, seq_len, d_model, n_heads = shape
    x = shape.tokens()
    fixed, learned, rotary = Sinusoidal(d_model, seq_len), Learned(d_model, seq_len), Rotary(d_model // n_heads)
    table = fixed(torch.zeros(seq_len, d_model))
    yield Part("Sinusoidal", of(fixed), of(fixed, lambda x: x + table[:seq_len]), None, (x,))
    yield Part("Learned", of(learned), of(learned, lambda x: x + learned.weight[:seq_len]), None, (x,))
    queries = torch.randn(batch, seq_len, n_heads, d_model // n_heads).transpose(1, 2)
    yield Part("Rotary", of(rotary), of(rotary, floors.turning(rotary, seq_len)), None, (queries,))
    embedding = Embedding(1000, d_model, Learned(d_model, seq_len))
    ids = torch.randint(1000, (batch, seq_len))
    yield Part("Embedding", of(embedding), of(embedding, floors.embedding(embedding)), None, (ids,))


def blocks(shape: Shape) -> Iterator[Part]:
    """Return the blocks with the norm after and before, and what PyTorch has no counterpart of."""
    sizes = shape.d_model, shape.n_heads, 4 * shape.d_model
    x, memory = shape.tokens(), shape.tokens()
    mask = ~causal_mask(shape.seq_len, device=x.device)
    for residual in (PostNorm, PreNorm):
        first = residual is PreNorm
        ours = EncoderBlock(*sizes, residual=residual)
        theirs = nn.TransformerEncoderLayer(*sizes, 0.0, batch_first=True, norm_first=first)
        floor = of(ours, floors.encoder_block(ours))
        yield Part(f"EncoderBlock {residual.__name__}", of(ours), floor, of(theirs), (x,))
        ours = DecoderBlock(*sizes, residual=residual)
        theirs = nn.TransformerDecoderLayer(*sizes, 0.0, batch_first=True, norm_first=first)
        floor = of(ours, floors.decoder_block(ours))
        causal = of(theirs, partial(theirs, tgt_mask=mask, tgt_is_causal=True))
        yield Part(f"DecoderBlock {residual.__name__}", of(ours), floor, causal, (x, memory))
    parallel, stack = ParallelBlock(*sizes), Stack("AFAF", *sizes)
    yield Part("ParallelBlock", of(parallel), of(parallel, floors.parallel_block(parallel)), None, (x,))
    yield Part("Stack AFAF", of(stack), of(stack, floors.stack(stack)), None, (x,))
    mixture = MixtureOfExperts(shape.d_model, 4 * shape.d_model, n_experts=4, top_k=2)
    yield Part("MixtureOfExperts, 2 of 4", of(mixture), of(mixture, floors.mixture(mixture)), None, (x,))


def evaluated(shape: Shape) -> Iterator[Part]:
    """Return what PyTorch has a special fast path for: evaluation without gradients."""
    sizes, x = shape[2:], shape.tokens()
    ours = MultiHeadAttention(*sizes).eval()
    theirs = nn.MultiheadAttention(*sizes, batch_first=True).eval()
    alone = of(theirs, partial(_alone, theirs))
    floor = of(ours, floors.attention(ours))
    yield Part("self-attention, evaluation mode", of(ours), floor, alone, (x,), WAYS[:1])
    for residual in (PostNorm, PreNorm):
        sizes = shape.d_model, shape.n_heads, 4 * shape.d_model
        ours = EncoderBlock(*sizes, residual=residual).eval()
        theirs = nn.TransformerEncoderLayer(*sizes, 0.0, batch_first=True, norm_first=residual is PreNorm).eval()
        floor = of(ours, floors.encoder_block(ours))
        name = f"EncoderBlock {residual.__name__}, evaluation mode"
        yield Part(name, of(ours), floor, of(theirs), (x,), WAYS[:1])


def run(function: Function, inputs: tuple[Tensor, ...], way: str) -> Run:
    """Return a call that computes the output, or also the gradients of the inputs and of every parameter."""
    if way == "forward":
        return torch.no_grad()(partial(function.call, *inputs))
    inputs = tuple(x.clone().requires_grad_(x.is_floating_point()) for x in inputs)
    wanted = [x for x in inputs if x.requires_grad] + function.parameters
    slope = torch.ones_like(function.call(*inputs))
    return lambda: torch.autograd.grad(function.call(*inputs), wanted, slope)


def cases(asked: Settings, families: Sequence[Callable[[Shape], Iterator[Part]]]) -> Iterator[Case]:
    """Return every part of the families in every shape, each way, on one thread and on two."""
    for shape in SHAPES:
        for family in families:
            with asked.defaults():
                parts = list(family(shape))
            for part in parts:
                agree(part.ours.call(*part.inputs), part.floor.call(*part.inputs))
                for way in part.ways:
                    yield from _on_threads(asked, part, way, shape)


def _on_threads(asked: Settings, part: Part, way: str, shape: Shape) -> Iterator[Case]:
    ours, floor = (run(function, part.inputs, way) for function in (part.ours, part.floor))
    peers = {"nn": Peer(run(part.theirs, part.inputs, way), part.times, or_at_the_floor=True)} if part.theirs else {}
    budget = 1.10 if shape.d_model == 64 else 1.05
    for threads in asked.threads:
        yield Case((part.name, way, str(shape)), ours, floor, budget, threads, peers)


FAMILIES = (norms, residuals, positions, attentions, blocks, evaluated)


def main() -> int:
    """Measure, print and write the report."""
    asked = settings("parts", __doc__, rounds=15)
    title = "Parts and blocks against the barest composition of PyTorch's functions"
    headings = ["part", "way", "batch × sequence × d_model"]
    return 0 if report(title, asked, headings, cases(asked, FAMILIES), peers=["nn"]) else 1


if __name__ == "__main__":
    sys.exit(main())
